//! A reader beside writers on a real disk: what is made of the turns of each case, and what may be
//! said of them. The counterpart in virtual time is [`interference`](super::ssd::interference).
//!
//! Rules, besides those of [`measure`](super::measure):
//! * **R1** A percentile belongs to one turn; what is told of a case is the median over its turns.
//!   So one slow moment of the machine spoils one turn, and not the case.
//! * **R2** A case is compared with the base round by round (B3), and `better` or `worse` is said
//!   only when three quarters of the rounds agree.
//! * **R3** Nothing is said of schedulers when the writers did not hurt the reader: then there was
//!   nothing to cure. Nor when the reader by itself was not steady, or waited as long by itself as
//!   beside the writers (its upper quartile against their lower one).
//! * **R4** What the reader alone has to wait for is noise: of two p99 that are both below it (its
//!   upper quartile), neither is called better.

use std::fmt;

use serde::Serialize;

use super::measure::{self, Spread};
use super::ssd::interference::Row;

/// The reader by itself is steady while the upper quartile of its median latency is less than so
/// many times the lower one (R3).
pub const STEADY: f64 = 1.5;
/// The writers hurt when the reader's p99 is at least so many times that of the reader alone (R3).
pub const HURT: f64 = 2.0;

/// One turn of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// How long each read took, in nanoseconds; at least one.
    latencies: Vec<u64>,
    /// Bytes whose writes ended.
    written: u64,
    /// Its length in nanoseconds.
    nanos: u64,
}

impl Turn {
    /// What ended within `nanos` nanoseconds: reads by their latency, and bytes written.
    ///
    /// # Errors
    /// When no read ended or no time passed.
    pub fn new(mut latencies: Vec<u64>, written: u64, nanos: u64) -> Result<Turn, String> {
        if latencies.is_empty() || nanos == 0 {
            return Err("no read ended within a turn: give it more seconds".to_owned());
        }
        latencies.sort_unstable();
        Ok(Turn { latencies, written, nanos })
    }

    /// Reads in a second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.latencies.len() as f64 * 1e9 / self.nanos as f64
    }

    /// Written megabytes in a second.
    #[must_use]
    pub fn write_rate(&self) -> f64 {
        self.written as f64 * 1e3 / self.nanos as f64
    }

    /// The latency in milliseconds that `permille` of 1000 reads do not exceed: the nearest rank.
    #[must_use]
    pub fn millis(&self, permille: usize) -> f64 {
        let rank = (self.latencies.len() * permille).div_ceil(1000);
        self.latencies[rank.saturating_sub(1)] as f64 / 1e6
    }
}

/// A case with its turns, one for each round.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in tables and plots.
    pub name: String,
    /// Requests that the pool had with the disk at most; 0: no bound.
    pub hw_depth: u32,
    /// In order of the rounds; at least one.
    pub turns: Vec<Turn>,
}

impl Series {
    fn spread(&self, of: impl Fn(&Turn) -> f64) -> Spread {
        Spread::of(self.turns.iter().map(of))
    }

    fn p99s(&self) -> Vec<f64> {
        self.turns.iter().map(|turn| turn.millis(990)).collect()
    }

    /// All its reads together, for the picture.
    #[must_use]
    pub fn row(&self) -> Row {
        let mut latencies: Vec<u64> =
            self.turns.iter().flat_map(|turn| turn.latencies.iter().copied()).collect();
        latencies.sort_unstable();
        let nanos: u64 = self.turns.iter().map(|turn| turn.nanos).sum();
        Row {
            name: self.name.clone(),
            hw_depth: self.hw_depth,
            seconds: (nanos / 1_000_000_000).max(1),
            latencies,
            written: self.turns.iter().map(|turn| turn.written).sum(),
        }
    }
}

/// What a case does to the reader, compared with the base (R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// In three quarters of the rounds its p99 is lower.
    Better,
    /// Neither.
    Unclear,
    /// In three quarters of the rounds its p99 is higher.
    Worse,
}

impl Effect {
    /// Of `times` the base.
    #[must_use]
    pub fn of(times: Spread) -> Effect {
        if times.high < 1.0 {
            Effect::Better
        } else if times.low > 1.0 {
            Effect::Worse
        } else {
            Effect::Unclear
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Better => "better",
            Effect::Unclear => "unclear",
            Effect::Worse => "worse",
        })
    }
}

/// A line of the table: medians over the turns, with their quartiles (R1).
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// See [`Series::name`].
    pub name: String,
    /// See [`Series::hw_depth`].
    pub hw_depth: u32,
    /// In all turns.
    pub reads: usize,
    /// Reads in a second.
    pub iops: Spread,
    /// Latencies of a turn, in milliseconds.
    pub p50_ms: Spread,
    /// See [`p50_ms`](Figure::p50_ms).
    pub p99_ms: Spread,
    /// See [`p50_ms`](Figure::p50_ms).
    pub p999_ms: Spread,
    /// The longest of each turn.
    pub max_ms: Spread,
    /// Megabytes that the writers wrote in a second.
    pub write_mb_s: Spread,
    /// How many times the base's p99 this one's is, round by round; none for the base.
    pub p99_times: Option<Spread>,
    /// What follows from it.
    pub effect: Option<Effect>,
}

/// What the cases came to, compared with `series[base]`.
///
/// # Panics
/// When a case has no turn, or not as many as the base.
#[must_use]
pub fn figures(series: &[Series], base: usize) -> Vec<Figure> {
    let base_p99s = series[base].p99s();
    let figure = |(n, case): (usize, &Series)| {
        let p99_times = (n != base).then(|| Spread::times(&case.p99s(), &base_p99s));
        Figure {
            name: case.name.clone(),
            hw_depth: case.hw_depth,
            reads: case.turns.iter().map(|turn| turn.latencies.len()).sum(),
            iops: case.spread(Turn::iops),
            p50_ms: case.spread(|turn| turn.millis(500)),
            p99_ms: case.spread(|turn| turn.millis(990)),
            p999_ms: case.spread(|turn| turn.millis(999)),
            max_ms: case.spread(|turn| turn.millis(1000)),
            write_mb_s: case.spread(Turn::write_rate),
            p99_times,
            effect: p99_times.map(Effect::of),
        }
    };
    series.iter().enumerate().map(figure).collect()
}

/// What follows, in a sentence: of a base, and of the reader alone (R3, R4).
#[must_use]
pub fn conclusion(figures: &[Figure], base: usize, alone: usize) -> String {
    let (base, alone) = (&figures[base], &figures[alone]);
    let times = base.p99_ms.median / alone.p99_ms.median;
    if times < HURT {
        return format!(
            "no interference to cure: under {} the reader's p99 is {times:.1} times that of the \
             reader alone",
            base.name
        );
    }
    let steady = alone.p50_ms.high < STEADY * alone.p50_ms.low;
    if !steady || alone.p99_ms.high >= base.p99_ms.low {
        let (Spread { low, high, .. }, p99) = (alone.p50_ms, alone.p99_ms);
        return format!(
            "the machine was too noisy to conclude anything: the reader alone had a p50 of \
             {low:.2} to {high:.2} ms and a p99 of {:.2} to {:.2} ms (quartiles)",
            p99.low, p99.high
        );
    }
    let named = |wanted: Effect| {
        let names: Vec<&str> = figures
            .iter()
            .filter(|f| f.effect == Some(wanted) && f.name != alone.name)
            .map(|f| f.name.as_str())
            .collect();
        (!names.is_empty()).then(|| format!("{wanted}: {}", names.join(", ")))
    };
    let effects = [Effect::Better, Effect::Unclear, Effect::Worse].into_iter().filter_map(named);
    format!(
        "under {} the writers make the reader's p99 {times:.1} times as long; compared with it {}; \
         below {:.2} ms (the reader alone) a p99 is noise",
        base.name,
        effects.collect::<Vec<_>>().join("; "),
        alone.p99_ms.high
    )
}

/// The figures as text, `median [quartiles]`.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let head = [
        "scheduler",
        "hw_depth",
        "reads",
        "IOPS",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "write MB/s",
        "p99 to base",
        "effect",
    ];
    let fine = |s: Spread| format!("{:.2} [{:.2} {:.2}]", s.median, s.low, s.high);
    let coarse = |s: Spread| format!("{:.0} [{:.0} {:.0}]", s.median, s.low, s.high);
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let line = |f: &Figure| {
        vec![
            f.name.clone(),
            if f.hw_depth == 0 { "-".to_owned() } else { f.hw_depth.to_string() },
            f.reads.to_string(),
            coarse(f.iops),
            fine(f.p50_ms),
            fine(f.p99_ms),
            fine(f.p999_ms),
            fine(f.max_ms),
            coarse(f.write_mb_s),
            or_none(f.p99_times.map(fine)),
            or_none(f.effect.map(|effect| effect.to_string())),
        ]
    };
    measure::table(1, &head, &figures.iter().map(line).collect::<Vec<_>>())
}

#[cfg(test)]
#[path = "beside_tests.rs"]
mod tests;

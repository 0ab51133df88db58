//! What an operator may set, under Linux's names where Linux has them (block/bfq-iosched.c).

use crate::blkmq::sched::BadTunable;

const MS: u64 = 1_000_000;
/// Largest budget unless said: what a flash disk moves in half a millisecond. Changing lanes costs
/// such a disk nothing, and the rest of a turn is what a light lane may have to wait for.
const FLASH_BUDGET: u64 = 512;
/// The same when sorted: what a disk that rotates moves within `timeout_sync` when it does not have
/// to seek, so that a turn which is charged whole for its seeks (T3) is charged what it took.
const SORTED_BUDGET: u64 = 32 * 1024;

/// The settings. Times in nanoseconds, service in units of one sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tune {
    pub(super) fifo_expire_sync: u64,
    pub(super) fifo_expire_async: u64,
    pub(super) prio_aging_expire: u64,
    /// In sectors.
    pub(super) back_seek_max: u64,
    pub(super) back_seek_penalty: u64,
    pub(super) slice_idle: u64,
    pub(super) timeout_sync: u64,
    /// As set: 0 for what suits the kind of disk.
    pub(super) budget_said: u64,
    pub(super) strict_guarantees: bool,
    pub(super) async_factor: u64,
    pub(super) base_cost: u64,
    pub(super) sorted: bool,
    /// 0 for what suits the depth of the disk.
    pub(super) window: u64,
    pub(super) window_async: u64,
    pub(super) window_hold: u64,
}

impl Tune {
    pub(super) const fn new() -> Tune {
        Tune {
            fifo_expire_sync: 125 * MS,
            fifo_expire_async: 250 * MS,
            prio_aging_expire: 10_000 * MS,
            back_seek_max: 16 * 1024 * 2,
            back_seek_penalty: 2,
            slice_idle: 0,
            timeout_sync: 125 * MS,
            budget_said: 0,
            strict_guarantees: false,
            async_factor: 1,
            base_cost: 8,
            sorted: false,
            window: 0,
            window_async: 50,
            window_hold: 10 * MS,
        }
    }

    /// The largest budget, in units.
    pub(super) fn max_budget(&self) -> u32 {
        let units = match self.budget_said {
            0 if self.sorted => SORTED_BUDGET,
            0 => FLASH_BUDGET,
            said => said,
        };
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// The smallest one (Linux: a 32nd of the largest).
    pub(super) fn min_budget(&self) -> u32 {
        self.max_budget() / 32
    }

    /// Reads a tunable, or sets it, and answers with its value.
    pub(super) fn access(&mut self, name: &str, value: Option<&str>) -> Result<u64, BadTunable> {
        let knob = KNOBS.iter().find(|k| k.name == name).ok_or(BadTunable::Unknown)?;
        if let Some(text) = value {
            let number = text.trim().parse::<u64>().ok();
            let fits = |n: &u64| knob.range.contains(n) || (knob.auto && *n == 0);
            let bad = BadTunable::Value { expected: knob.expected };
            (knob.set)(self, number.filter(fits).ok_or(bad)?);
        }
        Ok((knob.get)(self))
    }
}

struct Knob {
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
    /// 0 is good too.
    auto: bool,
    expected: &'static str,
    get: fn(&Tune) -> u64,
    set: fn(&mut Tune, u64),
}

/// The names, in the order of [`KNOBS`].
pub(super) const NAMES: [&str; 16] = {
    let mut names = [""; 16];
    let mut i = 0;
    while i < names.len() {
        names[i] = KNOBS[i].name;
        i += 1;
    }
    names
};

const fn knob(
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
    expected: &'static str,
    get: fn(&Tune) -> u64,
    set: fn(&mut Tune, u64),
) -> Knob {
    Knob { name, range, auto: false, expected, get, set }
}

const KNOBS: [Knob; 16] = [
    knob(
        "fifo_expire_sync",
        0..=600_000,
        "milliseconds, 0 to 600000",
        |t| t.fifo_expire_sync / MS,
        |t, v| t.fifo_expire_sync = v * MS,
    ),
    knob(
        "fifo_expire_async",
        0..=600_000,
        "milliseconds, 0 to 600000",
        |t| t.fifo_expire_async / MS,
        |t, v| t.fifo_expire_async = v * MS,
    ),
    knob(
        "prio_aging_expire",
        0..=3_600_000,
        "milliseconds, 0 to 3600000",
        |t| t.prio_aging_expire / MS,
        |t, v| t.prio_aging_expire = v * MS,
    ),
    knob(
        "back_seek_max",
        0..=1 << 30,
        "KiB, 0 to 1073741824",
        |t| t.back_seek_max / 2,
        |t, v| t.back_seek_max = v * 2,
    ),
    knob(
        "back_seek_penalty",
        1..=1000,
        "1 to 1000",
        |t| t.back_seek_penalty,
        |t, v| t.back_seek_penalty = v,
    ),
    knob(
        "slice_idle",
        0..=1000,
        "milliseconds, 0 (never) to 1000",
        |t| t.slice_idle / MS,
        |t, v| t.slice_idle = v * MS,
    ),
    knob(
        "slice_idle_us",
        0..=1_000_000,
        "microseconds, 0 (never) to 1000000",
        |t| t.slice_idle / 1000,
        |t, v| t.slice_idle = v * 1000,
    ),
    knob(
        "timeout_sync",
        1..=10_000,
        "milliseconds, 1 to 10000",
        |t| t.timeout_sync / MS,
        |t, v| t.timeout_sync = v * MS,
    ),
    Knob {
        name: "max_budget",
        range: 64..=1 << 20,
        auto: true,
        expected: "sectors, 64 to 1048576, or 0 for automatic",
        get: |t| t.budget_said,
        set: |t, v| t.budget_said = v,
    },
    knob(
        "strict_guarantees",
        0..=1,
        "0 or 1",
        |t| u64::from(t.strict_guarantees),
        |t, v| t.strict_guarantees = v == 1,
    ),
    knob("async_factor", 1..=100, "1 to 100", |t| t.async_factor, |t, v| t.async_factor = v),
    knob("base_cost", 0..=65_536, "sectors, 0 to 65536", |t| t.base_cost, |t, v| t.base_cost = v),
    knob("sorted", 0..=1, "0 or 1", |t| u64::from(t.sorted), |t, v| t.sorted = v == 1),
    Knob {
        name: "window",
        range: 16..=1 << 24,
        auto: true,
        expected: "sectors, 16 to 16777216, or 0 for automatic",
        get: |t| t.window,
        set: |t, v| t.window = v,
    },
    knob(
        "window_async",
        1..=100,
        "percent, 1 to 100",
        |t| t.window_async,
        |t, v| t.window_async = v,
    ),
    knob(
        "window_hold",
        0..=60_000,
        "milliseconds, 0 (no window) to 60000",
        |t| t.window_hold / MS,
        |t, v| t.window_hold = v * MS,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_reads_back_its_ends_and_refuses_what_lies_beyond() {
        for knob in &KNOBS {
            let mut tune = Tune::new();
            let (low, high) = (*knob.range.start(), *knob.range.end());
            for value in [low, high] {
                let text = value.to_string();
                assert_eq!(tune.access(knob.name, Some(&text)), Ok(value), "{}", knob.name);
                assert_eq!(tune.access(knob.name, None), Ok(value), "{}", knob.name);
            }
            let before = tune;
            let expected = BadTunable::Value { expected: knob.expected };
            for bad in ["", "-1", "x", "1.5", &(high + 1).to_string(), "99999999999999999999"] {
                assert_eq!(tune.access(knob.name, Some(bad)), Err(expected), "{}", knob.name);
            }
            if low > 0 {
                let zero = tune.access(knob.name, Some("0"));
                assert_eq!(zero, if knob.auto { Ok(0) } else { Err(expected) }, "{}", knob.name);
            }
            if !knob.auto {
                assert_eq!(tune, before, "{}: a refused value changes nothing", knob.name);
            }
        }
        assert_eq!(Tune::new().access("low_latency", Some("1")), Err(BadTunable::Unknown));
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let mut tune = Tune::new();
        let defaults = [125, 250, 10_000, 16_384, 2, 0, 0, 125, 0, 0, 1, 8, 0, 0, 50, 10];
        for (name, value) in NAMES.iter().zip(defaults) {
            assert_eq!(tune.access(name, None), Ok(value), "{name}");
        }
        assert_eq!((tune.max_budget(), tune.min_budget()), (512, 16));
        tune.access("sorted", Some("1")).expect("a good value");
        assert_eq!((tune.max_budget(), tune.min_budget()), (32_768, 1024));
        tune.access("max_budget", Some("2048")).expect("a good value");
        assert_eq!((tune.max_budget(), tune.min_budget()), (2048, 64));
    }
}

//! What benches need: CPU time, rounds in which cases take turns, medians with their spread, and a
//! table to print.
//!
//! Rules, for figures that mean something on a machine that others use too:
//! * **B1 CPU time.** What the thread itself has run, so who waits for a processor loses nothing.
//! * **B2 Turns.** Each case runs once in each round, forwards and backwards by turns, so that a
//!   slow moment or a warm cache helps or hurts none of them more than the others.
//! * **B3 Pairs.** What a case costs more than another one is the median of the differences within
//!   each round, not a difference of medians: what slowed the whole round down cancels out.
//! * **B4 Spread.** The quartiles stand beside each median. A bound between them is neither kept
//!   nor broken.
#![allow(unsafe_code, reason = "clock_gettime has no wrapper for the CPU time of a thread")]

use std::{fmt, io};

use serde::Serialize;

use crate::block::Nanos;

/// CPU time that the calling thread has used so far (B1). A system call, so worth it around
/// milliseconds of work.
#[must_use]
pub fn cpu_time() -> Nanos {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours; every thread has this clock, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut ts) };
    Nanos(ts.tv_sec.unsigned_abs() * 1_000_000_000 + ts.tv_nsec.unsigned_abs())
}

/// No process has this number or a greater one (PID_MAX_LIMIT of Linux).
const PID_LIMIT: libc::pid_t = 1 << 22;

/// CPU time that a process has used so far: all its threads, those too that have ended, in user
/// code and in the kernel. What kernel threads do for it is not in it.
///
/// # Errors
/// There is no such process.
pub fn process_cpu_time(pid: u32) -> io::Result<Nanos> {
    // A clock's number has no room for more, and 0 would be ourselves.
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| (1..PID_LIMIT).contains(pid));
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the number is ours to be written.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours; a process that has gone since is an error.
    if unsafe { libc::clock_gettime(clock, &raw mut ts) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Nanos(ts.tv_sec.unsigned_abs() * 1_000_000_000 + ts.tv_nsec.unsigned_abs()))
}

/// Measures `cases` cases in `rounds` rounds by turns (B2): `measure` is told which one is next.
/// Answers with a series for each case, in order of the rounds.
pub fn take_turns<T>(
    cases: usize,
    rounds: usize,
    mut measure: impl FnMut(usize) -> T,
) -> Vec<Vec<T>> {
    let mut series: Vec<Vec<T>> = (0..cases).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for i in 0..cases {
            let case = if round % 2 == 0 { i } else { cases - 1 - i };
            series[case].push(measure(case));
        }
    }
    series
}

/// A median and what is around it (B4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// A quarter of the values is below.
    pub low: f64,
    /// Half of them.
    pub median: f64,
    /// Three quarters.
    pub high: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    /// Of none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        assert!(!sorted.is_empty(), "nothing was measured");
        sorted.sort_by(f64::total_cmp);
        let quarter = |n: usize| {
            let (at, part) = ((sorted.len() - 1) * n / 4, (sorted.len() - 1) * n % 4);
            let next = sorted[(at + 1).min(sorted.len() - 1)];
            sorted[at] + (next - sorted[at]) * f64::from(u8::try_from(part).unwrap_or(0)) / 4.0
        };
        Spread { low: quarter(1), median: quarter(2), high: quarter(3) }
    }

    /// What `series` has more than `base`, round by round (B3).
    ///
    /// # Panics
    /// When they have no round, or not as many rounds.
    #[must_use]
    pub fn over(series: &[f64], base: &[f64]) -> Spread {
        assert_eq!(series.len(), base.len(), "both ran in every round");
        Spread::of(series.iter().zip(base).map(|(a, b)| a - b))
    }

    /// How many times `base` the `series` is, round by round (B3).
    ///
    /// # Panics
    /// As [`over`](Spread::over).
    #[must_use]
    pub fn times(series: &[f64], base: &[f64]) -> Spread {
        assert_eq!(series.len(), base.len(), "both ran in every round");
        Spread::of(series.iter().zip(base).map(|(a, b)| a / b))
    }

    /// Whether this keeps `bound`, the most that it may be (B4).
    #[must_use]
    pub fn held_against(self, bound: f64) -> Verdict {
        if self.high <= bound {
            Verdict::Kept
        } else if self.low > bound {
            Verdict::Broken
        } else {
            Verdict::Unclear
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} [{:.1} {:.1}]", self.median, self.low, self.high)
    }
}

/// What became of a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Three quarters of the rounds are within it.
    Kept,
    /// It lies between the quartiles.
    Unclear,
    /// Three quarters of the rounds are beyond it.
    Broken,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Kept => "kept",
            Verdict::Unclear => "unclear",
            Verdict::Broken => "BROKEN",
        })
    }
}

/// Lines of columns that are as wide as they have to be. The first `left` columns are words and
/// begin together, the others are figures and end together. No blanks at the end of a line.
#[must_use]
pub fn table(left: usize, head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let lines = || std::iter::once(&head).chain(rows);
    let cell = |line: &'_ Vec<String>, i: usize| line.get(i).map_or(0, String::len);
    let widths: Vec<usize> =
        (0..head.len()).map(|i| lines().map(|l| cell(l, i)).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines() {
        let cells = line.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| {
            if i < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn b1_only_what_the_thread_runs_itself_counts() {
        let begin = cpu_time();
        std::thread::sleep(Duration::from_millis(30));
        let slept = cpu_time().since(begin);
        assert!(slept < 10_000_000, "{slept} ns of sleep");
        let (begin, wall) = (cpu_time(), Instant::now());
        let mut passed = 0;
        while passed < 2_000_000 {
            assert!(wall.elapsed() < Duration::from_secs(60), "it stands at {passed} ns");
            passed = cpu_time().since(begin);
        }
        assert!(Duration::from_nanos(passed) <= wall.elapsed() + Duration::from_millis(1));
    }

    #[test]
    fn b1_a_process_is_all_of_its_threads() {
        let me = std::process::id();
        let begin = process_cpu_time(me).expect("it is us");
        let threads = [0; 2].map(|_| {
            std::thread::spawn(|| {
                let begin = cpu_time();
                while cpu_time().since(begin) < 20_000_000 {}
            })
        });
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        let passed = process_cpu_time(me).expect("it is us").since(begin);
        assert!(passed >= 40_000_000, "{passed} ns");
        // One that has ended and been waited for, and numbers that nobody has.
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        child.wait().expect("it ends");
        for pid in [child.id(), 0, 1 << 22, 1 << 30, u32::MAX] {
            let error = process_cpu_time(pid).expect_err("nobody has this number");
            assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }

    #[test]
    fn b2_every_case_has_its_turn_in_every_round() {
        let mut order = Vec::new();
        let series = take_turns(3, 3, |case| {
            order.push(case);
            f64::from(u8::try_from(order.len()).expect("few"))
        });
        assert_eq!(order, [0, 1, 2, 2, 1, 0, 0, 1, 2]);
        assert_eq!(series, [[1.0, 6.0, 7.0], [2.0, 5.0, 8.0], [3.0, 4.0, 9.0]]);
        assert!(take_turns(2, 0, |_| 0.0).iter().all(Vec::is_empty));
    }

    #[test]
    fn b3_a_slow_round_cancels_out() {
        // The third round was slow for both, so medians of each would say 90 - 10 = 80.
        let (base, series) = ([10.0, 10.0, 100.0], [15.0, 90.0, 105.0]);
        assert_eq!(Spread::over(&series, &base).median, 5.0);
        assert_eq!(Spread::over(&[8.0], &[10.0]).median, -2.0);
        let times = Spread::times(&[20.0, 30.0, 300.0], &[10.0, 10.0, 100.0]);
        assert_eq!((times.low, times.median, times.high), (2.5, 3.0, 3.0));
    }

    #[test]
    #[should_panic(expected = "both ran in every round")]
    fn b3_a_pair_has_two() {
        let _ = Spread::over(&[1.0, 2.0], &[1.0]);
    }

    #[test]
    fn b4_quartiles_lie_between_values() {
        let spread = |values: &[f64]| {
            let Spread { low, median, high } = Spread::of(values.iter().copied());
            (low, median, high)
        };
        assert_eq!(spread(&[7.0]), (7.0, 7.0, 7.0));
        assert_eq!(spread(&[4.0, 2.0]), (2.5, 3.0, 3.5));
        assert_eq!(spread(&[5.0, 1.0, 3.0, 2.0, 4.0]), (2.0, 3.0, 4.0));
        assert_eq!(spread(&[1.0, 2.0, 3.0, 1000.0]), (1.75, 2.5, 252.25));
    }

    #[test]
    fn b4_a_bound_within_the_spread_is_not_decided() {
        let spread = Spread { low: 10.0, median: 12.0, high: 20.0 };
        for (bound, want) in [
            (9.9, Verdict::Broken),
            (10.0, Verdict::Unclear),
            (12.0, Verdict::Unclear),
            (19.9, Verdict::Unclear),
            (20.0, Verdict::Kept),
        ] {
            assert_eq!(spread.held_against(bound), want, "{bound}");
        }
        assert_eq!(format!("{spread} {}", spread.held_against(1.0)), "12.0 [10.0 20.0] BROKEN");
        assert_eq!(serde_json::to_string(&Verdict::Unclear).expect("text"), "\"unclear\"");
    }

    #[test]
    fn a_table_aligns_words_left_and_figures_right() {
        let rows =
            [vec!["a".to_owned(), "10.5".to_owned(), String::new()], vec!["long".to_owned()]];
        assert_eq!(table(1, &["what", "n", "x"], &rows), "what     n  x\na     10.5\nlong\n");
    }
}

//! Whether the machine was quiet enough for figures to mean something.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// Other processes may use so much of the CPUs that are measured on.
pub(crate) const OTHERS: f64 = 0.05;
/// The host may take so much of them away.
pub(crate) const STOLEN: f64 = 0.02;
/// The rounds may be so far apart, as a part of the median.
pub(crate) const SPREAD: f64 = 0.30;

/// What CPUs have done so far, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Ran {
    /// Processes, in user code and in the kernel.
    busy: f64,
    /// The host ran something else.
    stolen: f64,
    /// All the time that there was.
    all: f64,
}

impl Ran {
    /// Of these CPUs together.
    pub(crate) fn now(cpus: &[usize]) -> Ran {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Ran::parse(&text, cpus)
    }

    fn parse(text: &str, cpus: &[usize]) -> Ran {
        let by_cpu: BTreeMap<usize, Vec<f64>> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.strip_prefix("cpu")?.split_whitespace();
                let number = fields.next()?.parse().ok()?;
                // Hundredths, on every Linux (USER_HZ).
                let seconds = fields.filter_map(|f| Some(f.parse::<f64>().ok()? / 100.0));
                Some((number, seconds.collect()))
            })
            .collect();
        let mut ran = Ran::default();
        for times in cpus.iter().filter_map(|cpu| by_cpu.get(cpu)) {
            // user nice system idle iowait irq softirq steal; guests are in user already.
            let time = |field: usize| times.get(field).copied().unwrap_or(0.0);
            ran.busy += time(0) + time(1) + time(2);
            ran.stolen += time(7);
            ran.all += (0..8).map(time).sum::<f64>();
        }
        ran
    }

    /// What others did since `before`, while those who are measured used so many seconds.
    pub(crate) fn since(&self, before: &Ran, own: f64) -> Disturbance {
        let all = (self.all - before.all).max(f64::MIN_POSITIVE);
        Disturbance {
            others: ((self.busy - before.busy - own) / all).max(0.0),
            stolen: (self.stolen - before.stolen) / all,
        }
    }
}

/// What disturbed a measurement, as parts of the CPUs' time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Disturbance {
    /// Other processes, and kernel threads.
    pub(crate) others: f64,
    /// The host.
    pub(crate) stolen: f64,
}

impl Disturbance {
    /// What is beyond bounds, in words.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        let mut all = Vec::new();
        if self.others > OTHERS {
            all.push(format!("others used {} of the CPUs", percent(self.others)));
        }
        if self.stolen > STOLEN {
            all.push(format!("the host took {} of the CPUs", percent(self.stolen)));
        }
        all
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  9 9 9 9\ncpu0 100 0 100 800 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n\
                          intr 5\n";
    const AFTER: &str = "cpu0 150 10 140 1680 10 5 5 100 50 0\ncpu1 999 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn others_are_what_is_busy_and_not_our_own() {
        let (before, after) = (Ran::parse(BEFORE, &[0]), Ran::parse(AFTER, &[0]));
        // One of the 11 seconds in /proc/stat was user and system, another was stolen.
        let found = after.since(&before, 0.4);
        assert!((found.others - 0.6 / 11.0).abs() < 1e-9, "{found:?}");
        assert!((found.stolen - 1.0 / 11.0).abs() < 1e-9, "{found:?}");
        // More than what was busy by rounding: nobody else, not less than nobody.
        assert!(after.since(&before, 1.01).others == 0.0);
        let both = Ran::parse(AFTER, &[0, 1]).since(&Ran::parse(BEFORE, &[0, 1]), 0.0);
        assert!((both.others - 10.99 / 20.99).abs() < 1e-9, "{both:?}");
    }

    #[test]
    fn complaints_name_what_is_beyond_the_bounds() {
        let quiet = Disturbance { others: OTHERS, stolen: STOLEN };
        assert!(quiet.complaints().is_empty());
        let loud = Disturbance { others: 0.5, stolen: 0.25 };
        let said = ["others used 50 % of the CPUs", "the host took 25 % of the CPUs"];
        assert_eq!(loud.complaints(), said);
    }

    #[test]
    fn the_machine_that_runs_this_is_busy() {
        let ran = Ran::now(&vhost_user_blkmq::sys::affinity::allowed_cpus().expect("it tells"));
        assert!(ran.busy > 0.0 && ran.all > ran.busy, "{ran:?}");
    }
}

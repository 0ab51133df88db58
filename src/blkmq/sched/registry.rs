//! The schedulers by name: what exists, how many instances a pool needs, how one is built.

use std::sync::Arc;

use super::{BadTunable, Bfq, Kyber, KyberShared, MqDeadline, NoScheduler, Scheduler};

/// A scheduler that an operator can choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// First in, first out.
    #[default]
    None,
    /// In the order of the disk, in batches, with deadlines.
    MqDeadline,
    /// As many at a time as keep latency below a target.
    Kyber,
    /// Shares by weight between disks.
    Bfq,
}

/// Why a scheduler was not built. One line, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// No scheduler has this name.
    #[error("there is no scheduler {0}: choose one of {names}", names = names())]
    NoScheduler(String),
    /// It has no such tunable.
    #[error("the scheduler {kind} has no tunable {name}: {known}", known = known(*kind))]
    NoTunable {
        /// Which scheduler.
        kind: Kind,
        /// As typed.
        name: String,
    },
    /// The tunable takes something else.
    #[error("{name}={value}: give {expected}")]
    Value {
        /// The tunable.
        name: String,
        /// As typed.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::None, Kind::MqDeadline, Kind::Kyber, Kind::Bfq];

    /// The name by which an operator chooses it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::None => "none",
            Kind::MqDeadline => "mq-deadline",
            Kind::Kyber => "kyber",
            Kind::Bfq => "bfq",
        }
    }

    /// The scheduler of this name.
    ///
    /// # Errors
    /// [`BuildError::NoScheduler`].
    pub fn named(name: &str) -> Result<Kind, BuildError> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| BuildError::NoScheduler(name.to_owned()))
    }

    /// Whether one instance has to see all requests of a pool, so that its hctxs gather on one
    /// thread. Otherwise each thread has an instance, and they share what they must by atomics.
    #[must_use]
    pub const fn gathers(self) -> bool {
        match self {
            Kind::None | Kind::Kyber => false,
            Kind::MqDeadline | Kind::Bfq => true,
        }
    }

    /// Requests that a pool keeps in flight at a time unless it is told: without a bound whatever
    /// waits would wait in the kernel, where no scheduler of ours decides. 0: no bound.
    #[must_use]
    pub const fn hw_depth(self, rotational: bool) -> u32 {
        match self {
            Kind::None => 0,
            // Its tokens are the bound.
            Kind::Kyber => 0,
            // Beyond this the device decides on shares, not bfq.
            Kind::Bfq if rotational => 8,
            Kind::Bfq => 32,
            Kind::MqDeadline if rotational => 32,
            Kind::MqDeadline => 64,
        }
    }

    /// The instances for a pool of `threads` threads: one for each, or one when it
    /// [gathers](Kind::gathers). Allocates.
    ///
    /// # Errors
    /// A tunable that is not known or does not take its value.
    pub fn build(
        self,
        tunables: &[(String, String)],
        threads: u16,
        rotational: bool,
    ) -> Result<Vec<Box<dyn Scheduler>>, BuildError> {
        let mut made: Vec<Box<dyn Scheduler>> = match self {
            Kind::None => (0..threads).map(|_| Box::new(NoScheduler::new()) as _).collect(),
            Kind::MqDeadline => vec![Box::new(MqDeadline::new())],
            Kind::Bfq if rotational => vec![Box::new(Bfq::rotational())],
            Kind::Bfq => vec![Box::new(Bfq::new())],
            Kind::Kyber => {
                let shared = Arc::new(KyberShared::new(threads));
                (0..threads).map(|t| Box::new(Kyber::new(Arc::clone(&shared), t)) as _).collect()
            }
        };
        for instance in &mut made {
            for (name, value) in tunables {
                let set = instance.tunable(name, Some(value));
                set.map_err(|bad| self.refusal(bad, name, value))?;
            }
        }
        Ok(made)
    }

    /// The names of its tunables.
    #[must_use]
    pub fn tunables(self) -> &'static [&'static str] {
        let made = self.build(&[], 1, false).unwrap_or_default();
        made.first().map_or(&[], |scheduler| scheduler.tunables())
    }

    /// A refusal of a tunable, in words.
    #[must_use]
    pub fn refusal(self, bad: BadTunable, name: &str, value: &str) -> BuildError {
        let name = name.to_owned();
        match bad {
            BadTunable::Unknown => BuildError::NoTunable { kind: self, name },
            BadTunable::Value { expected } => {
                BuildError::Value { name, value: value.to_owned(), expected }
            }
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn names() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

/// What the refusal of a tunable may offer instead.
fn known(kind: Kind) -> String {
    match kind.tunables() {
        [] => "it takes none".to_owned(),
        names => format!("it takes {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheduler_is_built_under_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Ok(kind));
            let made = kind.build(&[], 3, false).expect("nothing is asked");
            assert_eq!(made.len(), if kind.gathers() { 1 } else { 3 });
            assert!(made.iter().all(|s| s.name() == kind.name()));
        }
    }

    /// What can be read can be set to the same, and what cannot be known is refused in words.
    #[test]
    fn tunables_are_read_and_set_by_name() {
        for kind in Kind::ALL {
            let mut made = kind.build(&[], 1, false).expect("nothing is asked").remove(0);
            for name in made.tunables() {
                let value = made.tunable(name, None).expect("a name that it has");
                let again = vec![((*name).to_owned(), value.clone())];
                match kind.build(&again, 1, false) {
                    Ok(mut same) => {
                        assert_eq!(same[0].tunable(name, None).as_ref(), Ok(&value), "{name}");
                    }
                    Err(e) => assert!(e.to_string().contains("read"), "{name}: {e}"),
                }
            }
            let wrong = vec![("no_such".to_owned(), "1".to_owned())];
            let refusal = kind.build(&wrong, 1, false).expect_err("nobody has it").to_string();
            assert!(refusal.contains(kind.name()) && refusal.contains("it takes"), "{refusal}");
        }
        let refusal = Kind::named("cfq").expect_err("long gone").to_string();
        assert!(refusal.contains("cfq") && refusal.contains("none"), "{refusal}");
    }
}

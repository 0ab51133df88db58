//! What is asked: the parameters of the methods. A name that is not here is refused, so that a
//! slip of the keyboard does not become a limit that was never set.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use super::shape::Limits;

/// Of methods that have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Of `disk.stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Whose.
    pub disk: String,
    /// Also each queue by itself. Default: yes.
    #[serde(default = "yes")]
    pub queues: bool,
    /// Also the buckets of the histograms. Default: no.
    #[serde(default)]
    pub buckets: bool,
}

fn yes() -> bool {
    true
}

/// Of `disk.inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// Whose.
    pub disk: String,
    /// At most so many requests, 1 to 4096. Default: 256.
    #[serde(default = "some")]
    pub limit: u32,
}

fn some() -> u32 {
    256
}

/// Of `disk.set-limits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    /// Whose.
    pub disk: String,
    /// All of them: what is left out is no limit any more.
    pub limits: Limits,
}

/// Of `disk.set-weight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// Whose.
    pub disk: String,
    /// 1 to 1000.
    pub weight: u16,
}

/// Of `disk.set-nr-requests`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetNrRequests {
    /// Whose.
    pub disk: String,
    /// At least 1; null (which has to be written) for as many as the ring has entries.
    #[serde(deserialize_with = "Option::deserialize")]
    pub nr_requests: Option<u16>,
}

/// Of `disk.resize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Whose.
    pub disk: String,
    /// Make the image so long, in bytes. Default: leave it as it is and take its size.
    #[serde(default)]
    pub size: Option<u64>,
    /// It may become shorter than the disk is: what is cut off is lost. Default: no.
    #[serde(default)]
    pub shrink: bool,
}

/// Of `pool.get-scheduler`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Whose.
    pub pool: String,
}

/// Of `pool.set-scheduler`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetScheduler {
    /// Whose.
    pub pool: String,
    /// Its name.
    pub scheduler: String,
    /// What differs from the defaults.
    #[serde(default)]
    pub tunables: BTreeMap<String, Word>,
}

/// Of `pool.tunable`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunable {
    /// Whose.
    pub pool: String,
    /// Which.
    pub name: String,
    /// What it becomes; left out to read it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub value: Option<Word>,
}

/// Null is not "left out": whoever wrote it meant a value.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Word>, D::Error> {
    Word::deserialize(from).map(Some)
}

/// Of `pool.set-hw-depth`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetHwDepth {
    /// Whose.
    pub pool: String,
    /// 0 for as many as the images take; null (which has to be written) for what the scheduler
    /// thinks best.
    #[serde(deserialize_with = "Option::deserialize")]
    pub hw_depth: Option<u32>,
}

/// Of `pool.set-nomerges`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetNomerges {
    /// Whose.
    pub pool: String,
    /// 0, 1 or 2.
    pub nomerges: u8,
}

/// Of `pool.set-poll-max-us`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPollMaxUs {
    /// Whose.
    pub pool: String,
    /// Microseconds, at most 10000; 0: never look.
    pub poll_max_us: u32,
}

/// The value of a tunable, in JSON a string or an integer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Word(pub String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
        struct AsWord;
        impl Visitor<'_> for AsWord {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an integer")
            }

            fn visit_str<E: Error>(self, v: &str) -> Result<Word, E> {
                Ok(Word(v.to_owned()))
            }

            fn visit_u64<E: Error>(self, v: u64) -> Result<Word, E> {
                Ok(Word(v.to_string()))
            }

            fn visit_i64<E: Error>(self, v: i64) -> Result<Word, E> {
                Ok(Word(v.to_string()))
            }
        }
        from.deserialize_any(AsWord)
    }
}

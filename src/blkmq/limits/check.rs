//! Which limits contradict themselves: the rules of QEMU's `throttle_is_valid`, with remedies.

use std::fmt;

use super::{Limit, LimitSet, LimitsConfig};

/// The greatest rate, burst rate, and product of burst rate and seconds (QEMU:
/// `THROTTLE_VALUE_MAX`).
pub const MAX_VALUE: u64 = 1_000_000_000_000_000;

/// The name of a limit, as QEMU spells it: `iops-total`, `bps-write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What {
    /// `iops` or `bps`.
    pub measure: &'static str,
    /// `total`, `read` or `write`.
    pub part: &'static str,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.measure, self.part)
    }
}

/// Limits that mean nothing. Each text names the cause and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Total beside read or write, of the rates or of the burst rates.
    #[error(
        "{0}-total excludes {0}-read and {0}-write: give the total alone, or drop it and limit \
         reads and writes"
    )]
    TotalAndPart(&'static str),
    /// `iops_size` without any iops.
    #[error("iops-size says how long operations count, and none are limited: give an iops limit")]
    SizeWithoutIops,
    /// A rate or a burst rate above [`MAX_VALUE`].
    #[error("{0}: {1} per second is more than can be limited: give at most {MAX_VALUE}")]
    TooLarge(What, u64),
    /// A burst rate without a rate.
    #[error("{0}-max is a burst above {0}, which is not limited: give {0}, or drop {0}-max")]
    BurstWithoutRate(What),
    /// A burst rate below the rate.
    #[error("{0}-max={1} is below {0}={2}, so there is no burst: raise {0}-max, or drop it")]
    BurstBelowRate(What, u64, u64),
    /// A length without a burst rate.
    #[error("{0}-max-length is how long {0}-max may last, which is not given: give {0}-max")]
    LengthWithoutBurst(What),
    /// Burst rate times length is above [`MAX_VALUE`].
    #[error(
        "{0}-max-length={2} at {0}-max={1} is more than {MAX_VALUE} in one burst: shorten the burst"
    )]
    BurstTooLong(What, u64, u32),
}

impl Limit {
    fn check(&self, what: What) -> Result<(), LimitsError> {
        let Limit { rate, burst, burst_seconds } = *self;
        if let Some(large) = [rate, burst].into_iter().find(|v| *v > MAX_VALUE) {
            return Err(LimitsError::TooLarge(what, large));
        }
        if burst == 0 {
            let long = burst_seconds > 1;
            return if long { Err(LimitsError::LengthWithoutBurst(what)) } else { Ok(()) };
        }
        if u64::from(burst_seconds) > MAX_VALUE / burst {
            return Err(LimitsError::BurstTooLong(what, burst, burst_seconds));
        }
        if rate == 0 {
            return Err(LimitsError::BurstWithoutRate(what));
        }
        if burst < rate {
            return Err(LimitsError::BurstBelowRate(what, burst, rate));
        }
        Ok(())
    }
}

impl LimitSet {
    fn check(&self, measure: &'static str) -> Result<(), LimitsError> {
        let both = |of: fn(&Limit) -> u64| {
            of(&self.total) != 0 && (of(&self.read) != 0 || of(&self.write) != 0)
        };
        if both(|l| l.rate) || both(|l| l.burst) {
            return Err(LimitsError::TotalAndPart(measure));
        }
        self.total.check(What { measure, part: "total" })?;
        self.read.check(What { measure, part: "read" })?;
        self.write.check(What { measure, part: "write" })
    }

    fn is_off(&self) -> bool {
        [self.total, self.read, self.write].iter().all(|limit| limit.rate == 0)
    }
}

impl LimitsConfig {
    /// Whether the limits make sense together.
    ///
    /// # Errors
    /// The first contradiction, as QEMU would refuse it.
    pub fn check(&self) -> Result<(), LimitsError> {
        self.iops.check("iops")?;
        self.bps.check("bps")?;
        if self.iops_size != 0 && self.iops.is_off() {
            return Err(LimitsError::SizeWithoutIops);
        }
        Ok(())
    }
}

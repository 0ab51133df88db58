//! One leaky bucket as one number (B3), exact for any rate.
//!
//! A time in nanoseconds is too coarse for what passes more often than once in some: so a cost
//! is computed to 2^-32 ns, whole nanoseconds go to the TAT, and what is left over is collected
//! beside it until it makes another one. Nothing is lost and the order does not matter; at no
//! time is more than one nanosecond per thread missing.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const SECOND: u64 = 1_000_000_000;

/// The size of a bucket in time, where it is a tenth of what leaks in a second (B2).
const TENTH: u64 = SECOND / 10;

/// No cost and no tolerance is longer: 146 years.
const FOREVER: u64 = 1 << 62;

/// Units come in multiples of 2^-16.
const UNIT_BITS: u32 = 16;

/// So many units, operations or bytes, as a bucket takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Units(u64);

impl Units {
    /// One operation.
    pub(super) const ONE: Units = Units(1 << UNIT_BITS);

    /// So many bytes; 256 TiB are as good as any more.
    pub(super) fn bytes(n: u64) -> Units {
        Units(n.min(u64::MAX >> UNIT_BITS) << UNIT_BITS)
    }

    /// How many operations one of `bytes` counts for (B7).
    pub(super) fn operations(bytes: u64, size: u64) -> Units {
        if size == 0 || bytes <= size {
            return Units::ONE;
        }
        // Rounded up, so that a limit is not exceeded.
        let units = (u128::from(bytes) << UNIT_BITS).div_ceil(u128::from(size));
        Units(u64::try_from(units).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds per unit: a mantissa (the upper 57 bits) divided by 2 to the power of the lower 7.
/// In one word, so that it can be replaced while others read it. 0: the bucket does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Price(u64);

impl Price {
    const EXPONENT_BITS: u32 = 7;
    const MANTISSA_BITS: u32 = 64 - Price::EXPONENT_BITS;

    /// The price when `rate` units leak per second.
    pub(super) fn per_second(rate: u64) -> Price {
        if rate == 0 {
            return Price(0);
        }
        // At a rate of 1 this is the greatest shift that fits; each halving allows one more.
        let mut shift = 27;
        while (u128::from(SECOND) << shift) / u128::from(rate) < 1 << (Price::MANTISSA_BITS - 1) {
            shift += 1;
        }
        let exact = (u128::from(SECOND) << shift).div_ceil(u128::from(rate));
        let most = (1 << Price::MANTISSA_BITS) - 1;
        let mantissa = u64::try_from(exact).unwrap_or(most).min(most);
        Price(mantissa << Price::EXPONENT_BITS | shift)
    }

    /// What `units` cost: nanoseconds, and 2^-32 of them, rounded up.
    pub(super) fn of(self, units: Units) -> (u64, u32) {
        let (mantissa, shift) = (self.0 >> Price::EXPONENT_BITS, self.0 & 0x7f);
        // 64 + 57 bits at most, and a shift of at least 27 + 16 - 32.
        let product = u128::from(mantissa) * u128::from(units.0);
        let down = (shift + u64::from(UNIT_BITS)).saturating_sub(32);
        let fine = (product + ((1 << down) - 1)) >> down;
        let part = u32::try_from(fine & u128::from(u32::MAX)).unwrap_or(0);
        (u64::try_from(fine >> 32).map_or(FOREVER, |ns| ns.min(FOREVER)), part)
    }
}

/// What a bucket is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// What leaks per second; 0: there is no such bucket.
    pub(super) rate: u64,
    /// Size / rate in nanoseconds.
    pub(super) tolerance: u64,
}

impl Shape {
    /// The bucket that leaks at the rate (B2).
    pub(super) fn main(limit: &super::Limit) -> Shape {
        let super::Limit { rate, burst, burst_seconds } = *limit;
        if burst == 0 || rate == 0 {
            return Shape { rate, tolerance: TENTH };
        }
        let size = u128::from(burst) * u128::from(burst_seconds.max(1));
        let time = size * u128::from(SECOND) / u128::from(rate);
        let tolerance = u64::try_from(time).map_or(FOREVER, |ns| ns.min(FOREVER));
        Shape { rate, tolerance }
    }

    /// The bucket that leaks at the burst rate (B2).
    pub(super) fn burst(limit: &super::Limit) -> Shape {
        let rate = if limit.burst_seconds > 1 { limit.burst } else { 0 };
        Shape { rate, tolerance: TENTH }
    }
}

/// A bucket, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Bucket {
    /// When it will be empty, in nanoseconds (B3).
    tat: AtomicU64,
    /// 2^-32 ns that are not in `tat` yet.
    rest: AtomicU32,
    price: AtomicU64,
    tolerance: AtomicU64,
}

impl Bucket {
    /// An empty bucket.
    pub(super) fn new(shape: Shape) -> Bucket {
        Bucket {
            tat: AtomicU64::new(0),
            rest: AtomicU32::new(0),
            price: AtomicU64::new(Price::per_second(shape.rate).0),
            tolerance: AtomicU64::new(shape.tolerance),
        }
    }

    /// Adds `units` and answers from when on they may pass (B1, B3, B4).
    pub(super) fn book(&self, units: Units, now: u64) -> u64 {
        let (whole, part) = Price(self.price.load(Ordering::Relaxed)).of(units);
        let carry =
            part != 0 && self.rest.fetch_add(part, Ordering::Relaxed).checked_add(part).is_none();
        let cost = whole + u64::from(carry);
        let mut tat = self.tat.load(Ordering::Relaxed);
        loop {
            let next = tat.max(now).saturating_add(cost);
            let swap =
                self.tat.compare_exchange_weak(tat, next, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => break,
                Err(seen) => tat = seen,
            }
        }
        tat.saturating_sub(self.tolerance.load(Ordering::Relaxed))
    }

    /// What was booked before goes now: not less of it is in the bucket than if it had been added
    /// now (B5).
    pub(super) fn depart(&self, units: Units, now: u64) {
        let (cost, _) = Price(self.price.load(Ordering::Relaxed)).of(units);
        let least = now.saturating_add(cost);
        if self.tat.load(Ordering::Relaxed) < least {
            self.tat.fetch_max(least, Ordering::Relaxed);
        }
    }

    /// From when on something new may pass.
    pub(super) fn tail(&self) -> u64 {
        let tat = self.tat.load(Ordering::Relaxed);
        tat.saturating_sub(self.tolerance.load(Ordering::Relaxed))
    }

    /// Takes another shape and keeps what is in it (B8). Who books meanwhile pays the old price or
    /// the new one, and what it adds at the old one may be counted as if at the new: an error of
    /// one bio per thread, once.
    pub(super) fn reshape(&self, from: Shape, to: Shape, now: u64) {
        self.price.store(Price::per_second(to.rate).0, Ordering::Relaxed);
        self.tolerance.store(to.tolerance, Ordering::Relaxed);
        let carried = |tat: u64| {
            if from.rate == 0 || to.rate == 0 {
                return 0;
            }
            let debt = u128::from(tat.saturating_sub(now));
            let debt = (debt * u128::from(from.rate)).div_ceil(u128::from(to.rate));
            now.saturating_add(u64::try_from(debt).map_or(FOREVER, |ns| ns.min(FOREVER)))
        };
        let mut tat = self.tat.load(Ordering::Relaxed);
        while from != to
            && let Err(seen) = self.tat.compare_exchange_weak(
                tat,
                carried(tat),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
        {
            tat = seen;
        }
    }
}

//! Limits of one disk: operations and bytes per second, with bursts, after QEMU's throttling
//! (`throttling.iops-total` and its family; QEMU: `docs/throttle.txt`).
//!
//! [`Limits`] is what the threads that serve a disk share: leaky buckets, one atomic each.
//! [`Gatekeeper`] is what one thread has of it: who of the waiting goes next, and when.
//!
//! Rules:
//! * **B1** A bio passes when no bucket that concerns it is over its size, and is then added to
//!   each (QEMU: `throttle_compute_wait`, `throttle_account`). So one of any size passes an empty
//!   bucket and leaves a debt, and in any time T at most size + rate * T + one bio pass (I22).
//! * **B2** A limit without bursts is a bucket of rate / 10. With a burst rate it is one of
//!   burst * seconds, leaking at `rate`; when the burst may last longer than a second there is a
//!   second one of burst / 10, leaking at the burst rate.
//! * **B3** A bucket is one number: the time at which it will be empty (TAT, the theoretical arrival
//!   time of the "generic cell rate algorithm", ITU-T I.371). Level over size is `TAT - now > size
//!   / rate`; adding is `TAT = max(TAT, now) + cost / rate`. Time does the leaking.
//! * **B4** A limit does not refuse, it *books*: the bio is added to its buckets when it asks, and
//!   the answer is the time from which it may go, the latest of its buckets. Nobody asks twice,
//!   so threads that wait for one disk form one queue in the order in which they asked: whoever
//!   comes later gets a later time, and none of them can starve another.
//! * **B5** Of each thread and direction only the first in line has booked; the others of its room
//!   wait uncharged. When it goes at last, what had room meanwhile has leaked; so each of its
//!   buckets is filled up again to what it would hold, had the bio been added at that time.
//! * **B6** Reads are reads; writes, zeroes and discards are writes; a flush is free. Zeroes count
//!   with their length (as Linux and QEMU), a discard as one sector (as Linux; its length says
//!   nothing about the work). A further range of a bio counts like a bio, when it starts.
//! * **B7** An operation longer than `iops_size` counts as length / `iops_size` of them, fractions
//!   included (QEMU).
//! * **B8** A change of the limits keeps what is in a bucket: a debt of so many units stays one of so
//!   many units, and leaks at the new rate. A bucket that did not exist begins empty.
//!
//! *Booking instead of refusing and being asked again*: no charge is ever taken back, which is the
//! part of such a limiter that is hard to get right: between charge and return the charge may have
//! leaked away, and then the return is a gift. With one thread and direction the times are those
//! of B1 exactly. With n of them, up to n bios that wait for one bucket are already in another one
//! that has room: there "one bio" of B1 becomes n. Never is a bucket fuller than if each bio had
//! been added when it went, so nobody waits longer than by B1.
//!
//! *Relaxed atomics suffice.* What a booking decides it decides by one read-modify-write of one
//! bucket. Buckets need not agree with one another, and no other memory depends on them.

mod bucket;
mod check;
mod gatekeeper;
mod limiter;

pub use check::{LimitsError, MAX_VALUE, What};
pub use gatekeeper::Gatekeeper;
pub use limiter::{Direction, Limits};

/// One limit. All zero: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// What may pass per second in the long run; 0 for any amount.
    pub rate: u64,
    /// What may pass per second while a burst lasts; 0 when there are no bursts.
    pub burst: u64,
    /// How long a burst may last, in seconds; 0 as 1.
    pub burst_seconds: u32,
}

/// The limits of one measure (operations, or bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSet {
    /// On reads and writes together.
    pub total: Limit,
    /// On reads.
    pub read: Limit,
    /// On writes, and whatever else changes the disk.
    pub write: Limit,
}

/// All limits of one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Operations per second.
    pub iops: LimitSet,
    /// Bytes per second.
    pub bps: LimitSet,
    /// An operation of more bytes than this counts as so many times one, fractions included
    /// (B7); 0: always as one.
    pub iops_size: u64,
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/limits.rs"]
mod tests;

#[cfg(all(test, not(loom)))]
#[path = "../tests/gatekeeper.rs"]
mod gatekeeper_tests;

#[cfg(all(test, loom))]
#[path = "../tests/limits_loom.rs"]
mod loom_tests;

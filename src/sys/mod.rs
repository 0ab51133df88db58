//! The only room with `unsafe`. Each block names the invariant it rests on and who keeps it.
//!
//! * S1 **Mapped.** A [`guest::GuestBuf`] or a ring pointer lies inside a region of one
//!   [`guest::GuestMemory`] generation. Whoever stores it also stores that generation's `Arc`
//!   until the last completion (the queue thread does; law L3).
//! * S2 **Shared.** Guest memory changes under our feet. It is read and written only through raw
//!   pointers, volatile or atomic, never through references (law L2: copied once, then checked).
//! * S3 **Kept.** What the kernel may touch (buffers, vectors, files) outlives its completion:
//!   [`uring::Ring`] counts what is in flight and, when it cannot drain, leaks rather than unmaps.

pub mod affinity;
pub mod bounce;
pub mod clock;
pub mod direct_rw;
pub mod eventfd;
pub mod fd;
pub mod guest;
pub mod inflight;
pub mod line;
pub mod lock;
pub mod memfd;
pub mod ring;
pub mod sandbox;
pub mod sigbus;
pub mod signal;
pub mod socket;
#[cfg(test)]
pub mod steps;
pub mod storage;
pub mod token;
pub mod uring;
pub mod zeroes;

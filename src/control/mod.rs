//! The control side: what a front-end says over its socket, and what becomes of it.
//!
//! ```text
//!   socket -> session -> handler -+-> memory   table -> next generation of guest memory
//!                                 +-> rings ---> vring --QueueStart--> mailbox -> queue thread
//!                                 |                    <-QueueStopped-
//!                                 +-> config   features, config space
//!   socket <- herald              the back-end channel: config space has changed
//! ```
//!
//! This room may block and allocate; it never touches guest data, and of ring entries it reads only
//! the used index, once, before a ring runs. Laws of the room:
//!
//! * Everything that a message says is checked before anything changes; a refusal has a reason
//!   ([`Refusal`]).
//! * A running ring belongs to its queue thread. Control asks for it back and gets it, drained, by
//!   value (L1, L6).
//! * What a message changes for all rings, changes while none of them runs ([`rings`]).
//! * A session may end at any message. Nothing of it is left running then.
//!
//! What a session keeps for the front-end beyond the rings (a region that records what is in
//! flight, a log of dirty pages) stands beside [`memory`] and changes in the same way: at rest,
//! between the last answer of a drained ring and its next start.

pub mod admin;
pub mod config;
mod handler;
mod herald;
pub mod memory;
pub mod pool;
pub mod refusal;
pub mod rings;
mod session;
pub mod vring;

pub use herald::Herald;
pub use refusal::Refusal;
pub use session::{Limits, Request, Session, SessionEnd, SessionHandle};

#[cfg(test)]
mod testing;

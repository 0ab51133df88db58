//! A front-end of our own for what well-behaved drivers never do: broken chains, broken rings,
//! broken messages. After each of them a good client proves that the daemon still serves, and that
//! it holds no more descriptors, threads and memory than before.

mod common;

#[path = "frontend/bench.rs"]
mod bench;
#[path = "frontend/chains.rs"]
mod chains;
#[path = "frontend/crash.rs"]
mod crash;
#[path = "frontend/messages.rs"]
mod messages;
#[path = "frontend/regressions.rs"]
mod regressions;
#[path = "frontend/requests.rs"]
mod requests;
#[path = "frontend/resize.rs"]
mod resize;
#[path = "frontend/rings.rs"]
mod rings;

//! The whole queue thread (real glue, real core, real rings in real shared memory) on one thread
//! under one seed, with a simulated disk and simulated guests. A failure prints its seed.

mod crash;
mod ends;
mod faults;
mod hostile;
mod invariants;
mod merging;
mod resize;
mod shape;
mod warm;
pub(super) mod world;

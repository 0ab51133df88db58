//! The parts of `ci/bench`, each with its tests: a figure that everybody will quote has to be right.
#![allow(dead_code, reason = "the tests of a part use that part alone")]

#[path = "bench/args.rs"]
mod args;
#[path = "bench/backend.rs"]
mod backend;
#[path = "bench/bar.rs"]
mod bar;
#[path = "bench/client.rs"]
mod client;
mod common;
#[path = "bench/idle.rs"]
mod idle;
#[path = "bench/load.rs"]
mod load;
#[path = "bench/noise.rs"]
mod noise;
#[path = "bench/report.rs"]
mod report;
#[path = "bench/scene.rs"]
mod scene;
#[path = "bench/stats.rs"]
mod stats;

//! How fast we are beside others, on this machine: `ci/bench --help`.
//!
//! One client (libblkio) drives each back-end in turn, in interleaved rounds, with the client on
//! one CPU and the back-end on another: see `bench/client.rs` for what is measured where, and
//! `bench/scene.rs` for the turns. Tests of the parts are run by `bench_parts.rs`.

use std::process::ExitCode;

use clap::Parser;

#[path = "bench/args.rs"]
mod args;
#[path = "bench/backend.rs"]
mod backend;
#[path = "bench/bar.rs"]
mod bar;
#[path = "bench/client.rs"]
mod client;
mod common;
#[allow(dead_code, unused_imports, reason = "most of it is for tests with guests")]
mod guest;
#[path = "bench/idle.rs"]
mod idle;
#[path = "bench/inside.rs"]
mod inside;
#[path = "bench/load.rs"]
mod load;
#[path = "bench/noise.rs"]
mod noise;
#[path = "bench/output.rs"]
mod output;
#[path = "bench/plot.rs"]
mod plot;
#[path = "bench/report.rs"]
mod report;
#[path = "bench/scene.rs"]
mod scene;
#[path = "bench/stats.rs"]
mod stats;

use args::Args;
use bar::{Bar, Outcome};
use output::Machine;

/// A piece of the result, as soon as it is there.
#[allow(clippy::print_stdout, reason = "a program of its own")]
fn say(text: &str) {
    println!("{text}");
}

fn run(args: &Args) -> Result<(), String> {
    args.check()?;
    let machine = Machine::this();
    say(&format!("{}\n{}\n", machine.line(), report::LEGEND));
    let only = |cells| Outcome { cells, ..Outcome::default() };
    let outcome = match args {
        Args { guest: true, .. } => only(inside::run(args, say)?),
        Args { pattern, .. } if pattern.is_empty() => Bar::run(args, say)?,
        _ => only(scene::all(args, say)?),
    };
    if !outcome.rows.is_empty() {
        say(&bar::table(&outcome.rows));
    }
    let noisy = outcome.cells.iter().filter(|cell| !cell.complaints().is_empty()).count();
    if noisy > 0 {
        let all = outcome.cells.len();
        say(&format!("The machine was too noisy to conclude from {noisy} of {all} measurements."));
    }
    output::write(args, &machine, &outcome)
}

#[allow(clippy::print_stderr, reason = "a program of its own")]
fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        // `cargo test --all-targets`: what a test can show, bench_parts.rs does.
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ci/bench: {error}");
            ExitCode::FAILURE
        }
    }
}

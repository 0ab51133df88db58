//! How fast we are beside others, on this machine: `ci/bench --help`.
//!
//! One client (libblkio) drives each back-end in turn, in interleaved rounds, with the client on
//! one CPU and the back-end on another: see `bench/client.rs` for what is measured where, and
//! `bench/scene.rs` for the turns. The parts that need no machine are tested by `bench_parts.rs`.

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

use args::Args;
use backend::{Image, Kind, Place};
use bar::Bar;
use scene::{Cell, Scene};

/// One line of progress, or of the result.
#[allow(clippy::print_stdout, reason = "a program of its own")]
fn say(text: &str) {
    println!("{text}");
}

/// The cells that the command line asks for.
fn cells(args: &Args) -> Result<Vec<Cell>, String> {
    let (seats, loads) = (args.seats()?, args.loads());
    let mut cells = Vec::new();
    for place in &args.image {
        let image = Image::make(place, args.size as u64)?;
        let mut contenders = args.contenders(args.queues, &seats)?;
        contenders.retain(|c| *place != Place::Null || c.kind != Kind::Raw);
        let mut scene = Scene::open(&image, &contenders, &loads, args.poll)?;
        for load in &loads {
            let cell = scene.measure(load, &args.pace())?;
            say(&report::cell(&cell));
            cells.push(cell);
        }
    }
    Ok(cells)
}

fn run(args: &Args) -> Result<(), String> {
    args.check()?;
    say(&format!("{}\n", report::LEGEND));
    if args.pattern.is_empty() {
        let outcome = Bar::run(args, say)?;
        say(&bar::table(&outcome.rows));
        return Ok(());
    }
    cells(args)?;
    Ok(())
}

#[allow(clippy::print_stderr, reason = "a program of its own")]
fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ci/bench: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The parts of `ci/bench`, with their tests, and a short run of the whole: figures that everybody
//! will quote have to be right.
#![allow(dead_code, reason = "what only the program's main needs")]

#[path = "bench/args.rs"]
mod args;
#[path = "bench/backend.rs"]
mod backend;
#[path = "bench/bar.rs"]
mod bar;
#[path = "bench/client.rs"]
mod client;
mod common;
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

use clap::Parser;

use args::Args;
use scene::Cell;

/// Runs what the words ask for.
fn cells(words: &str) -> Result<Vec<Cell>, String> {
    let words = std::iter::once("ci/bench").chain(words.split_whitespace());
    let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
    args.check()?;
    scene::all(&args, |_| {})
}

#[test]
fn everyone_does_what_is_asked_of_him() {
    let program = common::daemon::program();
    // The same program once more, as a stranger.
    let stranger = format!(
        "--peer=stranger={} --socket-path={{socket}} --blk-file={{image}} --share-rw",
        program.display()
    );
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("json");
    let fixed = format!("--json={}", json.display());
    let mut words: Vec<&str> = "ci/bench --image tmpfs --pattern randread,seqwrite,writeflush \
        --depth 4 --queues 2 --size 8M --rounds 2 --seconds 0.05 --without qsd"
        .split_whitespace()
        .collect();
    words.extend([stranger.as_str(), fixed.as_str()]);
    let args = Args::try_parse_from(words).expect("it can be understood");
    assert_eq!(args.check(), Ok(()));
    let cells = scene::all(&args, |_| {}).expect("everyone works");
    assert_eq!(cells.len(), 3);
    for cell in &cells {
        let names: Vec<&str> = cell.series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["ours", "stranger", "raw"]);
        for series in &cell.series {
            assert_eq!((series.rounds.len(), series.queues), (2, 2));
            for sample in &series.rounds {
                assert!(sample.iops > 10.0, "{}: {sample:?}", series.name);
                assert!(sample.p50_us <= sample.p99_us && sample.p99_us <= sample.p999_us);
                assert!(sample.p50_us > 0.1 && sample.client_us > 0.01, "{sample:?}");
                // With four outstanding of each queue the latency follows from the rate.
                let follows = 8.0 / sample.iops * 1e6;
                assert!(sample.p50_us < follows * 4.0, "{follows} {sample:?}");
                assert_eq!(sample.backend_us.is_none(), series.raw);
                assert!(sample.backend_us.is_none_or(|us| us > 0.01), "{sample:?}");
            }
        }
    }
    let outcome = bar::Outcome { cells, ..bar::Outcome::default() };
    output::write(&args, &output::Machine::this(), &outcome).expect("it can be written");
    let text = std::fs::read_to_string(&json).expect("it was written");
    assert!(text.contains("\"stranger\""));
}

#[test]
fn what_fails_ends_the_run_with_a_reason() {
    let words = "--image tmpfs --pattern randwrite --size 8M --rounds 1 --seconds 0.05 \
        --without qsd,raw ";
    let error = |more: &str| cells(&format!("{words} {more}")).expect_err("it cannot work");
    // The blocks of the disk are bigger than the requests.
    let failed = error("--block 512 --option=--logical-block-size=4096");
    assert!(failed.starts_with("ours: a request failed"), "{failed}");
    // libblkio finds out before the first request.
    let refused = error("--option=--read-only");
    assert!(refused.starts_with("ours: ") && refused.contains("read-only"), "{refused}");
}

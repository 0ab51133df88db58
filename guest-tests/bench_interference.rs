//! A reader of 4 KiB beside 16 writers of 64 KiB under each scheduler: on a simulated flash disk in
//! virtual time, whose figures are the same on every machine, and with `--real` on a real image
//! with a daemon and clients of its own, whose figures are what this machine has measured.
//!
//! `ci/bench-interference` runs it (so does `cargo bench --bench interference -- OPTION...`). It
//! fails when something goes wrong: a request, a check of the data, the daemon's end. It does not
//! fail because of a figure. Run as a test (`cargo test --all-targets`) it only runs the model for a
//! second.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;
use vhost_user_blkmq::testkit::ssd::interference::{Row, Setup, run, table};
use vhost_user_blkmq::testkit::ssd::plot::{Panel, svg};

mod common;
#[path = "bench_interference/real.rs"]
mod real;
#[path = "bench_interference/wish.rs"]
mod wish;

use real::Measured;
use wish::Wish;

const TITLE: &str = "A 4 KiB reader beside 16 writers of 64 KiB";

/// The model's rows, and its tables.
fn model(wish: &Wish) -> (Vec<Row>, String) {
    let Wish { model_seconds: seconds, seed, .. } = *wish;
    let deep = Setup::all(seconds, seed);
    let all = |with: &dyn Fn(&Setup) -> Setup| -> Vec<Row> {
        deep.iter().map(|setup| run(&with(setup))).collect()
    };
    let rows = all(&Setup::clone);
    let shallow = all(&|setup| Setup { depth: 1, ..*setup });
    let alone = all(&|setup| Setup { writers: 0, seconds: 1, ..*setup });
    let text = format!(
        "{TITLE}, 64 outstanding each; simulated disk, {seconds} s, seed {seed}\n{}\n\
         The same with one outstanding each\n{}\nThe reader by itself\n{}",
        table(&rows),
        table(&shallow),
        table(&alone)
    );
    (rows, text)
}

/// The model's figures as JSON; latencies in milliseconds.
fn figures(rows: &[Row]) -> Vec<serde_json::Value> {
    let millis = |row: &Row, permille| row.percentile(permille) as f64 / 1e6;
    rows.iter()
        .map(|row| {
            json!({
                "name": row.name,
                "hw_depth": row.hw_depth,
                "reads": row.latencies.len(),
                "iops": row.iops(),
                "p50_ms": millis(row, 500),
                "p99_ms": millis(row, 990),
                "p999_ms": millis(row, 999),
                "max_ms": millis(row, 1000),
                "write_mb_s": row.write_rate(),
            })
        })
        .collect()
}

/// Writes what was asked for; `-` is where tables go otherwise.
fn keep(path: &str, text: &str) -> Result<(), String> {
    let outcome = match path {
        "-" => std::io::stdout().lock().write_all(text.as_bytes()),
        path => std::fs::write(path, text),
    };
    outcome.map_err(|error| format!("{path}: {error}"))
}

fn work(wish: &Wish) -> Result<(), String> {
    let quiet = wish.json.as_deref() == Some("-") || wish.svg.as_deref() == Some("-");
    let tell = |text: &str| if quiet { Ok(()) } else { keep("-", &format!("{text}\n")) };
    let (rows, text) = model(wish);
    tell(&text)?;
    let measured: Option<Measured> = match &wish.real {
        Some(path) => Some(real::measure(path, wish, &tell)?),
        None => None,
    };
    if let Some(path) = &wish.svg {
        let titles = [format!("{TITLE}: simulated disk"), format!("{TITLE}: as measured")];
        let mut panels = vec![Panel { title: &titles[0], rows: &rows }];
        if let Some(measured) = &measured {
            panels.push(Panel { title: &titles[1], rows: &measured.rows });
        }
        keep(path, &svg(&panels))?;
    }
    if let Some(path) = &wish.json {
        let report = json!({
            "model": {
                "seconds": wish.model_seconds,
                "seed": wish.seed,
                "figures": figures(&rows),
            },
            "real": measured.map(|measured| measured.report),
        });
        keep(path, &format!("{report:#}\n"))?;
    }
    Ok(())
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // As cargo tells a bench from a test.
    if !args.iter().any(|arg| arg == "--bench") {
        let (rows, _) = model(&Wish { model_seconds: 1, ..Wish::default() });
        println!("{} cases ran", rows.len());
        return ExitCode::SUCCESS;
    }
    let wish = match wish::wish(args.into_iter().filter(|arg| arg != "--bench")) {
        Ok(Some(wish)) => wish,
        Ok(None) => {
            print!("{}", wish::HELP);
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("interference: {why}");
            return ExitCode::from(2);
        }
    };
    match work(&wish) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("interference: {why}");
            ExitCode::FAILURE
        }
    }
}

//! What the schedulers and merging cost, in nanoseconds of CPU time for each request, against the
//! bounds that they have to keep, and how many submissions merging saves.
//!
//! `ci/bench-sched` runs it (so does `cargo bench --bench sched`) and prints a table, or JSON with
//! `--json`. What is counted has to hold: it fails when the warm path allocates, or when neighbours
//! need more than one submission for eight. What is timed is printed beside its bound and left to
//! the reader, for the machine may be anybody's. Run as a test (`cargo test --all-targets`) it
//! only runs each case once and counts.

use std::process::ExitCode;

use serde::Serialize;
use vhost_user_blkmq::blkmq::sched::Kind;
use vhost_user_blkmq::testkit::measure::{Spread, Verdict, cpu_time, table, take_turns};

// The allocator that counts: only here, not in everything that uses the test kit.
#[path = "../src/testkit/alloc.rs"]
mod alloc;
#[path = "bench_sched/cases.rs"]
mod cases;
#[path = "bench_sched/work.rs"]
mod work;

use cases::Case;
use work::{Pattern, Whole};

/// Rounds in which all cases take turns.
const ROUNDS: usize = 41;
/// Requests of each case that a test runs.
const FEW: u64 = 2048;
/// Bios of each count of submissions.
const COUNTED: u64 = 32_000;
/// Submissions for each bio that neighbours may need.
const SUBMISSIONS_BOUND: f64 = 1.0 / 8.0;

/// One case, measured.
#[derive(Serialize)]
struct Figure {
    group: &'static str,
    scheduler: &'static str,
    load: &'static str,
    disks: u16,
    depth: u16,
    /// For each request.
    ns: Spread,
    /// More than what it is compared to.
    over_ns: Option<Spread>,
    times: Option<Spread>,
    /// The most that `over_ns` may be.
    bound_ns: Option<f64>,
    verdict: Option<Verdict>,
    allocations: u64,
}

/// Submissions of neighbours, counted.
#[derive(Serialize)]
struct Count {
    scheduler: &'static str,
    arrival: &'static str,
    depth: u16,
    bios: u64,
    submissions: u64,
    bound: f64,
}

/// Everything that is told.
#[derive(Serialize)]
struct Report {
    unit: &'static str,
    rounds: usize,
    cases: Vec<Figure>,
    submissions: Vec<Count>,
    faults: Vec<String>,
}

/// Measures every case in `rounds` rounds of at most `most` requests.
fn figures(rounds: usize, most: u64) -> Vec<Figure> {
    let mut cases = cases::all();
    let n = cases.len();
    let mut allocations = vec![0; n];
    let mut run = |case: usize| {
        let Case { run, requests, .. } = &mut cases[case];
        let requests = most.min(*requests);
        let begin = cpu_time();
        allocations[case] += alloc::allocations(|| run(requests));
        cpu_time().since(begin) as f64 / requests as f64
    };
    take_turns(n, 1, &mut run); // caches and branches warm up
    let series = take_turns(n, rounds, &mut run);
    cases
        .iter()
        .zip(&series)
        .zip(allocations)
        .map(|((case, ns), allocations)| {
            let over_ns = case.base.map(|base| Spread::over(ns, &series[base]));
            Figure {
                group: case.group,
                scheduler: case.scheduler,
                load: case.load,
                disks: case.disks,
                depth: case.depth,
                ns: Spread::of(ns.iter().copied()),
                over_ns,
                times: case.base.map(|base| Spread::times(ns, &series[base])),
                bound_ns: case.bound,
                verdict: over_ns.zip(case.bound).map(|(over, bound)| over.held_against(bound)),
                allocations,
            }
        })
        .collect()
}

/// Counts the submissions of sequential 4 KiB at a depth of 32.
fn submissions() -> Vec<Count> {
    let depth = 32;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for arrival in ["all at a time", "as they come back"] {
            let mut whole = Whole::new(kind, 1, depth, Pattern::Sequential);
            if arrival == "all at a time" {
                whole.run(COUNTED);
            } else {
                whole.run_refilled(COUNTED);
            }
            let (submissions, bios) = whole.counts();
            let (scheduler, bound) = (kind.name(), SUBMISSIONS_BOUND);
            all.push(Count { scheduler, arrival, depth, bios, submissions, bound });
        }
    }
    all
}

fn per_bio(count: &Count) -> f64 {
    count.submissions as f64 / count.bios as f64
}

/// What was counted and does not hold.
fn faults(cases: &[Figure], submissions: &[Count]) -> Vec<String> {
    let allocating = cases.iter().filter(|f| f.allocations > 0).map(|f| {
        let Figure { group, scheduler, load, disks, depth, allocations, .. } = f;
        format!(
            "{group} {scheduler}, {load}, {disks} disks, depth {depth}: {allocations} allocations"
        )
    });
    let many = submissions.iter().filter(|c| per_bio(c) > c.bound).map(|c| {
        let Count { scheduler, arrival, bios, submissions, .. } = c;
        format!("{scheduler}, {arrival}: {submissions} submissions of {bios} neighbours")
    });
    allocating.chain(many).collect()
}

fn text(report: &Report) -> String {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = report
        .cases
        .iter()
        .map(|f| {
            vec![
                f.group.to_owned(),
                f.scheduler.to_owned(),
                f.load.to_owned(),
                f.disks.to_string(),
                f.depth.to_string(),
                f.ns.to_string(),
                or_none(f.over_ns.map(|s| s.to_string())),
                or_none(f.times.map(|s| format!("{:.2}", s.median))),
                or_none(f.bound_ns.map(|b| format!("{b:.0}"))),
                or_none(f.verdict.map(|v| v.to_string())),
                f.allocations.to_string(),
            ]
        })
        .collect();
    let head = [
        "measured",
        "scheduler",
        "load",
        "disks",
        "depth",
        "ns/request",
        "over base",
        "times",
        "bound",
        "verdict",
        "allocs",
    ];
    let counts: Vec<Vec<String>> = report
        .submissions
        .iter()
        .map(|c| {
            vec![
                c.scheduler.to_owned(),
                c.arrival.to_owned(),
                c.depth.to_string(),
                format!("{:.4}", per_bio(c)),
                format!("{:.4}", c.bound),
            ]
        })
        .collect();
    let head_of_counts = ["scheduler", "neighbours arrive", "depth", "submissions/bio", "bound"];
    format!(
        "{}; median [quartiles] of {} rounds\n\
         base: none (which a domain passes by while nothing waits), or nomerges 2\n\n{}\n{}",
        report.unit,
        report.rounds,
        table(3, &head, &rows),
        table(2, &head_of_counts, &counts)
    )
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    // As cargo tells a bench from a test.
    let bench = has("--bench") && !has("--test");
    if let Some(arg) = args.iter().find(|arg| bench && !["--bench", "--json"].contains(&&***arg)) {
        eprintln!("sched: {arg} means nothing here: give --json or nothing");
        return ExitCode::from(2);
    }
    // A counter that counts nothing would never find a fault.
    assert_eq!(alloc::allocations(|| drop(std::hint::black_box(Box::new(7_u64)))), 1);
    let (rounds, most) = if bench { (ROUNDS, u64::MAX) } else { (1, FEW) };
    let (cases, submissions) = (figures(rounds, most), submissions());
    let faults = faults(&cases, &submissions);
    let unit = "ns of CPU time for each request";
    let report = Report { unit, rounds, cases, submissions, faults };
    if has("--json") {
        println!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
    } else if bench {
        print!("{}", text(&report));
    } else {
        println!("{} cases ran", report.cases.len());
    }
    report.faults.iter().for_each(|fault| eprintln!("FAULT {fault}"));
    if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

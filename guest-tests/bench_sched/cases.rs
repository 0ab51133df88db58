//! The cases, in which each is compared to another one.

use vhost_user_blkmq::blkmq::MergeSearch;
use vhost_user_blkmq::blkmq::sched::Kind;

use super::work::{Alone, Pattern, Whole};

/// Requests of a scheduler in one round.
const REQUESTS: u64 = 20_480;
/// Bios of a domain in one round: one turn of a search that finds nothing, 4096 with it and 65536
/// that rest from it, so that each round contains its share of both.
const BIOS: u64 = 69_632;
/// Bios after which a search that may not rest is told so again.
const AWAKE: u64 = 2048;

/// What merging may cost where nothing merges: 2 % of an I/O of 500 ns.
const MERGE_BOUND: f64 = 500.0 * 0.02;

/// Something to measure.
pub(crate) struct Case {
    /// What is measured.
    pub(crate) group: &'static str,
    pub(crate) scheduler: &'static str,
    /// What the guests do.
    pub(crate) load: &'static str,
    pub(crate) disks: u16,
    pub(crate) depth: u16,
    /// Index of the case that it is compared to.
    pub(crate) base: Option<usize>,
    /// The most nanoseconds that it may take more than that.
    pub(crate) bound: Option<f64>,
    /// Requests in one round.
    pub(crate) requests: u64,
    /// Runs so many requests.
    pub(crate) run: Box<dyn FnMut(u64)>,
}

/// What a scheduler may cost more than `none`.
fn bound(kind: Kind) -> Option<f64> {
    match kind {
        Kind::None => None,
        Kind::MqDeadline => Some(60.0),
        Kind::Kyber => Some(40.0),
        Kind::Bfq => Some(200.0),
    }
}

/// All of them. The one that others are compared to comes first.
pub(crate) fn all() -> Vec<Case> {
    let mut all = Vec::new();
    for (disks, depth) in [(1, 32), (1, 256), (8, 32), (8, 256)] {
        schedulers(&mut all, disks, depth);
    }
    for (disks, depth) in [(1, 32), (1, 256), (8, 32), (8, 256)] {
        domains(&mut all, disks, depth);
    }
    for kind in [Kind::None, Kind::MqDeadline] {
        for depth in [32, 256] {
            merging(&mut all, kind, depth);
        }
    }
    all
}

/// Insert, next and done of each scheduler.
fn schedulers(all: &mut Vec<Case>, disks: u16, depth: u16) {
    let first = all.len();
    for kind in Kind::ALL {
        let mut alone = Alone::new(kind, disks, depth);
        all.push(Case {
            group: "scheduler",
            scheduler: kind.name(),
            load: "random",
            disks,
            depth,
            base: (kind != Kind::None).then_some(first),
            bound: bound(kind),
            requests: REQUESTS,
            run: Box::new(move |requests| alone.run(requests)),
        });
    }
}

/// Submit, run, complete, take and release with each scheduler, as it is set when nobody says
/// otherwise.
fn domains(all: &mut Vec<Case>, disks: u16, depth: u16) {
    let first = all.len();
    for kind in Kind::ALL {
        let mut whole = Whole::new(kind, disks, depth, Pattern::Random);
        all.push(Case {
            group: "domain",
            scheduler: kind.name(),
            load: "random",
            disks,
            depth,
            base: (kind != Kind::None).then_some(first),
            bound: bound(kind),
            requests: BIOS,
            run: Box::new(move |bios| whole.run(bios)),
        });
    }
}

/// A domain that looks for neighbours against one that does not.
fn merging(all: &mut Vec<Case>, kind: Kind, depth: u16) {
    let mut base = 0;
    let loads = [
        ("random, nomerges 2", Pattern::Random, MergeSearch::Off, false),
        ("random, nomerges 0", Pattern::Random, MergeSearch::Full, false),
        ("random, no rest", Pattern::Random, MergeSearch::Full, true),
        ("sequential, nomerges 2", Pattern::Sequential, MergeSearch::Off, false),
        ("sequential, nomerges 0", Pattern::Sequential, MergeSearch::Full, false),
    ];
    for (load, pattern, search, awake) in loads {
        let off = search == MergeSearch::Off;
        if off {
            base = all.len();
        }
        let mut whole = Whole::new(kind, 1, depth, pattern);
        whole.search(search);
        let run = move |bios: u64| {
            let mut left = bios;
            while left > 0 {
                let now = if awake { left.min(AWAKE) } else { left };
                if awake {
                    whole.search(search);
                }
                whole.run(now);
                left -= now;
            }
            let (issued, bios) = whole.counts();
            if pattern == Pattern::Sequential && !off {
                assert!(issued * 8 <= bios, "{issued} submissions of {bios} neighbours");
            } else {
                assert_eq!(issued, bios, "nothing merges");
            }
        };
        all.push(Case {
            group: "merging",
            scheduler: kind.name(),
            load,
            disks: 1,
            depth,
            base: (!off).then_some(base),
            bound: (search == MergeSearch::Full && !awake).then_some(match pattern {
                Pattern::Random => MERGE_BOUND,
                Pattern::Sequential => 0.0, // merging has to pay here
            }),
            requests: BIOS,
            run: Box::new(run),
        });
    }
}

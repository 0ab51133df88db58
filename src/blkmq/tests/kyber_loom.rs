//! Every interleaving of two or three threads at the tokens (run with `--cfg loom`).

use super::tokens::Tokens;
use super::*;
use crate::block::{Class, Sector, SectorRange, Tag};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc as Shared, Notify};
use loom::thread;

struct World {
    tokens: Tokens,
    bells: Vec<Notify>,
    inside: AtomicU64,
}

impl World {
    fn new(threads: u16, depth: u16) -> Shared<World> {
        Shared::new(World {
            tokens: Tokens::new(threads, depth),
            bells: (0..threads).map(|_| Notify::new()).collect(),
            inside: AtomicU64::new(0),
        })
    }

    fn ring(&self, wakes: Wakes) {
        wakes.for_each(|t| self.bells[usize::from(t)].notify());
    }

    fn give(&self, t: u16) {
        let mut wakes = Wakes::default();
        self.tokens.give(1, t, &mut wakes);
        self.ring(wakes);
    }

    /// Waits for a token. A lost wake-up is a deadlock, which loom reports.
    fn take(&self, t: u16) {
        let mut claim = false;
        while !self.tokens.take(claim) {
            let standing = if claim { Standing::Claims } else { Standing::Bare };
            if !self.tokens.wait(t, standing) {
                claim = true;
                self.bells[usize::from(t)].wait();
            }
        }
    }

    /// One request from insertion to completion, with at most `depth` in flight at a time.
    fn request(&self, t: u16, depth: u64) {
        self.take(t);
        assert!(self.inside.fetch_add(1, Ordering::Relaxed) < depth, "I19");
        self.inside.fetch_sub(1, Ordering::Relaxed);
        self.give(t);
    }
}

fn bounded(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 20_000; // a fold alone reads and writes hundreds of cells
    model.check(run);
}

#[test]
fn loom_kyber_two_threads_one_token() {
    loom::model(|| {
        let world = World::new(2, 1);
        let other = {
            let world = Shared::clone(&world);
            thread::spawn(move || world.request(1, 1))
        };
        world.request(0, 1);
        other.join().expect("comes through");
        assert_eq!(world.tokens.books(), (0, 0), "I19: all are back");
    });
}

#[test]
fn loom_kyber_three_threads_share_tokens() {
    for depth in [1, 2] {
        bounded(2, move || {
            let world = World::new(3, depth);
            let others = [1, 2].map(|t| {
                let world = Shared::clone(&world);
                thread::spawn(move || world.request(t, u64::from(depth)))
            });
            world.request(0, u64::from(depth));
            others.into_iter().for_each(|other| other.join().expect("comes through"));
            assert_eq!(world.tokens.books(), (0, 0), "I19: all are back");
        });
    }
}

#[test]
fn loom_kyber_a_wider_depth_wakes() {
    loom::model(|| {
        let world = World::new(2, 1);
        assert!(world.tokens.take(false));
        let other = {
            let world = Shared::clone(&world);
            thread::spawn(move || world.take(1))
        };
        let mut wakes = Wakes::default();
        world.tokens.resize(2, 0, &mut wakes);
        world.ring(wakes);
        other.join().expect("comes through");
        assert_eq!(world.tokens.books(), (2, 0));
    });
}

#[test]
fn loom_kyber_a_claim_given_up_wakes() {
    bounded(3, || {
        let world = World::new(3, 1);
        assert!(world.tokens.take(false));
        let leaver = {
            let world = Shared::clone(&world);
            thread::spawn(move || {
                if !world.tokens.wait(1, Standing::Bare) {
                    let mut wakes = Wakes::default();
                    world.tokens.renounce(1, &mut wakes);
                    world.ring(wakes);
                }
            })
        };
        let other = {
            let world = Shared::clone(&world);
            thread::spawn(move || world.take(2))
        };
        world.give(0);
        leaver.join().expect("comes through");
        other.join().expect("comes through");
        assert_eq!(world.tokens.books(), (1, 0));
    });
}

fn read(tag: u16) -> Item {
    let id = Ident { hctx: HctxId(0), tag: Tag(tag) };
    let op = Op::Read(SectorRange::new(Sector(0), 1, 1).expect("inside"));
    let class = Class::default();
    Item { id, lane: LaneId(0), op, class, arrival: Nanos(0), issued: Nanos(0) }
}

/// A queue thread with `n` reads, which sleeps on `has_work` as queue threads do.
fn queue_thread(shared: Arc<KyberShared>, t: u16, n: u16, bells: &[Notify; 2]) {
    let mut kyber = Kyber::new(shared, t);
    kyber.attach(HctxId(0), LaneId(0), 2);
    (0..n).for_each(|tag| kyber.insert(&read(tag), Nanos(0)));
    let mut left = n;
    while left > 0 {
        if !kyber.has_work(Nanos(0)) {
            bells[usize::from(t)].wait();
        }
        while let Some(id) = kyber.next(Nanos(0)) {
            kyber.done(&read(id.tag.0), Nanos(1));
            kyber.take_wakes().for_each(|w| bells[usize::from(w)].notify());
            left -= 1;
        }
    }
}

#[test]
fn loom_kyber_whole_schedulers_lose_no_wake_up() {
    bounded(3, || {
        let shared = Arc::new(KyberShared::new(2));
        shared.tokens[0].resize(1, 0, &mut Wakes::default());
        let bells = Shared::new([Notify::new(), Notify::new()]);
        let other = {
            let (shared, bells) = (Arc::clone(&shared), Shared::clone(&bells));
            thread::spawn(move || queue_thread(shared, 1, 1, &bells))
        };
        queue_thread(Arc::clone(&shared), 0, 2, &bells);
        other.join().expect("comes through");
        assert_eq!(shared.tokens[0].books(), (0, 0), "I19: all are back");
    });
}

#[test]
fn loom_kyber_one_thread_folds_and_no_sample_is_lost() {
    bounded(2, || {
        let shared = Arc::new(KyberShared::new(2));
        let ended = |shared: &KyberShared, t, now| {
            shared.record(t, 0, (1, 1), Nanos(now), &mut Wakes::default());
        };
        ended(&shared, 0, 0); // arms
        let late = 200_000_000;
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || ended(&shared, 1, late))
        };
        ended(&shared, 0, late);
        other.join().expect("comes through");
        let folded = shared.latencies.folded(0)[0];
        assert!((2..=3).contains(&folded), "{folded} of three, twice or not at all");
        // Armed anew by the second, or not at all.
        ended(&shared, 0, late);
        ended(&shared, 0, 2 * late);
        assert_eq!(shared.latencies.folded(0), [5; 2], "each once");
    });
}

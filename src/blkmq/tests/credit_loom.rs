//! Every interleaving of threads that share credits (run with `--cfg loom`).

use super::*;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

/// A thread has run and is about to sleep.
fn end(credits: &Credits, thread: u16) -> Wakes {
    credits.end_run(thread);
    credits.settle(thread)
}

/// A pool with its mailboxes.
struct Pool {
    credits: Credits,
    bells: Vec<Notify>,
    /// Requests with the kernel.
    inside: AtomicU32,
    /// Threads without work, a bit each.
    done: AtomicU32,
}

impl Pool {
    fn new(threads: u16, depth: u32) -> Arc<Pool> {
        Arc::new(Pool {
            credits: Credits::new(threads, depth),
            bells: (0..threads).map(|_| Notify::new()).collect(),
            inside: AtomicU32::new(0),
            done: AtomicU32::new(0),
        })
    }

    /// A thread without work would wake, find nothing to do and settle: whoever rings does that
    /// for it, so that it need not live on in the model.
    fn ring(&self, wakes: Wakes) {
        for thread in wakes {
            if self.done.fetch_or(0, Ordering::AcqRel) & 1 << thread == 0 {
                self.bells[usize::from(thread)].notify();
            } else {
                self.ring(end(&self.credits, thread));
            }
        }
    }

    /// A queue thread with `work` requests, one at a time; it sleeps when it gets no credit. A lost
    /// wake-up is a deadlock, which loom reports.
    fn serve(&self, thread: u16, work: u32, most: u32) {
        for _ in 0..work {
            while !self.credits.try_take(thread) {
                self.ring(end(&self.credits, thread));
                self.bells[usize::from(thread)].wait();
            }
            let inside = self.inside.fetch_add(1, Ordering::Relaxed) + 1;
            assert!(inside <= most, "I04: {inside} of {most}");
            self.inside.fetch_sub(1, Ordering::Relaxed);
            self.credits.give_back(thread);
            self.ring(end(&self.credits, thread));
        }
        self.done.fetch_or(1 << thread, Ordering::AcqRel);
        self.ring(end(&self.credits, thread));
    }
}

fn contest(work: &'static [u32], depth: u32, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let threads = u16::try_from(work.len()).expect("few");
        let pool = Pool::new(threads, depth);
        let others: Vec<_> = (1..threads)
            .map(|t| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.serve(t, work[usize::from(t)], depth))
            })
            .collect();
        pool.serve(0, work[0], depth);
        others.into_iter().for_each(|t| t.join().expect("comes through"));
        for t in 0..threads {
            let _ = end(&pool.credits, t);
        }
        assert_eq!((pool.credits.used(), pool.credits.word().out()), (0, 0), "I04: none is lost");
    });
}

#[test]
fn loom_i10_two_threads_and_one_credit() {
    contest(&[1, 1], 1, 4);
}

#[test]
fn loom_i10_a_thread_that_comes_again() {
    contest(&[2, 2], 1, 2);
}

#[test]
fn loom_i10_three_threads_and_one_credit() {
    contest(&[1, 1, 1], 1, 2);
}

#[test]
fn loom_i10_three_threads_and_two_credits() {
    contest(&[1, 1, 1], 2, 2);
}

/// Threads 0 and 3 hold a credit each, and thread 2 waits. While thread 0 hands its credit over,
/// thread 1 comes, perhaps gets it, and wants another one, and thread 3 gives back: whoever waits
/// then is not forgotten between the mark and the bits.
#[test]
fn loom_i10_who_is_refused_while_others_are_served() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let credits = Arc::new(Credits::new(4, 2));
        assert!(credits.try_take(0) && credits.try_take(3) && !credits.try_take(2));
        let giver = {
            let credits = Arc::clone(&credits);
            thread::spawn(move || {
                credits.give_back(3);
                let _ = end(&credits, 3);
            })
        };
        let waiter = {
            let credits = Arc::clone(&credits);
            thread::spawn(move || {
                let got = credits.try_take(1) && credits.try_take(1);
                let _ = end(&credits, 1);
                got
            })
        };
        credits.give_back(0);
        let _ = end(&credits, 0);
        giver.join().expect("no panic");
        let got = waiter.join().expect("no panic");
        let _ = end(&credits, 2); // it has no use for what it was handed
        let handed = credits.cells[1].handed.load(Ordering::Acquire) != 0;
        assert!(
            got || handed || !credits.word().has_free(),
            "I10: it waits, and there is a credit"
        );
    });
}

/// Thread 0 holds the only credit and keeps it; a greater depth is what thread 1 waits for.
#[test]
fn loom_a_greater_depth_reaches_who_waits() {
    loom::model(|| {
        let pool = Pool::new(2, 1);
        assert!(pool.credits.try_take(0));
        let waiter = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                while !pool.credits.try_take(1) {
                    pool.ring(end(&pool.credits, 1));
                    pool.bells[1].wait();
                }
            })
        };
        pool.ring(pool.credits.set_depth(2));
        waiter.join().expect("comes through");
        assert_eq!(pool.credits.used(), 2);
    });
}

/// A limit comes and goes while a thread takes and gives: none is lost, none is made.
#[test]
fn loom_v7_a_limit_that_comes_keeps_the_books() {
    loom::model(|| {
        let pool = Pool::new(2, 0);
        assert!(pool.credits.try_take(0));
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                assert!(pool.credits.try_take(1), "none or four, there is one");
                assert!(pool.credits.try_take(1));
                pool.credits.give_back(1);
                pool.ring(end(&pool.credits, 1));
                pool.credits.give_back(1);
                pool.ring(end(&pool.credits, 1));
            })
        };
        pool.ring(pool.credits.set_depth(4));
        pool.credits.give_back(0);
        pool.ring(end(&pool.credits, 0));
        other.join().expect("comes through");
        assert_eq!((pool.credits.used(), pool.credits.word().out()), (0, 0));
        assert_eq!(pool.credits.depth(), 4);
    });
}

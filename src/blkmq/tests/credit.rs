use super::*;
use crate::testkit::rng::Rng;
use std::sync::Arc;
use std::sync::atomic::AtomicBool as Flag;

/// A thread has run and is about to sleep.
fn end(credits: &Credits, thread: u16) -> Wakes {
    credits.end_run(thread);
    credits.settle(thread)
}

fn names(wakes: Wakes) -> Vec<u16> {
    wakes.collect()
}

#[test]
fn the_word_keeps_its_parts_apart() {
    let word = Word::new(7).marked().one_more_out().one_more_out();
    assert_eq!((word.out(), word.depth(), word.is_marked()), (2, 7, true));
    let wider = word.with_depth(u32::MAX);
    assert_eq!((wider.out(), wider.depth(), wider.is_marked()), (2, MAX_DEPTH, true));
    assert!(!Word::new(0).is_limited() && Word::new(0).has_free());
}

#[test]
fn one_busy_thread_may_use_all_and_wakes_nobody() {
    let credits = Credits::new(4, 8);
    assert!((0..8).all(|_| credits.try_take(2)));
    for _ in 0..100 {
        assert!(!credits.try_take(2), "spent");
        assert!(end(&credits, 2).is_empty());
        credits.give_back(2);
        assert!(credits.has_credit(2) && credits.try_take(2), "nobody else waits");
    }
    (0..8).for_each(|_| credits.give_back(2));
    assert!(end(&credits, 2).is_empty(), "its own mark is an old one");
    assert_eq!((credits.used(), credits.word().out()), (0, 0));
}

#[test]
fn who_waits_is_handed_what_comes_back() {
    let credits = Credits::new(70, 2);
    assert!(credits.try_take(3) && credits.try_take(3));
    for t in [69, 1, 64] {
        assert!(!credits.try_take(t));
        assert!(end(&credits, t).is_empty(), "nothing is free");
    }
    credits.give_back(3);
    assert!(!credits.try_take(3), "V5: it holds more than its share");
    assert_eq!(names(end(&credits, 3)), [64], "in turn from its own number on");
    credits.give_back(3);
    assert_eq!(names(end(&credits, 3)), [69], "one for each credit");
    assert!(credits.try_take(64) && credits.try_take(69), "theirs for sure");
    assert!(!credits.try_take(1) && end(&credits, 1).is_empty());
    credits.give_back(64);
    let woken = names(end(&credits, 64));
    assert_eq!(woken, [1]);
    assert!(credits.settle(1).is_empty() && credits.has_credit(1), "kept until it has run");
    // It has no use for it any more: the next one gets it.
    assert!(!credits.try_take(5));
    assert_eq!(names(end(&credits, 1)), [5], "V6; 3 did not ask again in its last sweep");
}

#[test]
fn v7_what_is_out_counts_when_a_limit_comes() {
    let credits = Credits::new(2, 0);
    assert!((0..10).all(|_| credits.try_take(0)));
    assert!((0..3).all(|_| credits.try_take(1)));
    assert!(credits.set_depth(4).is_empty(), "nobody waits");
    assert!(!credits.try_take(0), "ten are out");
    assert_eq!((credits.used(), credits.word().out()), (13, 10));
    assert!(!credits.try_take(1) && end(&credits, 1).is_empty());
    assert_eq!(credits.word().out(), 13, "and three more");
    for _ in 0..9 {
        credits.give_back(0);
        assert!(end(&credits, 0).is_empty(), "more are out than may be");
    }
    credits.give_back(0);
    assert_eq!(names(end(&credits, 0)), [1], "three are out, one waits");
    assert!(credits.set_depth(0).is_empty(), "the other one did not ask again");
    assert!((0..10).all(|_| credits.try_take(1)));
    (0..13).for_each(|_| credits.give_back(1));
    let _ = end(&credits, 1);
    assert_eq!((credits.used(), credits.word().out()), (0, 0));
}

#[test]
#[should_panic(expected = "credits serve 1 to 256 threads")]
fn too_many_threads_are_refused() {
    let _ = Credits::new(257, 1);
}

/// Queue threads that run, complete and sleep, in a seeded order.
struct Pool {
    credits: Credits,
    threads: Vec<Thread>,
    seed: u64,
}

#[derive(Clone, Default)]
struct Thread {
    work: u32,
    inside: u32,
    served: u32,
    rung: bool,
}

impl Pool {
    fn new(threads: u16, depth: u32, seed: u64) -> Pool {
        let credits = Credits::new(threads, depth);
        Pool { credits, threads: vec![Thread::default(); usize::from(threads)], seed }
    }

    /// A sweep of `t`: `done` requests complete, what can be issued is, and it settles.
    fn sweep(&mut self, t: u16, done: u32) {
        // What was handed over stays until the run, whenever else the thread settles.
        let woken = self.credits.settle(t);
        self.ring(woken);
        let me = &mut self.threads[usize::from(t)];
        me.rung = false;
        for _ in 0..done {
            self.credits.give_back(t);
            me.inside -= 1;
            me.served += 1;
        }
        let handed = self.credits.cells[usize::from(t)].handed.load(Ordering::Relaxed);
        assert!(me.work == 0 || handed == 0 || self.credits.has_credit(t));
        while me.work > 0 && self.credits.try_take(t) {
            me.work -= 1;
            me.inside += 1;
        }
        self.credits.end_run(t);
        // Something more completes, too late for this run.
        if me.inside > 0 && me.work == 0 {
            self.credits.give_back(t);
            me.inside -= 1;
            me.served += 1;
        }
        let woken = self.credits.settle(t);
        self.ring(woken);
        self.check();
    }

    fn ring(&mut self, wakes: Wakes) {
        for woken in wakes {
            self.threads[usize::from(woken)].rung = true;
        }
    }

    fn check(&self) {
        let seed = self.seed;
        let inside: u32 = self.threads.iter().map(|t| t.inside).sum();
        assert_eq!(inside, self.credits.used(), "I04 (seed {seed})");
        let word = self.credits.word();
        let loose: u32 = self.credits.cells.iter().map(Cell::loose).sum();
        let handed = self.credits.cells.iter().map(|c| c.handed.load(Ordering::Relaxed));
        assert_eq!(word.out() + loose, inside + handed.sum::<u32>(), "I04: sum (seed {seed})");
        // I10: with a free credit, whoever has work has been rung.
        let idle = self.threads.iter().any(|t| t.work > 0 && !t.rung);
        assert!(!(idle && word.has_free()), "I10 (seed {seed})");
    }

    /// Only bells and completions drive the threads; everything gets served.
    fn drain(&mut self, rng: &mut Rng) {
        loop {
            let ready: Vec<usize> = (0..self.threads.len())
                .filter(|t| self.threads[*t].rung || self.threads[*t].inside > 0)
                .collect();
            if ready.is_empty() {
                break;
            }
            let t = ready[usize::try_from(rng.below(ready.len() as u64)).expect("small")];
            let done = rng.below(u64::from(self.threads[t].inside) + 1);
            self.sweep(u16::try_from(t).expect("few"), u32::try_from(done).expect("few"));
        }
        let left: u32 = self.threads.iter().map(|t| t.work).sum();
        assert_eq!(left, 0, "I10: a wake-up was lost (seed {})", self.seed);
        assert_eq!(self.credits.word().out(), 0, "all came back (seed {})", self.seed);
    }
}

#[test]
fn i04_i10_whatever_happens_everything_is_served() {
    for seed in 0..500 {
        let mut rng = Rng::new(seed);
        let threads = 2 + rng.below(4);
        let depth = |rng: &mut Rng| u32::try_from(rng.below(12)).expect("small");
        let first = depth(&mut rng).max(1);
        let mut pool = Pool::new(u16::try_from(threads).expect("few"), first, seed);
        let mut most = first;
        for _ in 0..300 {
            let t = usize::try_from(rng.below(threads)).expect("few");
            match rng.below(30) {
                0 => {
                    let to = depth(&mut rng);
                    most = if to == 0 || most == 0 { 0 } else { most.max(to) };
                    for woken in pool.credits.set_depth(to) {
                        pool.threads[usize::from(woken)].rung = true;
                    }
                }
                1..12 => pool.threads[t].work += u32::try_from(rng.below(6)).expect("few"),
                _ => {}
            }
            let done = rng.below(u64::from(pool.threads[t].inside) + 1);
            pool.sweep(u16::try_from(t).expect("few"), u32::try_from(done).expect("few"));
            assert!(most == 0 || pool.credits.used() <= most, "I04 (seed {seed})");
        }
        pool.drain(&mut rng);
    }
}

/// Threads that are never idle share the depth, whatever it is: none is kept out by another that
/// was there first.
#[test]
fn i10_a_busy_thread_does_not_keep_the_others_out() {
    for (threads, depth) in [(2u16, 1u32), (2, 64), (3, 2), (4, 63), (4, 1)] {
        let mut pool = Pool::new(threads, depth, u64::from(depth));
        pool.threads[0].work = 1_000_000;
        pool.sweep(0, 0);
        assert_eq!(pool.credits.held(0), depth, "alone it has all");
        for t in 1..threads {
            pool.threads[usize::from(t)].work = 1_000_000;
            pool.sweep(t, 0);
        }
        let mut rng = Rng::new(7);
        let rounds = 20_000;
        for _ in 0..rounds {
            // Thread 0 gets most of the sweeps: it is the one that never sleeps.
            let t = if rng.chance(1, 2) { 0 } else { u16::try_from(rng.below(4)).expect("few") };
            let t = t % threads;
            let me = &pool.threads[usize::from(t)];
            if me.rung || me.inside > 0 {
                let done = me.inside.min(1);
                pool.sweep(t, done);
            }
        }
        let share = depth / u32::from(threads);
        for (t, thread) in pool.threads.iter().enumerate() {
            let held = pool.credits.held(u16::try_from(t).expect("few"));
            assert!(held + 1 >= share, "{threads} threads, depth {depth}: {t} holds {held}");
            assert!(thread.served > rounds / 100, "{t} was served {}", thread.served);
        }
    }
}

/// Real threads, real races: never more out than the depth, and all come through.
#[test]
fn i04_threads_that_share_credits_all_come_through() {
    const THREADS: u16 = 4;
    const EACH: u32 = 5000;
    let credits = Arc::new(Credits::new(THREADS, 3));
    let inside = Arc::new(AtomicU32::new(0));
    let bells: Arc<Vec<(std::sync::Mutex<Option<std::thread::Thread>>, Flag)>> =
        Arc::new((0..THREADS).map(|_| (std::sync::Mutex::new(None), Flag::new(false))).collect());
    let served = Arc::new(AtomicU32::new(0));
    let work = |t: u16| {
        let (credits, inside) = (Arc::clone(&credits), Arc::clone(&inside));
        let (bells, served) = (Arc::clone(&bells), Arc::clone(&served));
        std::thread::spawn(move || {
            let ring = |wakes: Wakes| {
                for w in wakes {
                    let (thread, rung) = &bells[usize::from(w)];
                    rung.store(true, Ordering::SeqCst);
                    let thread = thread.lock().expect("no panic");
                    thread.iter().for_each(std::thread::Thread::unpark);
                }
            };
            let sleep = || {
                while !bells[usize::from(t)].1.swap(false, Ordering::SeqCst)
                    && served.load(Ordering::SeqCst) < EACH * u32::from(THREADS)
                {
                    // Not for ever: the last one of all rings nobody.
                    std::thread::park_timeout(std::time::Duration::from_millis(10));
                }
            };
            *bells[usize::from(t)].0.lock().expect("no panic") = Some(std::thread::current());
            for _ in 0..EACH {
                while !credits.try_take(t) {
                    ring(end(&credits, t));
                    sleep();
                }
                assert!(inside.fetch_add(1, Ordering::SeqCst) < 3, "I04");
                inside.fetch_sub(1, Ordering::SeqCst);
                credits.give_back(t);
                served.fetch_add(1, Ordering::SeqCst);
                ring(end(&credits, t));
            }
            // Queue threads live on, and settle whenever they are rung.
            while served.load(Ordering::SeqCst) < EACH * u32::from(THREADS) {
                ring(end(&credits, t));
                sleep();
            }
        })
    };
    let threads: Vec<_> = (0..THREADS).map(work).collect();
    threads.into_iter().for_each(|t| t.join().expect("comes through"));
    assert_eq!(credits.used(), 0);
}

#[test]
fn i10_who_is_no_waiter_does_not_sleep() {
    let credits = Credits::new(2, 1);
    assert!(credits.try_take(0));
    credits.give_back(0); // the image refused
    credits.end_run(0);
    assert!(credits.settle(0).is_empty());
    assert!(credits.try_take(1));
    assert!(!credits.has_credit(0), "it is with the other one");
    assert!(credits.worth_asking(0), "who would not wake it");
    assert!(!credits.try_take(0));
    credits.end_run(0);
    assert!(!credits.worth_asking(0), "now it would");
    credits.give_back(1);
    credits.end_run(1);
    assert!(credits.settle(1).eq([0]));
    assert!(credits.worth_asking(0));
}

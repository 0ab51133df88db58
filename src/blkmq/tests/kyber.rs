use super::*;
use crate::blkmq::sched::conformance;
use crate::block::{Class, Sector, SectorRange, Tag};
use crate::testkit::alloc::allocations;
use crate::testkit::core_disk::Rng;

const MS: u64 = 1_000_000;

fn op(kind: usize) -> Op {
    let range = SectorRange::new(Sector(0), 1, 1).expect("inside");
    match kind {
        0 => Op::Read(range),
        1 => Op::Write(range),
        2 => Op::Discard(range),
        _ => Op::WriteZeroes { range, unmap: false },
    }
}

fn item(hctx: u16, tag: u16, kind: usize) -> Item {
    let id = Ident { hctx: HctxId(hctx), tag: Tag(tag) };
    let class = Class::default();
    Item { id, lane: LaneId(0), op: op(kind), class, arrival: Nanos(0), issued: Nanos(0) }
}

/// The schedulers of a pool's threads, each with `hctxs` hctxs of `depth` tags.
fn pool(threads: u16, hctxs: u16, depth: u16) -> Vec<Kyber> {
    let shared = Arc::new(KyberShared::new(threads));
    let one = |t| {
        let mut kyber = Kyber::new(Arc::clone(&shared), t);
        (0..hctxs).for_each(|h| kyber.attach(HctxId(h), LaneId(0), depth));
        kyber
    };
    (0..threads).map(one).collect()
}

fn resize(kyber: &mut Kyber, kind: usize, depth: u16) {
    kyber.shared.tokens[kind].resize(depth, kyber.thread, &mut kyber.wakes);
}

fn take_all(kyber: &mut Kyber) -> Vec<u16> {
    std::iter::from_fn(|| kyber.next(Nanos(0))).map(|id| id.tag.0).collect()
}

fn idle(kyber: &Kyber) {
    for tokens in &kyber.shared.tokens {
        assert_eq!(tokens.books(), (0, 0), "I19: all tokens and claims are back");
    }
}

#[test]
fn kyber_keeps_the_contract() {
    conformance::check(|| Box::new(Kyber::new(Arc::new(KyberShared::new(1)), 0)));
}

#[test]
fn kyber_keeps_the_contract_with_hardly_a_token() {
    conformance::check(|| {
        let mut kyber = Kyber::new(Arc::new(KyberShared::new(1)), 0);
        (0..KINDS).for_each(|kind| resize(&mut kyber, kind, 1));
        Box::new(kyber)
    });
}

/// The rule of turns in its shortest form, when all four kinds always wait.
struct Model {
    kind: usize,
    batch: u8,
}

impl Model {
    fn pick(&mut self) -> usize {
        if self.batch >= BATCH[self.kind] {
            (self.kind, self.batch) = ((self.kind + 1) % KINDS, 0);
        }
        self.batch += 1;
        self.kind
    }
}

#[test]
fn i19_gaps_between_kinds_are_exact() {
    let mut kyber = pool(1, 1, 8).remove(0);
    (0..8).for_each(|tag| kyber.insert(&item(0, tag, usize::from(tag) % KINDS), Nanos(0)));
    let mut model = Model { kind: 0, batch: 0 };
    let (mut gap, mut worst) = ([0; KINDS], [0; KINDS]);
    for i in 0..20_000 {
        let tag = kyber.next(Nanos(0)).expect("all kinds wait").tag.0;
        let kind = usize::from(tag) % KINDS;
        assert_eq!(kind, model.pick(), "pick {i}");
        gap.iter_mut().for_each(|g| *g += 1);
        worst[kind] = worst[kind].max(gap[kind] - 1);
        gap[kind] = 0;
        kyber.done(&item(0, tag, kind), Nanos(0));
        kyber.insert(&item(0, tag, kind), Nanos(0));
    }
    assert_eq!(worst, [10, 18, 25, 25]);
}

#[test]
fn i14_hctxs_take_turns() {
    let mut kyber = pool(1, 5, 8).remove(0);
    for h in 0..5 {
        (0..8).for_each(|tag| kyber.insert(&item(h, tag, usize::from(tag / 4)), Nanos(0)));
    }
    let turns: Vec<u16> = std::iter::from_fn(|| kyber.next(Nanos(0))).map(|id| id.hctx.0).collect();
    let expected: Vec<u16> = (0..40).map(|i| i % 5).collect();
    assert_eq!(turns, expected);
}

#[test]
fn who_has_no_token_is_passed_over_and_comes_when_there_is_one() {
    let mut kyber = pool(1, 3, 4).remove(0);
    resize(&mut kyber, 1, 1);
    (0..2).for_each(|tag| kyber.insert(&item(1, tag, 1), Nanos(0)));
    (0..3).for_each(|tag| kyber.insert(&item(2, tag, 0), Nanos(0)));
    let mut next = || kyber.next(Nanos(0)).map(|id| (id.hctx.0, id.tag.0));
    assert_eq!([next(), next(), next()], [Some((1, 0)), Some((2, 0)), Some((2, 1))]);
    kyber.done(&item(1, 0, 1), Nanos(0));
    let mut next = || kyber.next(Nanos(0)).map(|id| (id.hctx.0, id.tag.0));
    assert_eq!([next(), next(), next()], [Some((1, 1)), Some((2, 2)), None]);
}

#[test]
fn i19_tokens_limit_each_kind_by_itself() {
    let mut kyber = pool(1, 1, 1024).remove(0);
    for kind in 0..KINDS {
        let tags = u16::try_from(kind).expect("small") * 256..;
        tags.take(256).for_each(|tag| kyber.insert(&item(0, tag, kind), Nanos(0)));
    }
    let out = take_all(&mut kyber);
    let of = |kind: u16| out.iter().filter(|tag| **tag / 256 == kind).count();
    assert_eq!([0, 1, 2, 3].map(of), [256, 128, 64, 16]);
    assert!(!kyber.has_work(Nanos(0)), "C2");
    for tag in out {
        kyber.done(&item(0, tag, usize::from(tag / 256)), Nanos(0));
    }
    assert!(kyber.has_work(Nanos(0)), "C2");
    kyber.drain(&mut |_| {});
    idle(&kyber);
}

#[test]
fn i19_a_shrink_below_what_is_in_flight_drains_down() {
    let mut kyber = pool(1, 1, 16).remove(0);
    (0..12).for_each(|tag| kyber.insert(&item(0, tag, 0), Nanos(0)));
    let out: Vec<u16> = (0..8).filter_map(|_| kyber.next(Nanos(0))).map(|id| id.tag.0).collect();
    assert_eq!(out.len(), 8);
    resize(&mut kyber, 0, 3);
    for (i, tag) in out.iter().enumerate() {
        let in_flight = 8 - i;
        assert_eq!(kyber.has_work(Nanos(0)), in_flight < 3, "{in_flight} in flight");
        kyber.done(&item(0, *tag, 0), Nanos(0));
    }
    assert_eq!(take_all(&mut kyber), [8, 9, 10]);
    resize(&mut kyber, 0, 256);
    assert_eq!(take_all(&mut kyber), [11]);
    (8..12).for_each(|tag| kyber.done(&item(0, tag, 0), Nanos(0)));
    idle(&kyber);
}

#[test]
fn i19_a_busy_thread_cannot_starve_one_that_has_nothing() {
    let mut pool = pool(2, 1, 8);
    resize(&mut pool[0], 0, 2);
    for kyber in &mut pool {
        (0..8).for_each(|tag| kyber.insert(&item(0, tag, 0), Nanos(0)));
    }
    assert_eq!(take_all(&mut pool[0]), [0, 1]);
    assert_eq!(pool[1].next(Nanos(0)), None, "it waits, and has a claim");
    pool[0].done(&item(0, 0, 0), Nanos(0));
    assert_eq!(pool[0].take_wakes().collect::<Vec<u16>>(), [1]);
    assert!(!pool[0].has_work(Nanos(0)), "the token is kept for the other");
    assert_eq!(pool[0].next(Nanos(0)), None);
    assert!(pool[1].has_work(Nanos(0)));
    assert_eq!(take_all(&mut pool[1]), [0]);
    // Each has one now, so neither has a claim: who is there first gets the next.
    pool[1].done(&item(0, 0, 0), Nanos(0));
    assert_eq!(pool[1].take_wakes().collect::<Vec<u16>>(), [0]);
    assert_eq!(take_all(&mut pool[0]), [2]);
}

#[test]
fn what_a_drained_scheduler_held_and_claimed_others_get() {
    let mut pool = pool(3, 1, 8);
    resize(&mut pool[0], 0, 2);
    for kyber in &mut pool {
        (0..3).for_each(|tag| kyber.insert(&item(0, tag, 0), Nanos(0)));
    }
    assert_eq!(take_all(&mut pool[0]), [0, 1]);
    assert!(!pool[1].has_work(Nanos(0)));
    assert_eq!(pool[2].next(Nanos(0)), None);
    let mut out = Vec::new();
    pool[1].drain(&mut |id| out.push(id.tag.0));
    assert_eq!((out, pool[1].has_work(Nanos(0))), (vec![0, 1, 2], false));
    assert_eq!(pool[0].shared.tokens[0].books(), (2, 1), "one claim is left");
    pool[0].drain(&mut |_| {});
    assert_eq!(pool[0].take_wakes().collect::<Vec<u16>>(), [1, 2]);
    pool[0].done(&item(0, 0, 0), Nanos(0)); // of an era that is over
    assert_eq!(take_all(&mut pool[2]), [0, 1]);
    [0, 1].iter().for_each(|tag| pool[2].done(&item(0, *tag, 0), Nanos(0)));
    pool[2].drain(&mut |_| {});
    idle(&pool[2]);
}

#[test]
fn drain_keeps_the_order_of_arrival_over_all_kinds() {
    let mut kyber = pool(1, 2, 16).remove(0);
    let kinds = [3, 0, 0, 1, 2, 0, 1, 3, 2];
    for (tag, kind) in (0..).zip(kinds) {
        kyber.insert(&item(1, tag, kind), Nanos(0));
    }
    // Two of a kind come back in the wrong order.
    let out: Vec<u16> = (0..3).filter_map(|_| kyber.next(Nanos(0))).map(|id| id.tag.0).collect();
    assert_eq!(out, [1, 2, 5]);
    for tag in [2, 1, 5] {
        kyber.requeue(&item(1, tag, 0));
    }
    idle(&kyber);
    assert_eq!(kyber.next(Nanos(0)).map(|id| id.tag.0), Some(1), "what came back goes first");
    kyber.requeue(&item(1, 1, 0));
    let mut order = Vec::new();
    kyber.drain(&mut |id| order.push(id.tag.0));
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!kyber.has_work(Nanos(0)));
}

#[test]
fn what_absorbs_another_takes_the_earlier_place() {
    let order = |gone: u16, into: u16| {
        let mut kyber = pool(1, 1, 8).remove(0);
        (0..5).for_each(|tag| kyber.insert(&item(0, tag, 1), Nanos(0)));
        kyber.absorbed(&item(0, gone, 1), &item(0, into, 1));
        take_all(&mut kyber)
    };
    assert_eq!(order(0, 4), [4, 1, 2, 3]);
    assert_eq!(order(1, 2), [0, 2, 3, 4]);
    assert_eq!(order(1, 4), [0, 4, 2, 3]);
    assert_eq!(order(4, 0), [0, 1, 2, 3]);
    assert_eq!(order(2, 1), [0, 1, 3, 4]);
}

#[test]
fn zeroings_count_as_others_and_are_not_timed() {
    let mut kyber = pool(1, 1, 32).remove(0);
    (0..32).for_each(|tag| kyber.insert(&item(0, tag, 3), Nanos(0)));
    let out = take_all(&mut kyber);
    assert_eq!(out.len(), 16);
    for (tag, now) in out.into_iter().zip((0..).map(|i| i * 10_000 * MS)) {
        kyber.done(&item(0, tag, 3), Nanos(now));
    }
    assert_eq!(kyber.tunable("other_depth", None).as_deref(), Ok("16"));
}

/// `n` reads that took `total` and `io`, the last of which ends at `end`.
fn reads(kyber: &mut Kyber, n: u64, total: u64, io: u64, end: u64) {
    for i in 0..n {
        let now = end - (n - 1 - i);
        kyber.insert(&item(0, 0, 0), Nanos(now - total));
        assert!(kyber.next(Nanos(now - io)).is_some());
        kyber.done(&Item { issued: Nanos(now - io), ..item(0, 0, 0) }, Nanos(now));
    }
}

#[test]
fn i20_a_fold_comes_100_ms_after_the_first_completion() {
    let mut kyber = pool(1, 1, 8).remove(0);
    resize(&mut kyber, 0, 10);
    let start = 1_000 * MS;
    reads(&mut kyber, 1, 9 * MS, MS, start); // arms
    reads(&mut kyber, 700, 9 * MS, MS, start + 100 * MS - 1);
    assert_eq!(kyber.tunable("read_depth", None).as_deref(), Ok("10"), "not yet");
    reads(&mut kyber, 1, 9 * MS, MS, start + 100 * MS);
    assert_eq!(kyber.tunable("read_depth", None).as_deref(), Ok("20"), "late: grows");
    reads(&mut kyber, 700, 9 * MS, MS, start + 150 * MS); // arms at its first
    assert_eq!(kyber.tunable("read_depth", None).as_deref(), Ok("20"), "once");
    // Nothing completes for an hour; then the first completion folds.
    reads(&mut kyber, 1, 9 * MS, MS, start + 3_600_000 * MS);
    assert_eq!(kyber.tunable("read_depth", None).as_deref(), Ok("40"));
}

#[test]
fn i20_a_slow_disk_shrinks_the_others() {
    let mut pool = pool(2, 1, 8);
    let (mut reader, mut writer) = (pool.remove(0), pool.remove(0));
    let start = 1_000 * MS;
    for i in 0..600 {
        writer.insert(&item(0, 0, 1), Nanos(start + i));
        assert!(writer.next(Nanos(start + i)).is_some());
        let write = Item { issued: Nanos(start + i), ..item(0, 0, 1) };
        writer.done(&write, Nanos(start + i + MS));
    }
    reads(&mut reader, 600, 8 * MS, 8 * MS, start + 50 * MS);
    assert_eq!(reader.tunable("write_depth", None).as_deref(), Ok("128"));
    reads(&mut reader, 1, 8 * MS, 8 * MS, start + 150 * MS);
    assert_eq!(writer.tunable("read_depth", None).as_deref(), Ok("256"));
    assert_eq!(writer.tunable("write_depth", None).as_deref(), Ok("32"), "a quarter was enough");
    assert_eq!(writer.tunable("discard_depth", None).as_deref(), Ok("64"), "nothing is known");
}

#[test]
fn a_fold_that_grows_a_depth_wakes_who_waits() {
    let mut pool = pool(2, 1, 8);
    let mut sleeper = pool.pop().expect("two");
    let kyber = &mut pool[0];
    resize(kyber, 0, 2);
    reads(kyber, 600, 9 * MS, MS, 1_000 * MS);
    (1..3).for_each(|tag| kyber.insert(&item(0, tag, 0), Nanos(0)));
    assert_eq!(take_all(kyber), [1, 2]);
    sleeper.insert(&item(0, 0, 0), Nanos(0));
    assert!(!sleeper.has_work(Nanos(0)));
    kyber.done(&item(0, 1, 0), Nanos(1_200 * MS));
    assert_eq!(kyber.take_wakes().collect::<Vec<u16>>(), [1]);
    assert_eq!(kyber.tunable("read_depth", None).as_deref(), Ok("4"));
    assert_eq!(take_all(&mut sleeper), [0]);
}

#[test]
fn tunables_are_read_set_and_shared() {
    let mut pool = pool(2, 1, 1);
    let names = pool[0].tunables();
    let values: Vec<String> =
        names.iter().map(|n| pool[0].tunable(n, None).expect("known")).collect();
    assert_eq!(values, ["2000000", "10000000", "256", "128", "64", "16"]);
    assert_eq!(pool[0].tunable("read_lat_nsec", Some("750000")).as_deref(), Ok("750000"));
    assert_eq!(pool[1].tunable("read_lat_nsec", None).as_deref(), Ok("750000"));
    for bad in ["0", "", "-1", "1.5", "60000000001", "x", "99999999999999999999999"] {
        let error = pool[0].tunable("write_lat_nsec", Some(bad));
        assert!(matches!(error, Err(BadTunable::Value { .. })), "{bad}");
    }
    assert_eq!(pool[0].tunable("write_lat_nsec", None).as_deref(), Ok("10000000"));
    assert!(matches!(pool[0].tunable("read_depth", Some("9")), Err(BadTunable::Value { .. })));
    assert_eq!(pool[0].tunable("fifo_batch", None), Err(BadTunable::Unknown));
    // A target that is met no more: the same reads are late now.
    reads(&mut pool[0], 600, MS, MS, 1_000 * MS);
    resize(&mut pool[0], 0, 8);
    reads(&mut pool[0], 1, MS, MS, 1_200 * MS);
    assert_eq!(pool[0].tunable("read_depth", None).as_deref(), Ok("12"));
}

#[test]
fn the_data_path_allocates_nothing() {
    let mut pool = pool(2, 3, 64);
    resize(&mut pool[0], 0, 4);
    let mut rng = Rng::new(7);
    let all = allocations(|| {
        for round in 0..50 {
            for kyber in &mut pool {
                for id in (0..3).flat_map(|h| (0..64).map(move |t| (h, t))) {
                    kyber.insert(&item(id.0, id.1, usize::from(id.1) % 4), Nanos(round * 90 * MS));
                }
            }
            let mut left = 2 * 3 * 64;
            while left > 0 {
                let kyber = &mut pool[rng.index(2)];
                let Some(id) = kyber.next(Nanos(0)) else { continue };
                let item = item(id.hctx.0, id.tag.0, usize::from(id.tag.0) % 4);
                if rng.chance(100) {
                    kyber.requeue(&item);
                    continue;
                }
                kyber.done(&item, Nanos(round * 90 * MS));
                let _ = kyber.take_wakes();
                left -= 1;
            }
        }
    });
    assert_eq!(all, 0);
    idle(&pool[0]);
}

/// Queue threads in slow motion: one call at a time, in a seeded order, asleep between bells.
struct Threads {
    pool: Vec<Kyber>,
    awake: Vec<bool>,
    out: Vec<Vec<Item>>,
    free: Vec<Vec<(u16, u16, usize)>>,
    seed: u64,
}

impl Threads {
    fn new(seed: u64, threads: u16, hctxs: u16) -> Threads {
        let n = usize::from(threads);
        let tags = || {
            let all = (0..hctxs).flat_map(|h| (0..16).map(move |t| (h, t)));
            all.map(|(h, t)| (h, t, usize::from(t) % KINDS)).collect()
        };
        Threads {
            pool: pool(threads, hctxs, 16),
            awake: vec![false; n],
            out: vec![Vec::new(); n],
            free: (0..n).map(|_| tags()).collect(),
            seed,
        }
    }

    fn insert(&mut self, t: usize, rng: &mut Rng) {
        if !self.free[t].is_empty() {
            let i = rng.index(self.free[t].len());
            let (h, tag, kind) = self.free[t].swap_remove(i);
            self.pool[t].insert(&item(h, tag, kind), Nanos(0));
            self.awake[t] = true;
        }
    }

    /// What a queue thread does when it looks: takes some, or finds nothing and sleeps.
    fn look(&mut self, t: usize) {
        let kyber = &mut self.pool[t];
        if !kyber.has_work(Nanos(0)) {
            self.awake[t] = false;
            return;
        }
        let id = kyber.next(Nanos(0)).expect("C2: nobody came in between");
        let kind = usize::from(id.tag.0) % KINDS;
        self.out[t].push(item(id.hctx.0, id.tag.0, kind));
        let (used, _) = self.pool[t].shared.tokens[kind].books();
        let depth = self.pool[t].shared.tokens[kind].depth();
        assert!(used <= u64::from(depth), "I19: {used} of {depth}, seed {}", self.seed);
    }

    fn complete(&mut self, t: usize, rng: &mut Rng) {
        if !self.out[t].is_empty() {
            let i = rng.index(self.out[t].len());
            let item = self.out[t].swap_remove(i);
            if rng.chance(100) {
                self.pool[t].requeue(&item);
            } else {
                self.pool[t].done(&item, Nanos(0));
                let kind = usize::from(item.id.tag.0) % KINDS;
                self.free[t].push((item.id.hctx.0, item.id.tag.0, kind));
            }
            self.awake[t] = true;
            self.ring(t);
        }
    }

    fn resize(&mut self, t: usize, rng: &mut Rng) {
        let kind = rng.index(KINDS);
        let depth = 1 + u16::try_from(rng.below(6)).expect("small");
        resize(&mut self.pool[t], kind, depth);
        self.ring(t);
    }

    fn ring(&mut self, t: usize) {
        for w in self.pool[t].take_wakes() {
            assert_ne!(usize::from(w), t, "nobody rings its own bell");
            self.awake[usize::from(w)] = true;
        }
    }

    fn check(&self) {
        for kind in 0..KINDS {
            let of = |item: &&Item| usize::from(item.id.tag.0) % KINDS == kind;
            let out: usize = self.out.iter().map(|out| out.iter().filter(of).count()).sum();
            let (used, claims) = self.pool[0].shared.tokens[kind].books();
            assert_eq!(used, out as u64, "I19: one token for each, seed {}", self.seed);
            let claiming = self.pool.iter().filter(|k| k.claims(kind)).count();
            assert_eq!(claims, claiming as u64, "seed {}", self.seed);
            assert!(self.pool.iter().all(|k| k.claims.get() & !k.wanted == 0));
        }
    }
}

#[test]
fn i10_i19_threads_that_share_tokens_neither_lose_nor_keep_any() {
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let n = 2 + rng.index(2);
        let mut threads = Threads::new(seed, u16::try_from(n).expect("small"), 3);
        for _ in 0..1500 {
            let t = rng.index(n);
            match rng.below(16) {
                0..=5 => threads.insert(t, &mut rng),
                6..=11 if threads.awake[t] => threads.look(t),
                12..=14 => threads.complete(t, &mut rng),
                15 if rng.chance(100) => threads.resize(t, &mut rng),
                _ => {}
            }
            threads.check();
        }
        // Nothing new comes. Everybody acts on bells and completions alone.
        loop {
            while let Some(t) = (0..n).find(|t| threads.awake[*t]) {
                threads.look(t);
            }
            let Some(t) = (0..n).find(|t| !threads.out[*t].is_empty()) else { break };
            threads.complete(t, &mut rng);
            threads.check();
        }
        let left: Vec<u8> = threads.pool.iter().map(|kyber| kyber.wanted).collect();
        assert!(left.iter().all(|w| *w == 0), "I10: {left:?} waits for ever, seed {seed}");
        idle(&threads.pool[0]);
    }
}

#[test]
fn mixed_hctxs_all_get_their_turns_when_tokens_are_scarce() {
    let mut kyber = pool(1, 4, 32).remove(0);
    resize(&mut kyber, 1, 1);
    let mut rng = Rng::new(3);
    // Three hctxs read and write, the last one writes only.
    let kind = |h: u16, tag: u16| if h == 3 { 1 } else { usize::from(tag % 2) };
    for (h, tag) in (0..4).flat_map(|h| (0..32).map(move |t| (h, t))) {
        kyber.insert(&item(h, tag, kind(h, tag)), Nanos(0));
    }
    let (mut out, mut writes) = (Vec::new(), [0_u32; 4]);
    for _ in 0..40_000 {
        while out.len() < 8 {
            let Some(id) = kyber.next(Nanos(0)) else { break };
            out.push(id);
        }
        let id = out.swap_remove(rng.index(out.len()));
        let item = item(id.hctx.0, id.tag.0, kind(id.hctx.0, id.tag.0));
        writes[id.hctx.index()] += u32::from(matches!(item.op, Op::Write(_)));
        kyber.done(&item, Nanos(0));
        kyber.insert(&item, Nanos(0));
    }
    // A reader writes once for each batch of reads, as far as there are tokens; the rest goes to
    // who has nothing else to do.
    let all: u32 = writes.iter().sum();
    assert!(writes.iter().all(|w| *w >= all / 8), "nobody starves: {writes:?}");
    let spread = writes[..3].iter().max().zip(writes[..3].iter().min());
    assert!(spread.is_some_and(|(max, min)| max - min <= all / 50), "equals are equal: {writes:?}");
}

/// Run by hand: `cargo test --release --lib how_long_kyber -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
#[allow(clippy::print_stdout, reason = "a measurement prints")]
fn how_long_kyber_takes() {
    for (hctxs, depth, mixed) in
        [(1, 32_u16, false), (1, 32, true), (4, 8, true), (1, 256, false), (4, 64, true)]
    {
        let mut kyber = pool(1, hctxs, depth).remove(0);
        let kind = |tag: u16| usize::from(mixed && tag % 4 == 3);
        let n = u32::from(depth * hctxs);
        let mut out = Vec::with_capacity(usize::from(depth * hctxs));
        let mut sweep = |now| {
            for (h, tag) in (0..hctxs).flat_map(|h| (0..depth).map(move |t| (h, t))) {
                kyber.insert(&std::hint::black_box(item(h, tag, kind(tag))), now);
            }
            while kyber.has_work(now) {
                out.extend(std::iter::from_fn(|| kyber.next(now)));
                for id in out.drain(..) {
                    let item = item(id.hctx.0, id.tag.0, kind(id.tag.0));
                    kyber.done(&std::hint::black_box(item), now);
                }
            }
        };
        // The best of many short runs: the machine may have other things to do.
        let mut best = u128::MAX;
        for round in 0..5000 {
            let start = std::time::Instant::now();
            (0..4096 / n).for_each(|i| sweep(Nanos(1000 * u64::from(round * 4096 + i))));
            best = best.min(start.elapsed().as_nanos() * 10 / 4096);
        }
        let (whole, tenth) = (best / 10, best % 10);
        println!("{hctxs} hctxs of {depth}, mixed {mixed}: {whole}.{tenth} ns each");
    }
}

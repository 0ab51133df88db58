//! A simulated image for the core: latency, reordering, refusals, short transfers, errors, and a
//! record of what a power cut would leave.
//!
//! Durability is modelled at its worst: a write survives only if it was issued as durable, or if a
//! sync that started after its completion succeeded. What a failed sync should have covered is
//! lost for good, as with a page cache that drops dirty pages.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::blkmq::{Bios, Busy, Issue, MergeConfig, Request};
use crate::block::{Errno, HctxId, Op, Outcome, SectorRange, Tag};

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// An index in `0..n`.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("an index fits")
    }

    /// True in `per_mille` of 1000 cases.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// What may go wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Error,
    Short,
    Again,
    Busy,
    Delay,
}

/// How often what goes wrong, in 1000 operations; or exactly once, at the k-th.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) error: u64,
    pub(crate) short: u64,
    pub(crate) again: u64,
    pub(crate) busy: u64,
    pub(crate) at: Option<(u64, Fault)>,
}

/// The image that all threads share: which writes would survive.
#[derive(Debug, Default)]
pub(crate) struct Image {
    writes: Vec<Write>,
    syncs_in_flight: u32,
    pub(crate) syncs: u64,
    pub(crate) failed_syncs: u64,
    /// Attempts of any thread to issue something.
    pub(crate) attempts: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Write {
    completed: bool,
    durable: bool,
    lost: bool,
}

impl Image {
    /// A new write; answers with its number.
    pub(crate) fn begin(&mut self) -> usize {
        self.writes.push(Write::default());
        self.writes.len() - 1
    }

    /// Whether a write would survive a power cut now.
    pub(crate) fn is_durable(&self, write: usize) -> bool {
        self.writes[write].durable && !self.writes[write].lost
    }
}

/// A request that the image accepted.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) request: Request,
    /// Those that travel together, in sector order; none for a sync.
    pub(crate) bios: Vec<Tag>,
    pub(crate) due: u64,
    pub(crate) outcome: Outcome,
    /// For a sync: the writes that had completed when it started.
    snapshot: Vec<usize>,
}

/// What the disk knows of a bio, as the device's slots do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) op: Op,
    pub(crate) fua: bool,
    pub(crate) segments: u16,
    pub(crate) alone: bool,
    pub(crate) epoch: u64,
    /// One of its ranges touches a bad sector.
    pub(crate) bad: bool,
    pub(crate) write: Option<usize>,
    pub(crate) bytes: u64,
    pub(crate) moved: u64,
    /// The image failed it.
    pub(crate) failed: bool,
    /// Position in the order of submission on its hctx.
    pub(crate) order: u64,
}

/// One thread's way into the image.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) image: Rc<RefCell<Image>>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) bios: BTreeMap<(HctxId, Tag), Progress>,
    /// Requests accepted at a time; 0 refuses everything.
    pub(crate) capacity: usize,
    pub(crate) faults: Faults,
    /// It takes durable writes.
    pub(crate) dsync: bool,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    /// Per hctx, in the order in which requests were first accepted: the oldest bio of each.
    pub(crate) accepted: BTreeMap<HctxId, Vec<u64>>,
    /// Per hctx, the bios that were ever accepted.
    seen: BTreeMap<HctxId, BTreeSet<u64>>,
    pub(crate) merging: MergeConfig,
    pub(crate) bad: Option<SectorRange>,
    /// Requests of several bios that it took.
    pub(crate) merged: u64,
    /// Most data requests that were ever in flight at once.
    pub(crate) most: usize,
}

impl Disk {
    pub(crate) fn new(
        image: Rc<RefCell<Image>>,
        seed: u64,
        capacity: usize,
        faults: Faults,
    ) -> Disk {
        Disk {
            image,
            flights: Vec::new(),
            bios: BTreeMap::new(),
            capacity,
            faults,
            dsync: true,
            rng: Rng::new(seed),
            now: 0,
            accepted: BTreeMap::new(),
            seen: BTreeMap::new(),
            merging: MergeConfig::default(),
            bad: None,
            merged: 0,
            most: 0,
        }
    }

    fn fault(&mut self) -> Option<Fault> {
        let k = self.image.borrow().attempts;
        self.image.borrow_mut().attempts += 1;
        if let Some((at, fault)) = self.faults.at {
            return (at == k).then_some(fault);
        }
        let f = self.faults;
        let dice = [
            (f.error, Fault::Error),
            (f.short, Fault::Short),
            (f.again, Fault::Again),
            (f.busy, Fault::Busy),
        ];
        dice.into_iter().find(|(rate, _)| self.rng.chance(*rate)).map(|(_, fault)| fault)
    }

    fn outcome(&mut self, request: &Request, fault: Option<Fault>) -> Outcome {
        let moves = matches!(request.op, Op::Read(_) | Op::Write(_));
        let range = request.op.range().unwrap_or_default();
        let rest = u32::try_from(range.bytes()).expect("small") - request.done;
        if let Some(bad) = self.bad
            && touch(range, bad)
        {
            // A kernel may also say how far it came, to any byte.
            let good = (bad.start().0.saturating_sub(range.start().0)) * 512;
            let good = u32::try_from(good).expect("small").saturating_sub(request.done);
            let short = moves && good > 0 && self.rng.chance(500);
            return match u32::try_from(1 + self.rng.below(u64::from(good.max(1)))) {
                Ok(n) if short => Outcome::Short(n),
                _ => Outcome::Failed(Errno(libc::EIO)),
            };
        }
        match fault {
            Some(Fault::Error) => Outcome::Failed(Errno(libc::EIO)),
            Some(Fault::Again) => Outcome::Again,
            Some(Fault::Short) if moves && rest > 1 => {
                let n = 1 + self.rng.below(u64::from(rest) - 1);
                Outcome::Short(u32::try_from(n).expect("less than the rest"))
            }
            Some(Fault::Short | Fault::Busy | Fault::Delay) | None => Outcome::Done,
        }
    }

    /// Takes a request off the disk and applies what it did.
    pub(crate) fn finish(&mut self, i: usize) -> (Request, Outcome) {
        let flight = self.flights.swap_remove(i);
        let request = flight.request;
        let mut image = self.image.borrow_mut();
        if request.op == Op::Flush {
            image.syncs_in_flight -= 1;
            match flight.outcome {
                Outcome::Done => {
                    flight.snapshot.iter().for_each(|w| image.writes[*w].durable = true)
                }
                Outcome::Failed(_) => {
                    image.failed_syncs += 1;
                    let lost = |w: &&usize| !image.writes[**w].durable;
                    let lost: Vec<usize> = flight.snapshot.iter().filter(lost).copied().collect();
                    lost.iter().for_each(|w| image.writes[*w].lost = true);
                }
                Outcome::Short(_) | Outcome::Again => {}
            }
            return (request, flight.outcome);
        }
        let all = request.op.range().expect("data has a range").bytes();
        let done = match flight.outcome {
            Outcome::Done => all,
            Outcome::Short(n) => u64::from(request.done + n),
            Outcome::Failed(_) | Outcome::Again => 0,
        };
        let alone = flight.bios.len() == 1;
        let mut left = done;
        for tag in &flight.bios {
            let bio = self.bios.get_mut(&(request.hctx, *tag)).expect("the bio is live");
            match request.op {
                // A range of several: the others come by themselves.
                Op::Discard(_) | Op::WriteZeroes { .. } if alone => bio.moved += done,
                _ if done > 0 => bio.moved = left.min(bio.bytes),
                _ => {}
            }
            left = left.saturating_sub(bio.bytes);
            // Which of several it was, the answer does not say.
            bio.failed |= alone && matches!(flight.outcome, Outcome::Failed(_));
            if let Some(w) = bio.write
                && bio.moved == bio.bytes
            {
                image.writes[w].completed = true;
                image.writes[w].durable |= request.fua;
            }
        }
        (request, flight.outcome)
    }

    /// The bios of a request as I05 wants them.
    fn check_bios(&self, request: &Request, bios: &[Tag]) {
        let bio = |tag: &Tag| &self.bios[&(request.hctx, *tag)];
        let first = bio(&bios[0]);
        let range = request.op.range().expect("data has a range");
        if matches!(request.op, Op::Read(_) | Op::Write(_)) {
            assert_eq!(u64::from(request.done), first.moved, "the core knows how far it came");
            assert!(first.moved < first.bytes, "who is finished is answered");
        }
        if bios.len() == 1 {
            return;
        }
        let mut end = range.start();
        let mut segments = 0;
        for (i, tag) in bios.iter().enumerate() {
            let b = bio(tag);
            let own = b.op.range().expect("data");
            assert_eq!(own.start(), end, "I05: no gap");
            end = own.end();
            assert_eq!(b.op.with_range(range), request.op, "I05: one operation");
            assert!(!b.alone, "I05: who is alone stays alone");
            assert_eq!((b.fua, b.epoch), (first.fua, first.epoch), "I05: durability, flush");
            assert!(i == 0 || b.moved == 0, "only the first is partly done");
            segments += b.segments;
        }
        assert_eq!(end, range.end(), "the request is its bios");
        let MergeConfig { max_bytes, max_segments, chunk_bytes, .. } = self.merging;
        assert!(range.bytes() <= u64::from(max_bytes), "I05: bytes");
        assert!(segments <= max_segments, "I05: buffers");
        let chunk = u64::from(chunk_bytes) / 512;
        let one = chunk == 0 || range.start().0 / chunk == (end.0 - 1) / chunk;
        assert!(one, "I05: chunk");
    }

    /// Flights of a hctx.
    pub(crate) fn flights_of(&self, hctx: HctxId) -> usize {
        self.flights.iter().filter(|f| f.request.hctx == hctx).count()
    }
}

impl Issue for Disk {
    fn issue(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
        assert!(self.dsync || !request.fua, "nobody promised that: {request:?}");
        let fault = self.fault();
        if self.flights.len() >= self.capacity || fault == Some(Fault::Busy) {
            return Err(Busy);
        }
        assert_eq!(bios.len(), bios.clone().count(), "a size that can be relied on");
        let bios: Vec<Tag> = bios.collect();
        for f in self.flights.iter().filter(|f| f.request.hctx == request.hctx) {
            let twice = f.request.tag == request.tag || f.bios.iter().any(|t| bios.contains(t));
            assert!(!twice, "{request:?} is with the disk already");
        }
        let outcome = self.outcome(request, fault);
        let mut snapshot = Vec::new();
        if request.op == Op::Flush {
            assert!(bios.is_empty(), "a sync has no data");
            let mut image = self.image.borrow_mut();
            image.syncs_in_flight += 1;
            assert_eq!(image.syncs_in_flight, 1, "I24: one sync per image at a time");
            image.syncs += 1;
            snapshot.extend((0..image.writes.len()).filter(|w| image.writes[*w].completed));
        } else {
            assert!(bios.contains(&request.tag), "the leader is one of them");
            self.check_bios(request, &bios);
            self.merged += u64::from(bios.len() > 1);
            let orders = bios.iter().map(|t| self.bios[&(request.hctx, *t)].order);
            let seen = self.seen.entry(request.hctx).or_default();
            let oldest = orders.clone().min().expect("at least one");
            if orders.filter(|o| seen.insert(*o)).count() == bios.len() {
                self.accepted.entry(request.hctx).or_default().push(oldest);
            }
            let data = self.flights.iter().filter(|f| f.request.op != Op::Flush).count();
            self.most = self.most.max(data + 1);
        }
        let latency = if fault == Some(Fault::Delay) { 1_000_000 } else { 1 + self.rng.below(200) };
        let due = self.now + latency;
        self.flights.push(Flight { request: *request, bios, due, outcome, snapshot });
        Ok(())
    }
}

/// Whether two runs have a sector in common.
pub(crate) fn touch(a: SectorRange, b: SectorRange) -> bool {
    a.start() < b.end() && b.start() < a.end()
}

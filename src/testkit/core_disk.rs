//! A simulated image for the core: latency, reordering, refusals, short transfers, errors, and a
//! record of what a power cut would leave.
//!
//! Durability is modelled at its worst: a write survives only if it was issued as durable, or if a
//! sync that started after its completion succeeded. What a failed sync should have covered is
//! lost for good, as with a page cache that drops dirty pages.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::blkmq::{Busy, Issue, Request};
use crate::block::{Errno, HctxId, Op, Outcome, Tag};

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
    pub(crate) due: u64,
    pub(crate) outcome: Outcome,
    /// For a sync: the writes that had completed when it started.
    snapshot: Vec<usize>,
}

/// What the disk knows of a bio, as the device's slots do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
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
    /// Per hctx, the order in which bios were first accepted.
    pub(crate) accepted: BTreeMap<HctxId, Vec<u64>>,
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
        match fault {
            Some(Fault::Error) => Outcome::Failed(Errno(libc::EIO)),
            Some(Fault::Again) => Outcome::Again,
            Some(Fault::Short) if matches!(request.op, Op::Read(_) | Op::Write(_)) => {
                let bio = &self.bios[&(request.hctx, request.tag)];
                let rest = bio.bytes - bio.moved;
                match u32::try_from(rest / 2) {
                    Ok(n) if n > 0 => Outcome::Short(n),
                    _ => Outcome::Done,
                }
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
        let bio = self.bios.get_mut(&(request.hctx, request.tag)).expect("the bio is live");
        match flight.outcome {
            Outcome::Done => {
                let range = request.op.range().expect("data has a range").bytes();
                bio.moved += match request.op {
                    Op::Read(_) | Op::Write(_) => bio.bytes - bio.moved,
                    _ => range,
                };
                if let Some(w) = bio.write
                    && bio.moved == bio.bytes
                {
                    image.writes[w].completed = true;
                    image.writes[w].durable |= request.fua;
                }
            }
            Outcome::Short(n) => bio.moved += u64::from(n),
            Outcome::Failed(_) => bio.failed = true,
            Outcome::Again => {}
        }
        (request, flight.outcome)
    }

    /// Flights of a hctx.
    pub(crate) fn flights_of(&self, hctx: HctxId) -> usize {
        self.flights.iter().filter(|f| f.request.hctx == hctx).count()
    }
}

impl Issue for Disk {
    fn issue(&mut self, request: &Request) -> Result<(), Busy> {
        assert!(self.dsync || !request.fua, "nobody promised that: {request:?}");
        let fault = self.fault();
        if self.flights.len() >= self.capacity || fault == Some(Fault::Busy) {
            return Err(Busy);
        }
        let key = (request.hctx, request.tag);
        let twice = self.flights.iter().any(|f| (f.request.hctx, f.request.tag) == key);
        assert!(!twice, "{request:?} is with the disk already");
        let outcome = self.outcome(request, fault);
        let mut snapshot = Vec::new();
        if request.op == Op::Flush {
            let mut image = self.image.borrow_mut();
            image.syncs_in_flight += 1;
            assert_eq!(image.syncs_in_flight, 1, "I24: one sync per image at a time");
            image.syncs += 1;
            snapshot.extend((0..image.writes.len()).filter(|w| image.writes[*w].completed));
        } else {
            let bio = &self.bios[&key];
            let order = self.accepted.entry(request.hctx).or_default();
            if bio.moved == 0 && !order.contains(&bio.order) {
                order.push(bio.order);
            }
            let data = self.flights.iter().filter(|f| f.request.op != Op::Flush).count();
            self.most = self.most.max(data + 1);
        }
        let latency = if fault == Some(Fault::Delay) { 1_000_000 } else { 1 + self.rng.below(200) };
        let due = self.now + latency;
        self.flights.push(Flight { request: *request, due, outcome, snapshot });
        Ok(())
    }
}

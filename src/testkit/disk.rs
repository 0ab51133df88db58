//! A simulated disk behind the real seams `Image` and `Channel`: virtual time, seeded faults, and a
//! power cut.
//!
//! * D1 An operation takes effect when it completes, in the order of its (seeded) due times, so
//!   operations in flight overtake each other.
//! * D2 What a write leaves is volatile. A sync that completes makes durable what had completed
//!   when the sync *started*; a write with `dsync` is durable at its completion.
//! * D3 A power cut keeps the durable content only.
//! * D4 Faults are chosen by the number of the operation (`fail_kth`) or at random by the seed:
//!   an error (nothing done), a short transfer (a prefix done), "again", a refusal (`Busy`).
//!   Or by place: a transfer, discard or zeroing of a bad sector always fails.
//! * D5 Channels are numbered in the order in which they were opened. Each takes `depth` operations
//!   at a time and finds only its own completions.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::rng::Rng;
use crate::block::{Errno, Nanos, Outcome, SECTOR_SIZE};
use crate::image::{Busy, Channel, Geometry, Image, Io, IoDone, Traits, Verb};
use crate::sys::guest::GuestBuf;
use crate::sys::token::IoKey;
use crate::sys::uring::Ring;

/// What happens to an operation instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails with this errno; nothing was done.
    Error(i32),
    /// Transfers half (at least a sector) and says so. Means success for one sector or no data.
    Short,
    /// Not started; the caller tries again.
    Again,
    /// Takes a hundred times as long.
    Slow,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Nanos,
    number: u64,
    channel: usize,
    key: IoKey,
    verb: Verb,
    first_buf: usize,
    bufs: usize,
    bytes: u32,
    fault: Option<Fault>,
}

/// How often random faults strike, in parts per thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    /// EIO.
    pub error: u64,
    /// Short transfers.
    pub short: u64,
    /// EAGAIN.
    pub again: u64,
    /// Refusals.
    pub busy: u64,
}

struct State {
    now: Nanos,
    content: Vec<u8>,
    durable: Vec<u8>,
    syncing: Vec<(u64, Vec<u8>)>,
    pending: Vec<Pending>,
    bufs: Vec<GuestBuf>,
    /// Per channel.
    ready: Vec<VecDeque<IoDone>>,
    rng: Rng,
    rates: FaultRates,
    dsync: bool,
    kth: Option<(u64, Fault)>,
    /// Bytes that cannot be used.
    bad: std::ops::Range<u64>,
    depth: usize,
    started: u64,
    syncs: u64,
    max_syncs_in_flight: usize,
}

/// One thread's way into the simulated disk.
struct SimChannel {
    disk: SimDisk,
    number: usize,
}

/// The simulated disk; clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// A disk of `sectors` zeroed sectors that takes `depth` operations at a time of each channel.
    #[must_use]
    pub fn new(sectors: u64, depth: usize, seed: u64) -> SimDisk {
        let bytes = usize::try_from(sectors * SECTOR_SIZE).expect("a small disk");
        SimDisk(Arc::new(Mutex::new(State {
            now: Nanos(0),
            content: vec![0; bytes],
            durable: vec![0; bytes],
            syncing: Vec::new(),
            pending: Vec::with_capacity(depth),
            bufs: Vec::new(),
            ready: Vec::new(),
            rng: Rng::new(seed),
            rates: FaultRates::default(),
            dsync: true,
            kth: None,
            bad: 0..0,
            depth,
            started: 0,
            syncs: 0,
            max_syncs_in_flight: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test thread panics while it holds the disk")
    }

    /// Random faults from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state().rates = rates;
    }

    /// Whether it takes durable writes; without, asking for one is an error of the caller.
    pub fn set_dsync(&self, dsync: bool) {
        self.state().dsync = dsync;
    }

    /// The `k`-th operation from the start (counted from 0) gets this fault.
    pub fn fail_kth(&self, k: u64, fault: Fault) {
        self.state().kth = Some((k, fault));
    }

    /// These sectors are bad from now on.
    pub fn set_bad(&self, sectors: std::ops::Range<u64>) {
        self.state().bad = sectors.start * SECTOR_SIZE..sectors.end * SECTOR_SIZE;
    }

    /// How many operations were accepted.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.state().started
    }

    /// How many syncs were accepted, and the most that were in flight together.
    #[must_use]
    pub fn syncs(&self) -> (u64, usize) {
        let s = self.state();
        (s.syncs, s.max_syncs_in_flight)
    }

    /// When the next operation is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        self.state().pending.iter().map(|p| p.due).min()
    }

    /// Moves the disk's clock; what is due completes, in order (D1).
    pub fn advance(&self, now: Nanos) {
        let mut s = self.state();
        s.now = s.now.max(now);
        loop {
            let next = s.pending.iter().enumerate().filter(|(_, p)| p.due <= now);
            let Some((i, _)) = next.min_by_key(|(_, p)| (p.due, p.number)) else { return };
            let p = s.pending.swap_remove(i);
            let outcome = s.perform(&p);
            s.ready[p.channel].push_back(IoDone { key: p.key, outcome });
        }
    }

    /// Whether completions wait to be taken by the channel of this number (D5).
    #[must_use]
    pub fn has_ready(&self, channel: usize) -> bool {
        self.state().ready.get(channel).is_some_and(|ready| !ready.is_empty())
    }

    /// The process that used the disk was killed: of what it had started each operation takes
    /// effect or does not, and nobody hears of it. Its channels are gone.
    pub fn abandon(&self) {
        let mut s = self.state();
        while let Some(p) = s.pending.pop() {
            let happens = s.rng.chance(1, 2);
            if happens && p.verb != Verb::Sync {
                let _ = s.perform(&p);
            }
        }
        s.syncing.clear();
        s.ready.clear();
        s.bufs.clear();
    }

    /// What a reader would find now.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.state().content.clone()
    }

    /// What survives a power cut now (D3).
    #[must_use]
    pub fn after_power_cut(&self) -> Vec<u8> {
        self.state().durable.clone()
    }
}

/// Vector elements kept for one operation in flight.
const MAX_BUFS: usize = 256;

impl State {
    fn accept(&mut self, channel: usize, io: &Io<'_>) -> Result<(), Busy> {
        let durable = matches!(io.verb, Verb::Write { dsync: true, .. });
        assert!(self.dsync || !durable, "nobody promised that: {io:?}");
        let mine = self.pending.iter().filter(|p| p.channel == channel).count();
        if mine >= self.depth || self.rng.chance(self.rates.busy, 1000) {
            return Err(Busy);
        }
        let number = self.started;
        self.started += 1;
        let fault = match self.kth {
            Some((k, fault)) if k == number => Some(fault),
            _ => self.random_fault(),
        };
        let slow = if fault == Some(Fault::Slow) { 100 } else { 1 };
        let due = Nanos(self.now.0 + self.rng.below(20_000) * slow + 1);
        let used: Vec<usize> = self.pending.iter().map(|p| p.first_buf).collect();
        let first_buf = (0..self.depth * self.ready.len())
            .map(|i| i * MAX_BUFS)
            .find(|f| !used.contains(f))
            .expect("fewer than depth are pending");
        assert!(io.bufs.len() <= MAX_BUFS, "the simulation sends short vectors");
        self.bufs[first_buf..first_buf + io.bufs.len()].copy_from_slice(io.bufs);
        if io.verb == Verb::Sync {
            self.syncs += 1;
            self.syncing.push((number, self.content.clone()));
            self.max_syncs_in_flight = self.max_syncs_in_flight.max(self.syncing.len());
        }
        let bytes = io.bytes;
        let (key, verb, bufs) = (io.key, io.verb, io.bufs.len());
        let p = Pending { due, number, channel, key, verb, first_buf, bufs, bytes, fault };
        self.pending.push(p);
        Ok(())
    }

    fn random_fault(&mut self) -> Option<Fault> {
        let r = self.rates;
        match self.rng.below(1000) {
            n if n < r.error => Some(Fault::Error(libc::EIO)),
            n if n < r.error + r.short => Some(Fault::Short),
            n if n < r.error + r.short + r.again => Some(Fault::Again),
            _ => None,
        }
    }

    fn perform(&mut self, p: &Pending) -> Outcome {
        let snapshot = self.syncing.iter().position(|(n, _)| *n == p.number);
        let snapshot = snapshot.map(|i| self.syncing.swap_remove(i).1);
        match p.fault {
            Some(Fault::Error(e)) => return Outcome::Failed(Errno(e)),
            Some(Fault::Again) => return Outcome::Again,
            _ if self.is_bad(p) => return Outcome::Failed(Errno(libc::EIO)),
            _ => {}
        }
        let short = p.fault == Some(Fault::Short) && u64::from(p.bytes) > SECTOR_SIZE;
        let sectors = u64::from(p.bytes) / SECTOR_SIZE;
        let asked = u64::from(p.bytes);
        let bytes = if short { (sectors / 2).max(1) * SECTOR_SIZE } else { asked };
        let bufs = self.bufs[p.first_buf..p.first_buf + p.bufs].to_vec();
        match p.verb {
            Verb::Read { offset } => self.transfer(&bufs, offset, bytes, Direction::Read),
            Verb::Write { offset, dsync } => {
                self.transfer(&bufs, offset, bytes, Direction::Write);
                if dsync {
                    let range = index(offset)..index(offset + bytes);
                    self.durable[range.clone()].copy_from_slice(&self.content[range.clone()]);
                    // A sync in flight must not take back what became durable meanwhile.
                    for (_, snapshot) in &mut self.syncing {
                        snapshot[range.clone()].copy_from_slice(&self.content[range.clone()]);
                    }
                }
            }
            Verb::Sync => self.durable = snapshot.expect("kept at the start of the sync"),
            Verb::Discard { offset, len } | Verb::WriteZeroes { offset, len, .. } => {
                self.content[index(offset)..index(offset + len)].fill(0);
            }
        }
        match u32::try_from(bytes) {
            Ok(n) if short => Outcome::Short(n),
            _ => Outcome::Done,
        }
    }

    fn is_bad(&self, p: &Pending) -> bool {
        let (start, len) = match p.verb {
            Verb::Read { offset } | Verb::Write { offset, .. } => (offset, u64::from(p.bytes)),
            Verb::Discard { offset, len } | Verb::WriteZeroes { offset, len, .. } => (offset, len),
            Verb::Sync => (0, 0),
        };
        start < self.bad.end && self.bad.start < start + len
    }

    fn transfer(&mut self, bufs: &[GuestBuf], offset: u64, bytes: u64, direction: Direction) {
        let (mut at, end) = (index(offset), index(offset + bytes));
        for buf in bufs {
            let n = buf.len().min(end - at);
            match direction {
                Direction::Read => buf.copy_from(&self.content[at..at + n]),
                Direction::Write => buf.copy_to(&mut self.content[at..at + n]),
            };
            at += n;
        }
        assert_eq!(at, end, "the vector is as long as the operation");
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a small disk")
}

impl Image for SimDisk {
    fn geometry(&self) -> Geometry {
        let capacity = self.state().content.len() as u64 / SECTOR_SIZE;
        Geometry { capacity, logical_block: 512, physical_block: 512, discard_granularity: 512 }
    }

    fn traits(&self) -> Traits {
        Traits {
            read_only: false,
            flush_is_noop: false,
            exclusive: true,
            dsync: self.state().dsync,
        }
    }

    fn open_channel(&self, _ring: &mut Ring, _lane: u16) -> io::Result<Box<dyn Channel>> {
        let mut s = self.state();
        let (number, room) = (s.ready.len(), s.bufs.len() + s.depth * MAX_BUFS);
        let depth = s.depth;
        s.ready.push(VecDeque::with_capacity(depth));
        s.bufs.resize(room, GuestBuf::EMPTY);
        Ok(Box::new(SimChannel { disk: self.clone(), number }))
    }

    fn sync(&self) -> io::Result<()> {
        let mut s = self.state();
        s.durable = s.content.clone();
        let content = s.content.clone();
        for (_, snapshot) in &mut s.syncing {
            snapshot.clone_from(&content);
        }
        Ok(())
    }
}

impl Channel for SimChannel {
    fn submit(&mut self, _ring: &mut Ring, io: &Io<'_>) -> Result<(), Busy> {
        self.disk.state().accept(self.number, io)
    }

    fn finish(&mut self, _io: &Io<'_>, _res: i32) -> Outcome {
        unreachable!("the simulated disk does not use the ring")
    }

    fn on_channel_cqe(&mut self, _ring: &mut Ring, _op: u32, _res: i32) -> Option<IoDone> {
        unreachable!("the simulated disk does not use the ring")
    }

    fn poll_done(&mut self) -> Option<IoDone> {
        self.disk.state().ready[self.number].pop_front()
    }

    fn close(&mut self, _ring: &mut Ring) {}
}

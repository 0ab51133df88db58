//! A flash disk in virtual time, as its users feel it: fast alone, slow behind somebody's writes.
//!
//! What it is for: the published experiment of a reader beside writers (ICPE 2024, on a consumer
//! NVMe drive), in which a reader with one 4 KiB read at a time waits a quarter of a second behind
//! deep write queues and 3 ms when a scheduler keeps these short. Two things follow from those
//! numbers, and the model has them: short queues leave a wait of a few milliseconds that does not
//! depend on the scheduler (a flash operation that is under way, S4), and a read passes writes that
//! the drive works on, but not those that it has not looked at yet (S1, S2).
//!
//! Rules:
//! * **S1** The disk accepts `commands` and refuses more. It works on `contexts` of them at a time;
//!   the others stand in one line, reads and writes alike, in the order in which they came.
//! * **S2** A write ends when its data is in the buffer. Without room it waits there, keeping its
//!   context, in order. So many waiting writes use up the contexts, and then reads stand in line.
//! * **S3** The buffer is written to the units (dies), [`STRIPE`] bytes at a time, to each in turn;
//!   its room comes back when the program has ended. After `programs_per_erase` programs a unit
//!   makes room (erase and copies) before the next.
//! * **S4** A unit does one thing at a time to its end. A waiting read goes before waiting programs,
//!   but after [`READS_IN_A_ROW`] one program goes.
//! * **S5** A read takes the units of its pages ([`PAGE`]), which follow from its address. Nothing is
//!   read from the buffer: who reads here is not who writes.
//! * **S6** All data passes one link, in order. Every command costs `overhead` before anything else.
//! * **S7** Nothing is random: the same commands at the same times end at the same times.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::block::Nanos;

pub mod interference;
pub mod plot;

/// Bytes that a unit programs at a time (planes times flash page).
pub const STRIPE: u64 = 64 * 1024;
/// Bytes of a flash page: what a unit reads at a time.
pub const PAGE: u64 = 16 * 1024;
/// Reads that a unit prefers to a waiting program (S4).
pub const READS_IN_A_ROW: u32 = 8;

/// The measures of a disk. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SsdConfig {
    /// Commands that it accepts.
    pub commands: usize,
    /// Commands that it works on at a time.
    pub contexts: usize,
    /// Flash units that work independently of each other.
    pub units: usize,
    /// Write buffer, in bytes.
    pub buffer: u64,
    /// For each command.
    pub overhead: u64,
    /// The link's speed in bytes for each microsecond, that is MB/s.
    pub link: u64,
    /// Reading a page.
    pub read: u64,
    /// Programming a stripe.
    pub program: u64,
    /// Making room in a unit.
    pub erase: u64,
    /// Programs of a unit for which that is enough.
    pub programs_per_erase: u32,
}

impl SsdConfig {
    /// A consumer NVMe drive (TLC) whose fast cache is full: 64 us for a lone 4 KiB read, about
    /// 660 MB/s of lasting writes and 300 000 random reads a second.
    #[must_use]
    pub const fn consumer() -> SsdConfig {
        SsdConfig {
            commands: 1023,
            contexts: 256,
            units: 16,
            buffer: 16 << 20,
            overhead: 12_000,
            link: 3200,
            read: 50_000,
            program: 1_500_000,
            erase: 3_000_000,
            programs_per_erase: 32,
        }
    }

    /// The bytes that its units program in a second at most (S3).
    #[must_use]
    pub const fn write_rate(&self) -> u64 {
        let programs = self.programs_per_erase as u64;
        let round = programs * self.program + self.erase;
        self.units as u64 * programs * STRIPE * 1_000_000 / (round / 1000)
    }

    /// How long a command of `bytes` takes on the link.
    #[must_use]
    pub const fn transfer(&self, bytes: u64) -> u64 {
        bytes * 1000 / self.link
    }
}

/// It holds as many commands as it accepts (S1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Command<K> {
    key: K,
    write: bool,
    /// Address, in bytes.
    at: u64,
    bytes: u64,
    /// Pages still to be read.
    pages: u64,
}

/// What happens at a time; the number is that of a slot, or of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The overhead is over.
    Begun(usize),
    /// The data has passed the link.
    Moved(usize),
    /// A unit has ended what it did.
    Ended(usize),
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Read(usize),
    Program,
    Erase,
}

#[derive(Debug)]
struct Unit {
    work: Option<Work>,
    reads: VecDeque<usize>,
    programs: u32,
    in_a_row: u32,
    since_erase: u32,
}

impl Unit {
    /// What it does next (S3, S4).
    fn choose(&mut self, config: &SsdConfig) -> Option<Work> {
        let prefers = self.programs == 0 || self.in_a_row < READS_IN_A_ROW;
        if prefers && let Some(slot) = self.reads.pop_front() {
            self.in_a_row += 1;
            return Some(Work::Read(slot));
        }
        self.in_a_row = 0;
        if self.programs == 0 {
            return None;
        }
        if self.since_erase >= config.programs_per_erase {
            return Some(Work::Erase);
        }
        self.programs -= 1;
        Some(Work::Program)
    }
}

/// The disk. `K` is what a user calls a command.
#[derive(Debug)]
pub struct Ssd<K> {
    config: SsdConfig,
    slots: Vec<Option<Command<K>>>,
    free: Vec<usize>,
    /// Accepted and not worked on (S1).
    line: VecDeque<usize>,
    working: usize,
    /// Writes that wait for room in the buffer (S2).
    held: VecDeque<usize>,
    /// Bytes of the buffer that are taken.
    buffered: u64,
    /// Of these, bytes that are there and fill no stripe yet.
    open: u64,
    programmed: u64,
    units: Vec<Unit>,
    next_unit: usize,
    link_until: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    seq: u64,
    done: VecDeque<K>,
}

impl<K: Copy> Ssd<K> {
    /// An idle disk with an empty buffer. Its units stand at different distances from their next
    /// erase, as on a disk that has been used.
    #[must_use]
    pub fn new(config: SsdConfig) -> Ssd<K> {
        let unit = |since_erase| {
            let (work, reads) = (None, VecDeque::new());
            Unit { work, reads, programs: 0, in_a_row: 0, since_erase }
        };
        Ssd {
            slots: (0..config.commands).map(|_| None).collect(),
            free: (0..config.commands).rev().collect(),
            line: VecDeque::new(),
            working: 0,
            held: VecDeque::new(),
            buffered: 0,
            open: 0,
            programmed: 0,
            units: (0..config.programs_per_erase).cycle().map(unit).take(config.units).collect(),
            next_unit: 0,
            link_until: 0,
            events: BinaryHeap::new(),
            seq: 0,
            done: VecDeque::new(),
            config,
        }
    }

    /// Gives it a command for `bytes` bytes at address `at`. `now` never goes back.
    ///
    /// # Errors
    /// [`Full`]; nothing changed (S1).
    ///
    /// # Panics
    /// For a write that the buffer could never take, or a command without data.
    pub fn submit(
        &mut self,
        key: K,
        write: bool,
        at: u64,
        bytes: u64,
        now: Nanos,
    ) -> Result<(), Full> {
        assert!(bytes > 0 && bytes + STRIPE <= self.config.buffer, "{bytes} bytes");
        let slot = self.free.pop().ok_or(Full)?;
        self.slots[slot] = Some(Command { key, write, at, bytes, pages: 0 });
        self.line.push_back(slot);
        self.begin(now.0);
        Ok(())
    }

    /// When something happens in it next.
    #[must_use]
    pub fn next_event(&self) -> Option<Nanos> {
        self.events.peek().map(|Reverse((at, ..))| Nanos(*at))
    }

    /// Lets everything happen that happens until `now`.
    pub fn advance(&mut self, now: Nanos) {
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > now.0 {
                return;
            }
            self.events.pop();
            match event {
                Event::Begun(slot) => self.begun(slot, at),
                Event::Moved(slot) => self.moved(slot, at),
                Event::Ended(unit) => self.ended(unit, at),
            }
        }
    }

    /// The next command that has ended, in the order in which they did.
    pub fn take_done(&mut self) -> Option<K> {
        self.done.pop_front()
    }

    /// Commands accepted and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.config.commands - self.free.len()
    }

    /// Bytes of the buffer that are taken, by data that is there or on its way.
    #[must_use]
    pub fn buffered(&self) -> u64 {
        self.buffered
    }

    /// Bytes that have reached the flash.
    #[must_use]
    pub fn programmed(&self) -> u64 {
        self.programmed
    }

    fn at(&mut self, time: u64, event: Event) {
        self.events.push(Reverse((time, self.seq, event)));
        self.seq += 1;
    }

    fn command(&mut self, slot: usize) -> &mut Command<K> {
        self.slots[slot].as_mut().expect("a live command")
    }

    /// S1.
    fn begin(&mut self, now: u64) {
        while self.working < self.config.contexts
            && let Some(slot) = self.line.pop_front()
        {
            self.working += 1;
            self.at(now + self.config.overhead, Event::Begun(slot));
        }
    }

    fn begun(&mut self, slot: usize, now: u64) {
        let units = self.config.units as u64;
        let command = self.command(slot);
        if command.write {
            self.held.push_back(slot);
            self.admit(now);
            return;
        }
        let (first, last) = (command.at / PAGE, (command.at + command.bytes - 1) / PAGE);
        command.pages = last - first + 1;
        for page in first..=last {
            // Multiplicative hashing, so that no stride of addresses favours a unit (S5).
            let mixed = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let unit = usize::try_from(mixed % units).expect("units are few");
            self.units[unit].reads.push_back(slot);
            self.start(unit, now);
        }
    }

    /// S2.
    fn admit(&mut self, now: u64) {
        while let Some(&slot) = self.held.front() {
            let bytes = self.command(slot).bytes;
            if self.buffered + bytes > self.config.buffer {
                return;
            }
            self.held.pop_front();
            self.buffered += bytes;
            self.transfer(slot, now);
        }
    }

    /// S6.
    fn transfer(&mut self, slot: usize, now: u64) {
        let bytes = self.command(slot).bytes;
        let time = self.config.transfer(bytes);
        self.link_until = self.link_until.max(now) + time;
        self.at(self.link_until, Event::Moved(slot));
    }

    fn moved(&mut self, slot: usize, now: u64) {
        let Command { key, write, bytes, .. } = self.slots[slot].take().expect("a live command");
        self.free.push(slot);
        self.done.push_back(key);
        self.working -= 1;
        self.begin(now);
        if !write {
            return;
        }
        self.open += bytes;
        while self.open >= STRIPE {
            self.open -= STRIPE;
            let unit = self.next_unit;
            self.next_unit = (unit + 1) % self.config.units;
            self.units[unit].programs += 1;
            self.start(unit, now);
        }
    }

    fn start(&mut self, at: usize, now: u64) {
        let unit = &mut self.units[at];
        if unit.work.is_some() {
            return;
        }
        unit.work = unit.choose(&self.config);
        let time = match unit.work {
            Some(Work::Read(_)) => self.config.read,
            Some(Work::Program) => self.config.program,
            Some(Work::Erase) => self.config.erase,
            None => return,
        };
        self.at(now + time, Event::Ended(at));
    }

    fn ended(&mut self, at: usize, now: u64) {
        let unit = &mut self.units[at];
        match unit.work.take().expect("it was at work") {
            Work::Read(slot) => {
                let command = self.command(slot);
                command.pages -= 1;
                if command.pages == 0 {
                    self.transfer(slot, now);
                }
            }
            Work::Program => {
                unit.since_erase += 1;
                self.buffered -= STRIPE;
                self.programmed += STRIPE;
                self.admit(now);
            }
            Work::Erase => unit.since_erase = 0,
        }
        self.start(at, now);
    }
}

//! The program and clients that never sleep: libblkio looking at its used ring again and again,
//! without ever asking to be told. Whoever waits for such a client may look as long as it may, and
//! must find what comes all the same; a thread that misses it is found out by the clock here, and no
//! test waits for ever.

mod common;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::client::{Client, LOST, Wish};
use common::daemon::{Daemon, Scratch};
use common::note;
use common::rng::{Rng, pattern, seed};
use vhost_user_blkmq::sys::affinity::{allowed_cpus, pin_current_thread};

/// Bytes of a request.
const BLOCK: usize = 4096;
/// Bytes of each outstanding request's own part of the disk.
const PART: usize = 64 << 10;
/// Connections one after the other: what goes wrong, goes wrong for one in ten.
const SESSIONS: u64 = 12;
/// How long each of them is kept busy.
const SESSION: Duration = Duration::from_millis(100);
/// The longest that a client lets the daemon be idle now and then before it sends the next request:
/// beyond the daemon's longest look, so that it sleeps.
const LONG_PAUSE: u64 = 400_000;
/// The same mostly, in nanoseconds: a kick that comes while the daemon is about to sleep is what a
/// sign of the kernel's may be left over from.
const SHORT_PAUSE: u64 = 8_000;
/// How long the daemon may look: as it does by itself, and hardly.
const LOOKS: [&str; 2] = ["--poll-max-us=100", "--poll-max-us=4"];

/// One at a time: each needs a CPU for its client and one for its daemon.
static TURN: Mutex<()> = Mutex::new(());

/// How completions are looked for.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// A queue without a call descriptor.
    Polled,
    /// A queue with one, which is switched on and off, and never waited for.
    Switched,
}

/// What an outstanding request does: writes something new, then reads it back.
#[derive(Clone)]
struct Slot {
    offset: u64,
    bytes: Vec<u8>,
    reads: bool,
}

/// A client that keeps its requests outstanding and looks.
struct Spinner {
    client: Client,
    rng: Rng,
    slots: Vec<Slot>,
    /// Whether what is read is what was written.
    keeps: bool,
    ended: u64,
}

impl Spinner {
    fn connect(daemon: &Daemon, way: Way, depth: usize, keeps: bool, seed: u64) -> Spinner {
        let wish = if way == Way::Polled { Wish::polled(1) } else { Wish::queues(1) };
        let client = Client::connect(daemon.socket(), wish);
        let slot = Slot { offset: 0, bytes: Vec::new(), reads: true };
        Spinner { client, rng: Rng::new(seed), slots: vec![slot; depth], keeps, ended: 0 }
    }

    /// Begins what slot `n` is to do next.
    fn begin(&mut self, n: usize) {
        let slot = &mut self.slots[n];
        slot.reads = !slot.reads;
        if slot.reads {
            self.client.put(n * BLOCK, &[0xa5; BLOCK]);
            self.client.begin_read(0, slot.offset, n * BLOCK, BLOCK, n);
        } else {
            let block = self.rng.below((PART / BLOCK) as u64) * BLOCK as u64;
            slot.offset = (n * PART) as u64 + block;
            slot.bytes = pattern(self.rng.below(u64::MAX), BLOCK);
            self.client.put(n * BLOCK, &slot.bytes);
            self.client.begin_write(0, slot.offset, n * BLOCK, BLOCK, n);
        }
    }

    fn check(&mut self, n: usize, result: i32) {
        assert_eq!(result, 0, "request {n} after {} others", self.ended);
        let slot = &self.slots[n];
        if slot.reads {
            let wanted = if self.keeps { slot.bytes.clone() } else { vec![0; BLOCK] };
            assert!(self.client.get(n * BLOCK, BLOCK) == wanted, "what was written there");
        }
        self.ended += 1;
    }

    /// Looks until something has ended.
    ///
    /// # Panics
    /// When nothing ends in time.
    fn look(&mut self, daemon: &Daemon) -> Vec<(usize, i32)> {
        let end = Instant::now() + LOST;
        loop {
            let ended = self.client.look(0);
            if !ended.is_empty() {
                return ended;
            }
            let said = || daemon.said();
            assert!(Instant::now() < end, "no answer after {} others: {}", self.ended, said());
            std::hint::spin_loop();
        }
    }

    /// Does nothing for a moment.
    fn pause(&mut self) {
        let longest = if self.rng.below(64) == 0 { LONG_PAUSE } else { SHORT_PAUSE };
        let until = Instant::now() + Duration::from_nanos(self.rng.below(longest));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    /// Keeps all slots outstanding for a while; how many requests have ended.
    fn run(mut self, daemon: &Daemon, way: Way) -> u64 {
        let end = Instant::now() + SESSION;
        (0..self.slots.len()).for_each(|n| self.begin(n));
        let mut flying = self.slots.len();
        while flying > 0 {
            for (n, result) in self.look(daemon) {
                self.check(n, result);
                self.pause();
                if way == Way::Switched && self.rng.below(4) == 0 {
                    let on = self.rng.below(2) == 0;
                    self.client.announce(0, on);
                }
                if Instant::now() < end {
                    self.begin(n);
                } else {
                    flying -= 1;
                }
            }
        }
        self.ended
    }
}

/// Clients of this kind, one after the other, on one daemon.
fn clients(image: &Path, keeps: bool, way: Way, depth: usize, options: &[&str]) {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch, image, options);
    let (seed, mut ended) = (seed(), 0);
    note(&format!("BLKMQ_SEED={seed}"));
    for session in 0..SESSIONS {
        let seed = seed ^ (session << 32) ^ depth as u64;
        ended += Spinner::connect(&daemon, way, depth, keeps, seed).run(&daemon, way);
    }
    assert!(ended > SESSIONS * depth as u64, "more than one each: {ended}");
    daemon.stop();
}

/// On the null image, which answers at once, and on a file, which the kernel has to be waited for.
fn everywhere(way: Way, depth: usize) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cpus = allowed_cpus().expect("the kernel tells");
    pin_current_thread(&cpus[..1]).expect("it is allowed");
    let apart = format!("--cpus={}", cpus[cpus.len() - 1]);
    let scratch = Scratch::new();
    let image = scratch.image(64 << 20);
    for looks in LOOKS {
        clients(Path::new("null:64M"), false, way, depth, &[looks, &apart]);
        clients(&image, true, way, depth, &[looks, &apart]);
    }
}

#[test]
fn a_polling_client_one_at_a_time() {
    everywhere(Way::Polled, 1);
}

#[test]
fn a_polling_client_32_at_a_time() {
    everywhere(Way::Polled, 32);
}

#[test]
fn a_client_that_switches_its_eventfd_one_at_a_time() {
    everywhere(Way::Switched, 1);
}

#[test]
fn a_client_that_switches_its_eventfd_32_at_a_time() {
    everywhere(Way::Switched, 32);
}

//! Requests of one guest, served by the loop of a queue thread on a null image, for `ci/bench-insn` to count
//! their instructions under callgrind.
//!
//! Rules, for figures that come out the same again:
//! * **I1 The real loop.** What is counted is [`ByHand::turn`]: the loop of a queue thread with its
//!   io_uring, kick and call eventfds, rings in shared memory, the domain and the null image. The
//!   guest runs on the same thread, between the turns, and is not counted.
//! * **I2 In step.** The guest makes a whole batch visible and kicks, the loop turns once, and
//!   everything is back. Time is what the program says.
//! * **I3 Warm.** Before the count, [`WARM`] bios: enough for a search that does not pay to have gone
//!   to rest. What is counted is one whole cycle of rest and search.
//! * **I4 By name.** Counted are the calls of `ByHand::turn` by [`counted`]. What the image fills
//!   buffers with is libc's work and counted apart: how many instructions that is depends on the
//!   machine (one, or one for each byte).
//!
//! Without an argument it prints the names of the cases; with one it runs that case, and prints the
//! bios that were counted and those that were served.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vhost_user_blkmq::blkmq::sched::Kind;
use vhost_user_blkmq::blkmq::stats::DiskStats;
use vhost_user_blkmq::blkmq::{FlushGate, FlushPolicy};
use vhost_user_blkmq::block::{Nanos, QueueId};
use vhost_user_blkmq::device::config_space::ConfigSpace;
use vhost_user_blkmq::device::mailbox::{DiskId, Mailbox, QueueStart, mailbox};
use vhost_user_blkmq::device::queue_thread::hand::ByHand;
use vhost_user_blkmq::device::tuning::{DiskTuning, PoolTuning};
use vhost_user_blkmq::device::{Disk, MAX_QUEUES};
use vhost_user_blkmq::image::{self, Image, OpenOptions};
use vhost_user_blkmq::sys::ring::Descriptor;
use vhost_user_blkmq::testkit::TestMemory;
use vhost_user_blkmq::testkit::driver::{Buf, Driver, INDIRECT, Layout};
use vhost_user_blkmq::testkit::rng::Rng;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Entries of the ring; a chain has three descriptors.
const RING: u16 = 128;
/// Bytes of a request.
const BYTES: u32 = 4096;
/// Sectors of a request.
const SECTORS: u64 = BYTES as u64 / 512;
/// Requests of 4 KiB that the disk holds.
const BLOCKS: u64 = 1 << 28;

/// VIRTIO_BLK_T_IN and VIRTIO_BLK_T_OUT.
const IN: u32 = 0;
const OUT: u32 = 1;

/// Bios before the count (I3).
const WARM: u64 = 8192;
/// Bios of one cycle of a search that finds nothing: 4096 with it, 65536 without.
const CYCLE: u64 = 69_632;
/// Enough where nothing goes in cycles.
const SOME: u64 = 16_384;
/// From one batch to the next, in nanoseconds.
const STEP: u64 = 20_000;

/// What the guest does.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    scheduler: Kind,
    /// VIRTIO_BLK_T_*.
    kind: u32,
    /// Bios that arrive together.
    batch: u16,
    /// Each where the one before ends; else anywhere, and no two touch.
    sequential: bool,
    /// Through indirect tables, as Linux's driver likes it; else in the ring's own table.
    layout: Layout,
    /// Bios that are counted.
    counted: u64,
}

const READS: Case = Case {
    name: "none-randread-32",
    scheduler: Kind::None,
    kind: IN,
    batch: 32,
    sequential: false,
    layout: Layout::Direct,
    counted: CYCLE,
};

const CASES: [Case; 8] = [
    READS,
    Case { name: "none-randread-1", batch: 1, counted: SOME, ..READS },
    Case { name: "none-randwrite-32", kind: OUT, ..READS },
    Case { name: "none-randread-32-indirect", layout: Layout::Indirect, ..READS },
    Case { name: "none-seqread-32", sequential: true, counted: SOME, ..READS },
    Case { name: "mq-deadline-randread-32", scheduler: Kind::MqDeadline, ..READS },
    Case { name: "kyber-randread-32", scheduler: Kind::Kyber, ..READS },
    Case { name: "bfq-randread-32", scheduler: Kind::Bfq, ..READS },
];

/// A queue thread with one disk, and the guest of its only queue.
struct World {
    case: Case,
    driver: Driver,
    memory: Arc<TestMemory>,
    kick: EventFd,
    /// Without it the loop would end.
    _mailbox: Mailbox,
    hand: ByHand,
    now: u64,
    /// By place in the batch: the head, and where the sector stands.
    heads: Vec<(u16, u64)>,
    rng: Rng,
    next: u64,
}

fn disk(image: &Arc<dyn Image>, mailbox: &Mailbox, pool: Arc<PoolTuning>) -> Disk {
    let (geometry, traits) = (image.geometry(), image.traits());
    let policy = FlushPolicy { exclusive: traits.exclusive, noop: traits.flush_is_noop };
    Disk {
        id: DiskId(0),
        name: "null".to_owned(),
        config: ConfigSpace::new(&geometry, &traits, MAX_QUEUES),
        image: Arc::clone(image),
        serial: [0; 20],
        writeback: AtomicBool::new(true),
        flush: Arc::new(FlushGate::new(1, policy)),
        bells: vec![mailbox.bell()],
        unmap: true,
        on_error: Default::default(),
        limits: Arc::default(),
        stats: DiskStats::new(1),
        tuning: DiskTuning::default(),
        pool,
    }
}

impl World {
    fn new(case: Case) -> World {
        let memory = Arc::new(TestMemory::new(4 << 20));
        let driver = Driver::new(&memory, RING, true, true);
        let (mailbox, inbox) = mailbox().expect("an eventfd");
        let pool = Arc::new(PoolTuning::new(1));
        pool.set_hw_depth(case.scheduler.hw_depth(false));
        let mut hand = ByHand::new(inbox, Arc::clone(pool.credits())).expect("io_uring works here");
        let mut made = case.scheduler.build(&[], 1, false).expect("no tunable is given");
        drop(hand.set_scheduler(made.pop().expect("one"), Nanos(1)));
        let size = format!("null:{}", BLOCKS * u64::from(BYTES));
        let image = image::open(&size, &OpenOptions::default()).expect("a size");
        let disk = disk(&image, &mailbox, pool);
        let bell = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let kick = bell();
        let start = QueueStart {
            queue: QueueId(0),
            ring: driver.setup(),
            memory: Arc::clone(memory.memory()),
            kick: Some(kick.try_clone().expect("a descriptor")),
            call: Some(bell()),
            err: None,
            features: disk.config.features(),
            disk: Arc::new(disk),
            inflight: None,
        };
        hand.start(start).expect("the ring is sound");
        let (rng, heads) = (Rng::new(0x1257), Vec::new());
        let (_mailbox, now, next) = (mailbox, 1, 0);
        let mut world = World { case, driver, memory, kick, _mailbox, hand, now, heads, rng, next };
        world.heads = (0..case.batch).map(|i| world.chain(i)).collect();
        world
    }

    /// A chain that is used again and again, as a driver's pool of requests is.
    fn chain(&self, place: u16) -> (u16, u64) {
        let header = self.memory.alloc(16, 16);
        self.memory.write(header, &self.case.kind.to_le_bytes());
        self.memory.write(header + 4, &[0; 4]);
        let data = self.memory.alloc(BYTES.into(), BYTES.into());
        let bufs = [
            Buf::readable(header, 16),
            Buf { gpa: data, len: BYTES, writable: self.case.kind == IN },
            Buf::writable(self.memory.alloc(1, 1), 1),
        ];
        let describe = |i: usize, first: u16| {
            let flags = u16::from(i < 2) | u16::from(bufs[i].writable) << 1;
            let next = first + u16::try_from(i).expect("three") + 1;
            Descriptor { addr: bufs[i].gpa, len: bufs[i].len, flags, next }
        };
        let head = 3 * place;
        if self.case.layout == Layout::Direct {
            for i in 0..3 {
                let at = head + u16::try_from(i).expect("three");
                self.driver.write_descriptor(at, describe(i, head));
            }
        } else {
            let table = self.memory.alloc(48, 16);
            for i in 0..3 {
                let at = table + (i * Descriptor::SIZE) as u64;
                self.driver.write_descriptor_at(at, describe(i, 0));
            }
            let whole = Descriptor { addr: table, len: 48, flags: INDIRECT, next: 0 };
            self.driver.write_descriptor(head, whole);
        }
        (head, header + 8)
    }

    /// The next sector.
    fn sector(&mut self) -> u64 {
        self.next += 1;
        let block = if self.case.sequential {
            self.next % BLOCKS
        } else {
            self.rng.below(BLOCKS / 2) * 2 // neighbours would be joined
        };
        block * SECTORS
    }

    /// Serves so many bios, in whole batches (I2).
    #[inline(always)] // so that who calls the turns has the caller's name (I4)
    fn run(&mut self, bios: u64) {
        for _ in 0..bios / u64::from(self.case.batch) {
            for place in 0..self.heads.len() {
                let (head, at) = self.heads[place];
                let sector = self.sector();
                self.memory.write(at, &sector.to_le_bytes());
                self.driver.push_avail(head);
            }
            self.driver.enable_interrupts();
            self.driver.publish();
            self.kick.write(1).expect("room in the counter");
            self.now += STEP;
            self.hand.turn(Nanos(self.now)).expect("a sound ring");
            let back = (0..).take_while(|_| self.driver.reap().is_some()).count();
            assert_eq!(back, self.heads.len(), "the whole batch is served");
        }
    }
}

/// What is counted (I4): `ci/bench-insn` knows it by name.
#[inline(never)]
fn counted(world: &mut World) {
    world.run(world.case.counted);
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own")]
fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        CASES.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    };
    let Some(case) = CASES.iter().find(|case| case.name == name) else {
        eprintln!("insn: there is no case {name}; without an argument all are named");
        return ExitCode::from(2);
    };
    let mut world = World::new(*case);
    world.run(WARM);
    counted(&mut world);
    println!("{} {}", case.counted, case.counted + WARM);
    ExitCode::SUCCESS
}

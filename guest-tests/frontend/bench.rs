//! A whole front-end: session, guest memory and rings, set up as QEMU does, every step of which a
//! test can do differently.

use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost_user_blkmq::testkit::TestMemory;
use vhost_user_blkmq::testkit::blk::{BlkDriver, Done, Framing, Request};
use vhost_user_blkmq::testkit::driver::Driver;
use vmm_sys_util::eventfd::EventFd;

use crate::common::client::{LOST, serves};
use crate::common::daemon::{Daemon, Scratch, Vitals};
use crate::common::rng::pattern;
use crate::common::session::{
    Fate, PROTOCOL_FEATURES, RegionWords, Session, mem_table, request, ring_addresses, ring_state,
};
use crate::common::{driver, foreign};

/// Bytes of guest memory.
pub(crate) const MEMORY: u64 = 16 << 20;

/// Bytes of the disk.
pub(crate) const DISK: u64 = 4 << 20;

/// Resident memory (KiB) that the daemon may grow by in one test: allocators keep some, and first
/// use touches pages. A leak of a session's memory is far more.
const SLACK: u64 = 8 << 10;

/// How long to watch that something does not happen.
pub(crate) const QUIET: Duration = Duration::from_millis(30);

/// A daemon, and the proof after each misdeed that it is unharmed.
pub(crate) struct Victim {
    pub(crate) daemon: Daemon,
    before: Vitals,
    pub(crate) scratch: Scratch,
}

impl Victim {
    /// A daemon on a new disk of [`DISK`] bytes, warmed up.
    pub(crate) fn new(options: &[&str]) -> Victim {
        let scratch = Scratch::new();
        let (daemon, _) = Daemon::on_new_image(&scratch, DISK, options);
        // Twice, so that everything that is made on first use is there.
        for _ in 0..2 {
            serves(daemon.socket());
            drop(Bench::start(daemon.socket(), Plan::default()));
        }
        let before = daemon.at_rest();
        Victim { daemon, before, scratch }
    }

    /// A front-end at this daemon.
    pub(crate) fn bench(&self, plan: Plan) -> Bench {
        Bench::start(self.daemon.socket(), plan)
    }

    /// A session that has negotiated and nothing more.
    pub(crate) fn session(&self) -> Session {
        let mut session = Session::connect(self.daemon.socket());
        session.negotiate();
        session
    }

    /// A good client is served; nothing has leaked. No front-end may be connected.
    pub(crate) fn unharmed(&mut self, after: &str) {
        assert!(self.daemon.running(), "{after}: the daemon died: {}", self.daemon.said());
        serves(self.daemon.socket());
        self.daemon.settles_at(self.before, SLACK);
    }
}

/// What a front-end wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rings to set up.
    pub(crate) queues: u32,
    /// Entries of each.
    pub(crate) size: u16,
    /// Virtio features to accept, as far as they are offered.
    pub(crate) features: u64,
    /// Position of every ring.
    pub(crate) base: u16,
}

impl Default for Plan {
    fn default() -> Plan {
        let features = driver::BLK | driver::VERSION_1 | driver::INDIRECT;
        Plan { queues: 2, size: 64, features, base: 0 }
    }
}

impl Plan {
    /// The default and EVENT_IDX.
    pub(crate) fn event_idx() -> Plan {
        let plan = Plan::default();
        Plan { features: plan.features | driver::EVENT_IDX, ..plan }
    }
}

/// One ring with its doorbells.
pub(crate) struct Queue {
    pub(crate) blk: BlkDriver,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    pub(crate) err: EventFd,
}

/// A front-end.
pub(crate) struct Bench {
    pub(crate) session: Session,
    pub(crate) memory: Arc<TestMemory>,
    pub(crate) queues: Vec<Queue>,
    plan: Plan,
}

/// The regions of a test memory as a message describes them.
pub(crate) fn words(memory: &TestMemory) -> Vec<RegionWords> {
    let regions = memory.regions().iter();
    regions
        .map(|r| RegionWords { gpa: r.gpa, size: r.size, uva: r.uva, offset: r.offset })
        .collect()
}

/// Announces memory by SET_MEM_TABLE.
pub(crate) fn share(session: &mut Session, memory: &TestMemory) -> Fate {
    let file = memory.file();
    let regions = words(memory);
    let fds: Vec<RawFd> = regions.iter().map(|_| file.as_raw_fd()).collect();
    session.tell(request::SET_MEM_TABLE, &mem_table(&regions), &fds)
}

fn eventfd() -> EventFd {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).expect("an eventfd")
}

impl Queue {
    /// A ring in `memory` that nobody knows of yet.
    pub(crate) fn new(memory: &Arc<TestMemory>, plan: Plan) -> Queue {
        let event_idx = plan.features & driver::EVENT_IDX != 0;
        let indirect = plan.features & driver::INDIRECT != 0;
        let ring = Driver::new_at(memory, plan.size, event_idx, indirect, plan.base);
        let blk = BlkDriver::new(ring);
        Queue { blk, kick: eventfd(), call: eventfd(), err: eventfd() }
    }

    /// Rings the doorbell, wanted or not.
    pub(crate) fn ring_doorbell(&self) {
        self.kick.write(1).expect("an eventfd takes a write");
    }

    /// Makes visible what was added and rings if the device wants it.
    pub(crate) fn publish(&mut self) {
        if self.blk.publish() {
            self.ring_doorbell();
        }
    }

    /// The next request that comes back; panics when none does in time. Waits by interrupt.
    pub(crate) fn wait(&mut self) -> Done {
        self.wait_for(BlkDriver::poll)
    }

    /// As [`Queue::wait`] for any way to look at the ring.
    pub(crate) fn wait_for<T>(&mut self, look: impl Fn(&mut BlkDriver) -> Option<T>) -> T {
        let end = Instant::now() + LOST;
        loop {
            if let Some(done) = look(&mut self.blk) {
                return done;
            }
            if self.blk.driver().enable_interrupts() {
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(left > Duration::ZERO, "the request did not come back");
            if foreign::readable(self.call.as_raw_fd(), left) {
                self.call.read().expect("poll said readable");
            }
        }
    }

    /// One request from beginning to end.
    pub(crate) fn ask(&mut self, request: &Request) -> Done {
        self.ask_framed(request, &Framing::plain(request))
    }

    /// One request in any framing.
    pub(crate) fn ask_framed(&mut self, request: &Request, framing: &Framing) -> Done {
        let head = self.blk.add_framed(request, framing).expect("the ring has room");
        self.publish();
        let done = self.wait();
        assert_eq!(done.head, head, "the head that was made available comes back");
        done
    }

    /// The device serves this ring: what is written is read back.
    pub(crate) fn serves(&mut self, key: u64) {
        let sector = key % 1000;
        let bytes = pattern(key | 1, 1024);
        let done = self.ask(&Request::write(sector, &bytes));
        assert_eq!((done.status, done.used_len), (0, 1), "a good write on this ring");
        let done = self.ask(&Request::read(sector, 1024));
        assert_eq!((done.status, done.used_len), (0, 1025), "a good read on this ring");
        assert!(done.data == bytes, "it reads what was written");
    }

    /// Whether the device has declared the ring broken, in time.
    pub(crate) fn broken(&self) -> bool {
        foreign::readable(self.err.as_raw_fd(), LOST)
    }

    /// Whether the device has declared it broken by now.
    pub(crate) fn broken_now(&self) -> bool {
        foreign::readable(self.err.as_raw_fd(), Duration::ZERO)
    }
}

impl Bench {
    /// Connects and sets everything up; all rings run.
    pub(crate) fn start(socket: &Path, plan: Plan) -> Bench {
        let mut bench = Bench::prepare(socket, plan);
        for index in 0..plan.queues {
            bench.start_queue(index);
        }
        bench
    }

    /// Connects, negotiates and shares memory; the rings are laid out and not announced.
    pub(crate) fn prepare(socket: &Path, plan: Plan) -> Bench {
        let mut bench = Bench::negotiated(socket, plan);
        let Bench { session, memory, .. } = &mut bench;
        assert_eq!(share(session, memory), Fate::Accepted, "the memory table");
        bench
    }

    /// Connects and negotiates; memory and rings are laid out and not announced.
    pub(crate) fn negotiated(socket: &Path, plan: Plan) -> Bench {
        let mut session = Session::connect(socket);
        session.negotiate();
        let memory = Arc::new(TestMemory::new(MEMORY));
        let queues = (0..plan.queues).map(|_| Queue::new(&memory, plan)).collect();
        let mut bench = Bench { session, memory, queues, plan };
        bench.accept_features();
        bench
    }

    /// Goes on at another back-end with the memory and the rings as they are: connects, negotiates
    /// with these protocol features besides, shares the memory. The rings are not announced.
    pub(crate) fn reconnect(&mut self, socket: &Path, more: u64) {
        self.session = Session::connect(socket);
        self.session.negotiate_with(more);
        self.accept_features();
        let Bench { session, memory, .. } = self;
        assert_eq!(share(session, memory), Fate::Accepted, "the memory table");
    }

    /// SET_FEATURES: what the plan wants and the device offers.
    pub(crate) fn accept_features(&mut self) {
        let features = self.session.features() & (self.plan.features | PROTOCOL_FEATURES);
        self.session.must(request::SET_FEATURES, &features.to_le_bytes(), &[]);
    }

    /// Ring `index` as a queue.
    pub(crate) fn queue(&mut self, index: u32) -> &mut Queue {
        &mut self.queues[usize::try_from(index).expect("32 bits")]
    }

    /// Throws ring `index` away and lays it out anew, at `base`; the device must not run it.
    pub(crate) fn renew_queue(&mut self, index: u32, base: u16) {
        let plan = Plan { base, ..self.plan };
        *self.queue(index) = Queue::new(&self.memory, plan);
    }

    /// NUM, BASE and ADDR of ring `index`.
    pub(crate) fn announce_queue(&mut self, index: u32) {
        let base = self.queue(index).blk.driver().next_used();
        let size = self.queue(index).blk.driver().ring().size();
        self.session.must(request::SET_VRING_NUM, &ring_state(index, u32::from(size)), &[]);
        self.session.must(request::SET_VRING_BASE, &ring_state(index, u32::from(base)), &[]);
        self.announce_addresses(index);
    }

    /// ADDR of ring `index`.
    pub(crate) fn announce_addresses(&mut self, index: u32) {
        let at = self.queue(index).blk.driver().addresses();
        let uva = |gpa| self.memory.uva(gpa);
        let payload = ring_addresses(index, uva(at.desc), uva(at.used), uva(at.avail));
        self.session.must(request::SET_VRING_ADDR, &payload, &[]);
    }

    /// CALL, ERR and KICK of ring `index`.
    pub(crate) fn wire_queue(&mut self, index: u32) {
        let Bench { session, queues, .. } = self;
        let queue = &queues[usize::try_from(index).expect("32 bits")];
        let ring = u64::from(index);
        for (what, fd) in [
            (request::SET_VRING_CALL, &queue.call),
            (request::SET_VRING_ERR, &queue.err),
            (request::SET_VRING_KICK, &queue.kick),
        ] {
            assert_eq!(session.ring_fd(what, ring, Some(fd)), Fate::Accepted, "request {what}");
        }
    }

    /// SET_VRING_ENABLE of ring `index`.
    pub(crate) fn enable_queue(&mut self, index: u32, on: bool) {
        let payload = ring_state(index, u32::from(on));
        self.session.must(request::SET_VRING_ENABLE, &payload, &[]);
    }

    /// Everything that makes ring `index` run.
    pub(crate) fn start_queue(&mut self, index: u32) {
        self.announce_queue(index);
        self.wire_queue(index);
        self.enable_queue(index, true);
    }

    /// GET_VRING_BASE of ring `index`: stops it; its position.
    pub(crate) fn stop_queue(&mut self, index: u32) -> u16 {
        let payload = ring_state(index, 0);
        let reply = self.session.ask(request::GET_VRING_BASE, &payload).expect("an answer");
        assert_eq!(reply.payload[0..4], index.to_le_bytes(), "the ring that was asked about");
        let position = u32::from_le_bytes(reply.payload[4..8].try_into().expect("four"));
        u16::try_from(position).expect("a split ring's position")
    }
}

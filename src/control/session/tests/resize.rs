//! The front-end learns that the disk has another size, over the back-end channel.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::FrontendReq;

use crate::control::herald::{Herald, QUIET};
use crate::control::session::Session;
use crate::control::testing::{FrontEnd, Memory, World, pair};

const UVA: u64 = 0x7f00_0000_0000;
const LONG: Duration = Duration::from_secs(20);

/// A front-end with a channel, its session, and how one tells it something.
struct Bench {
    world: World,
    fe: FrontEnd,
    channel: UnixStream,
    herald: Arc<Herald>,
    session: std::thread::JoinHandle<bool>,
    memory: Memory,
}

impl Bench {
    fn new() -> Bench {
        let world = World::new(1, 4);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let session = Session::new(Arc::clone(&world.disk), &world.pool, world.limits);
        let herald = Arc::clone(session.herald());
        let session = std::thread::spawn(move || session.serve(theirs).is_clean());
        let mut fe = FrontEnd::new(ours);
        fe.negotiate();
        let (channel, theirs) = UnixStream::pair().expect("a pair");
        channel.set_read_timeout(Some(LONG)).expect("a socket");
        fe.tell(FrontendReq::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]).expect("accepted");
        drop(theirs);
        let memory = Memory::new(0, 0x10_0000, UVA);
        fe.set_table(&[&memory]).expect("accepted");
        Bench { world, fe, channel, herald, session, memory }
    }

    /// The next notice.
    fn notice(&mut self) {
        let mut bytes = [0; 12];
        self.channel.read_exact(&mut bytes).expect("a notice");
        let words = bytes.chunks(4).map(|b| u32::from_ne_bytes(b.try_into().expect("four")));
        assert_eq!(words.collect::<Vec<_>>(), [2, 1, 0], "CONFIG_CHANGE, which wants no reply");
    }

    /// Nothing (more) was said, now that the front-end has been silent for long enough.
    fn nothing(&mut self) {
        std::thread::sleep(3 * QUIET);
        self.channel.set_nonblocking(true).expect("a socket");
        let error = self.channel.read(&mut [0]).expect_err("silence");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        self.channel.set_nonblocking(false).expect("a socket");
    }

    /// What GET_CONFIG says.
    fn capacity(&mut self) -> u64 {
        let space = self.fe.get_config(0, 60).expect("answered");
        u64::from_le_bytes(space[..8].try_into().expect("eight"))
    }

    fn resize(&self, sectors: u64) {
        self.world.disk.config.set_capacity(sectors);
        assert!(self.herald.announce(sectors), "there is a channel");
    }

    fn end(self) {
        drop(self.fe);
        assert!(self.session.join().expect("no panic"), "a clean end");
    }
}

#[test]
fn it_is_told_and_asks_and_learns() {
    let mut bench = Bench::new();
    assert_eq!(bench.capacity(), 2048);
    bench.fe.start_ring(0, 64, &bench.memory);
    bench.nothing();
    for sectors in [4096, 8192, 1024] {
        bench.resize(sectors);
        bench.notice();
        assert_eq!(bench.capacity(), sectors);
        bench.nothing();
    }
    bench.end();
}

#[test]
fn a_front_end_that_asks_from_within_the_notice_is_answered() {
    // As QEMU: it reads the channel, asks on the main connection, and only then goes on. Whoever
    // announces must not need anything from it meanwhile.
    let mut bench = Bench::new();
    assert_eq!(bench.capacity(), 2048);
    bench.fe.start_ring(0, 64, &bench.memory);
    let begin = Instant::now();
    for round in 0..100 {
        bench.resize(3000 + round);
        bench.notice();
        assert_eq!(bench.capacity(), 3000 + round);
    }
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    bench.end();
}

#[test]
fn nothing_is_said_into_a_conversation() {
    let mut bench = Bench::new();
    assert_eq!(bench.capacity(), 2048);
    bench.fe.start_ring(0, 64, &bench.memory);
    bench.fe.start_ring(1, 64, &bench.memory);
    // The front-end waits for an answer, which takes as long as a request is in flight.
    bench.world.threads[0].hold();
    bench.fe.send(FrontendReq::GET_VRING_BASE as u32, 1, &pair(0, 0), &[]);
    bench.world.threads[0].await_held(1);
    bench.resize(4096);
    bench.nothing();
    bench.world.threads[0].release();
    bench.fe.receive().expect("answered");
    bench.notice();
    assert_eq!(bench.capacity(), 4096);
    bench.nothing();
    bench.end();
}

#[test]
fn who_goes_on_speaking_is_told_when_it_is_silent() {
    let mut bench = Bench::new();
    bench.fe.start_ring(0, 64, &bench.memory);
    // It has never asked how large the disk is, as after a reconnection. Its messages come one upon
    // the other, and between them is no place for a notice.
    for _ in 0..20 {
        assert_ne!(bench.fe.ask_u64(FrontendReq::GET_FEATURES), 0);
    }
    bench.notice();
    assert_eq!(bench.capacity(), 2048);
    bench.nothing();
    bench.end();
}

#[test]
fn a_size_from_before_the_start_is_told_at_the_start() {
    let mut bench = Bench::new();
    assert_eq!(bench.capacity(), 2048);
    bench.resize(4096);
    bench.notice(); // which QEMU ignores: nothing runs
    bench.nothing();
    bench.fe.start_ring(0, 64, &bench.memory);
    bench.notice();
    assert_eq!(bench.capacity(), 4096);
    bench.fe.start_ring(1, 64, &bench.memory);
    bench.nothing();
    bench.end();
}

#[test]
fn a_front_end_that_knows_is_not_told_at_the_start() {
    let mut bench = Bench::new();
    bench.world.disk.config.set_capacity(4096);
    assert_eq!(bench.capacity(), 4096);
    bench.fe.start_ring(0, 64, &bench.memory);
    bench.nothing();
    bench.end();
}

#[test]
fn without_a_channel_there_is_nobody_to_be_told() {
    let world = World::new(1, 1);
    let (mut fe, serving) = world.connect();
    fe.negotiate();
    let memory = Memory::new(0, 0x10_0000, UVA);
    fe.set_table(&[&memory]).expect("accepted");
    fe.start_ring(0, 64, &memory);
    world.disk.config.set_capacity(99);
    let space = fe.get_config(0, 8).expect("answered");
    assert_eq!(space, 99_u64.to_le_bytes(), "but whoever asks is told");
    drop(fe);
    assert!(serving.end().is_clean());
}

#[test]
fn what_was_fetched_settles_and_the_rings_go_on() {
    let mut bench = Bench::new();
    bench.fe.start_ring(0, 64, &bench.memory);
    bench.fe.start_ring(1, 64, &bench.memory);
    bench.world.told();
    bench.world.threads[0].hold();
    let (pool, id) = (Arc::clone(&bench.world.pool), bench.world.disk.id);
    let settling = std::thread::spawn(move || pool.settle(id));
    bench.world.threads[0].await_held(2);
    assert!(!settling.is_finished(), "requests are in flight");
    bench.world.threads[0].complete(0, 3);
    bench.world.threads[0].release();
    settling.join().expect("no panic").expect("settled");
    assert_eq!(bench.world.running(), [0, 1]);
    assert_eq!(bench.fe.get_base(0), Some(3));
    bench.end();
}

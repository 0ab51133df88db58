//! The same front-end against the reference session of the rust-vmm project: where both define an
//! answer, it is the same.

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, Listener, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::control::handler::PROTOCOL;
use crate::control::testing::{ALL_FEATURES, Memory, PROTOCOL_BIT, World, eventfd};
use crate::control::{config, session};
use crate::device::Disk;

const UVA: u64 = 0x7f00_0000_0000;
const QUEUES: u16 = 4;

/// The reference's idea of our device. Without worker threads: nobody looks into the rings.
#[derive(Clone)]
struct Reference(Arc<Disk>);

type Atomic = GuestMemoryAtomic<GuestMemoryMmap<()>>;

impl VhostUserBackend for Reference {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        usize::from(QUEUES)
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        config::features(&self.0) | PROTOCOL_BIT
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        PROTOCOL
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn queues_per_thread(&self) -> Vec<u64> {
        Vec::new()
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        config::read(&self.0, offset, size).unwrap_or_default()
    }

    fn set_config(&self, offset: u32, buf: &[u8]) -> std::io::Result<()> {
        config::write(&self.0, offset, buf).map(|_| ()).map_err(std::io::Error::other)
    }

    fn update_memory(&self, _mem: Atomic) -> std::io::Result<()> {
        Ok(())
    }

    fn handle_event(
        &self,
        _event: u16,
        _set: EventSet,
        _vrings: &[VringRwLock],
        _thread: usize,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

/// A script's view of a session, and what came of each step.
struct Script {
    fe: Frontend,
    memory: Memory,
    answers: Vec<String>,
}

impl Script {
    fn new(stream: UnixStream) -> Script {
        let fe = Frontend::from_stream(stream, u64::from(QUEUES) + 4);
        Script { fe, memory: Memory::new(0, 0x10_0000, UVA), answers: Vec::new() }
    }

    /// Notes an answer. Errors are all alike: a front-end cannot tell more.
    fn note<T: std::fmt::Debug, E>(&mut self, step: &str, answer: Result<T, E>) {
        let answer = answer.map_err(|_| "refused");
        self.answers.push(format!("{step}: {answer:?}"));
    }

    fn region(memory: &Memory) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: memory.gpa,
            memory_size: memory.size,
            userspace_addr: memory.uva,
            mmap_offset: 0,
            mmap_handle: memory.file.as_raw_fd(),
        }
    }

    fn addresses(&self, queue: u16) -> VringConfigData {
        let [desc, avail, used] = self.memory.ring(queue);
        VringConfigData {
            queue_max_size: 256,
            queue_size: 128,
            flags: 0,
            desc_table_addr: desc,
            used_ring_addr: used,
            avail_ring_addr: avail,
            log_addr: None,
        }
    }

    fn negotiate(&mut self) {
        let owner = self.fe.set_owner();
        self.note("set_owner", owner);
        let features = self.fe.get_features();
        self.note("get_features", features);
        let protocol = self.fe.get_protocol_features();
        self.note("get_protocol_features", protocol.map(|p| p.bits()));
        let set = self.fe.set_protocol_features(PROTOCOL);
        self.note("set_protocol_features", set);
        self.fe.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let set = self.fe.set_features(ALL_FEATURES);
        self.note("set_features", set);
    }

    fn share(&mut self) {
        let done = self.fe.set_mem_table(&[Script::region(&self.memory)]);
        self.note("set_mem_table", done);
    }

    fn start(&mut self, queue: u16) {
        let q = usize::from(queue);
        let done = self.fe.set_vring_num(q, 128);
        self.note("set_vring_num", done);
        let done = self.fe.set_vring_base(q, 40 + queue);
        self.note("set_vring_base", done);
        let done = self.fe.set_vring_addr(q, &self.addresses(queue));
        self.note("set_vring_addr", done);
        let done = self.fe.set_vring_call(q, &eventfd());
        self.note("set_vring_call", done);
        let done = self.fe.set_vring_err(q, &eventfd());
        self.note("set_vring_err", done);
        let done = self.fe.set_vring_kick(q, &eventfd());
        self.note("set_vring_kick", done);
        let done = self.fe.set_vring_enable(q, true);
        self.note("set_vring_enable", done);
    }

    fn whole_life(&mut self) {
        self.negotiate();
        let queues = self.fe.get_queue_num();
        self.note("get_queue_num", queues);
        let slots = self.fe.get_max_mem_slots();
        self.note("get_max_mem_slots", slots);
        for (offset, size) in [(0, 60), (0, 57), (8, 4), (32, 1), (0, 256)] {
            let buf = vec![0; size as usize];
            let flags = VhostUserConfigFlags::WRITABLE;
            let config = self.fe.get_config(offset, size, flags, &buf).map(|(_, bytes)| bytes);
            self.note("get_config", config);
        }
        self.share();
        self.start(0);
        self.start(3);
        let more = Memory::new(0x1000_0000, 0x1_0000, 0x1000);
        let added = self.fe.add_mem_region(&Script::region(&more));
        self.note("add_mem_region", added);
        let removed = self.fe.remove_mem_region(&Script::region(&more));
        self.note("remove_mem_region", removed);
        for value in [0, 1] {
            let flags = VhostUserConfigFlags::WRITABLE;
            let set = self.fe.set_config(32, flags, &[value]);
            self.note("set_config", set);
        }
        let paused = self.fe.set_vring_enable(0, false);
        self.note("set_vring_enable", paused);
        let resumed = self.fe.set_vring_enable(0, true);
        self.note("set_vring_enable", resumed);
        for queue in [0, 3, 1] {
            let base = self.fe.get_vring_base(queue);
            self.note("get_vring_base", base);
        }
        self.start(0);
        let reset = self.fe.reset_device();
        self.note("reset_device", reset);
    }
}

/// The steps of a script against our session.
fn ours(script: impl FnOnce(&mut Script)) -> Vec<String> {
    let world = World::new(2, QUEUES);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let serving = world.serve(theirs);
    let mut steps = Script::new(ours);
    script(&mut steps);
    let answers = std::mem::take(&mut steps.answers);
    drop(steps);
    let end = serving.end();
    assert!(matches!(end, session::SessionEnd::Disconnected), "{end}");
    answers
}

/// The steps of a script against the reference.
fn theirs(script: impl FnOnce(&mut Script)) -> Vec<String> {
    let world = World::new(1, QUEUES);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let stream = UnixStream::connect(&path).expect("it listens");
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::<()>::new());
    let backend = Reference(Arc::clone(&world.disk));
    let mut daemon =
        VhostUserDaemon::new("reference".to_string(), backend, memory).expect("a daemon");
    daemon.start(&mut Listener::from(listener)).expect("connected");
    let mut steps = Script::new(stream);
    script(&mut steps);
    let answers = std::mem::take(&mut steps.answers);
    drop(steps);
    let _ = daemon.wait();
    answers
}

fn same(script: impl Fn(&mut Script)) -> Vec<String> {
    let answers = ours(&script);
    assert_eq!(answers, theirs(&script));
    answers
}

#[test]
fn a_whole_life_has_the_same_answers() {
    let answers = same(Script::whole_life);
    assert!(!answers.iter().any(|a| a.contains("refused")), "all of it is right: {answers:?}");
    assert!(answers.contains(&"get_vring_base: Ok(43)".to_string()));
    assert_eq!(answers.len(), 5 + 2 + 5 + 1 + 14 + 2 + 2 + 2 + 3 + 7 + 1);
}

/// A last step that both refuse (the reference ends its connection with it).
fn both_refuse(name: &str, last: impl Fn(&mut Script)) {
    let answers = same(|script| {
        script.negotiate();
        script.share();
        script.start(0);
        last(script);
    });
    let last = answers.last().expect("steps");
    assert_eq!(*last, format!("{name}: Err(\"refused\")"));
}

#[test]
fn what_both_refuse() {
    both_refuse("set_features", |s| {
        let done = s.fe.set_features(ALL_FEATURES | 1 << 59);
        s.note("set_features", done);
    });
    both_refuse("set_vring_num", |s| {
        let done = s.fe.set_vring_num(1, 0);
        s.note("set_vring_num", done);
    });
    both_refuse("set_vring_num", |s| {
        let done = s.fe.set_vring_num(1, 512);
        s.note("set_vring_num", done);
    });
    both_refuse("set_vring_num", |s| {
        let done = s.fe.set_vring_num(5, 64);
        s.note("set_vring_num", done);
    });
    both_refuse("set_vring_addr", |s| {
        let mut outside = s.addresses(0);
        outside.desc_table_addr = 0x1_0000;
        let done = s.fe.set_vring_addr(0, &outside);
        s.note("set_vring_addr", done);
    });
    both_refuse("set_vring_kick", |s| {
        let done = s.fe.set_vring_kick(5, &eventfd());
        s.note("set_vring_kick", done);
    });
    both_refuse("remove_mem_region", |s| {
        let unknown = Memory::new(0x1000_0000, 0x1000, 0x1000);
        let done = s.fe.remove_mem_region(&Script::region(&unknown));
        s.note("remove_mem_region", done);
    });
    both_refuse("add_mem_region", |s| {
        let twice = Memory::new(0x8_0000, 0x1000, 0x1000);
        let done = s.fe.add_mem_region(&Script::region(&twice));
        s.note("add_mem_region", done);
    });
    both_refuse("set_config", |s| {
        let done = s.fe.set_config(0, VhostUserConfigFlags::WRITABLE, &[1]);
        s.note("set_config", done);
    });
}

/// What the reference takes and we do not: each would be found by the guest later.
#[test]
fn what_only_we_refuse() {
    type Case = (&'static str, fn(&mut Script));
    let cases: [Case; 3] = [
        ("set_vring_num: a size that is no power of two", |s| {
            let done = s.fe.set_vring_num(1, 100);
            s.note("last", done);
        }),
        ("set_vring_addr: only the start lies in memory", |s| {
            let mut end = s.addresses(0);
            end.desc_table_addr = UVA + 0x10_0000 - 16;
            let done = s.fe.set_vring_addr(0, &end);
            s.note("last", done);
        }),
        ("add_mem_region: longer than its file", |s| {
            let mut short = Memory::new(0x1000_0000, 0x1000, 0x1000);
            short.size = 0x10_0000;
            let done = s.fe.add_mem_region(&Script::region(&short)).map(|_| ());
            s.note("last", done);
        }),
    ];
    for (name, last) in cases {
        let script = |s: &mut Script| {
            s.negotiate();
            s.share();
            s.start(0);
            last(s);
        };
        assert_eq!(ours(script).last().expect("steps"), "last: Err(\"refused\")", "{name}");
        assert_eq!(theirs(script).last().expect("steps"), "last: Ok(())", "{name}");
    }
}

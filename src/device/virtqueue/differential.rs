//! Our ring against the one of the `virtio-queue` crate: the same memory content, the same steps.
//!
//! The crate ends a broken chain in silence, so "accepted wholly" is judged from outside: the last
//! descriptor that it yields has no NEXT flag, and all buffers are guest memory. Its known
//! leniencies (order of buffers, INDIRECT with NEXT) are named where they are excused.

use std::sync::Arc;

use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor as TheirDescriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::sys::ring::{Descriptor, area_lengths};
use crate::testkit::driver::{Driver, INDIRECT, NEXT, WRITE};
use crate::testkit::{GPA, TestMemory};

const MEMORY: u64 = 0x10000;
const BUFFERS: u64 = 0x8000;

#[derive(Clone, Debug)]
struct Round {
    descriptors: Vec<(u16, Descriptor)>,
    tables: Vec<(u64, Descriptor)>,
    heads: Vec<u16>,
    ahead: u16,
    used_event: u16,
    lens: u32,
    split: u16,
}

/// Descriptors that make sound chains more often than not.
fn descriptor(table: u16) -> impl Strategy<Value = Descriptor> {
    let addr = prop_oneof![
        20 => (0..BUFFERS - 0x1000).prop_map(|at| GPA + at),
        4 => (0_u64..32).prop_map(|n| GPA + BUFFERS + n * 64),
        1 => Just(GPA + MEMORY - 8),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![10 => (1_u32..6).prop_map(|n| n * 16), 4 => 1_u32..200, 1 => Just(0)];
    let flags = prop_oneof![
        3 => Just(0),
        6 => Just(WRITE),
        10 => Just(NEXT),
        6 => Just(NEXT | WRITE),
        3 => Just(INDIRECT),
        1 => 0_u16..8,
    ];
    let next = prop_oneof![20 => 0..table, 1 => any::<u16>()];
    (addr, len, flags, next).prop_map(|(addr, len, flags, next)| {
        // Tables lie in the second half.
        let table = (flags & INDIRECT != 0 && addr < GPA + BUFFERS)
            .then(|| GPA + BUFFERS + (addr - GPA) % 2048 / 64 * 64);
        Descriptor { addr: table.unwrap_or(addr), len, flags, next }
    })
}

/// Most descriptors are chained to their neighbour: chains of some length are wanted.
fn chained(table: u16) -> impl Strategy<Value = (u16, Descriptor)> {
    (0..table, prop::bool::weighted(0.7), descriptor(table)).prop_map(
        move |(index, near, mut d)| {
            if near {
                d.next = (index + 1) % table;
            }
            (index, d)
        },
    )
}

fn round(size: u16) -> impl Strategy<Value = Round> {
    let heads = prop_oneof![60 => 0..size, 1 => any::<u16>()];
    // 32 tables of 4 to 5 entries (the last ones overlap), in the second half.
    let entry = (0_u64..32, chained(5))
        .prop_map(|(table, (index, d))| (GPA + BUFFERS + table * 64 + u64::from(index) * 16, d));
    (
        prop::collection::vec(chained(size), 0..24),
        prop::collection::vec(entry, 0..90),
        prop::collection::vec(heads, usize::from(size)),
        prop_oneof![30 => 0..=size, 1 => any::<u16>()],
        (0_u16..12, any::<u32>(), 0_u16..16),
    )
        .prop_map(|(descriptors, tables, heads, ahead, (used_event, lens, split))| Round {
            descriptors,
            tables,
            heads,
            ahead,
            used_event,
            lens,
            split,
        })
}

fn rounds() -> impl Strategy<Value = (u16, u16, bool, Vec<Round>)> {
    (0_u32..5, any::<u16>(), any::<bool>()).prop_flat_map(|(log, start, event_idx)| {
        let size = 1 << log;
        (Just(size), Just(start), Just(event_idx), prop::collection::vec(round(size), 1..6))
    })
}

/// Both implementations, each on a memory of its own with the same content.
struct Pair {
    driver: Driver,
    memory: Arc<TestMemory>,
    ours: VirtQueue,
    chain: Chain,
    theirs: Queue,
    their_memory: GuestMemoryMmap<()>,
    first: bool,
}

impl Pair {
    fn new(size: u16, start: u16, event_idx: bool) -> Pair {
        let memory =
            Arc::new(TestMemory::with_regions(&[(GPA, MEMORY), (GPA + 2 * MEMORY, 0x1000)]));
        assert_eq!(memory.alloc(MEMORY, 1), GPA, "buffers and tables; the ring comes after");
        let driver = Driver::new_at(&memory, size, event_idx, true, start);
        let at = driver.addresses();
        let state = QueueState {
            max_size: size,
            next_avail: start,
            next_used: start,
            event_idx_enabled: event_idx,
            size,
            ready: true,
            desc_table: at.desc,
            avail_ring: at.avail,
            used_ring: at.used,
        };
        let ranges: Vec<_> = memory
            .regions()
            .iter()
            .map(|r| (GuestAddress(r.gpa), usize::try_from(r.size).expect("small")))
            .collect();
        let their_memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory maps");
        let pair = Pair {
            ours: VirtQueue::new(driver.setup()).expect("a ring"),
            chain: Chain::new(),
            theirs: Queue::try_from(state).expect("a valid state"),
            their_memory,
            driver,
            memory,
            first: true,
        };
        let used = pair.memory.read(at.used, area_lengths(size).2);
        pair.their_memory.write_slice(&used, GuestAddress(at.used)).expect("inside");
        pair
    }

    /// The driver's writes, into both memories.
    fn write(&mut self, round: &Round) {
        for (index, d) in &round.descriptors {
            self.driver.write_descriptor(*index, *d);
        }
        for (gpa, d) in &round.tables {
            self.driver.write_descriptor_at(*gpa, *d);
        }
        let at = self.ours.position().next_avail;
        for (i, head) in (0..).zip(&round.heads) {
            self.driver.ring().set_avail_entry(at.wrapping_add(i), *head);
        }
        let event = self.ours.position().next_used.wrapping_add(round.used_event);
        self.driver.ring().set_used_event(event.wrapping_sub(3));
        self.driver.ring().set_avail_idx(at.wrapping_add(round.ahead));
        let a = self.driver.addresses();
        let (desc, avail, _) = area_lengths(self.ours.size());
        let all = usize::try_from(MEMORY).expect("small");
        for (gpa, len) in [(GPA, all), (a.desc, desc), (a.avail, avail)] {
            let bytes = self.memory.read(gpa, len);
            self.their_memory.write_slice(&bytes, GuestAddress(gpa)).expect("inside");
        }
    }

    fn used_areas_agree(&self) {
        let at = self.driver.addresses().used;
        let mut theirs = vec![0; area_lengths(self.ours.size()).2];
        self.their_memory.read_slice(&mut theirs, GuestAddress(at)).expect("inside");
        assert_eq!(self.memory.read(at, theirs.len()), theirs);
    }

    /// Whether the crate's silent acceptance is excused: the descriptor that refers to the table
    /// also has NEXT, or the table is not wholly guest memory.
    fn excused(&self, head: u16) -> Option<ChainError> {
        let mut index = head;
        for _ in 0..self.ours.size() {
            let d = self.driver.ring().descriptor(index);
            if d.flags & INDIRECT != 0 {
                let inside = self.memory.memory().slice(d.addr, u64::from(d.len)).is_ok();
                return match (d.flags & NEXT != 0, inside) {
                    (true, _) => Some(ChainError::IndirectWithNext),
                    (false, false) => Some(ChainError::IndirectAddress),
                    (false, true) => None,
                };
            }
            if d.flags & NEXT == 0 {
                return None;
            }
            index = d.next;
        }
        None
    }

    /// Holds our reading of one chain against theirs. Whether both accepted it.
    fn chains_agree(&mut self, head: u16, theirs: &[TheirDescriptor]) -> bool {
        let memory = self.memory.memory();
        let inside =
            |d: &TheirDescriptor| d.len() == 0 || memory.slice(d.addr().0, d.len().into()).is_ok();
        let wholly = theirs.last().is_some_and(|d| !d.has_next()) && theirs.iter().all(inside);
        let bytes =
            |writable| theirs.iter().filter(move |d| d.is_write_only() == writable && d.len() > 0);
        let ours = self.ours.chain(memory, Tag(head), &mut self.chain);
        match (ours, self.chain.defect()) {
            (Ok(()), None) => {
                assert!(wholly, "ours accepts what theirs does not: {theirs:?}");
                for (pieces, writable) in
                    [(self.chain.readable(), false), (self.chain.writable(), true)]
                {
                    let want = bytes(writable).map(|d| {
                        let b = memory.slice(d.addr().0, d.len().into()).expect("inside");
                        (b.addr(), b.len())
                    });
                    assert!(pieces.iter().map(|b| (b.addr(), b.len())).eq(want));
                }
                true
            }
            (Ok(()), Some(ChainError::ReadableAfterWritable)) => {
                let first = theirs.iter().position(|d| d.is_write_only() && d.len() > 0);
                let last = theirs.iter().rposition(|d| !d.is_write_only() && d.len() > 0);
                assert!(first < last, "{theirs:?}");
                false
            }
            (Err(ChainError::Empty), _) => {
                assert!(theirs.iter().all(|d| d.len() == 0));
                false
            }
            (Err(e), _) if wholly => {
                assert_eq!(Some(e), self.excused(head), "theirs accepts {theirs:?}");
                false
            }
            (ours, defect) => {
                assert!(!wholly, "theirs accepts {theirs:?}, ours {ours:?} {defect:?}");
                false
            }
        }
    }

    /// Fetches, compares and returns everything available. `None`: both found the ring broken.
    fn sweep(&mut self, round: &Round) -> Option<Vec<u16>> {
        let memory = &self.their_memory;
        let Ok(chains) = self.theirs.iter(memory) else {
            assert_eq!(self.ours.pop(), Err(Broken::AvailIndex));
            return None;
        };
        let fetched: Vec<_> =
            chains.map(|c| (c.head_index(), c.collect::<Vec<TheirDescriptor>>())).collect();
        let mut heads = Vec::new();
        for (head, descriptors) in fetched {
            if head >= self.ours.size() {
                assert_eq!(self.ours.pop(), Err(Broken::Head));
                return None;
            }
            assert_eq!(self.ours.pop(), Ok(Some(Tag(head))));
            self.chains_agree(head, &descriptors);
            heads.push(head);
        }
        assert_eq!(self.ours.pop(), Ok(None));
        assert_eq!(self.ours.position().next_avail, self.theirs.next_avail());
        assert_eq!(heads.len(), usize::from(round.ahead));
        Some(heads)
    }

    fn complete(&mut self, heads: &[u16], round: &Round) {
        let split = heads.len().min(usize::from(round.split));
        for batch in [&heads[..split], &heads[split..]] {
            for head in batch {
                let len = round.lens.rotate_left(u32::from(*head));
                self.ours.push_used(Tag(*head), len);
                self.theirs.add_used(&self.their_memory, *head, len).expect("a good head");
            }
            if batch.is_empty() {
                assert!(!self.ours.publish());
                continue;
            }
            let theirs = self.theirs.needs_notification(&self.their_memory).expect("inside");
            assert_eq!(self.ours.publish(), theirs || std::mem::take(&mut self.first));
            self.first = false;
            assert_eq!(self.ours.position().next_used, self.theirs.next_used());
            self.used_areas_agree();
        }
        self.ours.disable_notifications();
        self.theirs.disable_notification(&self.their_memory).expect("inside");
        self.used_areas_agree();
        let theirs = self.theirs.enable_notification(&self.their_memory).expect("inside");
        assert_eq!(self.ours.enable_notifications(), theirs);
        self.used_areas_agree();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn ours_and_theirs_agree((size, start, event_idx, rounds) in rounds()) {
        let mut pair = Pair::new(size, start, event_idx);
        for round in &rounds {
            pair.write(round);
            let Some(heads) = pair.sweep(round) else { break };
            pair.complete(&heads, round);
        }
    }
}

/// The generator must reach both sides of the comparison, or the test above proves little.
#[test]
fn the_generator_makes_sound_and_broken_chains() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut accepted, mut refused, mut broken, mut long) = (0, 0, 0, 0);
    for _ in 0..800 {
        let (size, start, event_idx, rounds) =
            rounds().new_tree(&mut runner).expect("a value").current();
        let mut pair = Pair::new(size, start, event_idx);
        for round in &rounds {
            pair.write(round);
            let Some(heads) = pair.sweep(round) else {
                broken += 1;
                break;
            };
            for head in heads {
                let fine = pair.ours.chain(pair.memory.memory(), Tag(head), &mut pair.chain);
                let sound = fine.is_ok() && pair.chain.defect().is_none();
                let pieces = pair.chain.readable().len() + pair.chain.writable().len();
                accepted += u32::from(sound);
                refused += u32::from(!sound);
                long += u32::from(sound && pieces > 2);
            }
        }
    }
    assert!(accepted > 500 && refused > 300, "{accepted} accepted, {refused} refused");
    assert!(long > 100 && broken > 10, "{long} long, {broken} broken");
}

use std::sync::Arc;

use super::*;
use crate::blkmq::sched::NoScheduler;
use crate::blkmq::{
    Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, Request,
};
use crate::block::{Bio, HctxId, LaneId, Nanos, Op, Sector, SectorRange, Tag};
use crate::sys::guest::GuestMemory;
use crate::sys::token::Token;
use crate::testkit::{GPA, TestMemory};

/// Lets the arena collect each request, and keeps what it collected.
struct Collect<'a> {
    gather: &'a mut Gather,
    slots: &'a Slots,
    skip: u32,
    vectors: Vec<(*const GuestBuf, Vec<(usize, usize)>)>,
}

impl Issue for Collect<'_> {
    fn issue(&mut self, _request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
        let again = runs(self.gather.for_completion(self.slots, bios.clone(), self.skip));
        let vector = self.gather.for_submission(self.slots, bios, self.skip);
        assert_eq!(runs(vector), again, "a completion finds what was submitted");
        self.vectors.push((vector.as_ptr(), runs(vector)));
        Ok(())
    }
}

fn runs(bufs: &[GuestBuf]) -> Vec<(usize, usize)> {
    bufs.iter().map(|b| (b.addr().addr(), b.len())).collect()
}

fn buf(memory: &GuestMemory, at: u64, len: u64) -> GuestBuf {
    memory.slice(GPA + at, len).expect("inside")
}

fn domain() -> Domain {
    let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
    let config = DomainConfig::alone(1, 0);
    let mut domain = Domain::new(config, Box::new(NoScheduler::new()));
    let lane = domain.add_lane(LaneConfig::new(gate, true));
    assert_eq!(domain.add_hctx(lane, 8), Some(HctxId(0)));
    assert_eq!(domain.merging(LaneId(0)).chunk_bytes, 0);
    domain
}

/// Three reads of 1024 bytes, two of them one request; the middle bio of the disk comes last.
fn read(domain: &mut Domain, slots: &mut Slots, memory: &GuestMemory) {
    for (tag, sector) in [(0, 2), (1, 100), (2, 0)] {
        let at = u64::from(tag) * 4096;
        let bufs = [buf(memory, at, 600), buf(memory, at + 1000, 424)];
        slots.claim(Tag(tag), buf(memory, 0x8000, 1));
        assert_eq!(slots.set_data(Tag(tag), &bufs, 1024, true), Ok(()));
        let range = SectorRange::new(Sector(sector), 2, 1000).expect("inside");
        let bio = Bio { segments: 2, ..Bio::new(Tag(tag), Op::Read(range)) };
        domain.submit(HctxId(0), bio, Nanos(1)).expect("a free head");
    }
}

#[test]
fn the_buffers_of_all_bios_come_in_sector_order() {
    let test = TestMemory::new(1 << 16);
    let memory = test.memory();
    let base = buf(memory, 0, 1).addr().addr();
    for (skip, first) in [
        (0, vec![(0x2000, 600), (0x23e8, 424), (0, 600), (1000, 424)]),
        (1, vec![(0x2001, 599), (0x23e8, 424), (0, 600), (1000, 424)]),
        (600, vec![(0x23e8, 424), (0, 600), (1000, 424)]),
        (1023, vec![(0x23e8 + 423, 1), (0, 600), (1000, 424)]),
    ] {
        let (mut domain, mut slots, mut gather) = (domain(), Slots::new(8), Gather::new());
        read(&mut domain, &mut slots, memory);
        let mut collect = Collect { gather: &mut gather, slots: &slots, skip, vectors: Vec::new() };
        assert_eq!(domain.run(Nanos(1), &mut collect), 2);
        let [(one, a), (two, b)] = &collect.vectors[..] else { panic!("two requests") };
        let first: Vec<_> = first.iter().map(|(at, len)| (base + at, *len)).collect();
        assert_eq!(*a, first);
        let own: usize = b.iter().map(|(_, len)| len).sum();
        assert_eq!(own, 1024 - skip as usize);
        let (one, two) = (one.addr(), two.addr());
        assert_eq!(two, one + a.len() * size_of::<GuestBuf>(), "pieces do not overlap (A1)");
        assert_eq!(gather.used, a.len() + b.len());
    }
}

#[test]
fn i11_the_arena_starts_anew_only_when_nothing_waits_for_submission() {
    let test = TestMemory::new(1 << 16);
    let memory = test.memory();
    let mut ring = Ring::new(8).expect("io_uring works on the test machine");
    let (mut domain, mut slots, mut gather) = (domain(), Slots::new(8), Gather::new());
    read(&mut domain, &mut slots, memory);
    assert!(gather.prepare(&mut ring));
    let mut collect = Collect { gather: &mut gather, slots: &slots, skip: 0, vectors: Vec::new() };
    domain.run(Nanos(1), &mut collect);
    assert_eq!(gather.used, 6);
    ring.cancel(Token::Mailbox).expect("room");
    assert!(gather.prepare(&mut ring) && ring.has_unsubmitted());
    assert_eq!(gather.used, 6, "something written waits: it may name these buffers");
    ring.submit().expect("the ring works");
    assert!(gather.prepare(&mut ring));
    assert_eq!(gather.used, 0);
    // Full: what waits is submitted first.
    ring.cancel(Token::Mailbox).expect("room");
    gather.used = ROOM - LARGEST;
    assert!(gather.prepare(&mut ring) && ring.has_unsubmitted(), "there is just room");
    gather.used += 1;
    assert!(gather.prepare(&mut ring));
    assert_eq!((gather.used, ring.has_unsubmitted()), (0, false));
}

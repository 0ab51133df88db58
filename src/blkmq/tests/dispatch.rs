use std::sync::Arc;

use super::*;
use crate::blkmq::sched::{Kind, NoScheduler, Scheduler};
use crate::blkmq::{DomainConfig, FlushGate, FlushPolicy, LaneConfig, Request};
use crate::block::{Bio, Op, Outcome, Sector, SectorRange, Status, Tag};

#[test]
fn i13_pressure_rises_to_nine_and_eight_clean_lists_bring_it_to_nothing() {
    let mut busy = Busyness::default();
    let rise: Vec<u8> = (0..9)
        .map(|_| {
            busy.refused();
            busy.level()
        })
        .collect();
    assert_eq!(rise, [2, 3, 4, 5, 6, 7, 8, 9, 9]);
    let fall: Vec<u8> = (0..8)
        .map(|_| {
            busy.clean();
            busy.level()
        })
        .collect();
    assert_eq!(fall, [7, 6, 5, 4, 3, 2, 1, 0]);
    busy.clean();
    assert_eq!(busy.level(), 0);
}

#[test]
fn i13_no_history_leaves_the_range() {
    // Every sequence of 12 lists, from nothing: the range is 0 to 9, and 8 clean ones end it.
    for history in 0u32..1 << 12 {
        let mut busy = Busyness::default();
        for bit in 0..12 {
            if history >> bit & 1 == 1 {
                busy.refused()
            } else {
                busy.clean()
            }
            assert!(busy.level() <= 9);
        }
        (0..8).for_each(|_| busy.clean());
        assert_eq!(busy.level(), 0);
    }
}

/// Refuses the first requests; of the others it does so many at once, and the rest takes its time.
#[derive(Default)]
struct Quick {
    refuses: usize,
    at_once: usize,
    done: bool,
    order: Vec<u16>,
    going: Vec<Request>,
}

impl Issue for Quick {
    fn issue(&mut self, request: &Request, bios: Bios<'_>) -> Result<(), Busy> {
        if self.refuses > 0 {
            self.refuses -= 1;
            return Err(Busy);
        }
        self.order.extend(bios.map(|tag| tag.0));
        self.done = self.at_once > 0 && request.op != Op::Flush;
        self.at_once -= usize::from(self.done);
        if !self.done {
            self.going.push(*request);
        }
        Ok(())
    }

    fn is_done(&mut self) -> bool {
        self.done
    }
}

const H: HctxId = HctxId(0);

fn domain(scheduler: Box<dyn Scheduler>, hw_depth: u32, dsync: bool) -> Domain {
    let gate = FlushGate::new(1, FlushPolicy { exclusive: true, noop: false });
    let mut domain = Domain::new(DomainConfig::alone(1, hw_depth), scheduler);
    let lane = domain.add_lane(LaneConfig::new(Arc::new(gate), dsync));
    assert_eq!(domain.add_hctx(lane, 64), Some(H));
    domain
}

fn bio(tag: u16, at: u64, write: bool) -> Bio {
    let range = SectorRange::new(Sector(at), 8, 1 << 20).expect("inside");
    Bio::new(Tag(tag), if write { Op::Write(range) } else { Op::Read(range) })
}

/// Sixteen bios far from each other, half of them writes.
fn send(domain: &mut Domain) {
    for tag in 0..16 {
        let bio = bio(tag, u64::from(tag) * 64, tag % 2 == 1);
        domain.submit(H, bio, Nanos(5)).expect("a free head");
    }
}

/// Takes what is finished and gives the heads back.
fn take(domain: &mut Domain) -> Vec<(u16, Status)> {
    let mut taken = Vec::new();
    domain.take_all_done(H, |tag, status| taken.push((tag.0, status)));
    domain.release_all(H, taken.iter().map(|(tag, _)| Tag(*tag)));
    taken
}

#[test]
fn what_is_done_at_once_is_answered_and_its_credit_is_back() {
    let kinds = [Kind::None, Kind::MqDeadline, Kind::Kyber, Kind::Bfq];
    for (kind, hw_depth) in kinds.into_iter().flat_map(|kind| [(kind, 0), (kind, 1)]) {
        let mut made = kind.build(&[], 1, false).expect("no tunable is given");
        let mut domain = domain(made.pop().expect("one"), hw_depth, true);
        let mut disk = Quick { at_once: usize::MAX, ..Quick::default() };
        send(&mut domain);
        while domain.wants_run(Nanos(9)) {
            domain.run(Nanos(9), &mut disk);
        }
        let stats = domain.stats(H);
        let mut taken = take(&mut domain);
        taken.sort_unstable_by_key(|(tag, _)| *tag);
        let all: Vec<_> = (0..16).map(|tag| (tag, Status::Ok)).collect();
        assert_eq!(taken, all, "{kind:?}, depth {hw_depth}");
        assert!(domain.is_idle(H) && !domain.wants_run(Nanos(9)));
        assert_eq!(domain.gauges(H).free, 64);
        for (op, of) in [("reads", stats.reads), ("writes", stats.writes)] {
            assert_eq!(
                (of.ios, of.bios, of.sectors, of.nanos),
                (8, 8, 64, 8 * 4),
                "{kind:?}: {op}"
            );
        }
        assert_eq!(stats, domain.stats(H), "counted before it was taken, and once");
        assert_eq!(stats.in_progress(), 0);
    }
}

#[test]
fn some_at_once_and_some_later_keep_their_order() {
    for at_once in 0..=16 {
        let mut domain = domain(Box::new(NoScheduler::new()), 0, true);
        let mut disk = Quick { at_once, ..Quick::default() };
        send(&mut domain);
        assert_eq!(domain.run(Nanos(6), &mut disk), 16);
        assert_eq!(disk.order, (0..16).collect::<Vec<_>>());
        let gauges = domain.gauges(H);
        assert_eq!(
            (usize::from(gauges.done), usize::from(gauges.in_flight)),
            (at_once, 16 - at_once)
        );
        for r in std::mem::take(&mut disk.going) {
            let ended = domain.complete(r.hctx, r.tag, r.generation, Outcome::Done, Nanos(7));
            assert_eq!(ended, Ok(()));
        }
        let taken: Vec<u16> = take(&mut domain).into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(taken, (0..16).collect::<Vec<_>>());
    }
}

#[test]
fn leftovers_that_are_done_at_once_leave_their_list_whole() {
    for refuses in 1..4 {
        let mut domain = domain(Box::new(NoScheduler::new()), 0, true);
        let mut disk = Quick { refuses, at_once: usize::MAX, ..Quick::default() };
        send(&mut domain);
        let mut runs = 0;
        while domain.wants_run(Nanos(6)) {
            domain.run(Nanos(6), &mut disk);
            runs += 1;
            assert!(runs < 10, "it comes to an end");
        }
        assert_eq!(disk.order, (0..16).collect::<Vec<_>>(), "refused {refuses} times");
        assert_eq!(domain.gauges(H).done, 16);
        assert_eq!(take(&mut domain).len(), 16);
        assert!(domain.is_idle(H));
    }
}

#[test]
fn bios_that_travel_together_are_all_answered_at_once() {
    let mut domain = domain(Box::new(NoScheduler::new()), 0, true);
    let mut disk = Quick { at_once: 1, ..Quick::default() };
    for tag in 0..4 {
        domain.submit(H, bio(tag, u64::from(tag) * 8, true), Nanos(1)).expect("a free head");
    }
    assert_eq!(domain.run(Nanos(2), &mut disk), 1);
    assert_eq!(disk.order, [0, 1, 2, 3]);
    assert_eq!(take(&mut domain).len(), 4);
    let writes = domain.stats(H).writes;
    assert_eq!((writes.ios, writes.merges, writes.bios, writes.sectors), (1, 3, 4, 32));
}

#[test]
fn a_flush_that_has_to_follow_follows_what_was_done_at_once() {
    let mut domain = domain(Box::new(NoScheduler::new()), 0, false);
    let mut disk = Quick { at_once: 1, ..Quick::default() };
    domain.submit(H, Bio { fua: true, ..bio(3, 0, true) }, Nanos(1)).expect("a free head");
    assert_eq!(domain.run(Nanos(2), &mut disk), 1);
    assert!(take(&mut domain).is_empty(), "it is not durable yet");
    assert!(domain.wants_run(Nanos(2)));
    assert_eq!(domain.run(Nanos(2), &mut disk), 1);
    let sync = disk.going.pop().expect("the sync");
    assert_eq!((sync.op, sync.tag), (Op::Flush, Tag(3)));
    let ended = domain.complete(H, sync.tag, sync.generation, Outcome::Done, Nanos(3));
    assert_eq!(ended, Ok(()));
    assert_eq!(take(&mut domain), [(3, Status::Ok)]);
}

//! Disks that wait for their storage: nothing lost, nobody else held up, no freeze that hangs.

use std::sync::Arc;

use super::ErrorPolicy;
use crate::blkmq::sched::{Kind, NoScheduler, Scheduler};
use crate::blkmq::{
    Bios, Busy, Domain, DomainConfig, FlushGate, FlushPolicy, Issue, LaneConfig, Request,
};
use crate::block::{
    Bio, Errno, HctxId, Nanos, OnError, Op, Outcome, Sector, SectorRange, Status, Tag,
};
use crate::testkit::core_disk::Rng;

const SECOND: u64 = 1_000_000_000;
const FULL: Outcome = Outcome::Failed(Errno(libc::ENOSPC));

/// Takes everything, and remembers it.
#[derive(Default)]
struct Taken(Vec<Request>);

impl Issue for Taken {
    fn issue(&mut self, request: &Request, _bios: Bios<'_>) -> Result<(), Busy> {
        self.0.push(*request);
        Ok(())
    }
}

/// A domain with a disk of two hctxs for each policy.
fn domain(policies: &[ErrorPolicy], depth: u32, scheduler: Box<dyn Scheduler>) -> Domain {
    let mut domain = Domain::new(DomainConfig::alone(16, depth), scheduler);
    for on_error in policies.iter().copied() {
        let gate = Arc::new(FlushGate::new(1, FlushPolicy { exclusive: true, noop: false }));
        let lane = domain.add_lane(LaneConfig { on_error, ..LaneConfig::new(gate, true) });
        (0..2).for_each(|_| assert!(domain.add_hctx(lane, 64).is_some()));
    }
    domain
}

const ENOSPC: ErrorPolicy = ErrorPolicy { read: OnError::Report, write: OnError::Enospc };
const STOP: ErrorPolicy = ErrorPolicy { read: OnError::Stop, write: OnError::Stop };
const REPORT: ErrorPolicy = ErrorPolicy { read: OnError::Report, write: OnError::Report };

fn range(sector: u64) -> SectorRange {
    SectorRange::new(Sector(sector), 8, 1 << 20).expect("inside")
}

fn write(tag: u16) -> Bio {
    Bio::new(Tag(tag), Op::Write(range(u64::from(tag) * 64)))
}

fn read(tag: u16) -> Bio {
    Bio::new(Tag(tag), Op::Read(range(u64::from(tag) * 64)))
}

/// Ends everything in flight as `outcome` says.
fn end(
    domain: &mut Domain,
    taken: &mut Taken,
    now: Nanos,
    outcome: impl Fn(&Request) -> Outcome,
) -> usize {
    let count = taken.0.len();
    for r in taken.0.drain(..) {
        domain.complete(r.hctx, r.tag, r.generation, outcome(&r), now).expect("live");
    }
    count
}

/// What was answered on a hctx; the heads are the guest's again.
fn answers(domain: &mut Domain, hctx: u16) -> Vec<(Tag, Status)> {
    let mut done = Vec::new();
    domain.take_all_done(HctxId(hctx), |tag, status| done.push((tag, status)));
    domain.release_all(HctxId(hctx), done.iter().map(|(tag, _)| *tag));
    done
}

#[test]
fn a_full_disk_waits_and_goes_on_when_there_is_space() {
    let mut domain = domain(&[ENOSPC], 0, Box::new(NoScheduler::new()));
    let mut taken = Taken::default();
    let mut now = Nanos(5);
    for tag in 0..10 {
        domain.submit(HctxId(tag % 2), write(tag), now).expect("free");
    }
    domain.run(now, &mut taken);
    for round in 0..5 {
        assert_eq!(end(&mut domain, &mut taken, now, |_| FULL), 10, "all are tried, round {round}");
        assert!(!domain.has_done(HctxId(0)) && !domain.has_done(HctxId(1)), "nobody is told");
        assert!(!domain.wants_run(now), "it waits");
        assert_eq!(domain.next_wake(), Some(Nanos(now.0 + SECOND)), "X4");
        // New ones wait behind, and no call of run() gets around it.
        let late = Nanos(now.0 + SECOND - 1);
        if round == 0 {
            domain.submit(HctxId(0), read(20), late).expect("free");
        }
        domain.run(late, &mut taken);
        assert!(taken.0.is_empty() && !domain.wants_run(late), "X2");
        now = Nanos(now.0 + SECOND);
        assert!(domain.wants_run(now));
        domain.run(now, &mut taken);
        taken.0.retain(|r| r.op.is_write());
        domain.check_books();
    }
    assert_eq!(end(&mut domain, &mut taken, now, |_| Outcome::Done), 10);
    domain.run(now, &mut taken);
    let told: Vec<_> = (0..2).flat_map(|h| answers(&mut domain, h)).collect();
    assert_eq!(told.len(), 10);
    assert!(told.iter().all(|(_, status)| *status == Status::Ok));
    assert_eq!(domain.stats(HctxId(0)).stalls, 25, "five requests, five times");
    assert_eq!(domain.stats(HctxId(0)).failed, 0);
    assert_eq!(domain.next_wake(), None, "and all is as before");
}

#[test]
fn what_the_disk_does_not_wait_for_is_told_at_once() {
    for (policy, op, errno, waits) in [
        (REPORT, write(0), libc::ENOSPC, false),
        (ENOSPC, write(0), libc::EIO, false),
        (ENOSPC, write(0), libc::EDQUOT, true),
        (ENOSPC, read(0), libc::ENOSPC, false),
        (ENOSPC, Bio::new(Tag(0), Op::Discard(range(0))), libc::ENOSPC, true),
        (STOP, read(0), libc::EIO, true),
        (STOP, write(0), libc::EIO, true),
    ] {
        let mut domain = domain(&[policy], 0, Box::new(NoScheduler::new()));
        let mut taken = Taken::default();
        domain.submit(HctxId(0), op, Nanos(1)).expect("free");
        domain.run(Nanos(1), &mut taken);
        end(&mut domain, &mut taken, Nanos(2), |_| Outcome::Failed(Errno(errno)));
        let told = answers(&mut domain, 0);
        let want = if waits { vec![] } else { vec![(Tag(0), Status::IoErr)] };
        assert_eq!(told, want, "{policy:?} {op:?} {errno}");
    }
}

#[test]
fn a_sync_that_failed_is_never_tried_again() {
    let mut domain = domain(&[STOP], 0, Box::new(NoScheduler::new()));
    let mut taken = Taken::default();
    domain.submit(HctxId(0), write(1), Nanos(1)).expect("free");
    domain.run(Nanos(1), &mut taken);
    end(&mut domain, &mut taken, Nanos(2), |_| Outcome::Done);
    domain.submit(HctxId(0), Bio::new(Tag(2), Op::Flush), Nanos(3)).expect("free");
    domain.run(Nanos(3), &mut taken);
    assert_eq!(end(&mut domain, &mut taken, Nanos(4), |_| FULL), 1);
    assert_eq!(answers(&mut domain, 0), [(Tag(1), Status::Ok), (Tag(2), Status::IoErr)]);
}

#[test]
fn what_was_written_of_a_request_is_not_written_again() {
    let mut domain = domain(&[STOP], 0, Box::new(NoScheduler::new()));
    let mut taken = Taken::default();
    domain.submit(HctxId(0), write(1), Nanos(1)).expect("free");
    domain.run(Nanos(1), &mut taken);
    end(&mut domain, &mut taken, Nanos(2), |_| Outcome::Short(1024));
    domain.run(Nanos(2), &mut taken);
    end(&mut domain, &mut taken, Nanos(2), |_| FULL);
    domain.run(Nanos(3 * SECOND), &mut taken);
    assert_eq!(taken.0[0].done, 1024);
    end(&mut domain, &mut taken, Nanos(3 * SECOND), |_| Outcome::Done);
    assert_eq!(answers(&mut domain, 0), [(Tag(1), Status::Ok)]);
}

#[test]
fn neighbours_that_travelled_together_wait_together() {
    let mut domain = domain(&[ENOSPC], 0, Box::new(NoScheduler::new()));
    let mut taken = Taken::default();
    for tag in 0..8 {
        let bio = Bio::new(Tag(tag), Op::Write(range(u64::from(tag) * 8)));
        domain.submit(HctxId(0), bio, Nanos(1)).expect("free");
    }
    domain.run(Nanos(1), &mut taken);
    assert_eq!(end(&mut domain, &mut taken, Nanos(2), |_| FULL), 1, "they merged");
    domain.run(Nanos(2 + SECOND), &mut taken);
    assert_eq!(taken.0.len(), 1, "and are still one");
    end(&mut domain, &mut taken, Nanos(2 + SECOND), |_| Outcome::Done);
    assert_eq!(answers(&mut domain, 0).len(), 8);
    assert_eq!(domain.stats(HctxId(0)).splits, 0);
}

#[test]
fn i27_no_freeze_waits_for_storage() {
    let mut domain = domain(&[STOP], 0, Box::new(NoScheduler::new()));
    let mut taken = Taken::default();
    for h in 0..2 {
        (0..8).for_each(|t| domain.submit(HctxId(h), write(t), Nanos(1)).expect("free"));
    }
    domain.run(Nanos(1), &mut taken);
    end(&mut domain, &mut taken, Nanos(2), |_| FULL);
    domain.release_parked(HctxId(0), Nanos(3));
    assert!(domain.wants_run(Nanos(3)), "tried at once");
    domain.run(Nanos(3), &mut taken);
    end(&mut domain, &mut taken, Nanos(4), |_| FULL);
    let told = answers(&mut domain, 0);
    assert_eq!(told.len(), 8, "X3");
    assert!(told.iter().all(|(_, status)| *status == Status::IoErr));
    assert!(domain.is_idle(HctxId(0)));
    assert_eq!(domain.gauges(HctxId(1)).leftover, 8, "the other one waits on");
    assert!(!domain.wants_run(Nanos(5)));
}

/// Other disks of the domain notice nothing: they get the same number of requests done in the same
/// time as without the neighbour, under every scheduler and with a bounded depth.
#[test]
fn a_disk_that_waits_holds_up_no_other() {
    for kind in Kind::ALL {
        let scheduler = || kind.build(&[], 1, false).expect("defaults").remove(0);
        let run =
            |first: Outcome| {
                let mut domain = domain(&[STOP, STOP], 8, scheduler());
                let mut taken = Taken::default();
                let (mut now, mut done) = (Nanos(1), 0);
                let mut next = [0_u16; 4];
                while now.0 < SECOND / 10 {
                    for h in 0..4 {
                        while domain.claimed(HctxId(h)) < 32 {
                            let tag = (0..64).map(|i| (next[usize::from(h)] + i) % 64);
                            let tag = tag.into_iter().find(|t| domain.is_free(HctxId(h), Tag(*t)));
                            let tag = tag.expect("half of them are free");
                            next[usize::from(h)] = (tag + 1) % 64;
                            domain.submit(HctxId(h), write(tag), now).expect("free");
                        }
                    }
                    domain.run(now, &mut taken);
                    // The image does eight at a time, whatever they are.
                    now = Nanos(now.0 + 100_000);
                    end(&mut domain, &mut taken, now, |r| {
                        if r.hctx.0 < 2 { first } else { Outcome::Done }
                    });
                    done += (2..4).map(|h| answers(&mut domain, h).len()).sum::<usize>();
                    (0..2).for_each(|h| drop(answers(&mut domain, h)));
                }
                done
            };
        let (alone, beside) = (run(Outcome::Done), run(FULL));
        assert!(beside >= alone, "{kind:?}: {beside} beside a disk that waits, {alone} otherwise");
        assert!(alone > 1000, "{kind:?}: it ran");
    }
}

/// Random storage trouble that ends: every bio is answered once and none with an error; the
/// scheduler changes meanwhile.
#[test]
fn i01_storage_that_recovers_loses_nothing() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut domain = domain(&[STOP, ENOSPC], 1 + u32::from(seed % 7 == 0), {
            Kind::ALL[rng.index(Kind::ALL.len())].build(&[], 1, false).expect("defaults").remove(0)
        });
        let mut taken = Taken::default();
        let (mut now, mut told, mut sent) = (Nanos(1), 0, 0);
        for step in 0.. {
            assert!(step < 20_000, "seed {seed}: it comes to an end");
            for h in 0..4 {
                let tag = u16::try_from(rng.below(64)).expect("small");
                if sent < 400 && rng.chance(400) && domain.is_free(HctxId(h), Tag(tag)) {
                    domain.submit(HctxId(h), write(tag), now).expect("free");
                    sent += 1;
                }
            }
            if rng.chance(20) {
                let kind = Kind::ALL[rng.index(Kind::ALL.len())];
                let next = kind.build(&[], 1, false).expect("defaults").remove(0);
                drop(domain.set_scheduler(next, now));
            }
            domain.run(now, &mut taken);
            let bad = sent < 400 || rng.chance(100);
            let outcome = match rng.below(4) {
                0 if bad => FULL,
                1 if bad => Outcome::Short(512),
                _ => Outcome::Done,
            };
            let ended = end(&mut domain, &mut taken, now, |_| outcome);
            for h in 0..4 {
                let answered = answers(&mut domain, h);
                assert!(answered.iter().all(|(_, s)| *s == Status::Ok), "seed {seed}");
                told += answered.len();
            }
            domain.check_books();
            if sent == 400 && told == 400 {
                break;
            }
            now = Nanos(now.0 + 1000);
            if ended == 0 && !domain.wants_run(now) {
                now = domain.next_wake().map_or(now, |wake| wake.max(now));
            }
        }
        assert!((0..4).all(|h| domain.is_idle(HctxId(h))), "seed {seed}");
    }
}

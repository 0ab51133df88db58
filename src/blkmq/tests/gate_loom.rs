//! Every interleaving of two or three threads at the gate (run with `--cfg loom`).

use super::*;
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::sync::{Arc, Notify};
use loom::thread;

fn gate(threads: u16, exclusive: bool) -> Arc<FlushGate> {
    Arc::new(FlushGate::new(threads, FlushPolicy { exclusive, noop: false }))
}

/// One flush from arrival to its answer; `disk` is what completed writes left, `safe` what the last
/// sync saw. `bells` are the mailboxes.
fn flush(gate: &FlushGate, t: u16, bells: &[Notify], disk: &AtomicU64, safe: &AtomicU64) {
    let Arrival::Wait(need) = gate.arrive(t) else { return };
    while !gate.covers(need) {
        if !gate.take(t) {
            // Sleep until the bell. A lost wake-up is a deadlock, which loom reports.
            bells[usize::from(t)].wait();
            continue;
        }
        let start = gate.start();
        safe.fetch_max(disk.load(Ordering::Acquire), Ordering::AcqRel);
        for w in gate.finish(start, Ok(())) {
            bells[usize::from(w)].notify();
        }
    }
}

#[test]
fn loom_no_wake_up_is_lost() {
    loom::model(|| {
        let gate = gate(2, true);
        let bells = Arc::new([Notify::new(), Notify::new()]);
        let disk = Arc::new(AtomicU64::new(0));
        let safe = Arc::new(AtomicU64::new(0));
        let other = {
            let (gate, bells) = (Arc::clone(&gate), Arc::clone(&bells));
            let (disk, safe) = (Arc::clone(&disk), Arc::clone(&safe));
            thread::spawn(move || flush(&gate, 1, &bells[..], &disk, &safe))
        };
        flush(&gate, 0, &bells[..], &disk, &safe);
        other.join().expect("comes through");
    });
}

/// A write completes on thread 0 and is published; thread 1 sees that and flushes, while thread 2
/// flushes too. When thread 1 is answered, a sync has seen the write.
fn coverage(exclusive: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let gate = gate(3, exclusive);
        let bells: Arc<[Notify; 3]> = Arc::new(std::array::from_fn(|_| Notify::new()));
        let disk = Arc::new(AtomicU64::new(0));
        let safe = Arc::new(AtomicU64::new(0));
        let published = Arc::new(AtomicBool::new(false));
        let writer = {
            let (gate, disk, published) =
                (Arc::clone(&gate), Arc::clone(&disk), Arc::clone(&published));
            thread::spawn(move || {
                disk.store(1, Ordering::Release);
                gate.wrote(0);
                published.store(true, Ordering::Release);
            })
        };
        let other = {
            let (gate, bells) = (Arc::clone(&gate), Arc::clone(&bells));
            let (disk, safe) = (Arc::clone(&disk), Arc::clone(&safe));
            thread::spawn(move || flush(&gate, 2, &bells[..], &disk, &safe))
        };
        let seen = published.load(Ordering::Acquire);
        flush(&gate, 1, &bells[..], &disk, &safe);
        if seen {
            assert_eq!(safe.load(Ordering::Acquire), 1, "I23: the write was not covered");
        }
        writer.join().expect("comes through");
        other.join().expect("comes through");
    });
}

#[test]
fn loom_a_flush_covers_what_it_saw() {
    coverage(true);
}

#[test]
fn loom_a_flush_of_a_shared_image_covers_what_it_saw() {
    coverage(false);
}

#[test]
fn loom_a_failure_reaches_a_thread_that_waits() {
    loom::model(|| {
        let gate = gate(2, true);
        let bell = Arc::new(Notify::new());
        assert!(gate.take(0));
        let start = gate.start();
        let waiter = {
            let (gate, bell) = (Arc::clone(&gate), Arc::clone(&bell));
            thread::spawn(move || match gate.arrive(1) {
                Arrival::Wait(_) if !gate.take(1) => {
                    bell.wait();
                    assert_eq!(gate.failed(), Some(Errno(5)), "I25");
                }
                Arrival::Wait(_) => assert_eq!(gate.failed(), Some(Errno(5)), "I25"),
                verdict => assert_eq!(verdict, Arrival::Failed),
            })
        };
        for w in gate.finish(start, Err(Errno(5))) {
            assert_eq!(w, 1);
            bell.notify();
        }
        waiter.join().expect("comes through");
    });
}

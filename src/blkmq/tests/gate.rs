use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

fn gate(threads: u16) -> FlushGate {
    FlushGate::new(threads, FlushPolicy { exclusive: true, noop: false })
}

#[test]
fn wakes_name_each_thread_once_in_order() {
    let mut wakes = Wakes::default();
    assert!(wakes.is_empty());
    wakes.add(Wakes([1 << 63 | 1, 0, 2, 1 << 63]));
    wakes.add(Wakes([1, 0, 0, 0]));
    wakes.add_word(1, 1);
    wakes.add_word(1, 0);
    assert!(!wakes.is_empty());
    assert_eq!(wakes.collect::<Vec<u16>>(), [0, 63, 64, 129, 255]);
}

#[test]
fn a_sync_that_began_too_early_does_not_cover() {
    let gate = gate(2);
    assert!(gate.take(0));
    let start = gate.start();
    gate.wrote(1); // completes after the sync began
    let Arrival::Wait(need) = gate.arrive(1) else { panic!("a sync is needed") };
    gate.finish(start, Ok(()));
    assert!(!gate.covers(need), "the classic mistake");
    assert!(gate.take(1));
    let start = gate.start();
    gate.finish(start, Ok(()));
    assert!(gate.covers(need));
    assert_eq!(gate.arrive(0), Arrival::Covered);
}

#[test]
fn a_shared_image_never_elides() {
    let gate = FlushGate::new(1, FlushPolicy { exclusive: false, noop: false });
    for _ in 0..3 {
        let Arrival::Wait(need) = gate.arrive(0) else { panic!("a sync is needed") };
        assert!(gate.take(0));
        let start = gate.start();
        let Arrival::Wait(late) = gate.arrive(0) else { panic!("a sync is needed") };
        gate.finish(start, Ok(()));
        assert!(gate.covers(need));
        assert!(!gate.covers(late), "it arrived after the sync began");
    }
}

#[test]
fn whoever_is_turned_away_is_named_when_the_gate_opens() {
    let gate = gate(200);
    assert!(gate.take(3));
    for t in [199, 64, 0] {
        assert!(!gate.take(t));
    }
    assert_eq!(gate.release().collect::<Vec<u16>>(), [0, 64, 199]);
    assert!(gate.take(64), "open");
    assert!(gate.release().is_empty(), "nobody was turned away since");
}

#[test]
fn a_failure_without_a_number_is_still_a_failure() {
    let gate = gate(1);
    gate.latch(Errno(0));
    assert_eq!(gate.failed(), Some(Errno(libc::EIO)));
    assert_eq!(gate.arrive(0), Arrival::Failed);
}

#[test]
#[should_panic(expected = "a gate serves at most 256 threads")]
fn too_many_threads_are_refused() {
    let _ = gate(257);
}

/// Real threads hammer one gate: the sync that answers a flush began after it arrived, only one
/// runs at a time, and nobody is left waiting.
#[test]
fn threads_that_share_a_gate_all_come_through() {
    const THREADS: u16 = 4;
    let gate = Arc::new(gate(THREADS));
    let bells: Arc<Vec<std::sync::Mutex<Option<std::thread::Thread>>>> =
        Arc::new((0..THREADS).map(|_| std::sync::Mutex::new(None)).collect());
    let syncing = Arc::new(AtomicUsize::new(0));
    let clock = Arc::new(AtomicUsize::new(1));
    let started: Arc<AtomicUsize> = Arc::new(AtomicUsize::new(0));
    let work = |t: u16| {
        let (gate, bells) = (Arc::clone(&gate), Arc::clone(&bells));
        let (syncing, clock) = (Arc::clone(&syncing), Arc::clone(&clock));
        let started = Arc::clone(&started);
        std::thread::spawn(move || {
            *bells[usize::from(t)].lock().expect("no panic") = Some(std::thread::current());
            for _ in 0..2000 {
                gate.wrote(t);
                let arrived = clock.fetch_add(1, Ordering::SeqCst);
                let Arrival::Wait(need) = gate.arrive(t) else { continue };
                while !gate.covers(need) {
                    if !gate.take(t) {
                        // A token may have been left by an earlier wake; then this goes round.
                        std::thread::park();
                        continue;
                    }
                    assert_eq!(syncing.fetch_add(1, Ordering::SeqCst), 0, "I24");
                    let start = gate.start();
                    started.store(clock.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                    assert_eq!(syncing.fetch_sub(1, Ordering::SeqCst), 1);
                    for w in gate.finish(start, Ok(())) {
                        let bell = bells[usize::from(w)].lock().expect("no panic");
                        bell.iter().for_each(std::thread::Thread::unpark);
                    }
                }
                // The newest sync to have started is the one that covers, or a later one.
                assert!(started.load(Ordering::SeqCst) > arrived, "I23");
            }
        })
    };
    let threads: Vec<_> = (0..THREADS).map(work).collect();
    threads.into_iter().for_each(|t| t.join().expect("comes through"));
}

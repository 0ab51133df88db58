//! Device and driver as two threads over the same memory: no notification is lost (I12, V4, V5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::*;
use crate::block::Status;
use crate::device::slots::Slots;
use crate::testkit::driver::{Buf, Driver, Layout};
use crate::testkit::{GPA, TestMemory};

fn ends(size: u16, event_idx: bool, start: u16) -> (Driver, VirtQueue) {
    let memory = Arc::new(TestMemory::new(1 << 20));
    let driver = Driver::new_at(&memory, size, event_idx, false, start);
    let queue = VirtQueue::new(driver.setup()).expect("the driver's ring is a ring");
    (driver, queue)
}

/// A doorbell that remembers one ring, as an eventfd does.
struct Bell(SyncSender<()>);

impl Bell {
    fn new() -> (Bell, Receiver<()>) {
        let (sender, receiver) = sync_channel(1);
        (Bell(sender), receiver)
    }

    fn ring(&self) {
        // Full: the other side is going to wake anyway.
        let _ = self.0.try_send(());
    }
}

fn wait(bell: &Receiver<()>, who: &str) {
    let patience = Duration::from_secs(20);
    assert_eq!(bell.recv_timeout(patience), Ok(()), "{who} waits for a notification that is lost");
}

/// The device's side of the two-thread test; how often it notified.
fn serve(queue: &mut VirtQueue, requests: u32, kick: &Receiver<()>, call: &Bell) -> u32 {
    let (mut served, mut calls) = (0, 0);
    while served < requests {
        queue.disable_notifications();
        while let Some(head) = queue.pop().expect("the driver is a good one") {
            queue.push_used(head, served);
            served += 1;
            // Publish in the middle of a sweep now and then, as completions do.
            if served % 5 == 0 && queue.publish() {
                calls += 1;
                call.ring();
            }
        }
        if queue.publish() {
            calls += 1;
            call.ring();
        }
        if served < requests && !queue.enable_notifications() {
            wait(kick, "the device");
        }
    }
    calls
}

/// The driver's side; how often it kicked.
fn drive(driver: &mut Driver, requests: u32, kick: &Bell, call: &Receiver<()>) -> u32 {
    let (mut sent, mut reaped, mut kicks) = (0_u32, 0, 0);
    while reaped < requests {
        driver.disable_interrupts();
        while let Some(used) = driver.reap() {
            assert_eq!(used.len, reaped, "in the order they were made available");
            reaped += 1;
        }
        let burst = sent.wrapping_mul(2_654_435_761) >> 29;
        for _ in 0..=burst {
            if sent < requests && driver.add(&[Buf::writable(GPA, 1)], Layout::Direct).is_some() {
                sent += 1;
            }
        }
        if driver.publish() {
            kicks += 1;
            kick.ring();
        }
        if reaped < requests && !driver.enable_interrupts() {
            wait(call, "the driver");
        }
    }
    kicks
}

#[test]
fn i12_no_notification_is_lost_between_two_threads() {
    // I12: both sides suppress while they work, ask, look once more, and wait without a timeout
    // that would save them. The index wraps on the way.
    const REQUESTS: u32 = 40_000;
    for event_idx in [false, true] {
        for size in [1, 4, 64] {
            let (mut driver, mut queue) = ends(size, event_idx, 0xf000);
            let (kick, kicked) = Bell::new();
            let (call, called) = Bell::new();
            let device = std::thread::spawn(move || serve(&mut queue, REQUESTS, &kicked, &call));
            let kicks = drive(&mut driver, REQUESTS, &kick, &called);
            let calls = device.join().expect("the device does not panic");
            assert!(kicks > 0 && calls > 0);
            assert!(size == 1 || kicks + calls < 2 * REQUESTS, "nothing was ever suppressed");
            assert_eq!(driver.outstanding(), 0);
        }
    }
}

/// Where two threads meet, spinning, so that they leave at the same moment.
#[derive(Default)]
struct Meeting(AtomicU32);

impl Meeting {
    /// Both threads call this with the same growing `n`, from 1.
    fn meet(&self, n: u32) {
        self.0.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while self.0.load(Ordering::Acquire) < 2 * n {
            spins += 1;
            if spins.is_multiple_of(2000) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

const ROUNDS: u32 = 60_000;

/// Runs both sides of `rounds` at the same moment, each with its own end of one ring.
/// `device` and `driver` act and say whether they noticed; one of them must.
fn litmus(
    event_idx: bool,
    device: fn(&mut VirtQueue) -> bool,
    driver: fn(&mut Driver) -> bool,
    after: fn(&mut VirtQueue),
    before: fn(&mut Driver),
) {
    let (mut end, mut queue) = ends(8, event_idx, 0xff00);
    queue.push_used(Tag(0), 1);
    let _ = queue.publish();
    let (meeting, noticed) = (Meeting::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=ROUNDS {
                meeting.meet(3 * n - 2);
                noticed.store(device(&mut queue), Ordering::Relaxed);
                meeting.meet(3 * n - 1);
                after(&mut queue);
                meeting.meet(3 * n);
            }
        });
        let mut missed = 0;
        for n in 1..=ROUNDS {
            while end.reap().is_some() {}
            before(&mut end);
            meeting.meet(3 * n - 2);
            let seen = driver(&mut end);
            meeting.meet(3 * n - 1);
            missed += u32::from(!seen && !noticed.load(Ordering::Relaxed));
            meeting.meet(3 * n);
        }
        assert_eq!(missed, 0, "of {ROUNDS} rounds (event index: {event_idx})");
    });
}

#[test]
fn i12_publishing_and_asking_for_interrupts_never_miss_each_other() {
    // V4 at its narrowest: fails within a few thousand rounds without the fence.
    for event_idx in [false, true] {
        litmus(
            event_idx,
            |queue| {
                queue.push_used(Tag(0), 1);
                queue.publish()
            },
            |driver| driver.enable_interrupts(),
            |_| (),
            |driver| driver.disable_interrupts(),
        );
    }
}

#[test]
fn i12_asking_for_kicks_and_making_available_never_miss_each_other() {
    // V5 at its narrowest.
    for event_idx in [false, true] {
        litmus(
            event_idx,
            VirtQueue::enable_notifications,
            |driver| {
                driver.push_avail(0);
                driver.publish()
            },
            |queue| {
                assert_eq!(queue.pop(), Ok(Some(Tag(0))));
                queue.disable_notifications();
            },
            |_| (),
        );
    }
}

#[test]
fn i38_whoever_sees_the_used_index_sees_status_and_data() {
    // The driver spins on the index alone. The data is the number of the request, in two places
    // of guest memory, so that an index that overtakes it shows the number of an earlier one.
    const REQUESTS: u32 = 60_000;
    const STATUS: u64 = GPA + 4096 - 1;
    let memory = Arc::new(TestMemory::new(1 << 20));
    let data = memory.alloc(8192, 4096);
    assert_eq!(data, GPA, "the ring lies elsewhere");
    let mut driver = Driver::new(&memory, 4, true, false);
    let mut queue = VirtQueue::new(driver.setup()).expect("the driver's ring is a ring");
    let guest = Arc::clone(memory.memory());
    let device = std::thread::spawn(move || {
        let data = guest.slice(GPA, 4).expect("guest memory");
        let far = guest.slice(GPA + 4096, 4).expect("guest memory");
        let mut slots = Slots::new(4);
        let mut n = 0_u32;
        while n < REQUESTS {
            let Some(head) = queue.pop().expect("a good driver") else { continue };
            slots.claim(head, guest.slice(STATUS, 1).expect("guest memory"));
            data.copy_from(&n.to_le_bytes());
            far.copy_from(&n.to_le_bytes());
            let len = slots.finish(head, Status::Ok);
            queue.push_used(head, len);
            let _ = queue.publish();
            n += 1;
        }
    });
    for n in 0..REQUESTS {
        memory.write(STATUS, &[0xfe]);
        driver.add(&[Buf::writable(GPA, 4096)], Layout::Direct).expect("one at a time");
        driver.publish();
        while driver.reap().is_none() {
            std::hint::spin_loop();
        }
        let seen = [GPA, GPA + 4096].map(|at| memory.read(at, 4));
        assert_eq!(seen, [n.to_le_bytes().to_vec(), n.to_le_bytes().to_vec()], "request {n}");
        assert_eq!(memory.read(STATUS, 1), [0], "the status of request {n}");
    }
    device.join().expect("the device does not panic");
}

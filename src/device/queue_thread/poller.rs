//! How long a queue thread looks before it sleeps: the policy, without clock or ring.
//!
//! A sleep costs a system call, an interrupt to a sleeping CPU and a kick by the guest: some
//! microseconds of latency, and CPU time on both sides. Looking costs CPU time only, as long as one looks.
//!
//! Rules:
//! * **W1** A thread looks for at most its window. The window grows, doubling from
//!   [`FIRST`], while what it slept for came soon enough that looking (for at most `max`) would have
//!   found it; it is 0 again after one wait that was longer. So an idle thread looks once, for no
//!   longer than `max`, and then sleeps until something happens.
//! * **W2** Two windows: for the guests (nothing is with the kernel) and for the image.
//! * **W3** With more than [`FEW`] requests with the kernel the thread does not look. Nobody's next step
//!   waits for one of them alone, and those that end during a sleep are answered in one go: waiting
//!   is cheaper.
//! * **W4** From time to time a thread that looks yields its CPU. When that takes long, somebody else
//!   wanted the CPU, perhaps the very guest that is waited for. Then it does not look for
//!   the next waits: [`LEAST_REST`] of them, doubling up to [`MOST_REST`] while that goes on.

use crate::block::Nanos;

/// The first window after looking has been off, in nanoseconds.
const FIRST: u64 = 4_000;

/// The most requests with the kernel for which looking may pay (W3).
const FEW: usize = 2;

/// Waits without looking after the CPU was wanted by others (W4).
const LEAST_REST: u32 = 16;
const MOST_REST: u32 = 4096;

/// How long a yield takes when nobody wants the CPU, with much room, in nanoseconds (W4).
const YIELD: u64 = 8_000;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Guests,
    Image,
}

/// The windows of one thread.
#[derive(Debug)]
pub(super) struct Poller {
    /// The most that a window may be, in nanoseconds; 0: never look.
    max: u64,
    windows: [u64; 2],
    /// Waits without looking to come (W4), and how many it is next time.
    rest: u32,
    next_rest: u32,
    /// The wait that is going on: for what, and since when.
    wait: Option<(For, Nanos)>,
}

impl Poller {
    /// Never looks until it is told how long it may.
    pub(super) fn new() -> Poller {
        Poller { max: 0, windows: [0; 2], rest: 0, next_rest: LEAST_REST, wait: None }
    }

    /// Looks for this long at any time, if it may.
    #[cfg(test)]
    pub(super) fn always(&mut self, nanos: u64) {
        (self.max, self.windows, self.rest) = (nanos, [nanos; 2], 0);
    }

    /// Changes the most that a window may be.
    pub(super) fn set_max(&mut self, max: u64) {
        self.max = max;
        self.windows = self.windows.map(|window| window.min(max));
    }

    /// A wait begins, with so many requests with the kernel. How long to look, in nanoseconds.
    pub(super) fn begin(&mut self, in_flight: usize, now: Nanos) -> u64 {
        self.wait = None;
        if self.max == 0 || in_flight > FEW {
            return 0;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return 0;
        }
        let wait = if in_flight == 0 { For::Guests } else { For::Image };
        self.wait = Some((wait, now));
        self.windows[wait as usize]
    }

    /// Looking found something: nothing to learn, the window is long enough.
    pub(super) fn found(&mut self) {
        self.wait = None;
    }

    /// A yield took so long (W4). Whether to stop looking.
    pub(super) fn yielded(&mut self, nanos: u64) -> bool {
        let wanted = nanos > YIELD;
        if wanted {
            (self.rest, self.wait) = (self.next_rest, None);
            self.next_rest = (self.next_rest * 2).min(MOST_REST);
        } else if self.next_rest > LEAST_REST {
            self.next_rest -= 1;
        }
        wanted
    }

    /// The wait is over, after a sleep (W1).
    pub(super) fn woke(&mut self, now: Nanos) {
        let Some((wait, since)) = self.wait.take() else { return };
        let window = &mut self.windows[wait as usize];
        if now.since(since) > self.max {
            *window = 0;
        } else {
            *window = (*window * 2).clamp(FIRST, self.max.max(FIRST)).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 32_000;

    /// Waits that end after `nanos`, by sleeping or by looking; for how long each of them looked.
    fn waits(poller: &mut Poller, now: &mut u64, nanos: &[u64], in_flight: usize) -> Vec<u64> {
        let mut looked = Vec::new();
        for &nanos in nanos {
            let window = poller.begin(in_flight, Nanos(*now));
            looked.push(window.min(nanos));
            *now += nanos;
            if nanos <= window {
                poller.found()
            } else {
                poller.woke(Nanos(*now))
            }
            *now += 1000;
        }
        looked
    }

    fn poller() -> Poller {
        let mut poller = Poller::new();
        poller.set_max(MAX);
        poller
    }

    #[test]
    fn the_window_grows_to_what_waits_take() {
        let mut now = 0;
        let looked = waits(&mut poller(), &mut now, &[10_000; 6], 0);
        assert_eq!(looked, [0, 4_000, 8_000, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn what_comes_late_is_slept_for_and_ends_looking() {
        let (mut now, mut poller) = (0, poller());
        waits(&mut poller, &mut now, &[10_000; 6], 0);
        let looked = waits(&mut poller, &mut now, &[1_000_000; 4], 0);
        assert_eq!(looked, [16_000, 0, 0, 0], "looks once, then is silent");
        let looked = waits(&mut poller, &mut now, &[33_000; 3], 0);
        assert_eq!(looked, [0; 3], "longer than it may ever look");
    }

    #[test]
    fn guests_and_image_have_windows_of_their_own() {
        let (mut now, mut poller) = (0, poller());
        waits(&mut poller, &mut now, &[3_000; 4], 0);
        assert_eq!(waits(&mut poller, &mut now, &[90_000; 3], 1), [0; 3], "a slow disk");
        assert_eq!(waits(&mut poller, &mut now, &[3_000; 2], 0), [3_000; 2], "a quick guest");
        assert_eq!(waits(&mut poller, &mut now, &[9_000; 5], 2), [0, 4_000, 8_000, 9_000, 9_000]);
    }

    #[test]
    fn with_many_requests_with_the_kernel_it_sleeps() {
        let (mut now, mut poller) = (0, poller());
        assert_eq!(waits(&mut poller, &mut now, &[5_000; 9], FEW + 1), [0; 9]);
        assert_eq!(waits(&mut poller, &mut now, &[5_000; 3], FEW), [0, 4_000, 5_000]);
    }

    #[test]
    fn who_may_not_look_never_does() {
        let (mut now, mut poller) = (0, Poller::new());
        assert_eq!(waits(&mut poller, &mut now, &[1_000; 9], 0), [0; 9]);
        poller.set_max(2_000);
        assert_eq!(waits(&mut poller, &mut now, &[1_000, 1_000, 1_900], 0), [0, 1_000, 1_900]);
        poller.set_max(0);
        assert_eq!(waits(&mut poller, &mut now, &[1_000; 3], 0), [0; 3]);
    }

    #[test]
    fn a_cpu_that_others_want_is_left_to_them() {
        let (mut now, mut poller) = (0, poller());
        waits(&mut poller, &mut now, &[5_000; 4], 0);
        let mut looks = 0;
        let mut total = 0;
        for _ in 0..20_000 {
            let window = poller.begin(0, Nanos(now));
            total += 1;
            if window > 0 {
                looks += 1;
                assert!(poller.yielded(YIELD + 1), "somebody else ran");
            }
            now += 5_000;
            poller.woke(Nanos(now));
        }
        assert!(looks < 14, "{looks} of {total} waits, each with half the rest");
        // Nobody wants it any more: back to looking, and to short rests.
        let again = waits(&mut poller, &mut now, &[5_000; 4097], 0);
        assert_eq!(again.last(), Some(&5_000));
        for _ in 0..5000 {
            assert!(!poller.yielded(200));
        }
        assert!(poller.yielded(YIELD + 1));
        assert_eq!(poller.rest, LEAST_REST);
    }
}

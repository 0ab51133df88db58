//! The back-end channel: telling the front-end that the device has changed.
//!
//! There is one thing to tell: config space is not what it was (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG),
//! and of it only the capacity changes by itself. The front-end then asks with GET_CONFIG on the main
//! connection, and tells the guest.
//!
//! * H1 **Nobody waits.** No reply is asked for: the front-end would give it after its GET_CONFIG, for
//!   which we have to be free. A channel that is full is one that the front-end has not looked at; when
//!   it does, it finds what we would have said.
//! * H2 **Not into a conversation.** QEMU before 8.1 looks at the channel while it waits for an answer on
//!   the main connection, and its GET_CONFIG then takes that answer for its own. So while a message is
//!   being worked on nothing is said, but afterwards, when the front-end has been silent for [`QUIET`].
//! * H3 **Said when it is heard.** QEMU ignores it while the device has not started. So a front-end whose
//!   rings begin to run, and that has not read the capacity of now, is told (again). This is also how
//!   one that was connected to a predecessor of ours learns of a resize in between.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::debug;

use crate::device::config_space::CAPACITY;
use crate::sys::line;

/// How long a front-end has to be silent before it is told what it did not ask for (H2).
pub(super) const QUIET: Duration = Duration::from_millis(50);

/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG.
const CONFIG_CHANGE: u32 = 2;

/// Flags of a message: version 1, and no reply (H1).
const FLAGS: u32 = 1;

#[derive(Debug, Default)]
struct State {
    channel: Option<OwnedFd>,
    /// The capacity that the front-end read last, in sectors.
    read: Option<u64>,
    /// The capacity of which it was told last while rings ran, in sectors.
    told: Option<u64>,
    /// A message is being worked on (H2).
    working: bool,
    /// There was something to say meanwhile.
    owed: bool,
    /// Rings run (H3).
    running: bool,
}

/// What one session tells its front-end. Used by the session's thread and by whoever changes the
/// device.
#[derive(Debug, Default)]
pub struct Herald(Mutex<State>);

impl Herald {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, so a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the front-end listens here; `None`: nowhere.
    pub(super) fn attach(&self, channel: Option<OwnedFd>) {
        self.state().channel = channel;
    }

    /// Whether the front-end listens.
    #[cfg(test)]
    pub(super) fn is_attached(&self) -> bool {
        self.state().channel.is_some()
    }

    /// GET_CONFIG is answered with these bytes of config space.
    pub(super) fn config_read(&self, offset: u32, bytes: &[u8]) {
        let capacity = bytes.get(CAPACITY).and_then(|bytes| bytes.try_into().ok());
        if let (0, Some(bytes)) = (offset, capacity) {
            self.state().read = Some(u64::from_le_bytes(bytes));
        }
    }

    /// A message has come and is worked on.
    pub(super) fn begin(&self) {
        self.state().working = true;
    }

    /// The message is answered. Whether rings run now.
    pub(super) fn end(&self, running: bool) {
        let mut state = self.state();
        state.working = false;
        state.running = running;
    }

    /// Whether the front-end ought to be told that the device has `capacity` sectors now.
    pub(super) fn is_due(&self, capacity: u64) -> bool {
        let state = self.state();
        let unheard = state.running && state.told != Some(capacity);
        state.channel.is_some() && state.read != Some(capacity) && (state.owed || unheard)
    }

    /// Tells the front-end that the device has `capacity` sectors now, unless it has read that already:
    /// at once if that may be (H2), else as soon as it may, which the session sees to. Whether there is
    /// somebody to be told.
    pub fn announce(&self, capacity: u64) -> bool {
        let mut state = self.state();
        let Some(channel) = &state.channel else { return false };
        if state.read == Some(capacity) {
            return true;
        }
        if state.working {
            state.owed = true;
            return true;
        }
        let message: Vec<u8> =
            [CONFIG_CHANGE, FLAGS, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        if let Err(why) = line::send_now(channel.as_fd(), &message) {
            debug!("the front-end was not told of the new size: {why}"); // H1, or it is gone
        }
        state.owed = false;
        if state.running {
            state.told = Some(capacity);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A herald and the front-end's end of its channel.
    fn listening() -> (Herald, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        let herald = Herald::default();
        herald.attach(Some(theirs.into()));
        (herald, ours)
    }

    /// How often the front-end was told since the last look.
    fn told(mut channel: &UnixStream) -> usize {
        let mut bytes = [0; 120];
        match channel.read(&mut bytes) {
            Ok(n) => {
                let words = [2_u32, 1, 0].iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
                assert!(n % 12 == 0 && bytes[..n].chunks(12).all(|m| m == words), "{bytes:?}");
                n / 12
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                0
            }
        }
    }

    #[test]
    fn it_is_said_at_once_when_nobody_speaks_and_later_when_somebody_does() {
        let (herald, channel) = listening();
        assert!(herald.announce(8));
        assert_eq!(told(&channel), 1);
        herald.begin();
        assert!(herald.announce(9), "it will be told");
        assert_eq!(told(&channel), 0);
        herald.end(true);
        assert!(herald.is_due(9), "the session has to see to it");
        assert!(herald.announce(9));
        assert_eq!(told(&channel), 1);
        assert!(!herald.is_due(9));
    }

    #[test]
    fn who_has_read_it_is_not_told_when_its_rings_run() {
        let (herald, channel) = listening();
        let mut space = [0xee; 60];
        space[..8].copy_from_slice(&77_u64.to_le_bytes());
        herald.config_read(0, &space);
        assert!(!herald.is_due(78), "no ring runs");
        herald.end(true);
        assert!(!herald.is_due(77));
        assert!(herald.is_due(78));
        // Neither a part of it nor another part is the capacity.
        herald.config_read(8, &78_u64.to_le_bytes());
        herald.config_read(0, &[78, 0, 0, 0, 0, 0, 0]);
        assert!(herald.is_due(78));
        herald.config_read(0, &78_u64.to_le_bytes());
        assert!(!herald.is_due(78));
        assert!(herald.announce(78));
        assert_eq!(told(&channel), 0, "it knows");
    }

    #[test]
    fn what_could_not_be_said_is_owed_until_it_is_known() {
        let (herald, channel) = listening();
        herald.begin();
        assert!(herald.announce(9));
        herald.end(false);
        assert!(herald.is_due(9), "although no ring runs");
        assert!(herald.announce(9));
        assert_eq!((told(&channel), herald.is_due(9)), (1, false));
        herald.begin();
        assert!(herald.announce(10));
        herald.config_read(0, &10_u64.to_le_bytes());
        herald.end(false);
        assert!(!herald.is_due(10), "it has asked by itself");
    }

    #[test]
    fn what_was_said_before_the_start_is_said_again() {
        let (herald, channel) = listening();
        assert!(herald.announce(5));
        herald.end(false);
        assert!(!herald.is_due(5));
        herald.end(true);
        assert!(herald.is_due(5), "QEMU has ignored it");
        assert!(herald.announce(5));
        assert_eq!(told(&channel), 2);
        assert!(!herald.is_due(5), "but only once");
    }

    #[test]
    fn a_front_end_that_does_not_look_holds_nobody_up() {
        let (herald, channel) = listening();
        herald.end(true);
        for capacity in 0..10_000 {
            assert!(herald.announce(capacity));
        }
        assert!(told(&channel) > 0);
        drop(channel);
        assert!(herald.announce(1), "gone, which its session will see");
        herald.attach(None);
        assert!(!herald.announce(2) && !herald.is_due(2));
    }
}

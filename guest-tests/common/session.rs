//! The vhost-user protocol from the front-end's side, byte by byte: no crate stands between a
//! test and the message that it wants to get wrong (docs/interop/vhost-user.rst of QEMU).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::client::LOST;

/// Request numbers.
pub(crate) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const RESET_OWNER: u32 = 4;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const SET_CONFIG: u32 = 25;
    pub(crate) const GET_INFLIGHT_FD: u32 = 31;
    pub(crate) const SET_INFLIGHT_FD: u32 = 32;
    pub(crate) const RESET_DEVICE: u32 = 34;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

/// Protocol feature bits.
pub(crate) mod protocol {
    pub(crate) const MQ: u64 = 1 << 0;
    pub(crate) const REPLY_ACK: u64 = 1 << 3;
    pub(crate) const BACKEND_REQ: u64 = 1 << 5;
    pub(crate) const CONFIG: u64 = 1 << 9;
    pub(crate) const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub(crate) const RESET_DEVICE: u64 = 1 << 13;
    pub(crate) const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
}

/// VHOST_USER_F_PROTOCOL_FEATURES.
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Flags of a message header: version 1.
pub(crate) const VERSION: u32 = 1;
/// The message is a reply.
pub(crate) const REPLY: u32 = 1 << 2;
/// The sender wants a reply.
pub(crate) const NEED_REPLY: u32 = 1 << 3;

/// In the payload of SET_VRING_KICK, CALL and ERR: there is no descriptor.
pub(crate) const NO_FD: u64 = 1 << 8;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged.
    Accepted,
    /// Refused, the session goes on (or at least the refusal was sent).
    Refused,
    /// The back-end closed the connection.
    Ended,
}

/// A message from the back-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Request number.
    pub(crate) request: u32,
    /// Header flags.
    pub(crate) flags: u32,
    /// Everything after the header.
    pub(crate) payload: Vec<u8>,
}

impl Reply {
    /// The payload as one number.
    pub(crate) fn number(&self) -> u64 {
        u64::from_le_bytes(self.payload[..].try_into().expect("a reply of 8 bytes"))
    }
}

/// One memory region as a message describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegionWords {
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    pub(crate) uva: u64,
    pub(crate) offset: u64,
}

impl RegionWords {
    fn bytes(self) -> Vec<u8> {
        [self.gpa, self.size, self.uva, self.offset].iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

/// The header of a message.
pub(crate) fn header(request: u32, flags: u32, size: u32) -> Vec<u8> {
    [request, flags, size].iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Payload of the messages about one ring.
pub(crate) fn ring_state(index: u32, value: u32) -> Vec<u8> {
    [index, value].iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Payload of SET_VRING_ADDR.
pub(crate) fn ring_addresses(index: u32, desc: u64, used: u64, avail: u64) -> Vec<u8> {
    let mut bytes = ring_state(index, 0);
    bytes.extend([desc, used, avail, 0].iter().flat_map(|w| w.to_le_bytes()));
    bytes
}

/// Payload of SET_MEM_TABLE.
pub(crate) fn mem_table(regions: &[RegionWords]) -> Vec<u8> {
    let count = u32::try_from(regions.len()).expect("few regions");
    let mut bytes = ring_state(count, 0);
    bytes.extend(regions.iter().flat_map(|r| r.bytes()));
    bytes
}

/// Payload of ADD_MEM_REG and REM_MEM_REG.
pub(crate) fn mem_region(region: RegionWords) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend(region.bytes());
    bytes
}

/// Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD, padded as a C structure.
fn inflight(len: u64, queues: u16, size: u16) -> Vec<u8> {
    let mut bytes: Vec<u8> = [len, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.extend([queues, size, 0, 0].iter().flat_map(|w| w.to_le_bytes()));
    bytes
}

/// Payload of GET_CONFIG and SET_CONFIG.
pub(crate) fn config(offset: u32, size: u32, bytes: &[u8]) -> Vec<u8> {
    let mut payload: Vec<u8> = [offset, size, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    payload.extend_from_slice(bytes);
    payload
}

/// One connection.
pub(crate) struct Session {
    stream: UnixStream,
    features: u64,
    protocol: u64,
}

impl Session {
    /// Connects.
    pub(crate) fn connect(socket: &Path) -> Session {
        Session::over(UnixStream::connect(socket).expect("the daemon listens"))
    }

    /// Speaks over a connection that exists.
    pub(crate) fn over(stream: UnixStream) -> Session {
        stream.set_read_timeout(Some(LOST)).expect("not zero");
        stream.set_write_timeout(Some(LOST)).expect("not zero");
        Session { stream, features: 0, protocol: 0 }
    }

    /// The connection itself.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// What the device offered.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// The protocol features in use.
    pub(crate) fn protocol(&self) -> u64 {
        self.protocol
    }

    /// Sends bytes and descriptors as they are; `false` when the back-end has hung up.
    pub(crate) fn send_raw(&self, bytes: &[u8], fds: &[RawFd]) -> bool {
        match self.stream.send_with_fds(&[bytes], fds) {
            Ok(sent) => {
                assert_eq!(sent, bytes.len(), "a short message is sent whole");
                true
            }
            Err(error) if matches!(error.errno(), libc::EPIPE | libc::ECONNRESET) => false,
            Err(error) => panic!("sendmsg: {error}"),
        }
    }

    /// Sends a message with these header flags (the version is added).
    pub(crate) fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[RawFd]) -> bool {
        let size = u32::try_from(payload.len()).expect("messages are short");
        let mut bytes = header(request, VERSION | flags, size);
        bytes.extend_from_slice(payload);
        self.send_raw(&bytes, fds)
    }

    /// The next message; `None` when the back-end has hung up.
    pub(crate) fn receive(&mut self) -> Option<Reply> {
        let mut head = [0; 12];
        if !self.fill(&mut head) {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
        let mut payload = vec![0; usize::try_from(word(8)).expect("32 bits")];
        assert!(self.fill(&mut payload), "a message is not cut off");
        Some(Reply { request: word(0), flags: word(4), payload })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        match self.stream.read_exact(bytes) {
            Ok(()) => true,
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                false
            }
            Err(e) => panic!("no reply: {e}"),
        }
    }

    /// Sends a message that is acknowledged and tells what became of it. REPLY_ACK must have been
    /// negotiated.
    pub(crate) fn tell(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) -> Fate {
        if !self.send(request, NEED_REPLY, payload, fds) {
            return Fate::Ended;
        }
        match self.receive() {
            None => Fate::Ended,
            Some(reply) => {
                assert_eq!(reply.request, request, "the reply to our message");
                assert_eq!(reply.flags, VERSION | REPLY, "a reply and nothing else");
                if reply.number() == 0 { Fate::Accepted } else { Fate::Refused }
            }
        }
    }

    /// As [`Session::tell`]; anything but an acknowledgement fails the test.
    pub(crate) fn must(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) {
        let fate = self.tell(request, payload, fds);
        assert_eq!(fate, Fate::Accepted, "request {request}");
    }

    /// Sends a message that has a reply of its own; `None` when the back-end has hung up.
    pub(crate) fn ask(&mut self, request: u32, payload: &[u8]) -> Option<Reply> {
        if !self.send(request, 0, payload, &[]) {
            return None;
        }
        let reply = self.receive()?;
        assert_eq!((reply.request, reply.flags), (request, VERSION | REPLY));
        Some(reply)
    }

    /// GET_INFLIGHT_FD: the memory and its length in bytes.
    pub(crate) fn get_inflight(&mut self, queues: u16, size: u16) -> (File, u64) {
        let payload = inflight(0, queues, size);
        assert!(self.send(request::GET_INFLIGHT_FD, 0, &payload, &[]));
        let mut bytes = [0; 12 + 24];
        let (got, file) = self.stream.recv_with_fd(&mut bytes).expect("an answer");
        assert_eq!(got, bytes.len(), "one message");
        assert_eq!(bytes[..12], header(request::GET_INFLIGHT_FD, VERSION | REPLY, 24)[..]);
        let len = u64::from_le_bytes(bytes[12..20].try_into().expect("eight"));
        assert_eq!(bytes[20..32], payload[8..20], "offset and shape");
        (file.expect("a descriptor"), len)
    }

    /// SET_INFLIGHT_FD.
    pub(crate) fn set_inflight(&mut self, file: &File, len: u64, queues: u16, size: u16) {
        let payload = inflight(len, queues, size);
        self.must(request::SET_INFLIGHT_FD, &payload, &[file.as_raw_fd()]);
    }

    /// A number that the back-end knows.
    pub(crate) fn number(&mut self, request: u32) -> u64 {
        self.ask(request, &[]).expect("an answer").number()
    }

    /// Owner, features offered, and the protocol features of [`protocol`] that are offered, but for
    /// those that ask for more than a word.
    pub(crate) fn negotiate(&mut self) {
        self.negotiate_with(0);
    }

    /// The same with more protocol features, which must be offered.
    pub(crate) fn negotiate_with(&mut self, more: u64) {
        assert!(self.send(request::SET_OWNER, 0, &[], &[]));
        self.features = self.number(request::GET_FEATURES);
        assert_ne!(self.features & PROTOCOL_FEATURES, 0, "needed for everything else");
        let offered = self.number(request::GET_PROTOCOL_FEATURES);
        use protocol::{BACKEND_REQ, CONFIG, CONFIGURE_MEM_SLOTS, MQ, REPLY_ACK, RESET_DEVICE};
        let wanted = MQ | REPLY_ACK | BACKEND_REQ | CONFIG | RESET_DEVICE | CONFIGURE_MEM_SLOTS;
        let wanted = wanted | more;
        assert_eq!(offered & more, more, "what this front-end is about");
        self.protocol = offered & wanted;
        assert_ne!(self.protocol & REPLY_ACK, 0, "needed to learn what became of a message");
        let bytes = self.protocol.to_le_bytes();
        assert!(self.send(request::SET_PROTOCOL_FEATURES, 0, &bytes, &[]));
    }

    /// `size` bytes of config space from `offset`.
    pub(crate) fn config(&mut self, offset: u32, size: u32) -> Option<Vec<u8>> {
        let room = vec![0; usize::try_from(size).expect("32 bits")];
        let reply = self.ask(request::GET_CONFIG, &config(offset, size, &room))?;
        (reply.payload.len() > 12).then(|| reply.payload[12..].to_vec())
    }

    /// Gives descriptor `fd` (or none) to ring `index` by SET_VRING_KICK, CALL or ERR.
    pub(crate) fn ring_fd(&mut self, request: u32, index: u64, fd: Option<&dyn AsRawFd>) -> Fate {
        match fd {
            Some(fd) => self.tell(request, &index.to_le_bytes(), &[fd.as_raw_fd()]),
            None => self.tell(request, &(index | NO_FD).to_le_bytes(), &[]),
        }
    }

    /// Whether the back-end has hung up by now or does so within the time a reply may take.
    pub(crate) fn ended(&mut self) -> bool {
        self.receive().is_none()
    }
}

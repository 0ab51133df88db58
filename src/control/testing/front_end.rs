//! The scripted front-end, and the memory that it shares.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost::vhost_user::message::FrontendReq;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::{ALL_FEATURES, PROTOCOL_BIT};

/// A piece of memory that a front-end shares. Nobody maps it on the front-end's side.
pub(in crate::control) struct Memory {
    pub(in crate::control) file: File,
    pub(in crate::control) gpa: u64,
    pub(in crate::control) size: u64,
    pub(in crate::control) uva: u64,
}

impl Memory {
    pub(in crate::control) fn new(gpa: u64, size: u64, uva: u64) -> Memory {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(size).expect("room");
        Memory { file, gpa, size, uva }
    }

    pub(in crate::control) fn words(&self) -> [u64; 4] {
        [self.gpa, self.size, self.uva, 0]
    }

    /// Where the parts of ring `i` are: descriptors, available, used.
    pub(in crate::control) fn ring(&self, i: u16) -> [u64; 3] {
        let base = self.uva + u64::from(i) * 0x4000;
        [base, base + 0x1000, base + 0x2000]
    }

    /// Puts a used index where ring `i` has it.
    pub(in crate::control) fn set_used_index(&self, i: u16, index: u16) {
        let at = u64::from(i) * 0x4000 + 0x2000 + 2;
        self.file.write_all_at(&index.to_le_bytes(), at).expect("written");
    }
}

/// "No": the value of a negative acknowledgement.
pub(in crate::control) const DENIED: u64 = 1;

/// A front-end that says exactly what the test says. Requests are made with the need-reply flag
/// unless [`FrontEnd::quiet`] is set.
pub(in crate::control) struct FrontEnd {
    pub(in crate::control) stream: UnixStream,
    pub(in crate::control) quiet: bool,
}

impl FrontEnd {
    pub(in crate::control) fn new(stream: UnixStream) -> FrontEnd {
        // Only so that a failing test ends; nothing waits this long.
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        FrontEnd { stream, quiet: false }
    }

    pub(in crate::control) fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[RawFd]) {
        let mut bytes = Vec::new();
        let len = u32::try_from(body.len()).expect("short");
        for word in [request, flags, len] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(body);
        // A session that has ended cannot be told; the test sees it in the answer.
        let _ = self.stream.send_with_fds(&[&bytes[..]], fds);
    }

    /// A reply: request, flags, payload. `None` when the session has ended.
    pub(in crate::control) fn receive(&mut self) -> Option<(u32, u32, Vec<u8>)> {
        let mut header = [0; 12];
        self.read(&mut header)?;
        let word =
            |i: usize| u32::from_ne_bytes(header[i * 4..i * 4 + 4].try_into().expect("four bytes"));
        let mut body = vec![0; usize::try_from(word(2)).expect("64-bit")];
        self.read(&mut body)?;
        Some((word(0), word(1), body))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("neither an answer nor an end"),
            Err(_) => None,
        }
    }

    /// A message without an answer of its own. `Ok` when acknowledged (or when not asked for).
    pub(in crate::control) fn tell(
        &mut self,
        request: FrontendReq,
        body: &[u8],
        fds: &[RawFd],
    ) -> Result<(), u64> {
        self.send(request as u32, if self.quiet { 1 } else { 1 | 8 }, body, fds);
        if self.quiet {
            return Ok(());
        }
        let (code, flags, body) = self.receive().ok_or(u64::MAX)?;
        assert_eq!((code, flags), (request as u32, 1 | 4), "the reply to the request");
        match u64::from_ne_bytes(body.try_into().expect("eight bytes")) {
            0 => Ok(()),
            no => Err(no),
        }
    }

    /// A message that is answered with a payload; `None` when the session ended instead.
    pub(in crate::control) fn ask(&mut self, request: FrontendReq, body: &[u8]) -> Option<Vec<u8>> {
        self.send(request as u32, 1, body, &[]);
        let (code, flags, body) = self.receive()?;
        assert_eq!((code, flags), (request as u32, 1 | 4), "the reply to the request");
        Some(body)
    }

    pub(in crate::control) fn ask_u64(&mut self, request: FrontendReq) -> u64 {
        let body = self.ask(request, &[]).expect("an answer");
        u64::from_ne_bytes(body.try_into().expect("eight bytes"))
    }

    pub(in crate::control) fn set_u64(
        &mut self,
        request: FrontendReq,
        value: u64,
    ) -> Result<(), u64> {
        self.tell(request, &value.to_ne_bytes(), &[])
    }

    /// SET_VRING_NUM, _BASE, _ENABLE.
    pub(in crate::control) fn set_ring(
        &mut self,
        request: FrontendReq,
        index: u32,
        num: u32,
    ) -> Result<(), u64> {
        self.tell(request, &pair(index, num), &[])
    }

    pub(in crate::control) fn enable(&mut self, index: u16, on: bool) -> Result<(), u64> {
        self.set_ring(FrontendReq::SET_VRING_ENABLE, u32::from(index), u32::from(on))
    }

    pub(in crate::control) fn set_addresses(
        &mut self,
        index: u32,
        ring: [u64; 3],
    ) -> Result<(), u64> {
        let [desc, avail, used] = ring;
        let mut body = pair(index, 0).to_vec();
        for word in [desc, used, avail, 0] {
            body.extend(word.to_ne_bytes());
        }
        self.tell(FrontendReq::SET_VRING_ADDR, &body, &[])
    }

    /// SET_VRING_KICK, _CALL, _ERR; with bit 8 set when there is no descriptor.
    pub(in crate::control) fn set_fd(
        &mut self,
        request: FrontendReq,
        index: u16,
        fd: Option<&dyn AsRawFd>,
    ) -> Result<(), u64> {
        let no_fd = u64::from(fd.is_none()) << 8;
        let fds: Vec<RawFd> = fd.iter().map(|f| f.as_raw_fd()).collect();
        self.tell(request, &(u64::from(index) | no_fd).to_ne_bytes(), &fds)
    }

    pub(in crate::control) fn set_table(&mut self, memories: &[&Memory]) -> Result<(), u64> {
        let mut body = pair(u32::try_from(memories.len()).expect("few"), 0).to_vec();
        let fds: Vec<RawFd> = memories.iter().map(|m| m.file.as_raw_fd()).collect();
        for word in memories.iter().flat_map(|m| m.words()) {
            body.extend(word.to_ne_bytes());
        }
        self.tell(FrontendReq::SET_MEM_TABLE, &body, &fds)
    }

    pub(in crate::control) fn add_region(&mut self, memory: &Memory) -> Result<(), u64> {
        self.tell(FrontendReq::ADD_MEM_REG, &region(memory.words()), &[memory.file.as_raw_fd()])
    }

    pub(in crate::control) fn remove_region(&mut self, memory: &Memory) -> Result<(), u64> {
        self.tell(FrontendReq::REM_MEM_REG, &region(memory.words()), &[])
    }

    /// GET_VRING_BASE; `None` when the session ended instead.
    pub(in crate::control) fn get_base(&mut self, index: u32) -> Option<u32> {
        let body = self.ask(FrontendReq::GET_VRING_BASE, &pair(index, 0))?;
        assert_eq!(body[..4], index.to_ne_bytes());
        Some(u32::from_ne_bytes(body[4..].try_into().expect("four bytes")))
    }

    /// GET_INFLIGHT_FD: the memory and its length. `None` when the session ended instead.
    pub(in crate::control) fn get_inflight(
        &mut self,
        queues: u16,
        size: u16,
    ) -> Option<(File, u64)> {
        let request = FrontendReq::GET_INFLIGHT_FD as u32;
        self.send(request, 1, &inflight(0, 0, queues, size), &[]);
        let mut bytes = [0; 36];
        let (got, file) = match self.stream.recv_with_fd(&mut bytes) {
            Ok((0, _)) => return None,
            Ok(answer) => answer,
            Err(e) if e.errno() == libc::EAGAIN => panic!("neither an answer nor an end"),
            Err(_) => return None,
        };
        assert_eq!(got, bytes.len(), "one message");
        let word = |i: usize| u32::from_ne_bytes(bytes[i..i + 4].try_into().expect("four bytes"));
        assert_eq!((word(0), word(4), word(8)), (request, 1 | 4, 24), "the reply to the request");
        let len = u64::from_ne_bytes(bytes[12..20].try_into().expect("eight bytes"));
        assert_eq!(bytes[20..32], inflight(0, 0, queues, size)[8..20], "offset and shape");
        Some((file.expect("a descriptor"), len))
    }

    /// SET_INFLIGHT_FD.
    pub(in crate::control) fn set_inflight(
        &mut self,
        (file, len): (&File, u64),
        queues: u16,
        size: u16,
    ) -> Result<(), u64> {
        let body = inflight(len, 0, queues, size);
        self.tell(FrontendReq::SET_INFLIGHT_FD, &body, &[file.as_raw_fd()])
    }

    pub(in crate::control) fn get_config(&mut self, offset: u32, size: u32) -> Option<Vec<u8>> {
        let mut body = config(offset, size);
        body.resize(12 + usize::try_from(size).expect("64-bit"), 0);
        Some(self.ask(FrontendReq::GET_CONFIG, &body)?.split_off(12))
    }

    pub(in crate::control) fn set_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), u64> {
        let mut body = config(offset, u32::try_from(bytes.len()).expect("short"));
        body.extend(bytes);
        self.tell(FrontendReq::SET_CONFIG, &body, &[])
    }

    /// Everything up to the features, as every front-end does it.
    pub(in crate::control) fn negotiate(&mut self) {
        self.negotiate_features(ALL_FEATURES);
    }

    pub(in crate::control) fn negotiate_features(&mut self, features: u64) {
        let quiet = std::mem::replace(&mut self.quiet, true);
        let offered = self.ask_u64(FrontendReq::GET_FEATURES);
        assert_ne!(offered & PROTOCOL_BIT, 0);
        let protocol = self.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES);
        self.set_u64(FrontendReq::SET_PROTOCOL_FEATURES, protocol).expect("sent");
        self.tell(FrontendReq::SET_OWNER, &[], &[]).expect("sent");
        self.quiet = quiet;
        self.set_u64(FrontendReq::SET_FEATURES, features).expect("accepted");
    }

    /// Starts ring `i` at position 0 with descriptors of its own, which are returned.
    pub(in crate::control) fn start_ring(&mut self, i: u16, size: u32, memory: &Memory) -> Bells {
        let bells = Bells::new();
        self.set_ring(FrontendReq::SET_VRING_NUM, u32::from(i), size).expect("accepted");
        self.set_ring(FrontendReq::SET_VRING_BASE, u32::from(i), 0).expect("accepted");
        self.set_addresses(u32::from(i), memory.ring(i)).expect("accepted");
        self.set_fd(FrontendReq::SET_VRING_KICK, i, Some(&bells.kick)).expect("accepted");
        self.set_fd(FrontendReq::SET_VRING_CALL, i, Some(&bells.call)).expect("accepted");
        self.enable(i, true).expect("accepted");
        bells
    }
}

pub(in crate::control) fn pair(a: u32, b: u32) -> [u8; 8] {
    let mut body = [0; 8];
    body[..4].copy_from_slice(&a.to_ne_bytes());
    body[4..].copy_from_slice(&b.to_ne_bytes());
    body
}

/// The body of ADD_MEM_REG and REM_MEM_REG: padding, then guest address, size, front-end address,
/// file offset.
pub(in crate::control) fn region(words: [u64; 4]) -> Vec<u8> {
    [0].iter().chain(&words).flat_map(|w: &u64| w.to_ne_bytes()).collect()
}

/// The body of GET_INFLIGHT_FD and SET_INFLIGHT_FD, with QEMU's padding.
fn inflight(len: u64, offset: u64, queues: u16, size: u16) -> Vec<u8> {
    let mut body: Vec<u8> = [len, offset].iter().flat_map(|w| w.to_ne_bytes()).collect();
    body.extend([queues, size, 0, 0].iter().flat_map(|w| w.to_ne_bytes()));
    body
}

fn config(offset: u32, size: u32) -> Vec<u8> {
    [offset, size, 0].iter().flat_map(|w: &u32| w.to_ne_bytes()).collect()
}

/// A ring's eventfds, as the front-end holds them.
pub(in crate::control) struct Bells {
    pub(in crate::control) kick: EventFd,
    pub(in crate::control) call: EventFd,
}

impl Bells {
    pub(in crate::control) fn new() -> Bells {
        Bells { kick: eventfd(), call: eventfd() }
    }
}

pub(in crate::control) fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).expect("an eventfd")
}

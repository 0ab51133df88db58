//! virtio-blk requests on top of a [`Driver`], in any framing (virtio 1.3, 5.2.6 and 2.7.4).

use std::collections::VecDeque;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::TestMemory;
use super::driver::{Buf, Driver, Layout};

/// What the status byte holds before the device has written it.
pub const UNTOUCHED: u8 = 0xfe;

/// A request as bytes: what the device reads and how much it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The first readable bytes: type, ioprio, sector. 16 bytes, unless a test cuts it.
    pub header: Vec<u8>,
    /// Readable bytes after the header.
    pub out: Vec<u8>,
    /// Writable bytes before the status byte.
    pub in_len: u32,
}

impl Request {
    /// A request of this type at `sector`, without data.
    #[must_use]
    pub fn new(kind: u32, sector: u64) -> Request {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend(0_u32.to_le_bytes());
        header.extend(sector.to_le_bytes());
        Request { header, out: Vec::new(), in_len: 0 }
    }

    /// IN: `len` bytes from `sector`.
    #[must_use]
    pub fn read(sector: u64, len: u32) -> Request {
        Request { in_len: len, ..Request::new(VIRTIO_BLK_T_IN, sector) }
    }

    /// OUT: these bytes to `sector`.
    #[must_use]
    pub fn write(sector: u64, data: &[u8]) -> Request {
        Request { out: data.to_vec(), ..Request::new(VIRTIO_BLK_T_OUT, sector) }
    }

    /// FLUSH.
    #[must_use]
    pub fn flush() -> Request {
        Request::new(VIRTIO_BLK_T_FLUSH, 0)
    }

    /// GET_ID with room for `len` bytes (20 is usual).
    #[must_use]
    pub fn get_id(len: u32) -> Request {
        Request { in_len: len, ..Request::new(VIRTIO_BLK_T_GET_ID, 0) }
    }

    /// DISCARD of segments (sector, sectors, flags).
    #[must_use]
    pub fn discard(segments: &[(u64, u32, u32)]) -> Request {
        Request { out: encode(segments), ..Request::new(VIRTIO_BLK_T_DISCARD, 0) }
    }

    /// WRITE_ZEROES of segments (sector, sectors, flags).
    #[must_use]
    pub fn write_zeroes(segments: &[(u64, u32, u32)]) -> Request {
        Request { out: encode(segments), ..Request::new(VIRTIO_BLK_T_WRITE_ZEROES, 0) }
    }

    /// The same with this ioprio field.
    #[must_use]
    pub fn with_ioprio(mut self, ioprio: u32) -> Request {
        self.header[4..8].copy_from_slice(&ioprio.to_le_bytes());
        self
    }
}

fn encode(segments: &[(u64, u32, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (sector, sectors, flags) in segments {
        bytes.extend(sector.to_le_bytes());
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    bytes
}

/// How a request is cut into descriptors. Whatever the lists leave is one more descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// Lengths of the descriptors over header and readable data.
    pub readable: VecDeque<u32>,
    /// Lengths of the descriptors over writable data and the status byte.
    pub writable: VecDeque<u32>,
    /// Where the descriptors are.
    pub layout: Layout,
}

impl Framing {
    /// Header, data and status in a descriptor each, as every driver does.
    #[must_use]
    pub fn plain(request: &Request) -> Framing {
        let len = |v: &[u8]| u32::try_from(v.len()).expect("a request is short");
        let readable = VecDeque::from([len(&request.header)]);
        let writable = VecDeque::from([request.in_len]);
        Framing { readable, writable, layout: Layout::Direct }
    }

    /// The same through an indirect table.
    #[must_use]
    pub fn indirect(request: &Request) -> Framing {
        Framing { layout: Layout::Indirect, ..Framing::plain(request) }
    }

    /// Data in pieces of `piece` bytes, header and status for themselves.
    #[must_use]
    pub fn pieces(request: &Request, piece: u32, layout: Layout) -> Framing {
        let mut framing = Framing { layout, ..Framing::plain(request) };
        let cut = |len: u32| {
            (0..len.div_ceil(piece)).map(move |i| piece.min(len - i * piece)).collect::<Vec<_>>()
        };
        framing.readable.extend(cut(u32::try_from(request.out.len()).expect("short")));
        framing.writable = cut(request.in_len).into();
        framing
    }
}

/// A request that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its head.
    pub head: u16,
    /// The status byte ([`UNTOUCHED`] when the device did not write it).
    pub status: u8,
    /// The length in the used element.
    pub used_len: u32,
    /// The writable bytes before the status byte; 0xaa where the device wrote nothing.
    pub data: Vec<u8>,
}

#[derive(Debug)]
struct Sent {
    bufs: Vec<Buf>,
}

/// A virtio-blk driver for one queue.
#[derive(Debug)]
pub struct BlkDriver {
    driver: Driver,
    memory: Arc<TestMemory>,
    sent: Vec<Option<Sent>>,
    align: u64,
}

impl BlkDriver {
    /// A blk driver on this ring.
    #[must_use]
    pub fn new(driver: Driver) -> BlkDriver {
        let memory = Arc::clone(driver.memory());
        let sent = (0..driver.ring().size()).map(|_| None).collect();
        BlkDriver { driver, memory, sent, align: 1 }
    }

    /// From now on buffers begin at multiples of `align` bytes of guest memory, as direct I/O likes
    /// them; before, anywhere.
    pub fn set_align(&mut self, align: u64) {
        self.align = align;
    }

    /// The ring underneath.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The ring underneath, to be wrong by hand.
    pub fn driver_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// Adds a request in plain framing; its head, or `None` when descriptors are short.
    pub fn add(&mut self, request: &Request) -> Option<u16> {
        self.add_framed(request, &Framing::plain(request))
    }

    /// Adds a request in any framing; its head, or `None` when descriptors are short.
    ///
    /// Readable memory gets header and data, writable memory 0xaa and an [`UNTOUCHED`] status.
    pub fn add_framed(&mut self, request: &Request, framing: &Framing) -> Option<u16> {
        let mut bytes = request.header.clone();
        bytes.extend(&request.out);
        let mut bufs = self.place(&bytes, &framing.readable, false);
        bytes.clear();
        bytes.resize(request.in_len as usize, 0xaa);
        bytes.push(UNTOUCHED);
        bufs.extend(self.place(&bytes, &framing.writable, true));
        let Some(head) = self.driver.add(&bufs, framing.layout) else {
            self.release(&bufs);
            return None;
        };
        self.sent[usize::from(head)] = Some(Sent { bufs });
        Some(head)
    }

    fn place(&self, bytes: &[u8], cuts: &VecDeque<u32>, writable: bool) -> Vec<Buf> {
        let mut bufs = Vec::new();
        let mut rest = bytes;
        let total = u32::try_from(bytes.len()).expect("a request is short");
        for cut in cuts.iter().copied().chain([total]) {
            let (piece, more) = rest.split_at(rest.len().min(cut as usize));
            rest = more;
            if !piece.is_empty() {
                // One byte more, so that neighbours never merge into one buffer by chance.
                let gpa = self.memory.alloc(piece.len() as u64 + 1, self.align);
                self.memory.write(gpa, piece);
                let len = u32::try_from(piece.len()).expect("a request is short");
                bufs.push(Buf { gpa, len, writable });
            }
        }
        bufs
    }

    fn release(&self, bufs: &[Buf]) {
        for buf in bufs {
            self.memory.free(buf.gpa, u64::from(buf.len) + 1);
        }
    }

    /// Makes what was added visible; whether the device wants a kick.
    pub fn publish(&mut self) -> bool {
        self.driver.publish()
    }

    /// The next request that came back.
    ///
    /// # Panics
    /// When the device returns a head that was not sent.
    pub fn poll(&mut self) -> Option<Done> {
        let used = self.driver.reap()?;
        let sent =
            self.sent[usize::from(used.head)].take().expect("the device returns what it got");
        let mut data: Vec<u8> = Vec::new();
        for buf in sent.bufs.iter().filter(|b| b.writable) {
            data.extend(self.memory.read(buf.gpa, buf.len as usize));
        }
        self.release(&sent.bufs);
        let status = data.pop().expect("every request has a status byte");
        Some(Done { head: used.head, status, used_len: used.len, data })
    }
}

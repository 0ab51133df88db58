//! Every way to break a descriptor chain or the available ring, each with its exact verdict.

use std::os::fd::AsRawFd;

use vhost_user_blkmq::sys::ring::Descriptor;
use vhost_user_blkmq::testkit::GPA;
use vhost_user_blkmq::testkit::driver::{INDIRECT, NEXT, WRITE};

use super::bench::{Bench, MEMORY, Plan, QUIET, Victim};
use crate::common::driver::{DISCARD, FLUSH, GET_ID, IN, OUT, WRITE_ZEROES, segment};
use crate::common::{foreign, note};

/// Status byte before the device has written it.
const UNTOUCHED: u8 = 0xfe;

/// First descriptor that hand-made chains use; good requests on the same ring use low ones.
const BASE: u16 = 32;

/// Address one past the last byte of guest memory.
const END: u64 = GPA + MEMORY;

/// What the device must do with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The head comes back with this status and used length 1, and the ring goes on.
    Status(u8),
    /// The ring is declared broken: nothing comes back, the err descriptor is signalled, the other
    /// rings go on, and a reset of the ring repairs it.
    Broken,
}

const IOERR: Verdict = Verdict::Status(1);
const UNSUPP: Verdict = Verdict::Status(2);
const FINE: Verdict = Verdict::Status(0);

/// A hand that writes into ring 0 whatever it likes.
struct Hand<'a> {
    bench: &'a mut Bench,
    status: Option<u64>,
}

impl Hand<'_> {
    /// Guest memory with these bytes.
    fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let len = u64::try_from(bytes.len()).expect("short");
        let at = self.bench.memory.alloc(len, 16);
        self.bench.memory.write(at, bytes);
        at
    }

    /// A buffer of `len` bytes of 0xa5.
    fn buffer(&mut self, len: usize) -> u64 {
        self.bytes(&vec![0xa5; len])
    }

    /// A request header.
    fn header(&mut self, kind: u32, sector: u64) -> u64 {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(sector.to_le_bytes());
        self.bytes(&bytes)
    }

    /// The status byte.
    fn status(&mut self) -> u64 {
        let at = self.bytes(&[UNTOUCHED]);
        self.status = Some(at);
        at
    }

    /// Writes descriptor `BASE + slot`; `next` is a slot, too.
    fn put(&mut self, slot: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.put_exact(slot, addr, len, flags, BASE + next);
    }

    /// Writes descriptor `BASE + slot` with `next` as it is.
    fn put_exact(&mut self, slot: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let descriptor = Descriptor { addr, len, flags, next };
        self.driver().write_descriptor(BASE + slot, descriptor);
    }

    /// Chains these (address, length, flags) in slots from 0 and makes the head available.
    fn chain(&mut self, parts: &[(u64, u32, u16)]) {
        let count = u16::try_from(parts.len()).expect("short");
        for (slot, &(addr, len, flags)) in (0..).zip(parts) {
            let next = if slot + 1 < count { NEXT } else { 0 };
            self.put(slot, addr, len, flags | next, slot + 1);
        }
        self.push(BASE);
    }

    /// An indirect table with these entries; `next` counts inside the table. Its address.
    fn table(&mut self, entries: &[(u64, u32, u16, u16)]) -> u64 {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|&(addr, len, flags, next)| Descriptor { addr, len, flags, next }.to_bytes())
            .collect();
        self.bytes(&bytes)
    }

    /// A table that holds a good read of 512 bytes; its address and its length.
    fn good_table(&mut self) -> (u64, u32) {
        let (header, data, status) = (self.header(IN, 0), self.buffer(512), self.status());
        let entries = [(header, 16, NEXT, 1), (data, 512, WRITE | NEXT, 2), (status, 1, WRITE, 0)];
        (self.table(&entries), 48)
    }

    /// A read of `segments` sectors into as many pieces, through a table.
    fn long_read(&mut self, segments: u16) {
        let (header, status) = (self.header(IN, 0), self.status());
        let data = self.buffer(512 * usize::from(segments));
        let mut entries = vec![(header, 16, NEXT, 1)];
        entries
            .extend((0..segments).map(|i| (data + 512 * u64::from(i), 512, WRITE | NEXT, i + 2)));
        entries.push((status, 1, WRITE, 0));
        let table = self.table(&entries);
        self.chain(&[(table, (u32::from(segments) + 2) * 16, INDIRECT)]);
    }

    /// A discard or write-zeroes with this payload.
    fn ranges(&mut self, kind: u32, payload: &[u8]) {
        let (header, data) = (self.header(kind, 0), self.bytes(payload));
        let status = self.status();
        let len = u32::try_from(payload.len()).expect("short");
        self.chain(&[(header, 16, 0), (data, len, 0), (status, 1, WRITE)]);
    }

    /// A request whose one data descriptor is this.
    fn with_data(&mut self, kind: u32, sector: u64, data: (u64, u32, u16)) {
        let (header, status) = (self.header(kind, sector), self.status());
        self.chain(&[(header, 16, 0), data, (status, 1, WRITE)]);
    }

    fn push(&mut self, head: u16) {
        self.driver().push_avail(head);
    }

    fn driver(&mut self) -> &mut vhost_user_blkmq::testkit::driver::Driver {
        self.bench.queues[0].blk.driver_mut()
    }
}

/// One misdeed.
struct Case {
    name: &'static str,
    verdict: Verdict,
    make: fn(&mut Hand<'_>),
}

macro_rules! case {
    ($name:literal, $verdict:expr, $make:expr) => {
        Case { name: $name, verdict: $verdict, make: $make }
    };
}

/// Commits the misdeed on a fresh connection and checks the verdict and that it harms nobody.
fn commit(victim: &mut Victim, case: &Case, plan: Plan) {
    let mut bench = victim.bench(plan);
    for q in 0..2 {
        bench.queue(q).serves(u64::from(q) + 1);
    }
    let mut hand = Hand { bench: &mut bench, status: None };
    (case.make)(&mut hand);
    let status = hand.status;
    let read_status = |bench: &Bench| status.map(|at| bench.memory.read(at, 1)[0]);
    bench.queue(0).publish();
    // Wanted or not: a wrong index looks like no news to the driver.
    bench.queue(0).ring_doorbell();
    match case.verdict {
        Verdict::Status(wanted) => {
            let used = bench.queue(0).wait_for(|blk| blk.driver_mut().reap());
            assert_eq!(used.head, BASE, "{}: the head", case.name);
            let got = read_status(&bench).expect("a chain with a status byte");
            assert_eq!(got, wanted, "{}: the status byte", case.name);
            if wanted != 0 {
                assert_eq!(used.len, 1, "{}: only the status was written", case.name);
            }
            assert!(!bench.queue(0).broken_now(), "{}: the ring is whole", case.name);
            bench.queue(0).serves(11);
        }
        Verdict::Broken => {
            assert!(bench.queue(0).broken(), "{}: the err descriptor is signalled", case.name);
            bench.queue(1).serves(12);
            // A good request on the broken ring is not looked at.
            let request = vhost_user_blkmq::testkit::blk::Request::read(0, 512);
            bench.queue(0).blk.add(&request).expect("room");
            bench.queue(0).publish();
            bench.queue(0).ring_doorbell();
            bench.queue(1).serves(13);
            assert!(bench.queue(0).blk.driver_mut().reap().is_none(), "{}", case.name);
            assert!(
                read_status(&bench).is_none_or(|byte| byte == UNTOUCHED),
                "{}: the status byte is left alone",
                case.name
            );
            assert!(!bench.queue(1).broken_now(), "{}: only that ring", case.name);
            bench.stop_queue(0);
            bench.renew_queue(0, 0);
            bench.start_queue(0);
            bench.queue(0).serves(14);
        }
    }
    bench.queue(1).serves(15);
    drop(bench);
    victim.unharmed(case.name);
}

fn commit_all(cases: &[Case]) {
    let mut victim = Victim::new(&[]);
    for case in cases {
        note(case.name);
        commit(&mut victim, case, Plan::default());
    }
    victim.daemon.stop();
}

#[test]
fn tables_that_were_not_negotiated() {
    let mut victim = Victim::new(&[]);
    let plan = Plan::default();
    let plan = Plan { features: plan.features & !crate::common::driver::INDIRECT, ..plan };
    let case = case!("a good table on a ring without tables", Verdict::Broken, |h| {
        let (table, len) = h.good_table();
        h.chain(&[(table, len, INDIRECT)]);
    });
    commit(&mut victim, &case, plan);
    victim.daemon.stop();
}

#[test]
fn broken_chains_in_the_table() {
    commit_all(&[
        case!("a loop of two", Verdict::Broken, |h| {
            let header = h.header(IN, 0);
            h.put(0, header, 16, NEXT, 1);
            h.put(1, header, 16, NEXT, 0);
            h.push(BASE);
        }),
        case!("a descriptor that is its own next", Verdict::Broken, |h| {
            let header = h.header(IN, 0);
            h.put(0, header, 16, NEXT, 0);
            h.push(BASE);
        }),
        case!("next just beyond the table", Verdict::Broken, |h| {
            let header = h.header(IN, 0);
            h.put_exact(0, header, 16, NEXT, 64);
            h.push(BASE);
        }),
        case!("next far beyond the table", Verdict::Broken, |h| {
            let header = h.header(IN, 0);
            h.put_exact(0, header, 16, NEXT, 0xffff);
            h.push(BASE);
        }),
        case!("readable after writable", IOERR, |h| {
            let (header, data, status) = (h.header(IN, 0), h.buffer(512), h.status());
            h.chain(&[(header, 16, 0), (data, 512, WRITE), (data, 512, 0), (status, 1, WRITE)]);
        }),
        case!("the header after the data", IOERR, |h| {
            let (header, data, status) = (h.header(IN, 0), h.buffer(512), h.status());
            h.chain(&[(data, 512, WRITE), (header, 16, 0), (status, 1, WRITE)]);
        }),
        case!("a writable header", IOERR, |h| {
            let (header, data, status) = (h.header(IN, 0), h.buffer(512), h.status());
            h.chain(&[(header, 16, WRITE), (data, 512, WRITE), (status, 1, WRITE)]);
        }),
        case!("no status byte", Verdict::Broken, |h| {
            let (header, data) = (h.header(OUT, 0), h.buffer(512));
            h.chain(&[(header, 16, 0), (data, 512, 0)]);
        }),
        case!("a header and nothing else", Verdict::Broken, |h| {
            let header = h.header(FLUSH, 0);
            h.chain(&[(header, 16, 0)]);
        }),
        case!("a status byte and nothing else", IOERR, |h| {
            let status = h.status();
            h.chain(&[(status, 1, WRITE)]);
        }),
        case!("a header that is too short", IOERR, |h| {
            let (header, status) = (h.header(FLUSH, 0), h.status());
            h.chain(&[(header, 15, 0), (status, 1, WRITE)]);
        }),
        case!("a chain as long as the ring and one more by a loop", Verdict::Broken, |h| {
            let header = h.header(IN, 0);
            for slot in 0..32 {
                h.put(slot, header, 16, NEXT, (slot + 1) % 32);
            }
            h.push(BASE);
        }),
    ]);
}

#[test]
fn broken_available_rings() {
    commit_all(&[
        case!("a head just beyond the table", Verdict::Broken, |h| h.push(64)),
        case!("a head far beyond the table", Verdict::Broken, |h| h.push(0xffff)),
        case!("the index jumps by more than the ring", Verdict::Broken, |h| {
            let at = h.driver().next_used();
            h.driver().set_avail_idx(at.wrapping_add(65));
        }),
        case!("the index goes backwards", Verdict::Broken, |h| {
            let at = h.driver().next_used();
            h.driver().set_avail_idx(at.wrapping_sub(1));
        }),
        case!("the index jumps by half its range", Verdict::Broken, |h| {
            let at = h.driver().next_used();
            h.driver().set_avail_idx(at.wrapping_add(0x8000));
        }),
    ]);
}

#[test]
fn broken_indirect_tables() {
    commit_all(&[
        case!("a good indirect table", FINE, |h| {
            let (table, len) = h.good_table();
            h.chain(&[(table, len, INDIRECT)]);
        }),
        case!("a header in the ring, the rest in a table", FINE, |h| {
            let (header, data, status) = (h.header(IN, 0), h.buffer(512), h.status());
            let table = h.table(&[(data, 512, WRITE | NEXT, 1), (status, 1, WRITE, 0)]);
            h.chain(&[(header, 16, 0), (table, 32, INDIRECT)]);
        }),
        case!("514 segments, far more than the ring has entries", FINE, |h| h.long_read(514)),
        case!("515 segments, one more than the limit", IOERR, |h| h.long_read(515)),
        case!("a table inside a table", Verdict::Broken, |h| {
            let (inner, len) = h.good_table();
            let outer = h.table(&[(inner, len, INDIRECT, 0)]);
            h.chain(&[(outer, 16, INDIRECT)]);
        }),
        case!("a table and a next", Verdict::Broken, |h| {
            let (table, len) = h.good_table();
            let status = h.status();
            h.chain(&[(table, len, INDIRECT), (status, 1, WRITE)]);
        }),
        case!("a table of no entries", Verdict::Broken, |h| {
            let (table, _) = h.good_table();
            h.chain(&[(table, 0, INDIRECT)]);
        }),
        case!("a table of a broken length", Verdict::Broken, |h| {
            let (table, _) = h.good_table();
            h.chain(&[(table, 47, INDIRECT)]);
        }),
        case!("a table shorter than an entry", Verdict::Broken, |h| {
            let (table, _) = h.good_table();
            h.chain(&[(table, 8, INDIRECT)]);
        }),
        case!("a table that leaves memory", Verdict::Broken, |h| {
            h.chain(&[(END - 16, 48, INDIRECT)]);
        }),
        case!("a table outside of memory", Verdict::Broken, |h| {
            h.chain(&[(0x10, 48, INDIRECT)]);
        }),
        case!("a table of 4 GiB", Verdict::Broken, |h| {
            let (table, _) = h.good_table();
            h.chain(&[(table, 0xffff_fff0, INDIRECT)]);
        }),
        case!("a loop inside a table", Verdict::Broken, |h| {
            let header = h.header(IN, 0);
            let table = h.table(&[(header, 16, NEXT, 1), (header, 16, NEXT, 0)]);
            h.chain(&[(table, 32, INDIRECT)]);
        }),
        case!("a next beyond the table's end", Verdict::Broken, |h| {
            let header = h.header(IN, 0);
            let table = h.table(&[(header, 16, NEXT, 3), (header, 16, 0, 0), (0, 0, 0, 0)]);
            h.chain(&[(table, 48, INDIRECT)]);
        }),
        case!("65535 descriptors in one table, all of them chained", Verdict::Broken, |h| {
            let (header, data) = (h.header(IN, 0), h.buffer(512));
            let mut entries = vec![(header, 16, NEXT, 1)];
            entries.extend((1..65535u16).map(|i| (data, 512, WRITE | NEXT, i + 1)));
            let table = h.table(&entries);
            h.chain(&[(table, 65535 * 16, INDIRECT)]);
        }),
        case!("65535 descriptors in one table, three of them chained", FINE, |h| {
            let (header, data, status) = (h.header(IN, 0), h.buffer(512), h.status());
            let mut entries = vec![(0, 0, 0, 0); 65535];
            entries[0] = (header, 16, NEXT, 65533);
            entries[65533] = (data, 512, WRITE | NEXT, 65534);
            entries[65534] = (status, 1, WRITE, 0);
            let table = h.table(&entries);
            h.chain(&[(table, 65535 * 16, INDIRECT)]);
        }),
    ]);
}

#[test]
fn addresses_outside_of_memory() {
    commit_all(&[
        case!("data at address 0", IOERR, |h| h.with_data(IN, 0, (0, 512, WRITE))),
        case!("data behind the end", IOERR, |h| h.with_data(IN, 0, (END, 512, WRITE))),
        case!("data across the end", IOERR, |h| {
            h.with_data(IN, 0, (END - 256, 512, WRITE));
        }),
        case!("data before the start", IOERR, |h| {
            h.with_data(OUT, 0, (GPA - 256, 512, 0));
        }),
        case!("data whose end overflows", IOERR, |h| {
            h.with_data(IN, 0, (u64::MAX - 255, 512, WRITE));
        }),
        case!("a header outside of memory", IOERR, |h| {
            let status = h.status();
            h.chain(&[(END, 16, 0), (status, 1, WRITE)]);
        }),
        case!("a header across the end", IOERR, |h| {
            let status = h.status();
            h.chain(&[(END - 8, 16, 0), (status, 1, WRITE)]);
        }),
        case!("a status byte outside of memory", Verdict::Broken, |h| {
            let header = h.header(FLUSH, 0);
            h.chain(&[(header, 16, 0), (END, 1, WRITE)]);
        }),
        case!("a length of 4 GiB less one", IOERR, |h| {
            let data = h.buffer(512);
            h.with_data(OUT, 0, (data, u32::MAX, 0));
        }),
    ]);
}

#[test]
fn wrong_requests_are_answered() {
    commit_all(&[
        case!("data that is no whole sector", IOERR, |h| {
            let data = h.buffer(512);
            h.with_data(IN, 0, (data, 511, WRITE));
        }),
        case!("a write that is no whole sector", IOERR, |h| {
            let data = h.buffer(1024);
            h.with_data(OUT, 0, (data, 513, 0));
        }),
        case!("a sector past the end", IOERR, |h| {
            let data = h.buffer(512);
            h.with_data(IN, super::bench::DISK / 512, (data, 512, WRITE));
        }),
        case!("a range across the end", IOERR, |h| {
            let data = h.buffer(1024);
            h.with_data(OUT, super::bench::DISK / 512 - 1, (data, 1024, 0));
        }),
        case!("a sector whose byte offset overflows", IOERR, |h| {
            let data = h.buffer(512);
            h.with_data(IN, 1 << 55, (data, 512, WRITE));
        }),
        case!("the largest sector", IOERR, |h| {
            let data = h.buffer(512);
            h.with_data(OUT, u64::MAX, (data, 512, 0));
        }),
        case!("an unknown type", UNSUPP, |h| {
            let (header, status) = (h.header(77, 0), h.status());
            h.chain(&[(header, 16, 0), (status, 1, WRITE)]);
        }),
        case!("a type of all ones with data", UNSUPP, |h| {
            let data = h.buffer(512);
            h.with_data(u32::MAX, 0, (data, 512, WRITE));
        }),
        case!("lengths whose sum is more than 32 bits", IOERR, |h| {
            let (header, status) = (h.header(OUT, 0), h.status());
            // 300 times the same 15 MiB are 4.4 GiB.
            let mut entries = vec![(header, 16, NEXT, 1)];
            entries.extend((1..=300u16).map(|i| (GPA, 15 << 20, NEXT, i + 1)));
            entries.push((status, 1, WRITE, 0));
            let table = h.table(&entries);
            h.chain(&[(table, 302 * 16, INDIRECT)]);
        }),
    ]);
}

#[test]
fn wrong_discards_and_write_zeroes_are_answered() {
    commit_all(&[
        case!("an unknown discard flag", UNSUPP, |h| h.ranges(DISCARD, &segment(0, 8, 2))),
        case!("UNMAP on a discard", UNSUPP, |h| h.ranges(DISCARD, &segment(0, 8, 1))),
        case!("an unknown write-zeroes flag", UNSUPP, |h| {
            h.ranges(WRITE_ZEROES, &segment(0, 8, 0x8000_0000));
        }),
        case!("a segment past the end", IOERR, |h| {
            h.ranges(DISCARD, &segment(super::bench::DISK / 512, 8, 0));
        }),
        case!("a segment whose end overflows", IOERR, |h| {
            h.ranges(WRITE_ZEROES, &segment(u64::MAX - 3, 8, 0));
        }),
        case!("a length that is a sector in 32 bits of bytes", IOERR, |h| {
            h.ranges(DISCARD, &segment(0, 0x0080_0001, 0));
        }),
        case!("more sectors than may be", IOERR, |h| {
            h.ranges(WRITE_ZEROES, &segment(0, u32::MAX, 0));
        }),
        case!("half a segment", IOERR, |h| h.ranges(DISCARD, &segment(0, 8, 0)[..8])),
        case!("a segment and a half", IOERR, |h| {
            let mut payload = segment(0, 8, 0).to_vec();
            payload.extend(&segment(8, 8, 0)[..8]);
            h.ranges(DISCARD, &payload);
        }),
        case!("no segment", IOERR, |h| {
            let (header, status) = (h.header(DISCARD, 0), h.status());
            h.chain(&[(header, 16, 0), (status, 1, WRITE)]);
        }),
        case!("more segments than may be", IOERR, |h| {
            let payload: Vec<u8> = (0..257).flat_map(|i| segment(i, 1, 0)).collect();
            h.ranges(WRITE_ZEROES, &payload);
        }),
        case!("a good segment before a bad one", IOERR, |h| {
            let mut payload = segment(0, 8, 0).to_vec();
            payload.extend(segment(super::bench::DISK / 512 - 4, 8, 0));
            h.ranges(WRITE_ZEROES, &payload);
        }),
    ]);
}

#[test]
fn odd_requests_that_are_fine() {
    commit_all(&[
        case!("a segment in three pieces", FINE, |h| {
            let (header, data) = (h.header(DISCARD, 0), h.bytes(&segment(0, 8, 0)));
            let status = h.status();
            h.chain(&[
                (header, 16, 0),
                (data, 3, 0),
                (data + 3, 9, 0),
                (data + 12, 4, 0),
                (status, 1, WRITE),
            ]);
        }),
        case!("a header in four pieces", FINE, |h| {
            let (header, data, status) = (h.header(IN, 3), h.buffer(512), h.status());
            h.chain(&[
                (header, 1, 0),
                (header + 1, 7, 0),
                (header + 8, 7, 0),
                (header + 15, 1, 0),
                (data, 512, WRITE),
                (status, 1, WRITE),
            ]);
        }),
        case!("header and data in one piece", FINE, |h| {
            let mut bytes = OUT.to_le_bytes().to_vec();
            bytes.resize(16 + 512, 0);
            let (both, status) = (h.bytes(&bytes), h.status());
            h.chain(&[(both, 528, 0), (status, 1, WRITE)]);
        }),
        case!("256 segments", FINE, |h| {
            let payload: Vec<u8> = (0..256).flat_map(|i| segment(i * 2, 1, 0)).collect();
            h.ranges(WRITE_ZEROES, &payload);
        }),
        case!("GET_ID into one byte", FINE, |h| {
            let id = h.buffer(1);
            h.with_data(GET_ID, 0, (id, 1, WRITE));
        }),
        case!("a flush with a sector", FINE, |h| {
            let (header, status) = (h.header(FLUSH, u64::MAX), h.status());
            h.chain(&[(header, 16, 0), (status, 1, WRITE)]);
        }),
    ]);
}

/// The same head twice while the first is in flight is a broken ring; twice one after the other
/// is what every driver does.
#[test]
fn a_head_that_is_in_flight_is_not_available() {
    let mut victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    let mut hand = Hand { bench: &mut bench, status: None };
    let data = hand.buffer(1 << 20);
    // Where nobody else writes: it may be carried out before the ring is found broken.
    hand.with_data(OUT, 4096, (data, 1 << 20, 0));
    hand.push(BASE);
    bench.queue(0).publish();
    // The device sees both entries in one sweep, before it can have written a mebibyte.
    assert!(bench.queue(0).broken(), "a guest that uses a tag twice");
    bench.queue(1).serves(1);
    bench.stop_queue(0);
    bench.renew_queue(0, 0);
    bench.start_queue(0);
    bench.queue(0).serves(2);
    drop(bench);
    victim.unharmed("a duplicate head");
    victim.daemon.stop();
}

/// A broken ring does not spin: with the err descriptor signalled, the daemon sleeps.
#[test]
fn a_broken_ring_costs_no_time() {
    let victim = Victim::new(&[]);
    let mut bench = victim.bench(Plan::default());
    bench.queue(0).blk.driver_mut().push_avail(0xffff);
    bench.queue(0).publish();
    assert!(bench.queue(0).broken());
    let before = super::rings::cpu_time(victim.daemon.pid());
    assert!(!foreign::readable(bench.session.stream().as_raw_fd(), QUIET * 10), "still connected");
    let spent = super::rings::cpu_time(victim.daemon.pid()) - before;
    assert!(spent <= 5, "{spent} ticks in 300 ms of rest");
}

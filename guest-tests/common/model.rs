//! Random I/O held against a model of the disk: what every sector must hold at any time.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::client::{ARENA, Client};
use super::rng::{Rng, mix};

/// Bytes a virtio-blk sector has, whatever the logical block size is.
pub(crate) const SECTOR: usize = 512;

/// Largest request of the random load, in bytes.
const LARGEST: usize = 64 << 10;

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Zeroes.
    Zero,
    /// What the write with this number put there.
    Written(u64),
    /// Discarded: anything is right.
    Anything,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Read,
    Write(u64),
    Zeroes,
    Discard,
    Flush,
}

#[derive(Clone, Copy, Debug)]
struct Flying {
    queue: usize,
    what: What,
    first: usize,
    count: usize,
}

impl Flying {
    fn overlaps(&self, first: usize, count: usize) -> bool {
        first < self.first + self.count && self.first < first + count
    }

    fn changes(&self) -> bool {
        matches!(self.what, What::Write(_) | What::Zeroes | What::Discard)
    }
}

/// A random load on one client.
pub(crate) struct Load {
    seed: u64,
    rng: Rng,
    sectors: Vec<Content>,
    /// Sectors of a logical block: everything is aligned to it.
    unit: usize,
    flying: BTreeMap<usize, Flying>,
    writes: u64,
    done: u64,
}

impl Load {
    /// A load on a disk of `bytes` bytes that reads as zeroes.
    pub(crate) fn new(seed: u64, bytes: u64, unit: usize) -> Load {
        let sectors = usize::try_from(bytes).expect("test disks are small") / SECTOR;
        Load {
            seed,
            rng: Rng::new(seed),
            sectors: vec![Content::Zero; sectors],
            unit,
            flying: BTreeMap::new(),
            writes: 0,
            done: 0,
        }
    }

    /// Runs `requests` requests with `depth` of them in flight, over all queues of the client.
    pub(crate) fn run(&mut self, client: &mut Client, requests: u64, depth: usize) {
        assert!(depth * LARGEST <= ARENA, "every request in flight has a buffer");
        let end = self.done + requests;
        let mut free: Vec<usize> = (0..depth).collect();
        while self.done < end {
            while let Some(tag) = free.pop() {
                self.launch(client, tag);
            }
            self.land(client, &mut free);
        }
        while !self.flying.is_empty() {
            self.land(client, &mut free);
        }
    }

    fn content(&self, sector: usize) -> Option<Vec<u8>> {
        match self.sectors[sector] {
            Content::Zero => Some(vec![0; SECTOR]),
            Content::Written(number) => Some(self.bytes_of(sector, number)),
            Content::Anything => None,
        }
    }

    fn bytes_of(&self, sector: usize, number: u64) -> Vec<u8> {
        let sector = u64::try_from(sector).expect("small");
        super::rng::pattern(mix(self.seed ^ number) ^ sector, SECTOR)
    }

    fn launch(&mut self, client: &mut Client, tag: usize) {
        let queue = self.rng.index(client.width());
        let what = match self.rng.below(100) {
            0..45 => What::Read,
            45..88 => {
                self.writes += 1;
                What::Write(self.writes)
            }
            88..93 => What::Zeroes,
            93..96 => What::Discard,
            _ => What::Flush,
        };
        let (first, count) = self.choose(what);
        let fly = Flying { queue, what, first, count };
        let offset = u64::try_from(first * SECTOR).expect("small");
        let len = count * SECTOR;
        let wide = u64::try_from(len).expect("small");
        let at = tag * LARGEST;
        match what {
            What::Read => client.begin_read(queue, offset, at, len, tag),
            What::Write(number) => {
                let bytes: Vec<u8> =
                    (first..first + count).flat_map(|s| self.bytes_of(s, number)).collect();
                client.put(at, &bytes);
                client.begin_write(queue, offset, at, len, tag);
            }
            What::Zeroes => {
                let unmap = self.rng.below(2) == 0;
                client.begin_zeroes(queue, offset, wide, unmap, tag);
            }
            What::Discard => client.begin_discard(queue, offset, wide, tag),
            What::Flush => client.begin_flush(queue, tag),
        }
        assert!(self.flying.insert(tag, fly).is_none(), "a tag is used once at a time");
    }

    /// A range that no request in flight would make undefined. Some are small, some neighbours.
    fn choose(&mut self, what: What) -> (usize, usize) {
        if matches!(what, What::Flush) {
            return (0, 0);
        }
        let units = self.sectors.len() / self.unit;
        let changes = !matches!(what, What::Read);
        loop {
            let most = if self.rng.below(4) == 0 { LARGEST / SECTOR / self.unit } else { 8 };
            let count = 1 + self.rng.index(most.min(units));
            let first = self.rng.index(units - count + 1);
            let (first, count) = (first * self.unit, count * self.unit);
            let clash =
                self.flying.values().any(|f| f.overlaps(first, count) && (changes || f.changes()));
            if !clash {
                return (first, count);
            }
        }
    }

    fn land(&mut self, client: &mut Client, free: &mut Vec<usize>) {
        let queue = self.flying.values().next().expect("something flies").queue;
        for (tag, result) in client.reap(queue) {
            let fly = self.flying.remove(&tag).expect("a completion for a request that we made");
            assert_eq!(result, 0, "seed {}: {fly:?} failed", self.seed);
            let range = fly.first..fly.first + fly.count;
            match fly.what {
                What::Read => {
                    let got = client.get(tag * LARGEST, fly.count * SECTOR);
                    self.compare(fly.first, &got, "read");
                }
                What::Write(n) => self.sectors[range].fill(Content::Written(n)),
                What::Zeroes => self.sectors[range].fill(Content::Zero),
                What::Discard => self.sectors[range].fill(Content::Anything),
                What::Flush => {}
            }
            self.done += 1;
            free.push(tag);
        }
    }

    fn compare(&self, first: usize, got: &[u8], how: &str) {
        for (i, bytes) in got.chunks(SECTOR).enumerate() {
            if let Some(want) = self.content(first + i) {
                assert!(
                    want == bytes,
                    "seed {}: {how}: sector {} is not {:?}; it starts {:02x?}, not {:02x?}",
                    self.seed,
                    first + i,
                    self.sectors[first + i],
                    &bytes[..16],
                    &want[..16]
                );
            }
        }
    }

    /// Reads the whole disk through the client.
    pub(crate) fn check_all(&self, client: &mut Client) {
        let step = LARGEST / SECTOR;
        for first in (0..self.sectors.len()).step_by(step) {
            let count = step.min(self.sectors.len() - first);
            let offset = u64::try_from(first * SECTOR).expect("small");
            let queue = (first / step) % client.width();
            let got = client.read(queue, offset, count * SECTOR).expect("inside the disk");
            self.compare(first, &got, "read at the end");
        }
    }

    /// Reads the image file behind the daemon.
    pub(crate) fn check_image(&self, image: &Path) {
        let file = std::fs::File::open(image).expect("the image is there");
        let mut got = vec![0; self.sectors.len() * SECTOR];
        file.read_exact_at(&mut got, 0).expect("the image has the disk's size");
        self.compare(0, &got, "image");
    }
}

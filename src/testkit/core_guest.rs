//! Who lives in the simulated world: its configuration, and the guests with what they wait for.

use super::core_disk::{Faults, Rng};
use crate::blkmq::{MergeConfig, MergeSearch};
use crate::block::{HctxId, Op, SectorRange, Status, Tag};

/// What the world looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) threads: u16,
    pub(crate) hctxs: u16,
    pub(crate) depth: u16,
    pub(crate) hw_depth: u32,
    pub(crate) capacity: usize,
    pub(crate) faults: Faults,
    /// Write-through: every writing bio is `fua`.
    pub(crate) fua: bool,
    /// The image takes durable writes; without, they are followed by a flush.
    pub(crate) dsync: bool,
    pub(crate) exclusive: bool,
    pub(crate) noop: bool,
    /// Flushes among the bios, in 1000.
    pub(crate) flushes: u64,
    /// Bios that touch the one before, in 1000.
    pub(crate) sequential: u64,
    pub(crate) merging: MergeConfig,
    /// Every transfer of one of these sectors fails, and nothing else does.
    pub(crate) bad: Option<SectorRange>,
    /// Duplicate heads, stale completions and rejected heads are mixed in.
    pub(crate) strays: bool,
}

impl Config {
    /// One thread with three small queues and a good disk.
    pub(crate) fn new(seed: u64) -> Config {
        Config {
            seed,
            threads: 1,
            hctxs: 3,
            depth: 16,
            hw_depth: 0,
            capacity: 8,
            faults: Faults::default(),
            fua: false,
            dsync: true,
            exclusive: true,
            noop: false,
            flushes: 100,
            sequential: 0,
            merging: MergeConfig::default(),
            bad: None,
            strays: true,
        }
    }

    /// Everything drawn from the seed.
    pub(crate) fn random(seed: u64) -> Config {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let small = |rng: &mut Rng, n: u64| u16::try_from(1 + rng.below(n)).expect("small");
        Config {
            seed,
            threads: small(&mut rng, 3),
            hctxs: small(&mut rng, 4),
            depth: small(&mut rng, 48),
            hw_depth: u32::try_from(rng.below(6)).expect("small"),
            capacity: 1 + rng.index(24),
            faults: Faults {
                error: rng.below(2) * rng.below(10),
                short: rng.below(2) * rng.below(200),
                again: rng.below(2) * rng.below(200),
                busy: rng.below(2) * rng.below(300),
                at: None,
            },
            fua: rng.chance(300),
            dsync: rng.chance(500),
            exclusive: rng.chance(700),
            noop: rng.chance(50),
            flushes: rng.below(300),
            sequential: rng.below(2) * rng.below(1000),
            merging: random_merging(&mut rng),
            bad: None,
            strays: rng.chance(700),
        }
    }
}

/// Limits from tight to none, and every kind of search.
fn random_merging(rng: &mut Rng) -> MergeConfig {
    let max_segments = u16::try_from(2 + rng.below(60)).expect("small");
    let max_bytes = 512 << rng.below(12);
    let chunk_bytes = u32::try_from(rng.below(2) * (4096 << rng.below(6))).expect("small");
    let search = MergeSearch::of_nomerges(u8::try_from(rng.below(3)).expect("small"));
    let search = search.expect("0 to 2");
    MergeConfig { search, max_bytes, max_segments, chunk_bytes }
}

/// A bio that the guest waits for.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) op: Op,
    pub(super) fua: bool,
    /// Ranges still to come (discard, zeroes).
    pub(super) rest: Vec<SectorRange>,
    /// A rejected head: the status it must come back with.
    pub(super) expect: Option<Status>,
    /// How many acknowledged writes a flush has to cover.
    pub(super) covers: usize,
    pub(super) write: Option<usize>,
}

/// One virtqueue's driver.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) hctx: HctxId,
    pub(super) live: Vec<Option<Live>>,
    pub(super) taken: Vec<Tag>,
    pub(super) free: Vec<Tag>,
    pub(crate) submitted: u64,
    pub(crate) data: u64,
    pub(crate) ok: u64,
    pub(crate) errors: u64,
    pub(crate) data_errors: u64,
    pub(crate) flush_errors: u64,
    pub(crate) rejected: u64,
    /// Sectors that the disk moved, whatever became of the bio.
    pub(crate) sectors: u64,
    /// Time during which the core had data of this guest in progress.
    pub(crate) busy: u64,
    pub(crate) frozen: bool,
    /// Flushes so far: no merge crosses one.
    pub(super) epoch: u64,
}

impl Guest {
    pub(super) fn new(hctx: HctxId, depth: u16) -> Guest {
        Guest {
            hctx,
            live: vec![None; usize::from(depth)],
            taken: Vec::new(),
            free: (0..depth).map(Tag).collect(),
            submitted: 0,
            data: 0,
            ok: 0,
            errors: 0,
            data_errors: 0,
            flush_errors: 0,
            rejected: 0,
            sectors: 0,
            busy: 0,
            frozen: false,
            epoch: 0,
        }
    }
}

/// Says which world failed.
pub(super) struct SeedGuard(pub(super) Config);

impl Drop for SeedGuard {
    #[allow(clippy::print_stderr, reason = "a failing test names its seed")]
    fn drop(&mut self) {
        eprintln!("the world that failed: {:?}", self.0);
    }
}

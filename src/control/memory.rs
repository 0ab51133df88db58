//! The memory table: what the front-end shares, and the generation of guest memory made from it.
//!
//! A table is never changed in place. Each message makes the *next* table, which is taken over
//! only when it is whole; the rings then move to its generation (see [`super::rings`]). So a
//! refused message leaves the guest's memory as it was. Mappings that stay are shared between
//! generations, never mapped twice.
//!
//! What is checked, before anything is mapped (M1-M3) and while mapping (M4, M5):
//! * M1 At most [`MAX_SLOTS`] regions.
//! * M2 No two regions share a guest-physical address.
//! * M3 No two regions share a front-end address: ring addresses would be ambiguous.
//! * M4 A region is not empty, its sums do not overflow, its file offset is page aligned.
//! * M5 The file is at least as long as the region says (the first touch would kill the process).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::refusal::Refusal;
use crate::sys::fd;
use crate::sys::guest::{GuestMemory, Region};

/// Regions that fit in the table: the answer to GET_MAX_MEM_SLOTS, the number that QEMU's own
/// library (libvhost-user) gives. It must never shrink between connections.
pub const MAX_SLOTS: usize = 509;

/// Where a region lies: numbers of the front-end, not yet believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// Size in bytes.
    pub size: u64,
    /// The front-end's address of the first byte.
    pub uva: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
}

impl From<&VhostUserMemoryRegion> for RegionSpec {
    fn from(r: &VhostUserMemoryRegion) -> RegionSpec {
        RegionSpec {
            gpa: r.guest_phys_addr,
            size: r.memory_size,
            uva: r.user_addr,
            offset: r.mmap_offset,
        }
    }
}

impl RegionSpec {
    /// Whether the other names the same memory (vhost-user, REM_MEM_REG: the file offset of the
    /// message is not compared).
    fn names(&self, other: &RegionSpec) -> bool {
        (self.gpa, self.size, self.uva) == (other.gpa, other.size, other.uva)
    }

    fn refuse(&self, why: std::io::Error) -> Refusal {
        Refusal::Region { gpa: self.gpa, size: self.size, why }
    }
}

/// A region of the table, with what tells whether a new one is the same.
#[derive(Clone, Debug)]
struct Slot {
    spec: RegionSpec,
    file: FileId,
    region: Arc<Region>,
}

/// Device and inode of a file: two descriptors of the same memory have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

/// The regions that the front-end shares, and the generation of guest memory over them.
#[derive(Clone, Debug, Default)]
pub struct MemoryTable {
    slots: Vec<Slot>,
    memory: Arc<GuestMemory>,
}

impl MemoryTable {
    /// The generation that rings of this table use.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Number of regions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is shared yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the other table shares the same mappings, so that nobody need notice a change.
    #[must_use]
    pub fn is_same(&self, other: &MemoryTable) -> bool {
        let regions = |t: &MemoryTable| t.memory.regions().to_vec();
        let (ours, theirs) = (regions(self), regions(other));
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The table that SET_MEM_TABLE asks for. Regions that are already mapped are not mapped again.
    ///
    /// # Errors
    /// The rule (M1-M5) that a region breaks, or what the kernel answered to mapping it.
    pub fn replaced(&self, regions: Vec<(RegionSpec, File)>) -> Result<MemoryTable, Refusal> {
        check(regions.iter().map(|(spec, _)| *spec).collect())?;
        let slots = regions
            .into_iter()
            .map(|(spec, file)| self.slot(spec, file))
            .collect::<Result<Vec<_>, _>>()?;
        MemoryTable::of(slots)
    }

    /// The table that ADD_MEM_REG asks for.
    ///
    /// # Errors
    /// The rule (M1-M5) that the region breaks, or what the kernel answered to mapping it.
    pub fn added(&self, spec: RegionSpec, file: File) -> Result<MemoryTable, Refusal> {
        check(self.slots.iter().map(|s| s.spec).chain([spec]).collect())?;
        let mut slots = self.slots.clone();
        slots.push(self.slot(spec, file)?);
        MemoryTable::of(slots)
    }

    /// The table that REM_MEM_REG asks for.
    ///
    /// # Errors
    /// [`Refusal::NoSuchRegion`].
    pub fn removed(&self, spec: &RegionSpec) -> Result<MemoryTable, Refusal> {
        let mut slots = self.slots.clone();
        let at = slots
            .iter()
            .position(|s| s.spec.names(spec))
            .ok_or(Refusal::NoSuchRegion { gpa: spec.gpa, size: spec.size })?;
        slots.remove(at);
        MemoryTable::of(slots)
    }

    fn of(slots: Vec<Slot>) -> Result<MemoryTable, Refusal> {
        let regions = slots.iter().map(|s| Arc::clone(&s.region)).collect();
        let memory = GuestMemory::new(regions)
            .map_err(|_| Refusal::Overlap { space: "guest", address: 0 })?;
        Ok(MemoryTable { slots, memory: Arc::new(memory) })
    }

    /// The slot for a region: the one we have, or a new mapping.
    fn slot(&self, spec: RegionSpec, file: File) -> Result<Slot, Refusal> {
        let meta = file.metadata().map_err(|why| spec.refuse(why))?;
        let id = FileId(meta.dev(), meta.ino());
        // The same bytes of the same file at the same addresses; M5 is asked again, because the
        // file may have shrunk since.
        let fits = spec.offset.checked_add(spec.size).is_some_and(|end| end <= meta.len());
        if fits && let Some(slot) = self.slots.iter().find(|s| s.spec == spec && s.file == id) {
            return Ok(slot.clone());
        }
        fd::set_cloexec(fd::borrow(&file)).map_err(|why| spec.refuse(why))?;
        let region = Region::map(spec.gpa, spec.size, spec.uva, file, spec.offset)
            .map_err(|why| spec.refuse(why))?;
        Ok(Slot { spec, file: id, region: Arc::new(region) })
    }
}

/// Rules M1-M3. Sums saturate here: a region whose sums overflow is refused by M4.
fn check(mut specs: Vec<RegionSpec>) -> Result<(), Refusal> {
    if specs.len() > MAX_SLOTS {
        return Err(Refusal::TooManyRegions { count: specs.len(), max: MAX_SLOTS });
    }
    no_overlap("guest", &mut specs, |s| s.gpa)?;
    no_overlap("front-end", &mut specs, |s| s.uva)
}

fn no_overlap(
    space: &'static str,
    specs: &mut [RegionSpec],
    start: impl Fn(&RegionSpec) -> u64,
) -> Result<(), Refusal> {
    specs.sort_by_key(&start);
    let clash = specs.windows(2).find(|w| start(&w[0]).saturating_add(w[0].size) > start(&w[1]));
    match clash {
        Some(pair) => Err(Refusal::Overlap { space, address: start(&pair[1]) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

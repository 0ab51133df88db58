//! What a guest may expect of its disk: the oracle that tests hold the device against.
//!
//! Every sector has a history of the values that writes gave it. A value is a number that the whole
//! sector is filled with ([`fill`]); 0 is the zeroed sector.
//!
//! * M1 A read returns, for each sector, the newest acknowledged value or any value written after
//!   it whose write failed or is still on its way.
//! * M2 After a power cut a sector holds a value that is not older than the newest one that was
//!   durable: acknowledged before an acknowledged flush was submitted, or written through.

use crate::block::SECTOR_SIZE;

/// One value in a sector's history.
#[derive(Clone, Copy, Debug)]
struct Entry {
    value: u64,
    acknowledged: bool,
}

/// Histories of all sectors.
#[derive(Debug)]
pub struct DiskModel {
    sectors: Vec<Vec<Entry>>,
    durable: Vec<usize>,
}

/// A point in every sector's history, taken when a flush is submitted.
#[derive(Clone, Debug)]
pub struct FlushPoint(Vec<usize>);

impl DiskModel {
    /// A disk of zeroed sectors.
    #[must_use]
    pub fn new(sectors: usize) -> DiskModel {
        let zero = Entry { value: 0, acknowledged: true };
        DiskModel { sectors: vec![vec![zero]; sectors], durable: vec![0; sectors] }
    }

    /// A write of `value` to these sectors was submitted.
    pub fn write_submitted(&mut self, start: usize, len: usize, value: u64) {
        for history in &mut self.sectors[start..start + len] {
            history.push(Entry { value, acknowledged: false });
        }
    }

    /// The write of `value` was acknowledged; `through` says that this means durable.
    pub fn write_acknowledged(&mut self, start: usize, len: usize, value: u64, through: bool) {
        for s in start..start + len {
            let history = &mut self.sectors[s];
            let i = history.iter().rposition(|e| e.value == value).expect("submitted before");
            history[i].acknowledged = true;
            if through {
                self.durable[s] = self.durable[s].max(i);
            }
        }
    }

    fn newest_acknowledged(history: &[Entry]) -> usize {
        history.iter().rposition(|e| e.acknowledged).expect("the first entry is acknowledged")
    }

    /// A flush is being submitted: it has to cover what is acknowledged now.
    #[must_use]
    pub fn flush_submitted(&self) -> FlushPoint {
        FlushPoint(self.sectors.iter().map(|h| Self::newest_acknowledged(h)).collect())
    }

    /// The flush submitted at `point` was acknowledged.
    pub fn flush_acknowledged(&mut self, point: &FlushPoint) {
        for (durable, covered) in self.durable.iter_mut().zip(&point.0) {
            *durable = (*durable).max(*covered);
        }
    }

    /// Checks what a read of these sectors returned (M1).
    ///
    /// # Errors
    /// Which sector holds what it may not.
    pub fn check_read(&self, start: usize, data: &[u8]) -> Result<(), String> {
        for (i, sector) in data.chunks(sector_bytes()).enumerate() {
            let history = &self.sectors[start + i];
            let from = Self::newest_acknowledged(history);
            check(start + i, sector, &history[from..])?;
        }
        Ok(())
    }

    /// Checks the whole disk after a power cut (M2).
    ///
    /// # Errors
    /// Which sector lost what was durable.
    pub fn check_after_power_cut(&self, content: &[u8]) -> Result<(), String> {
        for (i, sector) in content.chunks(sector_bytes()).enumerate() {
            check(i, sector, &self.sectors[i][self.durable[i]..])?;
        }
        Ok(())
    }
}

fn sector_bytes() -> usize {
    usize::try_from(SECTOR_SIZE).expect("512")
}

fn check(number: usize, sector: &[u8], allowed: &[Entry]) -> Result<(), String> {
    let mut expected = vec![0; sector.len()];
    for entry in allowed {
        fill(&mut expected, entry.value);
        if expected == sector {
            return Ok(());
        }
    }
    let (head, _) = sector.split_at(8);
    let found = u64::from_le_bytes(head.try_into().expect("eight bytes"));
    let values: Vec<u64> = allowed.iter().map(|e| e.value).collect();
    Err(format!("sector {number} holds {found:#x}, allowed are {values:x?}"))
}

/// Fills sectors with `value`, eight bytes at a time.
pub fn fill(data: &mut [u8], value: u64) {
    for word in data.chunks_mut(8) {
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(value: u64) -> Vec<u8> {
        let mut s = vec![0; 512];
        fill(&mut s, value);
        s
    }

    #[test]
    fn a_lost_write_is_seen() {
        let mut m = DiskModel::new(2);
        m.write_submitted(1, 1, 7);
        assert_eq!(m.check_read(1, &sector(0)), Ok(()));
        m.write_acknowledged(1, 1, 7, false);
        assert!(m.check_read(1, &sector(0)).is_err());
        assert_eq!(m.check_read(1, &sector(7)), Ok(()));
    }

    #[test]
    fn only_what_was_flushed_must_survive() {
        let mut m = DiskModel::new(1);
        m.write_submitted(0, 1, 7);
        let early = m.flush_submitted();
        m.write_acknowledged(0, 1, 7, false);
        m.flush_acknowledged(&early);
        assert_eq!(m.check_after_power_cut(&sector(0)), Ok(()));
        let late = m.flush_submitted();
        m.flush_acknowledged(&late);
        assert!(m.check_after_power_cut(&sector(0)).is_err());
        assert_eq!(m.check_after_power_cut(&sector(7)), Ok(()));
    }

    #[test]
    fn a_torn_sector_is_seen() {
        let mut m = DiskModel::new(1);
        m.write_submitted(0, 1, 7);
        m.write_acknowledged(0, 1, 7, true);
        let mut torn = sector(7);
        torn[256..].fill(0);
        assert!(m.check_read(0, &torn).is_err());
        assert!(m.check_after_power_cut(&sector(0)).is_err());
    }
}

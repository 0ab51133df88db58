//! A real block device below the image, made by the kernel out of a file (needs root).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::Scratch;
use super::note;

/// A block device whose flushes the kernel counts.
pub(crate) struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    /// A loop device on a new file; `None` when there is none to be had.
    pub(crate) fn new(scratch: &Scratch, size: u64) -> Option<Loop> {
        let file = scratch.image(size);
        let output = Command::new("losetup").arg("--find").arg("--show").arg(&file).output();
        let made = output.ok().filter(|o| o.status.success());
        let Some(made) = made else {
            note("no loop device can be had here: flushes are not counted at a disk");
            return None;
        };
        let device = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
        Some(Loop { device, file })
    }

    /// The device.
    pub(crate) fn path(&self) -> &Path {
        &self.device
    }

    /// Makes it `size` bytes long.
    pub(crate) fn resize(&self, size: u64) {
        let file = fs::File::options().write(true).open(&self.file).expect("it is there");
        file.set_len(size).expect("room");
        let told = Command::new("losetup").arg("--set-capacity").arg(&self.device).status();
        assert!(told.expect("it made the device").success());
    }

    /// Number in the device's statistics (Documentation/block/stat.rst), counted from 1.
    fn statistic(&self, field: usize) -> u64 {
        let name = self.device.file_name().expect("/dev/loopN").to_string_lossy().into_owned();
        let text = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("it exists");
        let number = text.split_whitespace().nth(field - 1).and_then(|n| n.parse().ok());
        number.expect("flushes are counted since Linux 5.5")
    }

    /// Flushes that arrived at the device so far.
    pub(crate) fn flushes(&self) -> u64 {
        self.statistic(16)
    }

    /// Writes that arrived at the device so far.
    pub(crate) fn writes(&self) -> u64 {
        self.statistic(5)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Whoever still has it open keeps it; then it goes with the last user.
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

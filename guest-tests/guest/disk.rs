//! A raw disk image on the host, and what the host can see of it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes of a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// Mebibytes in bytes, as a length in memory.
pub(crate) fn mib(count: u64) -> usize {
    usize::try_from(count * MIB).expect("less than the address space")
}

/// A raw image file.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A sparse image of `mebibytes`.
    pub(crate) fn sparse(path: PathBuf, mebibytes: u64) -> Self {
        let file = File::create(&path).expect("an image file");
        file.set_len(mebibytes * MIB).expect("room for the image");
        Disk { path }
    }

    /// A copy of another image that keeps its holes.
    pub(crate) fn copy_of(original: &Path, path: PathBuf) -> Self {
        let (from, to) = (original.to_str().expect("utf-8"), path.to_str().expect("utf-8"));
        super::process::host("cp", &["--sparse=always", "--reflink=auto", from, to]);
        Disk { path }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it so long, from the host's side.
    pub(crate) fn resize(&self, mebibytes: u64) {
        let file = OpenOptions::new().write(true).open(&self.path).expect("the image");
        file.set_len(mebibytes * MIB).expect("room for the image");
    }

    /// Its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        std::fs::metadata(&self.path).expect("the image").len()
    }

    /// Bytes that the file system has allocated for it.
    ///
    /// The file is synced first: with delayed allocation the count would lag behind.
    pub(crate) fn allocated(&self) -> u64 {
        let file = File::open(&self.path).expect("the image");
        file.sync_all().expect("fsync of the image");
        file.metadata().expect("the image's metadata").blocks() * 512
    }

    /// Its bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(&self.path)
            .expect("the image")
            .read_exact_at(&mut bytes, offset)
            .expect("a read of the image");
        bytes
    }

    /// Writes from the host's side, before a daemon has it.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).expect("the image");
        file.write_all_at(bytes, offset).expect("a write to the image");
    }

    /// Its SHA-256 over a range, as `sha256sum` prints it.
    pub(crate) fn sha256(&self, offset: u64, length: u64) -> String {
        let script = format!(
            "tail -c +{} '{}' | head -c {length} | sha256sum | cut -d ' ' -f 1",
            offset + 1,
            self.path.display()
        );
        super::process::host("sh", &["-c", &script]).trim().to_string()
    }
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*: short, and without a visible pattern.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

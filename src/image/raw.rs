//! A raw file or block device, through io_uring.
//!
//! * `probe`: what the file is and what it demands, asked once at open.
//! * `extent`: how long it is, which may change.
//! * `locking`: image locks as QEMU takes them.
//! * `channel`: one thread's way in. Aligned operations go straight between guest memory and the
//!   file; what direct I/O cannot take goes through bounce buffers.
//! * `ladder`: which way a discard or a write-zeroes takes, and what follows a refusal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use self::extent::Extent;
use super::options::{CacheMode, OpenError, OpenOptions, check_blocks};
use super::resize::{ResizeError, check_len};
use super::{BufferMask, Channel, Geometry, Image, Traits};
use crate::sys::direct_rw;
use crate::sys::storage::Alignment;
use crate::sys::uring::Ring;
use crate::sys::zeroes;

mod channel;
mod extent;
mod ladder;
mod locking;
mod probe;
#[cfg(test)]
mod tests;

/// The open file and what its channels have to know. Closed, and unlocked, with the last user.
#[derive(Debug)]
struct Opened {
    file: File,
    extent: Extent,
    /// What direct I/O demands; `None` with the page cache.
    alignment: Option<Alignment>,
    /// Discards and zeroes on a block device must be multiples of this, in bytes; 1 on a file.
    unit: u32,
    block_device: bool,
    /// It lies in memory: what is straight is done by the thread itself (C6 of `channel`).
    in_memory: bool,
    /// Guest memory is registered for it.
    registers: bool,
    traits: Traits,
}

/// A raw image, shared by all queue threads.
#[derive(Debug)]
pub struct RawImage {
    opened: Arc<Opened>,
    /// As at open: the capacity of now is the extent's.
    geometry: Geometry,
}

impl RawImage {
    /// Opens, probes and locks the file or block device at `path`.
    ///
    /// # Errors
    /// [`OpenError`]: one line with the cause and the remedy.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<RawImage, OpenError> {
        check_blocks(options)?;
        let io_error =
            |doing| move |source| OpenError::Io { path: path.to_path_buf(), doing, source };
        let file = open_file(path, options)?;
        let facts = probe::facts(&file).map_err(io_error("ask about its size and blocks"))?;
        if facts.size == 0 {
            return Err(OpenError::Empty(path.into()));
        }
        let alignment = if options.cache.direct() {
            let found = probe::direct(&file).map_err(io_error("ask about direct I/O"))?;
            Some(found.ok_or_else(|| no_direct_io(path, options))?)
        } else {
            None
        };
        let geometry = probe::geometry(path, &facts, alignment, options)?;
        locking::lock(file.as_fd(), path, options.read_only, options.share_rw)?;
        zeroes::prepare().map_err(io_error("map zeroes for"))?;
        let traits = Traits {
            read_only: options.read_only,
            flush_is_noop: options.cache.flush_is_noop(),
            exclusive: !options.share_rw,
            dsync: options.cache.direct(),
        };
        let block_device = facts.device.is_some();
        let extent = Extent::new(facts.size, geometry.logical_block, !block_device);
        let unit = facts.device.map_or(1, |d| d.logical);
        let in_memory = direct_rw::is_in_memory(file.as_fd());
        let registers = options.registered_buffers && alignment.is_some() && !in_memory;
        let opened =
            Opened { file, extent, alignment, unit, block_device, in_memory, registers, traits };
        Ok(RawImage { opened: Arc::new(opened), geometry })
    }
}

impl Image for RawImage {
    fn geometry(&self) -> Geometry {
        Geometry { capacity: self.opened.extent.sectors(), ..self.geometry }
    }

    fn traits(&self) -> Traits {
        self.opened.traits
    }

    fn is_rotational(&self) -> bool {
        self.opened.file.metadata().is_ok_and(|found| probe::is_rotational(&found))
    }

    fn is_inline(&self) -> bool {
        self.opened.in_memory
    }

    fn registers_buffers(&self) -> bool {
        self.opened.registers
    }

    fn buffer_mask(&self) -> BufferMask {
        self.opened.buffer_mask()
    }

    fn open_channel(&self, ring: &mut Ring, lane: u16) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(channel::RawChannel::open(&self.opened, ring, lane)?))
    }

    fn sync(&self) -> io::Result<()> {
        if self.opened.traits.flush_is_noop { Ok(()) } else { self.opened.file.sync_data() }
    }

    fn remeasure(&self) -> Result<Geometry, ResizeError> {
        let file = &self.opened.file;
        let asked = file.metadata().and_then(|meta| probe::size(file, &meta));
        self.opened.extent.take(asked.map_err(ResizeError::Asking)?)?;
        Ok(self.geometry())
    }

    fn set_len(&self, bytes: u64) -> Result<(), ResizeError> {
        if self.opened.block_device {
            return Err(ResizeError::NotOurs(
                "a block device has the size that its own tools give it: use those, then have the \
                 size taken",
            ));
        }
        if self.opened.traits.read_only {
            return Err(ResizeError::NotOurs(
                "it is served read-only: change the file, then have the size taken",
            ));
        }
        check_len(bytes, self.geometry.logical_block)?;
        self.opened.file.set_len(bytes).map_err(ResizeError::Setting)
    }
}

/// The cache mode that means the same as the direct one in force, without direct I/O.
fn indirect(options: &OpenOptions) -> CacheMode {
    if options.cache.initial_writeback() { CacheMode::Writeback } else { CacheMode::Writethrough }
}

fn no_direct_io(path: &Path, options: &OpenOptions) -> OpenError {
    OpenError::NoDirectIo { path: path.into(), instead: indirect(options) }
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<File, OpenError> {
    let classify = |source: io::Error| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => OpenError::Missing(path.into()),
        Some(libc::EISDIR) => OpenError::Directory(path.into()),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if options.read_only => {
            OpenError::Permission(path.into(), "read", "")
        }
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            OpenError::Permission(path.into(), "read and write", ", or serve it --read-only")
        }
        Some(libc::EINVAL) if options.cache.direct() => no_direct_io(path, options),
        _ => OpenError::Io { path: path.into(), doing: "open it", source },
    };
    // Looked at before it is opened: opening a FIFO may wait for ever.
    probe::check_kind(path, &path.metadata().map_err(classify)?)?;
    let flags = if options.cache.direct() { libc::O_DIRECT } else { 0 };
    let file = File::options()
        .read(true)
        .write(!options.read_only)
        .custom_flags(flags)
        .open(path)
        .map_err(classify)?;
    probe::check_kind(path, &file.metadata().map_err(classify)?)?;
    Ok(file)
}

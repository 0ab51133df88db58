//! What a ring can be asked to do: one submission entry per operation, nothing allocated.
#![allow(unsafe_code, reason = "submission entries name memory that the kernel will touch")]

use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};

use super::super::guest::GuestBuf;
use super::super::token::Token;
use super::super::zeroes;
use super::{FileSlot, Full, MAX_BUFS, RESERVE, Ring};

/// BLOCK_URING_CMD_DISCARD of linux/blkdev.h: `_IO(0x12, 0)`.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

impl Ring {
    /// How many more data operations fit before the next submit.
    #[inline]
    #[must_use]
    pub fn sq_free(&mut self) -> usize {
        let sq = self.io.submission();
        (sq.capacity() - sq.len()).saturating_sub(RESERVE)
    }

    #[inline]
    pub(super) fn push(&mut self, entry: Entry, token: Token, reserve: usize) -> Result<(), Full> {
        let entry = entry.user_data(token.encode());
        let mut sq = self.io.submission();
        if sq.capacity() - sq.len() <= reserve {
            return Err(Full);
        }
        // SAFETY: what the entry names is kept by S3: memory by `hold` and by the caller's
        // promise about `bufs`, files by the table or by our duplicate.
        unsafe { sq.push(&entry) }.map_err(|_| Full)
    }

    #[inline]
    fn push_data(
        &mut self,
        entry: Entry,
        token: Token,
        file: FileSlot,
        reserve: usize,
    ) -> Result<(), Full> {
        debug_assert!(matches!(token, Token::Io(_) | Token::Channel { .. }), "R2: {token:?}");
        self.push(entry.flags(file.flags), token, reserve)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Reads from `offset` of `file` into `bufs` (at most [`MAX_BUFS`] of them).
    ///
    /// The memory stays mapped until the completion (R3). With several buffers the slice itself
    /// stays in place as well: the kernel reads it when the entry is submitted.
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn read(
        &mut self,
        token: Token,
        file: FileSlot,
        bufs: &[GuestBuf],
        offset: u64,
    ) -> Result<(), Full> {
        let fd = Fd(file.number);
        let entry = if let Some(slot) = self.fixed.slot_of(bufs) {
            read_fixed(fd, bufs, slot, offset)
        } else if let [one] = bufs {
            opcode::Read::new(fd, one.addr(), length(one.len())).offset(offset).build()
        } else {
            opcode::Readv::new(fd, bufs.as_ptr().cast(), count(bufs)).offset(offset).build()
        };
        self.push_data(entry, token, file, RESERVE)
    }

    /// Writes `bufs` at `offset` of `file`; with `dsync` the completion means durable
    /// (RWF_DSYNC). The rules for `bufs` are those of [`read`](Ring::read).
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn write(
        &mut self,
        token: Token,
        file: FileSlot,
        bufs: &[GuestBuf],
        offset: u64,
        dsync: bool,
    ) -> Result<(), Full> {
        let fd = Fd(file.number);
        let flags = if dsync { libc::RWF_DSYNC } else { 0 };
        let entry = if let Some(slot) = self.fixed.slot_of(bufs) {
            write_fixed(fd, bufs, slot, offset, flags)
        } else if let [one] = bufs {
            let (addr, len) = (one.addr().cast_const(), length(one.len()));
            opcode::Write::new(fd, addr, len).offset(offset).rw_flags(flags).build()
        } else {
            let iovec = bufs.as_ptr().cast();
            opcode::Writev::new(fd, iovec, count(bufs)).offset(offset).rw_flags(flags).build()
        };
        self.push_data(entry, token, file, RESERVE)
    }

    /// Writes `len` zeroes at `offset` of `file`, at most [`zeroes::MAX`] of them: a longer
    /// request shows as a short transfer.
    ///
    /// # Errors
    /// [`Full`].
    pub fn write_zeroes(
        &mut self,
        token: Token,
        file: FileSlot,
        offset: u64,
        len: u64,
    ) -> Result<(), Full> {
        let (addr, len) = zeroes::take(len);
        let entry = opcode::Write::new(Fd(file.number), addr, len).offset(offset).build();
        self.push_data(entry, token, file, RESERVE)
    }

    /// Makes every completed write of `file` durable. May take from the reserve (R1).
    ///
    /// # Errors
    /// [`Full`].
    pub fn fdatasync(&mut self, token: Token, file: FileSlot) -> Result<(), Full> {
        let entry = opcode::Fsync::new(Fd(file.number)).flags(FsyncFlags::DATASYNC).build();
        self.push_data(entry, token, file, 0)
    }

    /// fallocate(2) with `mode` (FALLOC_FL_*) on a range in bytes.
    ///
    /// # Errors
    /// [`Full`].
    pub fn fallocate(
        &mut self,
        token: Token,
        file: FileSlot,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<(), Full> {
        let entry = opcode::Fallocate::new(Fd(file.number), len).offset(offset).mode(mode).build();
        self.push_data(entry, token, file, RESERVE)
    }

    /// Whether [`discard_cmd`](Ring::discard_cmd) is worth trying on a block device. The answer
    /// of the first one decides: Linux before 6.12 says EOPNOTSUPP.
    #[must_use]
    pub fn offers_discard_cmd(&self) -> bool {
        self.uring_cmd
    }

    /// BLKDISCARD of a range of a block device, in bytes, asynchronously (Linux 6.12).
    ///
    /// # Errors
    /// [`Full`].
    pub fn discard_cmd(
        &mut self,
        token: Token,
        file: FileSlot,
        offset: u64,
        len: u64,
    ) -> Result<(), Full> {
        // blkdev_uring_cmd takes the start in `addr` and the length in `addr3`, which is where
        // the command's own bytes begin.
        let mut cmd = [0u8; 16];
        cmd[..8].copy_from_slice(&len.to_ne_bytes());
        let entry = opcode::UringCmd16::new(Fd(file.number), BLOCK_URING_CMD_DISCARD)
            .cmd(cmd)
            .addr(Some(offset))
            .build();
        self.push_data(entry, token, file, RESERVE)
    }

    /// Watches `fd` for input: a completion at once when it is readable already, and one for
    /// every wake-up after. The descriptor is never read and none of its flags is changed.
    ///
    /// The kernel has its own reference once the entry is submitted; until then the caller keeps
    /// `fd` open.
    ///
    /// # Errors
    /// [`Full`] when not even the reserve (R1) has an entry.
    pub fn poll_multishot(&mut self, token: Token, fd: BorrowedFd<'_>) -> Result<(), Full> {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events).multi(true).build();
        self.push(entry, token, 0)
    }

    /// Cancels the operation that carries `target`. The target completes in any case (ECANCELED,
    /// or its result when it was faster); the cancellation itself completes as `Token::Ignore`.
    ///
    /// # Errors
    /// [`Full`] when not even the reserve (R1) has an entry.
    pub fn cancel(&mut self, target: Token) -> Result<(), Full> {
        self.push(opcode::AsyncCancel::new(target.encode()).build(), Token::Ignore, 0)
    }
}

/// A read into registered memory.
fn read_fixed(fd: Fd, bufs: &[GuestBuf], slot: u16, offset: u64) -> Entry {
    if let [one] = bufs {
        let len = length(one.len());
        return opcode::ReadFixed::new(fd, one.addr(), len, slot).offset(offset).build();
    }
    let iovec = bufs.as_ptr().cast();
    opcode::ReadvFixed::new(fd, iovec, count(bufs), slot).offset(offset).build()
}

/// A write from registered memory.
fn write_fixed(fd: Fd, bufs: &[GuestBuf], slot: u16, offset: u64, flags: i32) -> Entry {
    if let [one] = bufs {
        let (addr, len) = (one.addr().cast_const(), length(one.len()));
        let write = opcode::WriteFixed::new(fd, addr, len, slot);
        return write.offset(offset).rw_flags(flags).build();
    }
    let iovec = bufs.as_ptr().cast();
    let write = opcode::WritevFixed::new(fd, iovec, count(bufs), slot);
    write.offset(offset).rw_flags(flags).build()
}

/// The length as the kernel takes it. It transfers less than 2 GiB at a time anyway
/// (MAX_RW_COUNT); the rest shows as a short transfer.
#[inline]
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(0x7fff_f000)
}

#[inline]
fn count(bufs: &[GuestBuf]) -> u32 {
    u32::try_from(bufs.len().min(MAX_BUFS)).unwrap_or(0)
}

//! What guests do with a disk: file systems, discards, zeroes, cache modes, block sizes.

use super::guest::Session;
use super::guest::daemon::Daemon;
use super::guest::disk::{Disk, MIB, mib, noise};
use super::guest::fio::Fio;
use super::guest::vm::{Guest, Vm};

/// Allocation that a file system of the host may add to an image for its own use.
const SLACK: u64 = MIB;

/// A file system, and the tools that make and check it.
struct FileSystem {
    kind: &'static str,
    make: &'static str,
    check: &'static str,
    /// Size of the disk. XFS refuses less than 300 MiB.
    mebibytes: u64,
}

/// Makes a file system, fills it, checks it, reads it back after a fresh mount, trims it.
fn file_system_lives(name: &'static str, system: &FileSystem) {
    let FileSystem { kind, make, check, mebibytes } = system;
    let session = Session::start(name);
    let disk = Disk::sparse(session.file("disk"), *mebibytes);
    let daemon = Daemon::start(&session, "daemon", &disk, &[]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();

    vm.work(&format!(
        "{make} /dev/vda; modprobe {kind} 2>/dev/null || true; mount -t {kind} /dev/vda /mnt"
    ));
    // Files of different contents until it is full, or 100 MB; then many small ones in the room
    // that the first one leaves.
    vm.work(
        "cd /mnt; head -c 10000000 /dev/urandom >/tmp/seed; n=0
         while [ $n -lt 10 ] && { echo $n; cat /tmp/seed; } >big.$n 2>/dev/null; do n=$((n + 1)); done
         rm -f big.$n big.0; mkdir small; for n in $(seq 300); do echo \"file $n\" >small/$n; done
         sync; find . -type f -exec sha256sum {} + >/tmp/sums; cd /; umount /mnt",
    );
    vm.work(&format!("{check} /dev/vda"));
    let full = disk.allocated();
    assert!(full > 60 * MIB, "the image holds the files: {full}");
    let remount = format!("mount -t {kind} /dev/vda /mnt; cd /mnt");
    let wrong =
        vm.work(&format!("{remount}; sha256sum -c /tmp/sums 2>&1 | grep -v ': OK$' || true"));
    assert_eq!(wrong, "", "files differ after a fresh mount");
    let files = vm.sh("wc -l </tmp/sums");

    vm.work("cd /mnt; rm -rf big.* small; sync; fstrim /mnt; cd /; umount /mnt");
    let trimmed = disk.allocated();
    assert!(trimmed + 60 * MIB <= full, "fstrim gives space back: {full} -> {trimmed}");
    vm.work(&format!("{check} /dev/vda"));
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "{kind} was made, filled with {files} files, checked clean, read back by checksum after a fresh mount; \
         rm and fstrim took the image from {} to {} MiB on the host",
        full / MIB,
        trimmed / MIB
    ));
}

#[test]
fn ext4_is_made_filled_checked_and_trimmed() {
    file_system_lives(
        "ext4_is_made_filled_checked_and_trimmed",
        &FileSystem { kind: "ext4", make: "mkfs.ext4 -q -F", check: "e2fsck -f -n", mebibytes: 96 },
    );
}

#[test]
fn xfs_is_made_filled_checked_and_trimmed() {
    file_system_lives(
        "xfs_is_made_filled_checked_and_trimmed",
        &FileSystem { kind: "xfs", make: "mkfs.xfs -q -f", check: "xfs_repair -n", mebibytes: 300 },
    );
}

/// The guest's SHA-256 of a range of whole mebibytes of /dev/vda, read past its page cache.
fn guest_sha256(vm: &mut Vm, skip: u64, count: u64) -> String {
    vm.work(&format!("dd if=/dev/vda bs=1M iflag=direct skip={skip} count={count} 2>/dev/null | sha256sum | cut -d ' ' -f 1"))
}

#[test]
fn discard_and_write_zeroes_reach_the_image() {
    let session = Session::start("discard_and_write_zeroes_reach_the_image");
    let disk = Disk::sparse(session.file("disk"), 64);
    let data = noise(7, mib(64));
    disk.write(0, &data);
    let daemon = Daemon::start(&session, "daemon", &disk, &[]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();
    let full = disk.allocated();
    assert!(full >= 64 * MIB);

    // Three disjoint ranges, each operation in the middle of data.
    vm.work("blkdiscard --offset 8M --length 8M /dev/vda");
    let discarded = disk.allocated();
    assert!(discarded + 8 * MIB <= full + SLACK, "blkdiscard: {full} -> {discarded}");

    vm.work("blkdiscard --zeroout --offset 24M --length 8M /dev/vda");
    let zeroed = disk.allocated();
    assert!(
        zeroed + SLACK >= discarded,
        "zeroes without UNMAP keep the space: {discarded} -> {zeroed}"
    );

    vm.work("fallocate --punch-hole --offset 40M --length 8M /dev/vda");
    let punched = disk.allocated();
    assert!(punched + 8 * MIB <= zeroed + SLACK, "zeroes with UNMAP: {zeroed} -> {punched}");

    let nothing = vec![0; mib(8)];
    for begin in [8, 24, 40] {
        assert!(disk.read(begin * MIB, mib(8)) == nothing, "no zeroes at {begin} MiB on the host");
    }
    for (begin, length) in [(0, 8), (16, 8), (32, 8), (48, 16)] {
        let kept = &data[mib(begin)..mib(begin + length)];
        assert!(disk.read(begin * MIB, mib(length)) == kept, "data at {begin} MiB was touched");
    }
    assert_eq!(
        guest_sha256(&mut vm, 0, 64),
        disk.sha256(0, 64 * MIB),
        "the guest reads what the host reads"
    );

    // Small ones anywhere, each followed by a write that is verified.
    let trims = Fio::verify("/dev/vda", 2, 4).pattern("randtrimwrite");
    vm.fio(&trims);
    vm.fio(&Fio::verify("/dev/vda", 2, 8));
    vm.work("blkdiscard /dev/vda");
    let empty = disk.allocated();
    assert!(empty <= SLACK, "a discard of the whole disk leaves nothing: {empty}");
    assert_eq!(disk.sha256(0, 64 * MIB), guest_sha256(&mut vm, 0, 64));
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "blkdiscard took the image from {} to {} MiB, write-zeroes kept it at {}, with UNMAP {}, whole-disk discard {}; \
         all three ranges read as zeroes and their neighbours are untouched",
        full / MIB,
        discarded / MIB,
        zeroed / MIB,
        punched / MIB,
        empty / MIB
    ));
}

#[test]
fn a_read_only_disk_is_readable_and_nothing_else() {
    let session = Session::start("a_read_only_disk_is_readable_and_nothing_else");
    let disk = Disk::sparse(session.file("disk"), 32);
    disk.write(0, &noise(11, mib(32)));
    let before = disk.sha256(0, 32 * MIB);
    let daemon = Daemon::start(&session, "daemon", &disk, &["--read-only"]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();

    assert_eq!(vm.sh("blockdev --getro /dev/vda; cat /sys/block/vda/ro"), "1\n1");
    assert_eq!(guest_sha256(&mut vm, 0, 32), before, "the contents in the guest");
    // blockdev --setrw makes the kernel forget what the device said, so these reach the device.
    for attempt in [
        "dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct",
        "blockdev --setrw /dev/vda; dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct",
        "blkdiscard /dev/vda",
        "blkdiscard -z -l 1M /dev/vda",
    ] {
        let done = vm.agent.attempt(attempt, super::guest::vm::SOON);
        assert_ne!(done.status, 0, "it worked: {attempt}");
    }
    let read = Fio::verify("/dev/vda", 2, 16).pattern("randread").with("verify=0");
    let report = vm.fio(&read);
    assert_eq!((report.reads, report.writes), (2 * 16 * MIB / 4096, 0));
    vm.quit();
    daemon.finish();
    assert_eq!(disk.sha256(0, 32 * MIB), before, "the image changed");
    session.proved(&format!(
        "the guest sees a read-only disk, read all of it ({} random reads), and no write, discard or zeroing got through",
        report.reads
    ));
}

/// Flushes that the guest's kernel has sent to /dev/vda.
fn flushes(vm: &mut Vm) -> u64 {
    vm.sh("awk '{ print $16 }' /sys/block/vda/stat").parse().expect("a count")
}

#[test]
fn the_write_cache_is_toggled_by_the_guest() {
    let session = Session::start("the_write_cache_is_toggled_by_the_guest");
    let disk = Disk::sparse(session.file("disk"), 64);
    let daemon = Daemon::start(&session, "daemon", &disk, &["--cache=writeback"]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();
    let synced = Fio::verify("/dev/vda", 2, 1).with("fsync=8");
    let cache = "cat /sys/block/vda/cache_type /sys/block/vda/queue/write_cache";

    let mut told = Vec::new();
    for mode in ["write back", "write through", "write back", "write through"] {
        vm.sh(&format!("echo '{mode}' >/sys/block/vda/cache_type"));
        assert_eq!(vm.sh(cache), format!("{mode}\n{mode}"), "what the guest reads back");
        let before = flushes(&mut vm);
        vm.fio(&synced);
        let sent = flushes(&mut vm) - before;
        match mode {
            "write back" => assert!(sent > 0, "fsync sent no flush though there is a cache"),
            _ => assert_eq!(sent, 0, "flushes though there is no cache to flush"),
        }
        told.push(sent);
    }
    // The device keeps what it was told: a driver that starts anew reads it from the device.
    vm.sh("rmmod virtio_blk; modprobe virtio_blk; while [ ! -b /dev/vda ]; do sleep 0.02; done");
    assert_eq!(
        vm.sh("cat /sys/block/vda/cache_type"),
        "write through",
        "after the driver was loaded again"
    );
    vm.fio(&synced);
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "the guest switched the write cache back and forth under verified writes with fsync; flushes it sent: {told:?}"
    ));
}

/// One guest, two daemons, a disk of each logical block size.
#[test]
fn logical_blocks_of_512_and_4096_bytes() {
    let session = Session::start("logical_blocks_of_512_and_4096_bytes");
    let disks = [Disk::sparse(session.file("a"), 64), Disk::sparse(session.file("b"), 64)];
    let small = Daemon::start(&session, "small", &disks[0], &["--logical-block-size=512"]);
    let large = Daemon::start(&session, "large", &disks[1], &["--logical-block-size=4096"]);
    // QEMU takes the block size of its own property, not the device's, if that is given; so it is not.
    let guest = Guest::new(&session, "guest", 2);
    let mut vm = guest.disk(&small, 2).disk(&large, 2).start();

    assert_eq!(vm.sh("blockdev --getss /dev/vda; blockdev --getss /dev/vdb"), "512\n4096");
    let size = (64 * MIB).to_string();
    assert_eq!(
        vm.sh("blockdev --getsize64 /dev/vda; blockdev --getsize64 /dev/vdb"),
        format!("{size}\n{size}")
    );
    let fine = vm.fio(&Fio::verify("/dev/vda", 2, 2).block("512-16k"));
    let coarse = vm.fio(&Fio::verify("/dev/vdb", 2, 8).block("4k-64k"));
    // On the disk with large blocks the kernel itself refuses less.
    let refused = vm
        .agent
        .attempt("dd if=/dev/vdb of=/dev/null bs=512 count=1 iflag=direct", super::guest::vm::SOON);
    assert_ne!(refused.status, 0, "{}", refused.output);
    for (disk, make) in [("vda", "mkfs.ext4 -q -F -b 1024"), ("vdb", "mkfs.ext4 -q -F")] {
        vm.work(&format!(
            "{make} /dev/{disk}; mount -t ext4 /dev/{disk} /mnt; head -c 5000001 /dev/urandom >/mnt/file
             sha256sum </mnt/file >/tmp/sum; umount /mnt; e2fsck -f -n /dev/{disk}
             mount -t ext4 /dev/{disk} /mnt; sha256sum </mnt/file | cmp - /tmp/sum; umount /mnt"
        ));
    }
    vm.assert_kernel_is_content();
    vm.quit();
    small.finish();
    large.finish();
    session.proved(&format!(
        "disks of 512 and 4096 byte blocks in one guest: {} writes of 512 bytes to 16 KiB and {} of 4 to 64 KiB \
         verified, and ext4 lives on both",
        fine.writes, coarse.writes
    ));
}

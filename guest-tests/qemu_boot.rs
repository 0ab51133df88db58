//! Guests boot, directly and from the served disk, and every queue carries verified I/O.

use super::guest::Session;
use super::guest::daemon::Daemon;
use super::guest::disk::{Disk, MIB};
use super::guest::fio::Fio;
use super::guest::process::host;
use super::guest::vm::{Guest, Vm};
use super::guest::{made, made_text};

/// Requests that each queue of a 4 KiB verification must have seen at least.
const SOME: u64 = 100;

/// Interrupts of every queue of the first virtio disk, summed over the CPUs.
fn interrupts(vm: &mut Vm) -> Vec<u64> {
    let table = vm.sh("grep -E 'virtio[0-9]+-req' /proc/interrupts || true");
    let of_line = |line: &str| {
        let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
        counts.sum()
    };
    table.lines().map(of_line).collect()
}

fn boots_and_verifies(name: &'static str, queues: u32) {
    let session = Session::start(name);
    let disk = Disk::sparse(session.file("disk"), 128);
    let daemon = Daemon::start(&session, "daemon", &disk, &["--serial=blkmq-one"]);
    let mut vm = Guest::new(&session, "guest", queues).disk(&daemon, queues).start();

    let seen = vm.sh(
        "ls /sys/block/vda/mq | wc -l; blockdev --getsize64 /dev/vda; cat /sys/block/vda/serial",
    );
    let seen: Vec<&str> = seen.lines().collect();
    let bytes = (128 * MIB).to_string();
    assert_eq!(seen[..2], [queues.to_string(), bytes], "queues and size in the guest");
    if !daemon.foreign() {
        assert_eq!(seen[2], "blkmq-one", "the serial in the guest");
    }

    let before = interrupts(&mut vm);
    let report = vm.fio(&Fio::verify("/dev/vda", queues, 48 / u64::from(queues)));
    let after = interrupts(&mut vm);
    assert_eq!(after.len(), queues as usize, "one interrupt per queue: {after:?}");
    let grown: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    assert!(grown.iter().all(|&count| count >= SOME), "every queue worked: {grown:?}");
    // Each job writes about half of its blocks and reads the rest, then reads the written ones back.
    assert_eq!(report.reads, 48 * MIB / 4096, "every block was read once");
    assert!(report.writes > 48 * MIB / 4096 / 3, "{report:?}");
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "a guest boots with {queues} queue(s) and sees them; fio randrw, 32 deep on each, wrote {} blocks and \
         verified them by CRC32C at {} IOPS; interrupts per queue: {grown:?}",
        report.writes, report.iops
    ));
}

#[test]
fn boots_with_one_queue_and_verifies() {
    boots_and_verifies("boots_with_one_queue_and_verifies", 1);
}

#[test]
fn boots_with_two_queues_and_verifies_over_all() {
    boots_and_verifies("boots_with_two_queues_and_verifies_over_all", 2);
}

#[test]
fn boots_with_four_queues_and_verifies_over_all() {
    boots_and_verifies("boots_with_four_queues_and_verifies_over_all", 4);
}

/// Which firmware reads the disk.
enum Firmware {
    Bios,
    Uefi,
}

/// The disk's own loader, kernel and root file system: nothing else is given to QEMU.
fn boots_from_the_disk(name: &'static str, firmware: &Firmware) {
    let session = Session::start(name);
    let disk = Disk::copy_of(&made("boot.img"), session.file("disk"));
    let daemon = Daemon::start(&session, "daemon", &disk, &[]);
    let guest = Guest::new(&session, "guest", 2).disk(&daemon, 2);
    let guest = match firmware {
        Firmware::Bios => guest.boot_by_bios(),
        Firmware::Uefi => guest.boot_by_uefi(),
    };
    let mut vm = guest.start();

    let by_uefi = vm.sh("test -d /sys/firmware/efi && echo yes || echo no");
    assert_eq!(by_uefi == "yes", matches!(firmware, Firmware::Uefi), "the firmware that booted it");
    // The last file system mounted on / is the root.
    let root = vm.sh("awk '$2 == \"/\" { root = $1 \" \" $3 } END { print root }' /proc/mounts");
    assert_eq!(root, "/dev/vda2 ext4");
    assert_eq!(
        vm.sh("cat /etc/blkmq-marker"),
        made_text("boot.marker"),
        "the file only this root has"
    );

    let report = vm.fio(&Fio::verify("/root/fio", 2, 12));
    let written = vm.work(
        "head -c 8000000 /dev/urandom >/root/file; sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </root/file",
    );
    vm.sh("mount -o remount,ro /");
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();

    // The second partition, as the image's table says.
    let table = host("sfdisk", &["-d", disk.path().to_str().expect("utf-8")]);
    let start = table
        .lines()
        .filter_map(|line| line.split_once("start="))
        .nth(1)
        .expect("a second partition")
        .1;
    let start: u64 = start.split(',').next().expect("a number").trim().parse().expect("a number");
    let root = format!("{}?offset={}", disk.path().display(), start * 512);
    host("e2fsck", &["-f", "-n", &root]);
    session.proved(&format!(
        "the firmware, GRUB, the kernel and the root all come from the served disk; in it fio verified {} \
         written blocks, a file of 8 MB reads back as {}..., and the host's e2fsck finds the root clean",
        report.writes,
        &written[..12]
    ));
}

#[test]
fn boots_from_the_served_disk_by_seabios() {
    boots_from_the_disk("boots_from_the_served_disk_by_seabios", &Firmware::Bios);
}

#[test]
fn boots_from_the_served_disk_by_ovmf() {
    boots_from_the_disk("boots_from_the_served_disk_by_ovmf", &Firmware::Uefi);
}

/// A guest that polls for completions: it never wants an interrupt on those queues.
#[test]
fn polled_queues_work_without_interrupts() {
    let session = Session::start("polled_queues_work_without_interrupts");
    let disk = Disk::sparse(session.file("disk"), 128);
    let daemon = Daemon::start(&session, "daemon", &disk, &[]);
    let guest = Guest::new(&session, "guest", 4).parameters("virtio_blk.poll_queues=2");
    let mut vm = guest.disk(&daemon, 4).start();

    let kinds =
        vm.sh("cat /sys/kernel/debug/block/vda/hctx*/type; cat /sys/block/vda/queue/io_poll");
    assert_eq!(kinds, "default\ndefault\npoll\npoll\n1", "two of the four queues are polled");
    let before = interrupts(&mut vm);
    let polled = Fio::verify("/dev/vda", 2, 8).engine("io_uring", 16).with("hipri=1");
    let report = vm.fio(&polled);
    let raised: u64 = interrupts(&mut vm).iter().sum::<u64>() - before.iter().sum::<u64>();
    let requests = report.reads + report.writes;
    assert!(requests >= 2 * 8 * MIB / 4096, "{report:?}");
    // What did not poll (opening the disk) may raise a few.
    assert!(raised < requests / 20, "{raised} interrupts for {requests} polled requests");
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "two of four queues are polled: io_uring did and verified {requests} requests on them with {raised} interrupts"
    ));
}

//! What happens to a machine while its disks are under load: pause, hot-plug, reset, death.

use serde_json::json;

use super::guest::Session;
use super::guest::daemon::Daemon;
use super::guest::disk::{Disk, MIB};
use super::guest::fio::Fio;
use super::guest::vm::{Guest, SOON, Vm};

/// A verification of some seconds, so that what happens meanwhile happens under load.
fn long(file: &str) -> Fio {
    Fio::verify(file, 2, 48)
}

/// The number of requests the guest finishes between two events.
const BETWEEN: u64 = 2000;

/// Mounted QEMU state, as `query-status` tells it.
fn status(vm: &mut Vm) -> String {
    vm.qmp.run("query-status", json!({}))["status"].as_str().expect("a status").to_string()
}

#[test]
fn stop_and_cont_under_load_lose_nothing() {
    let session = Session::start("stop_and_cont_under_load_lose_nothing");
    let disk = Disk::sparse(session.file("disk"), 128);
    let mut daemon = Daemon::start(&session, "daemon", &disk, &[]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();

    let job = vm.start_fio(&long("/dev/vda"));
    for round in 0..5 {
        vm.busy("vda", BETWEEN);
        vm.qmp.run("stop", json!({}));
        vm.qmp.event("STOP", SOON);
        assert_eq!(status(&mut vm), "paused");
        // Stopped means stopped: the rings were drained before QEMU went on, so the image stands still.
        let then = disk.sha256(0, 128 * MIB);
        assert_eq!(
            disk.sha256(0, 128 * MIB),
            then,
            "written to in round {round} while the guest was stopped"
        );
        daemon.assert_alive();
        vm.qmp.run("cont", json!({}));
        vm.qmp.event("RESUME", SOON);
    }
    let report = vm.join_fio(job);
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "five times stop and cont in the middle of fio: the image stood still meanwhile, and all {} written blocks verified",
        report.writes
    ));
}

/// Adds a disk in the free port.
fn plug(vm: &mut Vm, daemon: &Daemon) {
    let address = json!({ "type": "unix", "data": { "path": daemon.socket() } });
    let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
    vm.qmp.run("chardev-add", json!({ "id": "plugged", "backend": backend }));
    vm.qmp.run(
        "device_add",
        json!({ "driver": "vhost-user-blk-pci", "id": "plugged-disk", "bus": "root9",
                "chardev": "plugged", "num-queues": 2 }),
    );
    vm.work("while [ ! -b /dev/vdb ]; do sleep 0.05; done");
}

fn unplug(vm: &mut Vm) {
    vm.qmp.run("device_del", json!({ "id": "plugged-disk" }));
    loop {
        let gone = vm.qmp.event("DEVICE_DELETED", super::guest::vm::WORK);
        if gone["data"]["device"] == "plugged-disk" {
            break;
        }
    }
    vm.qmp.run("chardev-remove", json!({ "id": "plugged" }));
}

#[test]
fn device_add_and_device_del_under_load() {
    let session = Session::start("device_add_and_device_del_under_load");
    let disks =
        [Disk::sparse(session.file("stays"), 128), Disk::sparse(session.file("comes"), 128)];
    let stays = Daemon::start(&session, "stays", &disks[0], &[]);
    let mut comes = Daemon::start(&session, "comes", &disks[1], &[]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&stays, 2).start();

    let load = vm.start_fio(&long("/dev/vda"));
    vm.busy("vda", BETWEEN);
    plug(&mut vm, &comes);
    let first = vm.fio(&Fio::verify("/dev/vdb", 1, 8).with("do_verify=0").pattern("write"));
    // Pulled out while it is busy: its own load fails, nobody else's.
    let doomed = vm.start_fio(&long("/dev/vdb"));
    vm.busy("vdb", BETWEEN / 4);
    unplug(&mut vm);
    let failed = vm.join(doomed);
    assert_ne!(failed.status, 0, "fio did not notice that its disk went away");
    let report = vm.join_fio(load);
    comes.assert_alive();

    plug(&mut vm, &comes);
    assert_eq!(vm.sh("blockdev --getsize64 /dev/vdb"), (128 * MIB).to_string());
    let again = vm.fio(&Fio::verify("/dev/vdb", 2, 8));
    unplug(&mut vm);
    vm.sh("test ! -e /dev/vdb");
    vm.quit();
    stays.finish();
    comes.finish();
    session.proved(&format!(
        "a disk came and went twice, once in the middle of its own load ({} writes before, {} verified after), \
         while the other disk verified {} blocks",
        first.writes, again.writes, report.writes
    ));
}

#[test]
fn a_reset_under_load_leaves_a_working_disk() {
    let session = Session::start("a_reset_under_load_leaves_a_working_disk");
    let disk = Disk::sparse(session.file("disk"), 192);
    let mut daemon = Daemon::start(&session, "daemon", &disk, &[]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();

    let kept = keep(&mut vm, &disk);
    for _ in 0..2 {
        // The job dies with the guest that runs it.
        let _ = vm.start_fio(&long("/dev/vda"));
        vm.busy("vda", BETWEEN);
        vm.reset();
        daemon.assert_alive();
    }
    assert_eq!(keep_again(&mut vm), kept, "what was synced before the resets");
    let report = vm.fio(&Fio::verify("/dev/vda", 2, 16));
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "two resets in the middle of fio: synced data is still there, and the guest verified {} blocks afterwards",
        report.writes
    ));
}

/// Writes and syncs 8 MiB behind the area that fio uses; gives its checksum.
fn keep(vm: &mut Vm, disk: &Disk) -> String {
    vm.work("dd if=/dev/urandom of=/dev/vda bs=1M seek=160 count=8 conv=fsync 2>/dev/null");
    let sum = keep_again(vm);
    assert_eq!(disk.sha256(160 * MIB, 8 * MIB), sum, "what the guest synced is not in the image");
    sum
}

fn keep_again(vm: &mut Vm) -> String {
    vm.work("dd if=/dev/vda bs=1M iflag=direct skip=160 count=8 2>/dev/null | sha256sum | cut -d ' ' -f 1")
}

#[test]
fn a_guest_killed_while_writing_harms_only_itself() {
    let session = Session::start("a_guest_killed_while_writing_harms_only_itself");
    let disk = Disk::sparse(session.file("disk"), 192);
    let mut daemon = Daemon::start(&session, "daemon", &disk, &[]);
    let mut vm = Guest::new(&session, "first", 2).disk(&daemon, 2).start();
    let kept = keep(&mut vm, &disk);
    let _ = vm.start_fio(&long("/dev/vda").pattern("randwrite"));
    vm.busy("vda", BETWEEN);
    vm.kill();
    daemon.assert_alive();

    let mut vm = Guest::new(&session, "second", 2).disk(&daemon, 2).start();
    assert_eq!(keep_again(&mut vm), kept, "what was synced before the first guest died");
    let report = vm.fio(&Fio::verify("/dev/vda", 2, 16));
    vm.assert_kernel_is_content();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "QEMU was killed in the middle of its writes; the same daemon serves the next guest, which finds the \
         synced data and verified {} blocks",
        report.writes
    ));
}

#[test]
fn two_disks_of_two_daemons() {
    let session = Session::start("two_disks_of_two_daemons");
    let disks = [Disk::sparse(session.file("a"), 128), Disk::sparse(session.file("b"), 96)];
    let first = Daemon::start(&session, "a", &disks[0], &[]);
    let second = Daemon::start(&session, "b", &disks[1], &["--cache=writeback"]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&first, 2).disk(&second, 1).start();

    let sizes = vm.sh("blockdev --getsize64 /dev/vda; blockdev --getsize64 /dev/vdb");
    assert_eq!(sizes, format!("{}\n{}", 128 * MIB, 96 * MIB));
    assert_eq!(vm.sh("ls /sys/block/vda/mq | wc -l; ls /sys/block/vdb/mq | wc -l"), "2\n1");
    let jobs = [
        vm.start_fio(&Fio::verify("/dev/vda", 2, 16)),
        vm.start_fio(&Fio::verify("/dev/vdb", 2, 16)),
    ];
    let [a, b] = jobs.map(|job| vm.join_fio(job));
    // From one to the other, and what the host finds there.
    vm.work("dd if=/dev/vda of=/dev/vdb bs=1M count=32 iflag=direct oflag=direct conv=fsync 2>/dev/null");
    assert_eq!(disks[0].sha256(0, 32 * MIB), disks[1].sha256(0, 32 * MIB), "the copy on the host");
    vm.assert_kernel_is_content();
    vm.quit();
    first.finish();
    second.finish();
    session.proved(&format!(
        "two daemons served one guest at the same time: {} and {} blocks verified, and a copy between them is exact",
        a.writes, b.writes
    ));
}

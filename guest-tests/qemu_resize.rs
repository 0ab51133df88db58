//! The disk grows under a guest that works, twice, and shrinks again.

use serde_json::json;

use super::admin::Admin;
use super::guest::Session;
use super::guest::daemon::Daemon;
use super::guest::disk::{Disk, MIB};
use super::guest::fio::Fio;
use super::guest::vm::{Guest, Vm};

/// Waits until the guest's kernel knows the new size of its disk.
fn await_size(vm: &mut Vm, mebibytes: u64) {
    let sectors = mebibytes * MIB / 512;
    vm.work(&format!("while [ $(cat /sys/block/vda/size) != {sectors} ]; do sleep 0.05; done"));
}

/// Writes the last 8 MiB before `end` in the guest, and compares what the host finds there.
fn fill_up_to(vm: &mut Vm, disk: &Disk, end: u64) {
    let from = end - 8;
    vm.work(&format!(
        "dd if=/dev/urandom of=/dev/vda bs=1M seek={from} count=8 oflag=direct conv=fsync 2>/dev/null"
    ));
    let inside = vm.work(&format!(
        "dd if=/dev/vda bs=1M iflag=direct skip={from} count=8 2>/dev/null | sha256sum | cut -d ' ' -f 1"
    ));
    assert_eq!(disk.sha256(from * MIB, 8 * MIB), inside, "the new end, as the host sees it");
}

#[test]
fn the_disk_grows_twice_under_fio_and_shrinks_again() {
    let session = Session::start("the_disk_grows_twice_under_fio_and_shrinks_again");
    let disk = Disk::sparse(session.file("disk"), 128);
    let socket = session.socket("admin");
    let admin = format!("--admin-socket={}", socket.display());
    let mut daemon = Daemon::start(&session, "daemon", &disk, &["--threads=2", &admin]);
    let mut vm = Guest::new(&session, "guest", 2).disk(&daemon, 2).start();
    let mut admin = Admin::connect(&socket);

    let job = vm.start_fio(&Fio::verify("/dev/vda", 2, 48));
    vm.busy("vda", 1000);
    // Somebody has made the file longer, and says so.
    disk.resize(192);
    daemon.hang_up();
    await_size(&mut vm, 192);
    fill_up_to(&mut vm, &disk, 192);
    vm.busy("vda", 1000);
    // We make it longer.
    let to = json!({"disk": "disk", "size": 256 * MIB});
    let answer = admin.call("disk.resize", &to);
    assert_eq!((&answer["before"], &answer["announced"]), (&json!(192 * MIB / 512), &json!(true)));
    await_size(&mut vm, 256);
    fill_up_to(&mut vm, &disk, 256);
    let old = vm.join_fio(job);
    let new = vm.fio(&Fio::verify("/dev/vda", 1, 48).with("offset=128M"));

    let to = json!({"disk": "disk", "size": 64 * MIB, "shrink": true});
    admin.call("disk.resize", &to);
    await_size(&mut vm, 64);
    assert_eq!(disk.size(), 64 * MIB);
    let rest = vm.fio(&Fio::verify("/dev/vda", 1, 32));
    vm.assert_kernel_is_content();
    // A guest that is off does not listen; it learns the size when it is there again.
    vm.qmp.run("stop", json!({}));
    disk.resize(96);
    daemon.hang_up();
    vm.qmp.run("cont", json!({}));
    await_size(&mut vm, 96);
    daemon.assert_alive();
    vm.quit();
    daemon.finish();
    session.proved(&format!(
        "the disk grew from 128 to 192 and 256 MiB in the middle of fio, and shrank to 64: fio verified \
         {} blocks meanwhile, {} in the new part, {} afterwards",
        old.writes, new.writes, rest.writes
    ));
}

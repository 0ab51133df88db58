//! The same verification by a second, independent Linux front-end.

use super::guest::Session;
use super::guest::daemon::Daemon;
use super::guest::disk::{Disk, MIB};
use super::guest::fio::Fio;
use super::guest::run_script;
use super::guest::uml::Uml;

/// What scripts/uml-image ends with when Debian's package cannot be had.
const NOT_TO_BE_HAD: i32 = 3;

#[test]
fn user_mode_linux_verifies_too() {
    let session = Session::start("user_mode_linux_verifies_too");
    if let Err(failure) = run_script("uml-image") {
        assert_eq!(failure.status, Some(NOT_TO_BE_HAD), "scripts/uml-image: {}", failure.text);
        return session.proved(&format!("NOTHING, skipped: {}", failure.text));
    }
    let disk = Disk::sparse(session.file("disk"), 256);
    let mut daemon = Daemon::start(&session, "daemon", &disk, &[]);

    let mut guest = Uml::start(&session, "first", &daemon);
    assert_eq!(guest.sh("blockdev --getsize64 /dev/vda"), (256 * MIB).to_string());
    let report = guest.fio(&Fio::verify("/dev/vda", 1, 128));
    assert_eq!(report.reads, 128 * MIB / 4096, "every block was read once");
    let sum = guest.sh(
        "blkdiscard -o 200M -l 16M /dev/vda
         mkfs.ext4 -q -F /dev/vda; mount -t ext4 /dev/vda /mnt; head -c 5000001 /dev/urandom >/mnt/file
         sha256sum </mnt/file; umount /mnt; e2fsck -f -n /dev/vda >/dev/null 2>&1",
    );
    guest.kill();
    daemon.assert_alive();

    // The next one finds what the first one left.
    let mut guest = Uml::start(&session, "second", &daemon);
    let found = guest.sh("mount -t ext4 /dev/vda /mnt; sha256sum </mnt/file; umount /mnt");
    assert_eq!(found, sum, "the file that the first guest wrote");
    guest.kill();
    daemon.finish();
    session.proved(&format!(
        "a second front-end, virtio_uml: fio wrote {} blocks and verified them at {} IOPS; \
         discard and ext4 work; a second guest after it reads the same file",
        report.writes, report.iops
    ));
}

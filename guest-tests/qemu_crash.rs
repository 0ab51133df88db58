//! The daemon dies under a guest that works, and comes back.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use vhost_user_blkmq::sys::lock::is_held_by_others;

use super::guest::Session;
use super::guest::daemon::Daemon;
use super::guest::disk::{Disk, MIB};
use super::guest::fio::Fio;
use super::guest::vm::{Guest, SOON};

/// Deaths of one test: `BLKMQ_KILLS`, else a few, because QEMU takes a second to come back.
fn kills() -> u64 {
    std::env::var("BLKMQ_KILLS").map_or(5, |n| n.parse().expect("BLKMQ_KILLS is a number"))
}

/// Waits until the kernel has ended what the dead daemon had begun, and its locks on the image with it: a
/// successor would be refused before.
fn await_unlocked(disk: &Disk) {
    let image = File::open(disk.path()).expect("the image is there");
    let held = || [101, 201].iter().any(|b| is_held_by_others(image.as_fd(), *b).expect("asked"));
    let end = Instant::now() + SOON;
    while held() {
        assert!(Instant::now() < end, "who still has the image?");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn i33_kill_nine_under_fio_loses_nothing() {
    let session = Session::start("i33_kill_nine_under_fio_loses_nothing");
    let disk = Disk::sparse(session.file("disk"), 192);
    let options = ["--threads=2"];
    let mut daemon = Daemon::start(&session, "daemon", &disk, &options);
    let mut vm = Guest::new(&session, "guest", 2).reconnecting().disk(&daemon, 2).start();

    let (mut written, mut left) = (0, kills());
    while left > 0 {
        // Long enough for so many deaths, each block verified by its checksum.
        let job = vm.start_fio(&Fio::verify("/dev/vda", 2, 48));
        for n in 0..left.min(5) {
            // Different numbers of requests, so that the kills are spread.
            vm.busy("vda", 500 + 137 * n);
            daemon.kill();
            await_unlocked(&disk);
            daemon = Daemon::start(&session, "daemon", &disk, &options);
            left -= 1;
        }
        written += vm.join_fio(job).writes;
    }
    vm.work("dd if=/dev/urandom of=/dev/vda bs=1M seek=160 count=8 conv=fsync 2>/dev/null");
    let inside = vm.work(
        "dd if=/dev/vda bs=1M iflag=direct skip=160 count=8 2>/dev/null | sha256sum | cut -d ' ' -f 1",
    );
    assert_eq!(disk.sha256(160 * MIB, 8 * MIB), inside, "what the guest synced is in the image");
    vm.assert_kernel_is_content();
    let said = vm.quit_complaining();
    daemon.finish();
    session.proved(&format!(
        "{} daemons died by SIGKILL in the middle of fio, which verified all of its {written} blocks \
         (QEMU said {} lines about it)",
        kills(),
        said.lines().count()
    ));
}

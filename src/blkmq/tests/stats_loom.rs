//! Every interleaving of two queues that become busy and idle (run with `--cfg loom`).

use super::*;
use loom::sync::Arc;
use loom::thread;

#[test]
fn loom_a_disk_counts_overlap_once() {
    loom::model(|| {
        let disk = Arc::new(DiskBusy::new());
        let other = {
            let disk = Arc::clone(&disk);
            thread::spawn(move || {
                disk.enter(Nanos(1024));
                disk.leave(Nanos(2048));
            })
        };
        disk.enter(Nanos(1024));
        disk.leave(Nanos(2048));
        other.join().expect("comes through");
        let told = disk.nanos(Nanos(1 << 20));
        // One after the other they are two periods, which these clocks say were the same.
        assert!(told == 1024 || told == 2048, "{told}");
        disk.enter(Nanos(4096));
        assert_eq!(disk.nanos(Nanos(4352)), told + 256, "nobody was left in it");
    });
}

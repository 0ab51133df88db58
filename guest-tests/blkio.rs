//! The program behind its real socket, driven by clients that were written elsewhere: libblkio
//! and virtio-driver. No virtual machine. Every operation is checked by what comes back through
//! the socket and, where it matters, by what the image file holds.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use common::client::{Client, Wish, serves};
use common::daemon::{Daemon, PATIENCE, Scratch, eventually, finish, program};
use common::driver::{self, Driver};
use common::model::Load;
use common::rng::{pattern, seed};
use common::{note, peer};

const MIB: u64 = 1 << 20;
const EIO: i32 = -libc::EIO;

/// Bytes of an image that are backed by storage.
fn allocated(image: &Path) -> u64 {
    fs::metadata(image).expect("the image is there").blocks() * 512
}

/// Bytes of an image file.
fn content(image: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = fs::File::open(image).expect("the image is there");
    file.read_exact_at(&mut bytes, offset).expect("the range is inside");
    bytes
}

/// Every operation once, on every queue of `wish`.
fn every_operation(wish: Wish) {
    let scratch = Scratch::new();
    let (daemon, image) = Daemon::on_new_image(&scratch, 16 * MIB, &[]);
    let mut client = Client::connect(daemon.socket(), wish);
    assert_eq!(client.capacity(), 16 * MIB);
    for q in 0..client.width() {
        let base = u64::try_from(q).expect("few queues") * 4 * MIB;
        let bytes = pattern(base + 1, 256 << 10);
        assert_eq!(client.write(q, base, &bytes), Ok(()), "write");
        assert_eq!(client.read(q, base, bytes.len()).as_deref(), Ok(&bytes[..]), "read");
        assert_eq!(client.flush(q), Ok(()), "flush");
        assert!(content(&image, base, bytes.len()) == bytes, "the file holds what was flushed");

        let before = allocated(&image);
        assert_eq!(client.zeroes(q, base, 64 << 10, false), Ok(()), "write-zeroes");
        assert_eq!(client.read(q, base, 64 << 10), Ok(vec![0; 64 << 10]));
        assert!(allocated(&image) >= before, "without UNMAP the space stays");
        assert_eq!(client.zeroes(q, base, 64 << 10, true), Ok(()), "write-zeroes with UNMAP");
        assert_eq!(client.read(q, base, 64 << 10), Ok(vec![0; 64 << 10]));
        assert!(allocated(&image) < before, "with UNMAP the space is given back");

        let before = allocated(&image);
        assert_eq!(client.discard(q, base + (64 << 10), 64 << 10), Ok(()), "discard");
        assert!(allocated(&image) < before, "the discarded space is given back");
        let rest = base + (128 << 10);
        assert!(
            client.read(q, rest, 128 << 10).as_deref() == Ok(&bytes[128 << 10..]),
            "what lies behind the zeroed and discarded ranges is untouched"
        );
        assert_eq!(client.write_fua(q, base, &bytes[..4096]), Ok(()), "write with FUA");
        assert!(content(&image, base, 4096) == bytes[..4096], "is in the file at once");
    }
    drop(client);
    daemon.stop();
}

#[test]
fn every_operation_on_interrupt_queues() {
    every_operation(Wish::queues(2));
}

#[test]
fn every_operation_on_polled_queues() {
    every_operation(Wish::polled(2));
}

#[test]
fn any_segmentation_of_the_data_is_accepted() {
    let scratch = Scratch::new();
    let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    let mut client = Client::connect(daemon.socket(), Wish::default());
    assert_eq!(client.property("max-segments"), 126, "the advertised seg_max");
    // Odd addresses come with each of them: the client lays segments one byte apart.
    let splits: [&[usize]; 6] = [
        &[512],
        &[4096, 4096],
        &[1, 511],
        &[512, 1024, 512, 2048],
        &[100, 4096, 7, 405],
        &[4095, 1, 4097, 4095],
    ];
    for (i, split) in splits.iter().enumerate() {
        let len = split.iter().sum();
        let bytes = pattern(seed() ^ u64::try_from(i).expect("few"), len);
        assert_eq!(client.writev(0, 8192, split, &bytes), Ok(()), "write {split:?}");
        assert!(client.read(0, 8192, len).as_deref() == Ok(&bytes[..]), "as written by {split:?}");
        assert!(client.readv(0, 8192, split).as_deref() == Ok(&bytes[..]), "read into {split:?}");
        assert!(
            client.readv(0, 8192, &[len / 2, len - len / 2]).as_deref() == Ok(&bytes[..]),
            "another split of the same bytes"
        );
    }
    let many = vec![512; 126];
    let bytes = pattern(seed(), 126 * 512);
    assert_eq!(client.writev(0, 0, &many, &bytes), Ok(()), "as many segments as advertised");
    assert!(client.readv(0, 0, &many).as_deref() == Ok(&bytes[..]));
    drop(client);
    daemon.stop();
}

#[test]
fn requests_beyond_the_end_fail_and_change_nothing() {
    let scratch = Scratch::new();
    let (daemon, image) = Daemon::on_new_image(&scratch, MIB, &[]);
    let mut client = Client::connect(daemon.socket(), Wish::default());
    let bytes = pattern(seed(), 4096);
    assert_eq!(client.write(0, MIB - 4096, &bytes), Ok(()), "the last block is inside");
    for offset in [MIB - 512, MIB, MIB + 512, 1 << 40, 1 << 63] {
        assert_eq!(client.read(0, offset, 4096), Err(EIO), "read at {offset:#x}");
        assert_eq!(client.write(0, offset, &[7; 4096]), Err(EIO), "write at {offset:#x}");
        assert_eq!(client.zeroes(0, offset, 4096, true), Err(EIO), "zeroes at {offset:#x}");
        assert_eq!(client.discard(0, offset, 4096), Err(EIO), "discard at {offset:#x}");
    }
    assert!(client.read(0, MIB - 4096, 4096).as_deref() == Ok(&bytes[..]), "untouched");
    assert_eq!(fs::metadata(&image).expect("there").len(), MIB, "the file did not grow");
    drop(client);
    daemon.stop();
}

/// Random requests at depth 32, compared with the model all the time, then at the end through the
/// socket, then in the file.
fn verified_load(wish: Wish, options: &[&str], unit: usize, requests: u64) {
    let scratch = Scratch::new();
    let (daemon, image) = Daemon::on_new_image(&scratch, 16 * MIB, options);
    let mut client = Client::connect(daemon.socket(), wish);
    let mut load = Load::new(seed(), 16 * MIB, unit);
    load.run(&mut client, requests, 32);
    load.check_all(&mut client);
    drop(client);
    daemon.stop();
    load.check_image(&image);
}

#[test]
fn random_load_on_one_queue() {
    verified_load(Wish::queues(1), &[], 1, 6000);
}

#[test]
fn random_load_on_two_queues() {
    verified_load(Wish::queues(2), &[], 1, 6000);
}

#[test]
fn random_load_on_four_queues() {
    verified_load(Wish::queues(4), &[], 1, 6000);
}

#[test]
fn random_load_on_eight_queues() {
    verified_load(Wish::queues(8), &["--threads=2"], 1, 6000);
}

#[test]
fn random_load_on_sixteen_queues() {
    verified_load(Wish::queues(16), &["--threads=3"], 1, 6000);
}

#[test]
fn random_load_on_polled_queues() {
    verified_load(Wish::polled(3), &[], 1, 4000);
}

#[test]
fn random_load_on_mixed_queues() {
    let wish = Wish { queues: 2, poll_queues: 2, size: 64 };
    verified_load(wish, &["--threads=2"], 1, 4000);
}

#[test]
fn random_load_on_a_ring_smaller_than_the_depth() {
    verified_load(Wish { queues: 1, poll_queues: 0, size: 16 }, &[], 1, 3000);
}

#[test]
fn random_load_with_4096_byte_blocks() {
    verified_load(Wish::queues(2), &["--logical-block-size=4096"], 8, 3000);
}

#[test]
fn random_load_in_every_cache_mode() {
    for mode in ["none", "writeback", "writethrough", "directsync", "unsafe"] {
        note(&format!("cache mode {mode}"));
        verified_load(Wish::queues(2), &[&format!("--cache={mode}")], 1, 1000);
    }
}

/// What the kernel keeps in place for a process, in KiB.
fn pinned(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:")).expect("Linux 3.2");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn random_load_with_registered_buffers() {
    let scratch = Scratch::new();
    let (daemon, image) =
        Daemon::on_new_image(&scratch, 16 * MIB, &["--registered-buffers", "--threads=2"]);
    let mut load = Load::new(seed(), 16 * MIB, 1);
    for queues in [1, 3] {
        // Another client, another memory: what was registered is not used for it.
        let mut client = Client::connect(daemon.socket(), Wish::queues(queues));
        load.run(&mut client, 3000, 32);
        load.check_all(&mut client);
        let kib = u64::try_from(common::client::ARENA).expect("small") / 1024;
        if on_tmpfs(&image) {
            note("the image is on tmpfs, where nothing is registered");
        } else if pinned(&daemon) < kib {
            panic!("{} KiB are pinned, {kib} were to be: {}", pinned(&daemon), daemon.said());
        }
    }
    assert!(eventually(PATIENCE, || pinned(&daemon) == 0), "the client has gone");
    daemon.stop();
    load.check_image(&image);
    let (plain, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    serves(plain.socket());
    let _client = Client::connect(plain.socket(), Wish::default());
    assert_eq!(pinned(&plain), 0, "nobody asked for it");
}

/// Whether a file lies in memory.
fn on_tmpfs(image: &Path) -> bool {
    let device = fs::metadata(image).expect("the image is there").dev();
    fs::metadata("/dev/shm").is_ok_and(|shm| shm.dev() == device)
}

#[test]
fn cache_modes_show_in_config_space() {
    let scratch = Scratch::new();
    let modes =
        [("none", 1), ("writeback", 1), ("writethrough", 0), ("directsync", 0), ("unsafe", 1)];
    for (mode, writeback) in modes {
        let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[&format!("--cache={mode}")]);
        let driver = Driver::connect(daemon.socket(), driver::BLK | driver::VERSION_1, 16);
        assert_eq!(driver.config()[32], writeback, "{mode}: the write cache as the guest sees it");
        drop(driver);
        daemon.stop();
    }
}

#[test]
fn twenty_five_clients_one_after_the_other() {
    let scratch = Scratch::new();
    let (mut daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    serves(daemon.socket());
    let before = daemon.at_rest();
    let mut last = vec![0; 4096];
    for round in 0..25 {
        let mut client = Client::connect(daemon.socket(), Wish::queues(1 + round % 4));
        let q = client.width() - 1;
        if round > 0 {
            assert!(client.read(q, 0, 4096).as_deref() == Ok(&last[..]), "what was left there");
        }
        last = pattern(seed() ^ u64::from(round.unsigned_abs()), 4096);
        assert_eq!(client.write(q, 0, &last), Ok(()));
    }
    daemon.settles_at(before, 4096);
    daemon.stop();
}

/// Set for the process that [`a_client_that_is_killed_leaves_a_serving_daemon`] starts and kills.
const VICTIM: &str = "BLKMQ_TEST_VICTIM_SOCKET";

/// Not a test of its own: the client that gets killed, in a process of its own.
#[test]
#[ignore = "a part of another test, which runs it as a child process"]
fn victim() {
    let Some(socket) = std::env::var_os(VICTIM) else { return };
    let mut client = Client::connect(Path::new(&socket), Wish::queues(2));
    let bytes = pattern(1, 64 << 10);
    client.put(0, &bytes);
    for tag in 0..32 {
        client.begin_write(tag % 2, 0, 0, bytes.len(), tag);
    }
    loop {
        for q in 0..2 {
            for (tag, _) in client.reap(q) {
                client.begin_write(tag % 2, 64 << 10, 0, bytes.len(), tag);
            }
        }
    }
}

#[test]
fn a_client_that_is_killed_leaves_a_serving_daemon() {
    let scratch = Scratch::new();
    let (mut daemon, image) = Daemon::on_new_image(&scratch, 4 * MIB, &[]);
    serves(daemon.socket());
    let before = daemon.at_rest();
    for _ in 0..5 {
        fs::write(&image, vec![0; 4 << 20]).expect("the image can be cleared");
        let this = std::env::current_exe().expect("known");
        let mut victim = Command::new(this)
            .args(["--exact", "victim", "--ignored"])
            .env(VICTIM, daemon.socket())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program can be run again");
        let began = eventually(PATIENCE, || content(&image, 64 << 10, 512) != vec![0; 512]);
        victim.kill().expect("it runs until it is killed");
        victim.wait().expect("it is our child");
        assert!(began, "the victim writes");
        serves(daemon.socket());
    }
    daemon.settles_at(before, 8192);
    daemon.stop();
}

#[test]
fn a_second_daemon_on_the_same_image_is_refused() {
    let scratch = Scratch::new();
    let (daemon, image) = Daemon::on_new_image(&scratch, MIB, &[]);
    let socket = scratch.path("second.sock");
    let mut second = Command::new(program());
    second.arg(format!("--socket-path={}", socket.display()));
    second.arg(format!("--blk-file={}", image.display()));
    let ended = finish(second);
    assert!(!ended.status.success(), "two writers destroy an image");
    assert!(ended.stderr.contains("Failed to get \"write\" lock"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("Is another process using the image ["),
        "QEMU's hint: {}",
        ended.stderr
    );
    assert!(!socket.exists(), "it never listened");
    serves(daemon.socket());
    daemon.stop();
    Daemon::start(&scratch, &image, &[]).stop();
}

#[test]
fn a_read_only_daemon_is_refused_beside_a_writer_and_accepted_beside_readers() {
    let scratch = Scratch::new();
    let image = scratch.image(MIB);
    let reader = Daemon::start(&scratch, &image, &["--read-only"]);
    let another = Daemon::start(&scratch, &image, &["--read-only"]);
    let ended = finish({
        let mut writer = Command::new(program());
        writer.arg(format!("--socket-path={}", scratch.path("w.sock").display()));
        writer.arg(format!("--blk-file={}", image.display()));
        writer
    });
    assert!(!ended.status.success(), "readers do not share writing");
    assert!(ended.stderr.contains("lock"), "{}", ended.stderr);
    reader.stop();
    another.stop();
}

#[test]
fn with_share_rw_two_daemons_share_an_image() {
    let scratch = Scratch::new();
    let (one, image) = Daemon::on_new_image(&scratch, MIB, &["--share-rw"]);
    let two = Daemon::start(&scratch, &image, &["--share-rw"]);
    let bytes = pattern(seed(), 4096);
    let mut writer = Client::connect(one.socket(), Wish::default());
    let mut reader = Client::connect(two.socket(), Wish::default());
    assert_eq!(writer.write(0, 4096, &bytes), Ok(()));
    assert!(reader.read(0, 4096, 4096).as_deref() == Ok(&bytes[..]));
    drop((writer, reader));
    one.stop();
    two.stop();
}

#[test]
fn qemu_storage_daemon_is_kept_off_our_image_and_keeps_us_off_its() {
    if !peer::installed() {
        return;
    }
    let scratch = Scratch::new();
    let (daemon, image) = Daemon::on_new_image(&scratch, MIB, &[]);
    let ended = peer::refused(&scratch, &image);
    assert!(!ended.status.success(), "it must see our lock");
    assert!(ended.stderr.contains("Failed to get \"write\" lock"), "{}", ended.stderr);
    daemon.stop();

    let theirs = peer::Peer::start(&scratch, &image);
    let socket = scratch.path("refused.sock");
    let mut ours = Command::new(program());
    ours.arg(format!("--socket-path={}", socket.display()));
    ours.arg(format!("--blk-file={}", image.display()));
    let ended = finish(ours);
    assert!(!ended.status.success(), "we must see its lock");
    assert!(ended.stderr.contains("Failed to get shared \"write\" lock"), "{}", ended.stderr);
    assert!(!socket.exists(), "we never listened");
    drop(theirs);
    Daemon::start(&scratch, &image, &[]).stop();
}

#[test]
fn a_read_only_disk_reads_flushes_and_refuses_the_rest() {
    let scratch = Scratch::new();
    let image = scratch.image(MIB);
    let bytes = pattern(seed(), 4096);
    let file = OpenOptions::new().write(true).open(&image).expect("our file");
    file.write_all_at(&bytes, 0).expect("our file");
    let daemon = Daemon::start(&scratch, &image, &["--read-only"]);

    let mut driver = Driver::connect(daemon.socket(), driver::BLK | driver::VERSION_1, 16);
    assert_ne!(driver.features() & (1 << 5), 0, "VIRTIO_BLK_F_RO is offered");
    let read = driver.ask(driver::IN, 0, &[], &[], &[4096]);
    assert_eq!(read.status, 0);
    assert!(read.data[..4096] == bytes);
    assert_eq!(driver.ask(driver::FLUSH, 0, &[], &[], &[]).status, 0, "a flush is no write");
    assert_eq!(driver.ask(driver::OUT, 0, &[1; 512], &[512], &[]).status, 1, "write");
    for kind in [driver::DISCARD, driver::WRITE_ZEROES] {
        let answer = driver.ask(kind, 0, &driver::segment(0, 8, 0), &[16], &[]);
        assert_eq!(answer.status, 1, "discard and write-zeroes are writes");
    }
    drop(driver);
    daemon.stop();
    assert!(content(&image, 0, 4096) == bytes, "nothing changed");
}

#[test]
fn the_null_image_reads_zeroes_and_drops_writes() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch, Path::new("null:8M"), &[]);
    let mut client = Client::connect(daemon.socket(), Wish::queues(2));
    assert_eq!(client.capacity(), 8 * MIB);
    for q in 0..2 {
        assert_eq!(client.write(q, 4096, &pattern(seed(), 65536)), Ok(()));
        assert_eq!(client.read(q, 0, 131_072), Ok(vec![0; 131_072]));
        assert_eq!(client.flush(q), Ok(()));
        assert_eq!(client.discard(q, 0, 65536), Ok(()));
        assert_eq!(client.zeroes(q, 0, 65536, true), Ok(()));
        assert_eq!(client.read(q, 8 * MIB, 512), Err(EIO), "it has an end, too");
    }
    drop(client);
    daemon.stop();
}

#[test]
fn blocks_of_4096_bytes_are_advertised_and_enforced() {
    let scratch = Scratch::new();
    let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &["--logical-block-size=4096"]);
    let mut driver = Driver::connect(daemon.socket(), driver::BLK | driver::VERSION_1, 16);
    let config = driver.config();
    assert_eq!(config[20..24], 4096u32.to_le_bytes(), "blk_size");
    assert_eq!(config[0..8], (MIB / 512).to_le_bytes(), "the capacity still counts 512 bytes");
    assert_eq!(driver.ask(driver::OUT, 8, &[3; 4096], &[4096], &[]).status, 0);
    assert_eq!(driver.ask(driver::IN, 8, &[], &[], &[4096]).data[..4096], [3; 4096]);
    assert_eq!(driver.ask(driver::IN, 8, &[], &[], &[512]).status, 1, "too short");
    assert_eq!(driver.ask(driver::IN, 1, &[], &[], &[4096]).status, 1, "between two blocks");
    drop(driver);
    daemon.stop();
}

#[test]
fn a_size_that_is_no_multiple_of_the_block_is_rounded_up() {
    let scratch = Scratch::new();
    let image = scratch.image(0);
    fs::write(&image, [0x77; 1300]).expect("our file");
    let daemon = Daemon::start(&scratch, &image, &[]);
    let mut client = Client::connect(daemon.socket(), Wish::default());
    assert_eq!(client.capacity(), 1536);
    let mut want = vec![0x77; 1300];
    want.resize(1536, 0);
    assert_eq!(client.read(0, 0, 1536), Ok(want), "what lies behind the end reads as zeroes");
    assert_eq!(client.read(0, 1536, 512), Err(EIO));
    drop(client);
    daemon.stop();
}

#[test]
fn the_serial_is_what_get_id_answers() {
    let scratch = Scratch::new();
    let cases = [("disk-0815", "disk-0815"), ("exactly-twenty-bytes", "exactly-twenty-bytes")];
    for (given, seen) in cases {
        let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[&format!("--serial={given}")]);
        let mut driver = Driver::connect(daemon.socket(), driver::BLK | driver::VERSION_1, 16);
        let answer = driver.ask(driver::GET_ID, 0, &[], &[], &[20]);
        let mut want = [0; 20];
        want[..seen.len()].copy_from_slice(seen.as_bytes());
        assert_eq!((answer.status, &answer.data[..20]), (0, &want[..]));
        drop(driver);
        daemon.stop();
    }
}

/// Writes and reads with a depth of 8 through virtio-driver; returns doorbells and interrupts.
fn small_load(driver: &mut Driver, rounds: u64) -> (u64, u64) {
    let mut interrupts = 0;
    for round in 0..rounds {
        for slot in 0..8u64 {
            driver.queue(driver::OUT, slot * 2, &pattern(round ^ slot, 1024), &[600, 424], &[]);
        }
        driver.ring();
        let (answers, seen) = driver.collect(8);
        interrupts += seen;
        assert!(answers.iter().all(|(_, answer)| answer.status == 0), "all written");
        for slot in 0..8u64 {
            let answer = driver.ask(driver::IN, slot * 2, &[], &[], &[1, 1023]);
            assert_eq!(answer.status, 0);
            assert!(answer.data[..1024] == pattern(round ^ slot, 1024), "round {round}");
        }
    }
    (driver.kicks, interrupts)
}

#[test]
fn event_idx_on_and_off() {
    let scratch = Scratch::new();
    let (daemon, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    for features in [driver::EVENT_IDX, 0, driver::EVENT_IDX | driver::INDIRECT] {
        let wanted = features | driver::BLK | driver::VERSION_1;
        let mut driver = Driver::connect(daemon.socket(), wanted, 64);
        assert_eq!(driver.features() & features, features, "both are offered");
        let (kicks, interrupts) = small_load(&mut driver, 50);
        assert!(kicks > 0 && interrupts > 0, "{kicks} doorbells, {interrupts} interrupts");
        assert!(kicks <= 50 * 9, "never more doorbells than batches");
    }
    daemon.stop();
}

#[test]
fn two_disks_do_not_see_each_other() {
    let scratch = Scratch::new();
    let (one, _) = Daemon::on_new_image(&scratch, MIB, &[]);
    let (two, _) = Daemon::on_new_image(&scratch, 2 * MIB, &[]);
    let mut first = Client::connect(one.socket(), Wish::default());
    let mut second = Client::connect(two.socket(), Wish::default());
    assert_eq!((first.capacity(), second.capacity()), (MIB, 2 * MIB));
    assert_eq!(first.write(0, 0, &[1; 512]), Ok(()));
    assert_eq!(second.write(0, 0, &[2; 512]), Ok(()));
    assert_eq!(first.read(0, 0, 512), Ok(vec![1; 512]));
    assert_eq!(second.read(0, 0, 512), Ok(vec![2; 512]));
    drop((first, second));
    one.stop();
    two.stop();
}

#[test]
fn discard_ignore_answers_ok_and_keeps_the_space() {
    let scratch = Scratch::new();
    let (daemon, image) = Daemon::on_new_image(&scratch, MIB, &["--discard=ignore"]);
    let mut client = Client::connect(daemon.socket(), Wish::default());
    let bytes = pattern(seed(), 256 << 10);
    assert_eq!(client.write(0, 0, &bytes), Ok(()));
    assert_eq!(client.flush(0), Ok(()));
    let before = allocated(&image);
    assert_eq!(client.discard(0, 0, 128 << 10), Ok(()));
    assert!(client.read(0, 0, 256 << 10).as_deref() == Ok(&bytes[..]), "nothing happened");
    assert_eq!(client.zeroes(0, 128 << 10, 128 << 10, true), Ok(()));
    assert_eq!(client.read(0, 128 << 10, 128 << 10), Ok(vec![0; 128 << 10]));
    assert!(allocated(&image) >= before, "UNMAP is not followed either");
    drop(client);
    daemon.stop();
}

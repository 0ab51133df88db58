//! A disk that changes its size under a front-end that works: the notice on the back-end channel, the
//! capacity in config space, and what can be read and written then.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::json;
use vhost_user_blkmq::testkit::blk::Request;

use super::bench::{Bench, DISK, Plan, QUIET};
use crate::common::admin::Admin;
use crate::common::client::LOST;
use crate::common::daemon::{Daemon, Scratch};
use crate::common::disk::Loop;
use crate::common::foreign;
use crate::common::rng::{Rng, pattern, seed};
use crate::common::session::{VERSION, request};

const SECTOR: u64 = 512;

/// Status bytes.
const OK: u8 = 0;
const IOERR: u8 = 1;

/// A front-end with a back-end channel.
struct Story {
    _scratch: Scratch,
    image: PathBuf,
    daemon: Daemon,
    admin: Admin,
    bench: Bench,
    channel: UnixStream,
}

impl Story {
    fn begin() -> Story {
        let scratch = Scratch::new();
        let image = scratch.image(DISK);
        Story::on(scratch, &image)
    }

    fn on(scratch: Scratch, image: &Path) -> Story {
        let socket = scratch.unique(".admin");
        let admin = format!("--admin-socket={}", socket.display());
        let daemon = Daemon::start(&scratch, image, &[&admin, "--threads=2"]);
        let admin = Admin::connect(&socket);
        let bench = Bench::prepare(daemon.socket(), Plan::event_idx());
        let (channel, theirs) = UnixStream::pair().expect("a pair");
        channel.set_read_timeout(Some(LOST)).expect("not zero");
        let mut story =
            Story { _scratch: scratch, image: image.to_owned(), daemon, admin, bench, channel };
        story.bench.session.must(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]);
        assert_eq!(story.capacity(), DISK / SECTOR);
        for index in 0..2 {
            story.bench.start_queue(index);
        }
        story
    }

    fn file(&self) -> File {
        File::options().write(true).open(&self.image).expect("the image")
    }

    /// The capacity in config space.
    fn capacity(&mut self) -> u64 {
        let space = self.bench.session.config(0, 60).expect("an answer");
        u64::from_le_bytes(space[..8].try_into().expect("eight"))
    }

    /// Waits for the notice that config space has changed.
    fn notice(&mut self) {
        let mut words = [0; 12];
        self.channel.read_exact(&mut words).expect("a notice");
        let expected = [2, VERSION, 0].map(u32::to_le_bytes).concat();
        assert_eq!(words[..], expected, "CONFIG_CHANGE without a wish for a reply");
    }

    fn resize(&mut self, bytes: u64) {
        let to = json!({"disk": "disk", "size": bytes, "shrink": true});
        let answer = self.admin.call("disk.resize", &to);
        assert_eq!(
            (&answer["sectors"], &answer["announced"]),
            (&json!(bytes / SECTOR), &json!(true))
        );
    }

    fn status(&mut self, queue: u32, request: &Request) -> u8 {
        self.bench.queue(queue).ask(request).status
    }

    /// The disk ends here: the last sector can be written and read back, the next one cannot.
    fn ends_at(&mut self, bytes: u64, key: u64) {
        let (last, data) = (bytes / SECTOR - 1, pattern(key | 1, 512));
        for queue in [0, 1] {
            assert_eq!(self.status(queue, &Request::write(last, &data)), OK);
            let back = self.bench.queue(queue).ask(&Request::read(last, 512));
            assert!(back.status == OK && back.data == data, "what was written is read back");
            assert_eq!(self.status(queue, &Request::read(last, 1024)), IOERR);
            assert_eq!(self.status(queue, &Request::read(last + 1, 512)), IOERR);
            assert_eq!(self.status(queue, &Request::write(last + 1, &data)), IOERR);
        }
    }

    fn end(mut self) {
        assert!(self.daemon.running(), "{}", self.daemon.said());
        drop(self.bench);
        self.daemon.stop();
    }
}

#[test]
fn sighup_takes_the_size_that_somebody_has_given_the_file() {
    let mut story = Story::begin();
    story.ends_at(DISK, 1);
    for (key, bytes) in [(2, 2 * DISK), (3, 5 * DISK), (4, DISK / 2)] {
        story.file().set_len(bytes).expect("room");
        story.daemon.signal(libc::SIGHUP);
        story.notice();
        assert_eq!(story.capacity(), bytes / SECTOR);
        story.ends_at(bytes, key);
    }
    story.end();
}

#[test]
fn sighup_without_a_change_changes_nothing() {
    let mut story = Story::begin();
    for _ in 0..20 {
        story.daemon.signal(libc::SIGHUP);
    }
    let still = || story.daemon.said().contains("still 8192 sectors");
    assert!(crate::common::daemon::eventually(LOST, still), "{}", story.daemon.said());
    assert!(!foreign::readable(story.channel.as_raw_fd(), 3 * QUIET), "it knows already");
    assert_eq!(story.capacity(), DISK / SECTOR);
    story.ends_at(DISK, 1);
    // An empty file is no disk; it keeps its size, and the requests fail.
    story.file().set_len(0).expect("cut");
    story.daemon.signal(libc::SIGHUP);
    let kept = || story.daemon.said().contains("keeps its size");
    assert!(crate::common::daemon::eventually(LOST, kept), "{}", story.daemon.said());
    assert_eq!(story.capacity(), DISK / SECTOR);
    assert_eq!(story.status(0, &Request::read(8, 4096)), IOERR, "not zeroes");
    story.file().set_len(DISK).expect("room");
    assert_eq!(story.status(0, &Request::read(8, 4096)), OK);
    story.end();
}

#[test]
fn the_operator_makes_the_file_longer_and_shorter() {
    let mut story = Story::begin();
    for (key, bytes) in [(1, 3 * DISK), (2, DISK / 4), (3, 2 * DISK)] {
        story.resize(bytes);
        story.notice();
        assert_eq!(story.capacity(), bytes / SECTOR);
        assert_eq!(std::fs::metadata(&story.image).expect("the image").len(), bytes);
        story.ends_at(bytes, key);
    }
    let refused = |story: &mut Story, params| {
        let answer = story.admin.answer("disk.resize", &params);
        assert_eq!(answer["error"]["code"], -32003, "{answer}");
        answer["error"]["data"]["remedy"].as_str().expect("a remedy").to_owned()
    };
    let short = json!({"disk": "disk", "size": 4096});
    assert!(refused(&mut story, short).contains("shrink"));
    let odd = json!({"disk": "disk", "size": 2 * DISK + 1});
    assert!(refused(&mut story, odd).contains("whole blocks"));
    assert_eq!(story.capacity(), 2 * DISK / SECTOR);
    let listed = story.admin.call("disk.list", &json!({}));
    assert_eq!(listed["disks"][0]["sectors"], 2 * DISK / SECTOR);
    story.end();
}

#[test]
fn the_size_changes_under_load_and_only_what_lies_beyond_fails() {
    const SLOT: u64 = 4096;
    let mut story = Story::begin();
    let (mut rng, low) = (Rng::new(seed()), DISK / SLOT);
    let mut keys = vec![0; usize::try_from(low).expect("small")];
    for round in 1..=60_u64 {
        let high = round % 2 == 1;
        // On both queues: writes that are always within the disk, and reads that may not be.
        let mut sent = Vec::new();
        for queue in [0, 1_u32] {
            for _ in 0..8 {
                let slot = rng.below(low / 2) * 2 + u64::from(queue);
                if sent.iter().any(|(_, _, of, _)| *of == Some(slot)) {
                    continue;
                }
                let key = round << 32 | slot << 1 | 1;
                let write = Request::write(slot * SLOT / SECTOR, &pattern(key, 4096));
                let beyond = Request::read((low + rng.below(low)) * SLOT / SECTOR, 4096);
                let blk = &mut story.bench.queue(queue).blk;
                sent.push((queue, blk.add(&write).expect("room"), Some(slot), key));
                sent.push((queue, blk.add(&beyond).expect("room"), None, 0));
            }
            story.bench.queue(queue).publish();
        }
        story.resize(if high { 2 * DISK } else { DISK });
        for queue in [0, 1_u32] {
            let mine = sent.iter().filter(|(of, ..)| *of == queue).count();
            for _ in 0..mine {
                let done = story.bench.queue(queue).wait();
                let known = |(of, head, ..): &&(u32, u16, _, _)| (*of, *head) == (queue, done.head);
                let (_, _, slot, key) = sent.iter().find(known).expect("it was sent");
                match slot {
                    Some(slot) => {
                        assert_eq!(done.status, OK, "round {round}: within the disk all the time");
                        keys[usize::try_from(*slot).expect("small")] = *key;
                    }
                    // Zeroes, or refused: nothing else was ever there.
                    None if done.status == OK => assert!(done.data.iter().all(|byte| *byte == 0)),
                    None => assert_eq!(done.status, IOERR),
                }
            }
        }
        let end = if high { 2 * DISK } else { DISK };
        assert_eq!(story.status(0, &Request::read(end / SECTOR - 8, 4096)), OK, "round {round}");
        assert_eq!(story.status(1, &Request::read(end / SECTOR - 7, 4096)), IOERR);
        assert_eq!(std::fs::metadata(&story.image).expect("the image").len(), end);
    }
    for (slot, key) in keys.iter().enumerate().filter(|(_, key)| **key != 0) {
        let sector = u64::try_from(slot).expect("small") * SLOT / SECTOR;
        let done = story.bench.queue(0).ask(&Request::read(sector, 4096));
        assert!(done.status == OK && done.data == pattern(*key, 4096), "slot {slot}");
    }
    story.end();
}

#[test]
fn a_front_end_that_does_not_read_its_channel_is_served_all_the_same() {
    let mut story = Story::begin();
    for round in 0..2000 {
        story.resize(DISK + (round % 2) * 4096);
    }
    story.bench.queue(0).serves(7);
    assert_eq!(story.capacity(), (DISK + 4096) / SECTOR);
    story.resize(DISK);
    story.ends_at(DISK, 1);
    story.end();
}

#[test]
fn what_was_resized_before_the_rings_ran_is_told_when_they_do() {
    let mut story = Story::begin();
    for index in 0..2 {
        story.bench.stop_queue(index);
    }
    story.resize(2 * DISK);
    story.notice();
    assert!(!foreign::readable(story.channel.as_raw_fd(), 3 * QUIET), "once");
    // A front-end that was not ready for it, as QEMU while the guest is off.
    for index in 0..2 {
        story.bench.renew_queue(index, 0);
        story.bench.start_queue(index);
    }
    story.notice();
    assert_eq!(story.capacity(), 2 * DISK / SECTOR);
    story.ends_at(2 * DISK, 1);
    story.end();
}

#[test]
fn a_block_device_that_has_grown_is_taken() {
    let scratch = Scratch::new();
    let Some(device) = Loop::new(&scratch, DISK) else { return };
    let path = device.path().to_owned();
    let mut story = Story::on(scratch, &path);
    for (key, bytes) in [(1, 2 * DISK), (2, 3 * DISK)] {
        device.resize(bytes);
        story.daemon.signal(libc::SIGHUP);
        story.notice();
        assert_eq!(story.capacity(), bytes / SECTOR);
        story.ends_at(bytes, key);
    }
    let to = json!({"disk": "disk", "size": 8 * DISK});
    let answer = story.admin.answer("disk.resize", &to);
    let cause = answer["error"]["data"]["cause"].as_str().expect("a cause");
    assert!(cause.contains("block device"), "{answer}");
    story.end();
}

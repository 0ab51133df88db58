//! Images that change their size while they are served.

use super::*;
use crate::image::ResizeError;

fn capacity(b: &Bench) -> u64 {
    b.image.remeasure().expect("measured").capacity
}

/// The answer `res` of the kernel to a straight read of `len` bytes at `offset`.
fn answered(b: &mut Bench, offset: u64, len: usize, res: i32) -> Outcome {
    let bufs = [b.at(0, len)];
    let bytes = u32::try_from(len).expect("small");
    let io = Io { key: key(1), verb: read(offset), bufs: &bufs, bytes };
    b.channel.finish(&io, res)
}

#[test]
fn what_a_file_has_grown_by_is_read_and_written() {
    for cache in [CacheMode::None, CacheMode::Writeback] {
        let content = pattern(1000, 3);
        let named = temp(&content);
        let mut b = Bench::new(named.path(), &with(cache));
        assert_eq!(capacity(&b), 2, "nothing has happened");
        named.as_file().set_len(MIB).expect("room");
        assert_eq!(b.image.geometry().capacity, 2, "not before it is asked");
        assert_eq!(capacity(&b), MIB / 512);
        assert_eq!(b.image.geometry().capacity, MIB / 512);
        b.fill(0, &[0xee; 8192]);
        let all = [b.at(0, 8192)];
        b.done(read(0), &all);
        let got = b.content(0, 8192);
        assert!(got[..1000] == content && got[1000..].iter().all(|byte| *byte == 0), "{cache}");
        b.fill(0, &[0x77; 8192]);
        b.done(write(MIB - 8192), &all);
        assert_eq!(named.as_file().metadata().expect("asked").len(), MIB, "not longer than that");
        // Within the last block once more: the end of now reads as zeroes again.
        named.as_file().set_len(2 * MIB - 300).expect("room");
        assert_eq!(capacity(&b), 2 * MIB / 512);
        let last = [b.at(0, 512)];
        b.done(read(2 * MIB - 512), &last);
        assert_eq!(b.content(0, 512), [0; 512]);
    }
}

#[test]
fn a_read_that_met_the_old_end_is_issued_again() {
    let named = temp(&pattern(1000, 3));
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    assert_eq!(answered(&mut b, 512, 512, 488), Outcome::Done, "the end of the file");
    named.as_file().set_len(8192).expect("room");
    assert_eq!(capacity(&b), 16);
    assert_eq!(answered(&mut b, 512, 512, 488), Outcome::Again);
    assert_eq!(answered(&mut b, 0, 1024, 1000), Outcome::Short(512), "and goes on from there");
    // Somebody has cut it since, and nobody said so: that is the file's failure (L10).
    named.as_file().set_len(1000).expect("cut");
    assert_eq!(answered(&mut b, 512, 512, 488), EIO);
    // It never ended there.
    named.as_file().set_len(8192).expect("room");
    assert_eq!(answered(&mut b, 512, 512, 400), EIO);
}

#[test]
fn a_bounced_read_that_met_the_old_end_is_issued_again() {
    let named = temp(&pattern(1000, 3));
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    let odd = [b.at(1, 512)];
    b.submit(1, read(512), &odd).expect("room");
    let n = loop {
        if let Token::Channel { op, .. } = b.wait_cqe().token {
            break op;
        }
    };
    // The kernel answered before the file grew; the answer is looked at afterwards.
    named.as_file().set_len(8192).expect("room");
    assert_eq!(capacity(&b), 16);
    let done = b.channel.on_channel_cqe(&mut b.ring, n, 488).expect("it is over");
    assert_eq!(done.outcome, Outcome::Again);
    b.done(read(512), &odd);
    assert_eq!(b.content(1, 488), pattern(1000, 3)[512..]);
    assert_eq!(b.content(489, 24), [0; 24]);
}

#[test]
fn what_lies_beyond_a_nearer_end_is_an_error_and_not_zeroes() {
    let named = temp(&pattern(8192, 3));
    let mut b = Bench::new(named.path(), &OpenOptions::default());
    named.as_file().set_len(1000).expect("cut");
    assert_eq!(answered(&mut b, 4096, 512, 0), EIO, "before anybody said so");
    assert_eq!(capacity(&b), 2);
    for (offset, len, res, outcome) in [
        (4096, 512, 0, EIO),
        (512, 1024, 488, EIO),
        (0, 4096, 1000, EIO),
        (512, 512, 488, Outcome::Done),
        (0, 1024, 1000, Outcome::Done),
    ] {
        b.fill(0, &[0xee; 4096]);
        // What reaches beyond the disk was accepted when there was more of it.
        let got = match answered(&mut b, offset, len, res) {
            Outcome::Short(n) => {
                let rest = len - usize::try_from(n).expect("small");
                answered(
                    &mut b,
                    offset + u64::from(n),
                    rest,
                    res - i32::try_from(n).expect("small"),
                )
            }
            got => got,
        };
        assert_eq!(got, outcome, "{len} bytes at {offset}");
    }
}

#[test]
fn a_file_is_given_its_size_in_whole_blocks() {
    let named = temp(&pattern(4096, 3));
    let options = OpenOptions { logical_block: Some(4096), ..OpenOptions::default() };
    let mut b = Bench::new(named.path(), &options);
    b.image.set_len(MIB).expect("room");
    assert_eq!(b.image.geometry().capacity, 8, "in force when it is measured");
    assert_eq!(capacity(&b), MIB / 512);
    assert!(blocks(named.path()) <= 8, "nothing is written for it");
    b.fill(0, &[0x55; 4096]);
    let one = [b.at(0, 4096)];
    b.done(write(MIB - 4096), &one);
    b.image.set_len(4096).expect("shorter");
    assert_eq!(capacity(&b), 8);
    assert!(matches!(b.image.set_len(4608), Err(ResizeError::Unaligned { .. })));
    assert!(matches!(b.image.set_len(0), Err(ResizeError::Empty)));
    assert!(matches!(b.image.set_len(u64::MAX - 4095), Err(ResizeError::TooLarge)));
    assert_eq!(named.as_file().metadata().expect("asked").len(), 4096);
}

#[test]
fn an_empty_file_is_no_disk_and_changes_nothing() {
    let named = temp(&pattern(4096, 3));
    let b = Bench::new(named.path(), &OpenOptions::default());
    named.as_file().set_len(0).expect("cut");
    let refused = b.image.remeasure().expect_err("nothing is left").to_string();
    assert!(refused.contains("empty") && refused.contains("longer"), "{refused}");
    assert_eq!(b.image.geometry().capacity, 8);
}

#[test]
fn a_read_only_image_is_measured_and_not_changed() {
    let named = temp(&pattern(4096, 3));
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let b = Bench::new(named.path(), &options);
    assert!(matches!(b.image.set_len(8192), Err(ResizeError::NotOurs(_))));
    named.as_file().set_len(8192).expect("room");
    assert_eq!(capacity(&b), 16);
}

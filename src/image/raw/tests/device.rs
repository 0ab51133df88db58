//! Block devices: loop devices with 512 and 4096 byte blocks, where root may make them.

use super::*;
use std::path::PathBuf;
use std::process::Command;

/// A loop device over a file, detached at the end.
struct Loop {
    device: PathBuf,
    file: NamedTempFile,
}

impl Loop {
    fn new(bytes: u64, block: u32) -> Option<Loop> {
        let file = temp(&[]);
        file.as_file().set_len(bytes).expect("a sparse file");
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &block.to_string()])
            .arg(file.path())
            .output();
        match made {
            Ok(out) if out.status.success() => {
                let device = String::from_utf8(out.stdout).expect("a path").trim().into();
                Some(Loop { device, file })
            }
            _ => {
                skip("no loop devices here (root and the loop driver are needed)");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

#[test]
fn blocks_of_4096_bytes_are_the_devices_own() {
    let Some(l) = Loop::new(4 * MIB, 4096) else { return };
    let too_small = OpenOptions { logical_block: Some(512), ..OpenOptions::default() };
    let e = RawImage::open(&l.device, &too_small).expect_err("refused").to_string();
    assert!(e.contains("--logical-block-size=4096") && e.contains("--cache=writeback"), "{e}");

    let mut b = Bench::new(&l.device, &OpenOptions::default());
    let g = b.image.geometry();
    assert_eq!((g.capacity, g.logical_block, g.physical_block), (8192, 4096, 4096));
    let data = pattern(8192, 0x42);
    for shift in [0, 1, 512] {
        b.fill(shift, &data);
        let bufs = [b.at(shift, 4096), b.at(shift + 4096, 4096)];
        b.done(write(4096), &bufs);
        b.done(Verb::Sync, &[]);
        b.fill(shift, &[0; 8192]);
        b.done(read(4096), &bufs);
        assert_eq!(b.content(shift, 8192), data);
    }
}

#[test]
fn discards_and_zeroes_reach_the_device() {
    for block in [512, 4096] {
        let Some(l) = Loop::new(4 * MIB, block) else { return };
        let mut b = Bench::new(&l.device, &OpenOptions::default());
        let data = pattern(4 << 20, 0x18);
        b.fill(0, &data);
        let all = [b.at(0, 4 << 20)];
        b.done(write(0), &all);
        b.done(Verb::Sync, &[]);
        l.file.as_file().sync_all().expect("allocated");
        let before = blocks(l.file.path());
        b.done(Verb::Discard { offset: 0, len: MIB }, &[]);
        assert_eq!(before - blocks(l.file.path()), MIB / 512, "a loop device punches its file");
        b.done(Verb::WriteZeroes { offset: MIB, len: MIB, unmap: true }, &[]);
        b.done(Verb::WriteZeroes { offset: 2 * MIB, len: MIB, unmap: false }, &[]);
        b.fill(0, &[0xff; 4096]);
        b.done(read(0), &all);
        let now = b.content(0, 4 << 20);
        assert!(now[1 << 20..3 << 20].iter().all(|x| *x == 0), "zeroes are promised");
        assert_eq!(now[3 << 20..], data[3 << 20..]);
    }
}

#[test]
fn ranges_that_are_no_whole_blocks_of_the_device_still_keep_the_promise() {
    let Some(l) = Loop::new(MIB, 4096) else { return };
    let options = OpenOptions { logical_block: Some(512), ..with(CacheMode::Writeback) };
    let mut b = Bench::new(&l.device, &options);
    let data = pattern(1 << 20, 0x18);
    b.fill(0, &data);
    let all = [b.at(0, 1 << 20)];
    b.done(write(0), &all);
    // The kernel's ways work here, so that a later refusal would be an error.
    for unmap in [true, false] {
        b.done(Verb::WriteZeroes { offset: 0, len: 4096, unmap }, &[]);
    }
    b.done(write(0), &all);
    let (offset, len) = (512, 8192);
    b.done(Verb::WriteZeroes { offset, len, unmap: true }, &[]);
    // The hint reaches the one whole block from 32768 to 36864 and nothing beside it.
    b.done(Verb::Discard { offset: 32768 - 512, len: 4096 + 1024 }, &[]);
    b.done(Verb::Discard { offset: 65536 + 512, len: 1024 }, &[]);
    b.done(read(0), &all);
    let now = b.content(0, 1 << 20);
    assert!(now[512..512 + 8192].iter().all(|x| *x == 0));
    assert_eq!(now[..512], data[..512]);
    assert_eq!(now[512 + 8192..32768], data[512 + 8192..32768]);
    assert_eq!(now[36864..], data[36864..]);
}

#[test]
fn a_partition_is_asked_through_its_disk() {
    let Some(l) = Loop::new(4 * MIB, 512) else { return };
    let whole = RawImage::open(&l.device, &with(CacheMode::Writeback)).expect("opens").geometry();
    let added = Command::new("addpart").arg(&l.device).args(["1", "2048", "2048"]).status();
    if !added.is_ok_and(|status| status.success()) {
        return skip("addpart is not installed, or the loop driver has no partitions");
    }
    let partition = PathBuf::from(format!("{}p1", l.device.display()));
    let part = RawImage::open(&partition, &with(CacheMode::Writeback)).map(|i| i.geometry());
    soon(|| {
        let output = Command::new("delpart").arg(&l.device).arg("1").output().expect("it runs");
        if output.status.success() { Ok(()) } else { Err(String::from("delpart: busy")) }
    });
    let part = part.expect("opens");
    assert_eq!(part.capacity, 2048);
    assert_eq!(part.discard_granularity, whole.discard_granularity);
    assert!(whole.discard_granularity > 512, "or the comparison shows nothing: {whole:?}");
}

#[test]
fn a_device_that_grows_is_measured_and_never_changed() {
    let Some(l) = Loop::new(4 * MIB, 512) else { return };
    let mut b = Bench::new(&l.device, &OpenOptions::default());
    let refused = b.image.set_len(8 * MIB).expect_err("not ours").to_string();
    assert!(refused.contains("its own tools"), "{refused}");
    l.file.as_file().set_len(8 * MIB).expect("room");
    assert_eq!(b.image.remeasure().expect("measured").capacity, 8192, "the device does not know");
    let told = Command::new("losetup").arg("--set-capacity").arg(&l.device).status();
    assert!(told.expect("losetup").success());
    assert_eq!(b.image.remeasure().expect("measured").capacity, 16384);
    let data = pattern(8192, 0x33);
    b.fill(0, &data);
    let bufs = [b.at(0, 8192)];
    b.done(write(8 * MIB - 8192), &bufs);
    b.fill(0, &[0; 8192]);
    b.done(read(8 * MIB - 8192), &bufs);
    assert_eq!(b.content(0, 8192), data);
}

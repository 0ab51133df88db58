//! Disks of a real service, with nobody connected.

use std::fs::File;
use std::path::Path;

use tempfile::NamedTempFile;

use super::*;

const MIB: u64 = 1 << 20;

fn serve(options: &[String]) -> Service {
    let argv = ["x".to_owned(), "--fd=9".to_owned()];
    let argv: Vec<_> = argv.iter().chain(options).map(Into::into).collect();
    match crate::config::from_argv(&argv) {
        Ok(crate::config::Command::Serve(config)) => Service::start(&config).expect("it opens"),
        other => panic!("{other:?}"),
    }
}

fn on_file(image: &Path, more: &[&str]) -> Service {
    let mut options = vec![format!("--blk-file={}", image.display())];
    options.extend(more.iter().map(|option| (*option).to_owned()));
    serve(&options)
}

fn image() -> NamedTempFile {
    let image = NamedTempFile::new().expect("a file");
    image.as_file().set_len(MIB).expect("room");
    image
}

fn len(image: &File) -> u64 {
    image.metadata().expect("asked").len()
}

/// What a resize says, without anybody to be told.
fn resized(before: u64, sectors: u64) -> Resized {
    Resized { before, sectors, announced: false }
}

#[test]
fn the_size_is_taken_as_it_is_or_as_it_is_wanted() {
    let image = image();
    let service = on_file(image.path(), &[]);
    let disk = &service.disks()[0];
    assert_eq!(resize(disk, None, false).expect("taken"), resized(2048, 2048));
    image.as_file().set_len(2 * MIB).expect("room");
    assert_eq!(resize(disk, None, false).expect("taken"), resized(2048, 4096));
    assert_eq!(resize(disk, Some(8 * MIB), false).expect("made"), resized(4096, 16384));
    assert_eq!(len(image.as_file()), 8 * MIB);
    assert_eq!(disk.disk.config.capacity(), 16384);
    // Somebody has cut it: what is not there cannot be kept, whatever one may.
    image.as_file().set_len(MIB).expect("cut");
    assert_eq!(resize(disk, None, false).expect("taken"), resized(16384, 2048));
    service.stop().expect("nothing is lost");
}

#[test]
fn content_is_cut_off_only_when_that_is_said() {
    let image = image();
    let service = on_file(image.path(), &[]);
    let disk = &service.disks()[0];
    let refused = resize(disk, Some(4096), false).expect_err("it would lose content").to_string();
    assert!(refused.contains("4096") && refused.contains("shrink"), "{refused}");
    assert_eq!((len(image.as_file()), disk.disk.config.capacity()), (MIB, 2048));
    assert_eq!(resize(disk, Some(4096), true).expect("said"), resized(2048, 8));
    assert_eq!((len(image.as_file()), disk.disk.config.capacity()), (4096, 8));
    service.stop().expect("nothing is lost");
}

#[test]
fn what_fails_leaves_the_size_that_is_in_force() {
    let image = image();
    let service = on_file(image.path(), &["--logical-block-size=4096"]);
    let disk = &service.disks()[0];
    for bytes in [0, 100, 4608, 2 * MIB + 512, u64::MAX] {
        assert!(resize(disk, Some(bytes), true).is_err(), "{bytes} bytes");
        assert_eq!((len(image.as_file()), disk.disk.config.capacity()), (MIB, 2048), "{bytes}");
    }
    image.as_file().set_len(0).expect("cut");
    let refused = resize(disk, None, true).expect_err("no block is left").to_string();
    assert!(refused.contains("empty"), "{refused}");
    assert_eq!(disk.disk.config.capacity(), 2048, "Z3");
    service.stop().expect("nothing is lost");
}

#[test]
fn the_null_image_has_any_size() {
    let service = serve(&["--blk-file=null:1M".to_owned()]);
    let disk = &service.disks()[0];
    assert_eq!(resize(disk, None, false).expect("taken"), resized(2048, 2048));
    assert_eq!(resize(disk, Some(MIB << 20), false).expect("made"), resized(2048, 1 << 31));
    assert_eq!(resize(disk, Some(512), true).expect("made"), resized(1 << 31, 1));
    service.stop().expect("nothing is lost");
}

#[test]
fn whoever_asks_for_all_sizes_gets_the_ones_of_then_or_later() {
    let image = image();
    let service = on_file(image.path(), &[]);
    let mut resizer = Resizer::new(&service, &Arc::default());
    for round in 2..200 {
        image.as_file().set_len(round * MIB).expect("room");
        resizer.take_all();
    }
    drop(resizer); // joined
    assert_eq!(service.disks()[0].disk.config.capacity(), 199 * MIB / 512);
    service.stop().expect("nothing is lost");
}

#[test]
fn the_log_says_what_has_become_of_the_disk() {
    let say = |before, sectors, announced| Resized { before, sectors, announced }.to_string();
    assert_eq!(say(8, 8, true), "still 8 sectors");
    assert_eq!(say(8, 16, true), "grown from 8 to 16 sectors; the front-end is told");
    let alone = "shrunk from 16 to 8 sectors; the front-end is not there, or does not listen";
    assert_eq!(say(16, 8, false), alone);
}

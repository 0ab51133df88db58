//! What can be opened, and the line that says why not.

use super::*;
use crate::image::open;

fn refusal(path: &Path, options: &OpenOptions) -> String {
    let text = RawImage::open(path, options).expect_err("refused").to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn every_refusal_names_cause_and_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = OpenOptions::default();
    let missing = dir.path().join("missing.img");
    assert!(refusal(&missing, &options).contains("missing.img: no such file"));
    let below_file = temp(&[0; 512]).path().join("below");
    assert!(refusal(&below_file, &options).contains("no such file"));
    assert!(refusal(dir.path(), &options).contains("is a directory"));
    assert!(refusal(Path::new("/dev/null"), &options).contains("neither a regular file nor"));
    let empty = NamedTempFile::new().expect("a temporary file");
    assert!(refusal(empty.path(), &options).contains("is empty: give it a size"));
    // procfs has no direct I/O.
    let read_only = |cache| OpenOptions { read_only: true, cache, ..OpenOptions::default() };
    let status = Path::new("/proc/self/status");
    assert!(refusal(status, &read_only(CacheMode::None)).ends_with("use --cache=writeback"));
    let text = refusal(status, &read_only(CacheMode::Directsync));
    assert!(text.ends_with("use --cache=writethrough"), "{text}");
    let odd = OpenOptions { logical_block: Some(1000), ..OpenOptions::default() };
    assert!(refusal(&missing, &odd).contains("logical block size 1000"));
}

#[test]
fn a_fifo_does_not_hold_the_daemon_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    let options = OpenOptions { read_only: true, ..with(CacheMode::Writeback) };
    assert!(refusal(&fifo, &options).contains("neither a regular file nor"));
}

#[test]
fn a_loop_of_links_is_an_error_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&link, &link).expect("a link to itself");
    assert!(refusal(&link, &OpenOptions::default()).contains("cannot open it"));
}

#[test]
fn direct_io_says_which_buffers_it_takes_and_the_page_cache_takes_any() {
    let named = temp(&[0; 65536]);
    let cached = RawImage::open(named.path(), &with(CacheMode::Writeback)).expect("a file");
    assert_eq!(cached.buffer_mask(), BufferMask::default());
    drop(cached);
    let direct = soon(|| RawImage::open(named.path(), &with(CacheMode::None)));
    let mask = direct.buffer_mask();
    let block = direct.geometry().logical_block as usize;
    assert!(mask.len > 0 && (mask.len + 1).is_power_of_two() && mask.len < block);
    assert!((mask.addr + 1).is_power_of_two() && mask.addr <= 4095);
}

#[test]
fn what_we_hold_is_refused_to_the_next() {
    let named = temp(&[0; 4096]);
    let options = OpenOptions::default();
    let first = RawImage::open(named.path(), &options).expect("free");
    assert!(first.traits().exclusive);
    assert!(
        refusal(named.path(), &options).starts_with("Failed to get \"write\" lock: Is another")
    );
    let reader = OpenOptions { read_only: true, ..OpenOptions::default() };
    assert!(refusal(named.path(), &reader).starts_with("Failed to get shared \"write\" lock"));
    drop(first);
    let shared = OpenOptions { share_rw: true, ..OpenOptions::default() };
    let a = soon(|| RawImage::open(named.path(), &shared));
    let b = RawImage::open(named.path(), &shared).expect("shared");
    assert!(!a.traits().exclusive && !b.traits().exclusive);
}

#[test]
fn a_channel_keeps_the_lock() {
    let named = temp(&[0; 4096]);
    let options = OpenOptions::default();
    let image = RawImage::open(named.path(), &options).expect("free");
    let mut ring = Ring::new(8).expect("io_uring");
    let mut channel = image.open_channel(&mut ring, 0).expect("a channel");
    drop(image);
    assert!(refusal(named.path(), &options).contains("lock"));
    channel.close(&mut ring);
    drop((channel, ring));
    soon(|| RawImage::open(named.path(), &options));
}

#[test]
fn the_geometry_is_found_or_chosen() {
    let named = temp(&[0; 10_000]);
    let g = RawImage::open(named.path(), &with(CacheMode::Writeback)).expect("free").geometry();
    assert_eq!((g.capacity, g.logical_block), (20, 512));
    let chosen = OpenOptions {
        logical_block: Some(4096),
        physical_block: Some(16384),
        ..OpenOptions::default()
    };
    let g = soon(|| RawImage::open(named.path(), &chosen)).geometry();
    assert_eq!((g.capacity, g.logical_block, g.physical_block), (24, 4096, 16384));
}

#[test]
fn a_specification_is_a_path_or_a_null_image() {
    let named = temp(&[0; 4096]);
    let options = OpenOptions::default();
    let path = named.path().to_str().expect("plain");
    assert_eq!(open(path, &options).expect("opens").geometry().capacity, 8);
    let null = open("null:2M", &options).expect("opens");
    assert_eq!((null.geometry().capacity, null.traits().flush_is_noop), (4096, true));
    let e = open("null:", &options).err().expect("no size");
    assert!(e.to_string().starts_with("null:: the size"), "{e}");
}

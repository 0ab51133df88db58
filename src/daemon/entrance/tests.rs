//! D1 to D4, each with the file that somebody else could have left there.

use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Barrier;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[test]
fn the_file_appears_with_its_mode_and_goes_with_the_listener() {
    let dir = folder();
    let path = dir.path().join("s");
    let listener = Listener::bind(&path, 0o660, Some(0)).expect("free");
    assert_eq!(names(dir.path()), ["s"], "the lock is gone");
    let meta = fs::symlink_metadata(&path).expect("the file");
    assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o660, 0));
    assert_eq!(listener.name(), path.display().to_string());
    assert!(listener.accept().expect("nobody yet").is_none());
    let client = UnixStream::connect(&path).expect("it listens");
    let stream = listener.accept().expect("a client").expect("a client");
    assert!(socket::is_cloexec(&stream).expect("open"));
    drop((client, listener));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn whoever_sees_the_file_can_connect() {
    let dir = folder();
    let path = dir.path().join("s");
    for _ in 0..50 {
        let watch = path.clone();
        let watcher = std::thread::spawn(move || {
            while !watch.exists() {
                std::hint::spin_loop();
            }
            UnixStream::connect(&watch).map(drop)
        });
        let listener = Listener::bind(&path, 0o600, None).expect("free");
        watcher.join().expect("no panic").expect("the file was there, so somebody listens");
        drop(listener);
    }
}

#[test]
fn a_name_that_fits_no_address_is_refused() {
    let dir = folder();
    let path = dir.path().join("s".repeat(108));
    let error = Listener::bind(&path, 0o600, None).expect_err("nobody could connect to it");
    assert!(error.to_string().starts_with("cannot make the socket"), "{error}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = folder();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).expect("free")); // std leaves the file behind
    assert_eq!(names(dir.path()), ["s"]);
    let _listener = Listener::bind(&path, 0o600, None).expect("nobody serves it");
    UnixStream::connect(&path).expect("it listens");
}

#[test]
fn a_live_socket_is_refused_and_left_alone() {
    let dir = folder();
    let path = dir.path().join("s");
    let first = Listener::bind(&path, 0o600, None).expect("free");
    let error = Listener::bind(&path, 0o600, None).expect_err("it is served");
    assert_eq!(
        error.to_string(),
        format!(
            "{} is already served by another process: stop that one, or give another \
             --socket-path",
            path.display()
        )
    );
    assert_eq!(names(dir.path()), ["s"]);
    UnixStream::connect(&path).expect("the first one still serves");
    drop(first);
}

#[test]
fn what_is_no_stale_socket_is_refused_and_left_alone() {
    let dir = folder();
    let file = dir.path().join("file");
    fs::write(&file, "precious").expect("writable");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).expect("writable");
    for path in [&file, &link, &dir.path().to_owned()] {
        let error = Listener::bind(path, 0o600, None).expect_err("not a socket");
        assert!(matches!(error, EntranceError::NotASocket(_)), "{error}");
    }
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
    let datagram = dir.path().join("datagram");
    let _served = UnixDatagram::bind(&datagram).expect("free");
    let error = Listener::bind(&datagram, 0o600, None).expect_err("it is served");
    assert!(matches!(error, EntranceError::Live(_)), "{error}");
}

#[test]
fn a_missing_directory_is_named() {
    let dir = folder();
    let path = dir.path().join("none/s");
    let error = Listener::bind(&path, 0o600, None).expect_err("no directory");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot lock {}.lock (No such file or directory (os error 2)): make its directory, \
             or let this user write there",
            path.display()
        )
    );
}

#[test]
fn of_many_starters_one_wins() {
    let dir = folder();
    let path = dir.path().join("s");
    for round in 0..20 {
        if round % 2 == 0 {
            drop(UnixListener::bind(&path).expect("free")); // a stale one lies there
        }
        let barrier = Barrier::new(4);
        let results: Vec<_> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        Listener::bind(&path, 0o600, None)
                    })
                })
                .collect();
            starters.into_iter().map(|s| s.join().expect("no panic")).collect()
        });
        let won = results.iter().filter(|r| r.is_ok()).count();
        assert_eq!(won, 1, "{results:?}");
        assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(EntranceError::Live(_)))));
        drop(results);
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn a_file_that_is_no_longer_ours_stays() {
    let dir = folder();
    let path = dir.path().join("s");
    let ours = Listener::bind(&path, 0o600, None).expect("free");
    fs::rename(&path, dir.path().join("moved")).expect("writable");
    let theirs = Listener::bind(&path, 0o600, None).expect("free again");
    drop(ours);
    UnixStream::connect(&path).expect("the other one's file is still there");
    drop(theirs);
    assert_eq!(names(dir.path()), ["moved"]);
}

#[test]
fn a_leftover_lock_file_is_harmless() {
    let dir = folder();
    fs::write(dir.path().join("s.lock"), "").expect("writable");
    let listener = Listener::bind(&dir.path().join("s"), 0o600, None).expect("free");
    assert_eq!(names(dir.path()), ["s"]);
    drop(listener);
}

#[test]
fn descriptors_are_told_apart() {
    let dir = folder();
    let path = dir.path().join("s");
    let fd = UnixListener::bind(&path).expect("free").into_raw_fd();
    let Ok(Entrance::Listener(listener)) = adopt(fd) else { panic!("it listens") };
    assert_eq!(listener.name(), path.display().to_string());
    assert!(listener.accept().expect("does not block").is_none());
    drop(listener);
    assert!(path.exists(), "the file is not ours");

    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("open");
    assert!(matches!(adopt(ours.into_raw_fd()), Ok(Entrance::Connected(_))));

    let fd = tempfile::tempfile().expect("a file").into_raw_fd();
    assert_eq!(
        adopt(fd).expect_err("a file").to_string(),
        format!("--fd={fd} is not a Unix stream socket: pass a listening or a connected one")
    );
    let fd = socket::bind(&dir.path().join("idle"), 0o600).expect("free").into_raw_fd();
    assert_eq!(
        adopt(fd).expect_err("idle").to_string(),
        format!(
            "--fd={fd} is a socket that neither listens nor is connected: call listen(2) on it"
        )
    );
    assert_eq!(
        adopt(999_999).expect_err("closed").to_string(),
        "--fd=999999 is not open (Bad file descriptor (os error 9)): pass a socket there, or use \
         --socket-path"
    );
}

#[test]
fn groups_are_known_or_refused() {
    assert_eq!(group("root").expect("everywhere"), 0);
    assert_eq!(group("17").expect("a number"), 17);
    assert_eq!(
        group("no such group").expect_err("unknown").to_string(),
        "--socket-group=no such group: there is no such group: give one of /etc/group, or a number"
    );
}

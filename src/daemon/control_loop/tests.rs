//! E1 to E3 with sessions that do what the test tells them.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;

/// Far longer than anything here takes: only a defect waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// An echo session that reports when it begins and ends. `z` ends it from inside, `x` badly.
fn echo(reports: Sender<&'static str>) -> Serve {
    Arc::new(move |mut stream: UnixStream| {
        reports.send("begin").expect("the test listens");
        let mut byte = [0];
        while stream.read(&mut byte).expect("readable") == 1 && byte != *b"z" && byte != *b"x" {
            stream.write_all(&byte).expect("writable");
        }
        reports.send("end").expect("the test listens");
        if byte == *b"x" { Err("an x".to_owned()) } else { Ok(()) }
    })
}

/// No errands: every signal asks for the end.
struct Nothing;

impl Errands for Nothing {
    fn signal(&mut self, _signal: i32) -> bool {
        false
    }

    fn interval(&self) -> Option<Duration> {
        None
    }

    fn beat(&mut self) {
        unreachable!("there is no interval");
    }
}

/// A loop with one port.
fn serve(entrance: Entrance, signals: &Signals, serve: Serve) -> io::Result<Ended> {
    let mut ports = [Port::new(entrance, serve).expect("a descriptor")];
    run(&mut ports, signals, &mut Nothing)
}

struct Fixture {
    dir: tempfile::TempDir,
    signals: UnixStream,
    reports: Receiver<&'static str>,
    thread: JoinHandle<io::Result<Ended>>,
}

impl Fixture {
    fn start(entrance: impl FnOnce(&Path) -> Entrance) -> Fixture {
        let dir = tempfile::tempdir().expect("a directory");
        let entrance = entrance(&dir.path().join("s"));
        let (signals, raise) = Signals::pretend();
        let (sender, reports) = channel();
        let thread = std::thread::spawn(move || serve(entrance, &signals, echo(sender)));
        Fixture { dir, signals: raise, reports, thread }
    }

    fn listening() -> Fixture {
        Fixture::start(|path| Entrance::Listener(Listener::bind(path, 0o600, None).expect("free")))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("s")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("open");
        stream
    }

    fn report(&self) -> &'static str {
        self.reports.recv_timeout(PATIENCE).expect("a report")
    }

    fn raise(&mut self, signal: i32) {
        self.signals.write_all(&Signals::siginfo(signal)).expect("room");
    }

    fn end(self) -> Ended {
        self.thread.join().expect("no panic").expect("no error")
    }
}

fn echoes(stream: &mut UnixStream) {
    stream.write_all(b"a").expect("writable");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("an echo");
    assert_eq!(byte, *b"a");
}

#[test]
fn front_ends_are_served_one_after_the_other() {
    let mut fixture = Fixture::listening();
    let mut first = fixture.connect();
    echoes(&mut first);
    let mut second = fixture.connect();
    second.write_all(b"a").expect("the backlog takes it");
    echoes(&mut first);
    assert_eq!(fixture.report(), "begin");
    assert!(fixture.reports.try_recv().is_err(), "E1: the second one waits");
    drop(first);
    let mut byte = [0];
    second.read_exact(&mut byte).expect("now it is served");
    assert_eq!([fixture.report(), fixture.report()], ["end", "begin"]);
    drop(second);
    assert_eq!(fixture.report(), "end");
    for _ in 0..20 {
        echoes(&mut fixture.connect());
        assert_eq!([fixture.report(), fixture.report()], ["begin", "end"]);
    }
    fixture.raise(libc::SIGTERM);
    assert_eq!(fixture.end(), Ended::Signal(libc::SIGTERM));
}

#[test]
fn a_session_that_ends_itself_closes_the_connection() {
    let mut fixture = Fixture::listening();
    let mut client = fixture.connect();
    client.write_all(b"z").expect("writable");
    assert_eq!(client.read(&mut [0]).expect("the end"), 0);
    echoes(&mut fixture.connect());
    fixture.raise(libc::SIGINT);
    assert_eq!(fixture.end(), Ended::Signal(libc::SIGINT));
}

#[test]
fn a_stop_signal_ends_the_session_that_runs() {
    let mut fixture = Fixture::listening();
    let mut client = fixture.connect();
    echoes(&mut client);
    assert_eq!(fixture.report(), "begin");
    fixture.raise(libc::SIGTERM);
    assert_eq!(fixture.report(), "end");
    assert_eq!(client.read(&mut [0]).expect("the end"), 0, "E3");
    assert_eq!(fixture.end(), Ended::Signal(libc::SIGTERM));
}

#[test]
fn the_end_of_the_one_connection_is_the_end() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let fixture = Fixture::start(|_| Entrance::Connected(ours));
    echoes(&mut theirs);
    drop(theirs);
    assert_eq!([fixture.report(), fixture.report()], ["begin", "end"]);
    assert_eq!(fixture.end(), Ended::Disconnected);
}

#[test]
fn a_bad_end_of_the_one_connection_is_told() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let fixture = Fixture::start(|_| Entrance::Connected(ours));
    theirs.write_all(b"x").expect("writable");
    assert_eq!([fixture.report(), fixture.report()], ["begin", "end"]);
    assert_eq!(fixture.end(), Ended::Failed("an x".to_owned()));
}

#[test]
fn a_stop_signal_ends_the_one_connection() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let mut fixture = Fixture::start(|_| Entrance::Connected(ours));
    echoes(&mut theirs);
    fixture.raise(libc::SIGTERM);
    assert_eq!(theirs.read(&mut [0]).expect("the end"), 0);
    assert_eq!(fixture.end(), Ended::Signal(libc::SIGTERM));
}

#[test]
fn a_client_that_has_gone_again_does_no_harm() {
    let mut fixture = Fixture::listening();
    for _ in 0..50 {
        drop(fixture.connect());
    }
    echoes(&mut fixture.connect());
    fixture.raise(libc::SIGTERM);
    assert_eq!(fixture.end(), Ended::Signal(libc::SIGTERM));
}

#[test]
fn a_session_that_panics_ends_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).expect("free"));
    let entrance = Entrance::Listener(Listener::bind(&path, 0o600, None).expect("stale"));
    let (signals, mut raise) = Signals::pretend();
    let serve: Serve = Arc::new(|mut stream: UnixStream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("one byte");
        assert_ne!(byte, *b"!", "asked for");
        stream.write_all(&byte).expect("writable");
        Ok(())
    });
    let thread = std::thread::spawn(move || super::tests::serve(entrance, &signals, serve));
    let mut client = UnixStream::connect(&path).expect("it listens");
    client.write_all(b"!").expect("writable");
    assert_eq!(client.read(&mut [0]).expect("the end"), 0);
    echoes(&mut UnixStream::connect(&path).expect("it listens"));
    raise.write_all(&Signals::siginfo(libc::SIGTERM)).expect("room");
    assert_eq!(thread.join().expect("no panic").expect("no error"), Ended::Signal(libc::SIGTERM));
}

#[test]
fn every_port_has_its_own_session() {
    let dir = tempfile::tempdir().expect("a directory");
    let (signals, mut raise) = Signals::pretend();
    let (sender, reports) = channel();
    let paths: Vec<_> = (0..3).map(|n| dir.path().join(format!("s{n}"))).collect();
    let mut ports: Vec<Port> = paths
        .iter()
        .map(|path| Listener::bind(path, 0o600, None).expect("free"))
        .map(|listener| Port::new(Entrance::Listener(listener), echo(sender.clone())))
        .map(|port| port.expect("a descriptor"))
        .collect();
    let thread = std::thread::spawn(move || run(&mut ports, &signals, &mut Nothing));
    let connect = |path| {
        let stream = UnixStream::connect(path).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("open");
        stream
    };
    let mut clients: Vec<_> = paths.iter().map(connect).collect();
    clients.iter_mut().for_each(echoes);
    // One goes and comes again; the others do not notice.
    clients[1] = connect(&paths[1]);
    clients.iter_mut().rev().for_each(echoes);
    raise.write_all(&Signals::siginfo(libc::SIGTERM)).expect("room");
    let ended = thread.join().expect("no panic").expect("no error");
    assert_eq!(ended, Ended::Signal(libc::SIGTERM));
    assert_eq!(reports.iter().take(8).filter(|r| *r == "end").count(), 4, "E3: all of them");
}

#[test]
fn the_last_connection_ends_it_and_tells_of_any_failure() {
    let (signals, _raise) = Signals::pretend();
    let (sender, _reports) = channel();
    let (ours, mut first) = UnixStream::pair().expect("a pair");
    let (theirs, mut second) = UnixStream::pair().expect("a pair");
    first.set_read_timeout(Some(PATIENCE)).expect("open");
    let mut ports = [ours, theirs].map(|stream| {
        Port::new(Entrance::Connected(stream), echo(sender.clone())).expect("a descriptor")
    });
    let thread = std::thread::spawn(move || run(&mut ports, &signals, &mut Nothing));
    first.write_all(b"x").expect("writable");
    assert_eq!(first.read(&mut [0]).expect("the end"), 0);
    echoes(&mut second);
    drop(second);
    let ended = thread.join().expect("no panic").expect("no error");
    assert_eq!(ended, Ended::Failed("an x".to_owned()));
}

/// Does errands for SIGHUP, and counts its beats.
struct Counting {
    hung_up: Sender<i32>,
    beats: u32,
    interval: Duration,
}

impl Errands for Counting {
    fn signal(&mut self, signal: i32) -> bool {
        self.hung_up.send(signal).expect("the test listens");
        signal == libc::SIGHUP
    }

    fn interval(&self) -> Option<Duration> {
        Some(self.interval)
    }

    fn beat(&mut self) {
        self.beats += 1;
    }
}

#[test]
fn errands_are_done_and_the_loop_goes_on_beating() {
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    let (reports, _listens) = channel();
    let port = Port::new(Entrance::Connected(theirs), echo(reports)).expect("a descriptor");
    let (signals, mut raise) = Signals::pretend();
    let (hung_up, heard) = channel();
    let interval = Duration::from_millis(5);
    let begin = Instant::now();
    let thread = std::thread::spawn(move || {
        let mut errands = Counting { hung_up, beats: 0, interval };
        let ended = run(&mut [port], &signals, &mut errands).expect("no error");
        (ended, errands.beats)
    });
    for _ in 0..3 {
        raise.write_all(&Signals::siginfo(libc::SIGHUP)).expect("room");
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(libc::SIGHUP));
        std::thread::sleep(4 * interval);
    }
    raise.write_all(&Signals::siginfo(libc::SIGTERM)).expect("room");
    let (ended, beats) = thread.join().expect("no panic");
    assert_eq!(ended, Ended::Signal(libc::SIGTERM));
    let most = begin.elapsed().as_millis() / interval.as_millis() + 1;
    assert!(beats >= 2 && u128::from(beats) <= most, "{beats} beats, {most} at most");
}

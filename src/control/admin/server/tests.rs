//! A1 to A6 over real sockets.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use super::super::testing::{Client as Operator, FakeDaemon, LONG, Served};
use super::*;
use crate::testkit::rng::Rng;

const WEIGHT: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"disk.set-weight","params":{"disk":"vda","weight":7}}"#;
const DONE: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
const STUCK: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"disk.inspect","params":{"disk":"stuck","limit":1}}"#;
const CROWDED: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32006,"message":"8 clients are connected and in use: close one, or try again in 10 seconds"}}"#;

/// Ends well before a test would notice a thread that waits for its peer.
const PROMPT: Duration = Duration::from_secs(5);

/// A server whose clients have to be quiet for so long before they lose their places.
fn patient(patience: Duration) -> Served {
    Served::start(|listener, steer| AdminServer::with_patience(listener, steer, patience))
}

/// Eight clients that have been let in.
fn eight(served: &Served) -> Vec<Operator> {
    let mut clients: Vec<Operator> = (0..MAX_CLIENTS).map(|_| served.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(WEIGHT), DONE);
    }
    clients
}

#[test]
fn a1_a_line_may_come_in_pieces_and_several_in_one() {
    let served = Served::new();
    let mut client = served.client();
    for byte in WEIGHT.bytes() {
        client.send(&[byte]);
    }
    client.send(b"\n");
    assert_eq!(client.receive().as_deref(), Some(DONE));
    // Windows ends, blank lines, and a last line without its end.
    client.send(format!("\n \r\n{WEIGHT}\r\n\n{WEIGHT}").as_bytes());
    client.stream().shutdown(Shutdown::Write).expect("open");
    assert_eq!(client.rest(), [DONE, DONE]);
}

#[test]
fn a1_a_line_of_the_largest_size_is_answered_and_a_longer_one_ends_the_connection() {
    let served = Served::new();
    let mut client = served.client();
    let largest = format!("{}{WEIGHT}", " ".repeat(MAX_LINE - WEIGHT.len()));
    assert_eq!(client.ask(&largest), DONE);
    // More than the socket holds, so that the client still writes when it is hung up on.
    let too_long = vec![b' '; 4 << 20];
    let mut writer = client.stream().try_clone().expect("open");
    let writing = std::thread::spawn(move || writer.write_all(&too_long).is_err());
    let expected = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"invalid request: the line has more than 65536 bytes"}}"#;
    assert_eq!(client.rest(), [expected]);
    assert!(writing.join().expect("no panic"), "nobody read all of it");
    assert_eq!(served.client().ask(WEIGHT), DONE);
}

#[test]
fn a2_answers_come_in_the_order_of_the_lines() {
    let served = Served::new();
    let mut client = served.client();
    let request = |id: u32| {
        let method = if id.is_multiple_of(3) { "pool.list" } else { "no.such" };
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\"}}\n")
    };
    let mut writer = client.stream().try_clone().expect("open");
    let lines: String = (0..20_000).map(request).collect();
    let writing = std::thread::spawn(move || writer.write_all(lines.as_bytes()));
    for id in 0..20_000 {
        let answer = client.receive().expect("an answer");
        assert!(answer.starts_with(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},")), "{answer}");
    }
    writing.join().expect("no panic").expect("all of it was read");
}

/// Makes clients ask until nothing moves any more: they never read, so their threads cannot write.
/// Returns how many calls were made, and how many bytes were taken.
fn stuff(served: &Served, clients: &[Operator]) -> (usize, usize) {
    let lines = format!("{WEIGHT}\n").repeat(1000);
    let (mut made, mut sent) = (0, vec![0; clients.len()]);
    let begin = Instant::now();
    let mut last = begin;
    while last.elapsed() < Duration::from_millis(300) {
        assert!(begin.elapsed() < LONG, "it goes on and on: {made} calls, {sent:?} bytes");
        for (client, sent) in clients.iter().zip(&mut sent) {
            client.stream().set_nonblocking(true).expect("open");
            match client.stream().write(&lines.as_bytes()[*sent % lines.len()..]) {
                Ok(n) => {
                    *sent += n;
                    last = Instant::now();
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
        let more = served.fake.changes().len();
        made += more;
        if more > 0 {
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (made, sent.iter().sum())
}

/// Nobody else notices a client that asks and asks and never reads, and it is read from only until
/// the first answer that does not fit its socket.
#[test]
fn a2_a_client_that_never_reads_stops_itself() {
    let served = Served::new();
    let mut other = served.client();
    let deaf = [served.client()];
    let (made, sent) = stuff(&served, &deaf);
    assert!(made > 10 && made < sent / WEIGHT.len(), "{made} calls of {sent} bytes");
    assert!(sent < 8 << 20, "{sent} bytes were taken from a client that takes nothing");
    assert_eq!(other.ask(WEIGHT), DONE);
    let (_, took) = served.stop();
    assert!(took < PROMPT, "{took:?}");
}

#[test]
fn a3_a_call_that_takes_long_holds_up_only_its_client() {
    let served = Served::new();
    let mut slow = served.client();
    slow.send(format!("{STUCK}\n{WEIGHT}\n").as_bytes());
    served.fake.wait_for(1);
    assert_eq!(served.client().ask(WEIGHT), DONE);
    assert_eq!(served.fake.changes().len(), 1, "the slow client's own next call waits");
    served.fake.open_gate();
    assert!(slow.receive().expect("an answer").contains("\"total\":3"));
    assert_eq!(slow.receive().as_deref(), Some(DONE));
}

#[test]
fn a4_a_ninth_client_is_turned_away_while_all_are_in_use() {
    let served = patient(LONG);
    let mut clients = eight(&served);
    let mut ninth = served.client();
    assert_eq!(ninth.rest(), [CROWDED]);
    // Those who are in have not noticed, and a place that is left is given away.
    assert_eq!(clients[0].ask(WEIGHT), DONE);
    drop(clients.pop());
    let begin = Instant::now();
    loop {
        let mut next = served.client();
        // It may have been turned away already; what it was told can be read all the same.
        let _ = next.stream().write_all(format!("{WEIGHT}\n").as_bytes());
        match next.receive().as_deref() {
            Some(DONE) => break,
            other => assert_eq!(other, Some(CROWDED)),
        }
        assert!(begin.elapsed() < LONG, "the place is never free");
    }
}

#[test]
fn a4_the_quietest_loses_its_place_and_a_working_one_never() {
    let served = patient(Duration::ZERO);
    let mut clients = eight(&served);
    std::thread::sleep(Duration::from_millis(100)); // until all of them have come to rest
    // The first is worked for since long; the second is quiet since then, in the middle of a line.
    clients[0].send(format!("{STUCK}\n").as_bytes());
    served.fake.wait_for(1);
    clients[1].send(&WEIGHT.as_bytes()[..20]);
    for client in &mut clients[2..] {
        assert_eq!(client.ask(WEIGHT), DONE);
    }
    assert_eq!(served.client().ask(WEIGHT), DONE);
    assert_eq!(clients[1].rest(), [""; 0], "it has lost its place");
    for client in &mut clients[3..] {
        assert_eq!(client.ask(WEIGHT), DONE);
    }
    served.fake.open_gate();
    assert!(clients[0].receive().is_some(), "it has its answer");
}

#[test]
fn a4_clients_that_never_read_keep_nobody_out() {
    let served = patient(Duration::from_millis(100));
    let deaf: Vec<Operator> = (0..MAX_CLIENTS).map(|_| served.client()).collect();
    let (made, sent) = stuff(&served, &deaf);
    assert!(made < sent / WEIGHT.len(), "all are stuck: {made} calls of {sent} bytes");
    assert_eq!(served.client().ask(WEIGHT), DONE);
}

#[test]
fn a5_noise_is_answered_or_hung_up_on() {
    let served = patient(Duration::ZERO);
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut client = served.client();
        let mut writer = client.stream().try_clone().expect("open");
        let writing = std::thread::spawn(move || {
            for _ in 0..rng.below(6) {
                let most = if rng.chance(1, 10) { 200_000 } else { 300 };
                let len = rng.below(most);
                let text = rng.chance(1, 2);
                let bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        let byte = rng.word().to_le_bytes()[0];
                        if text { b"{}[]\":,12 \n"[usize::from(byte) % 11] } else { byte }
                    })
                    .collect();
                if writer.write_all(&bytes).is_err() {
                    break; // hung up on
                }
            }
            let _ = writer.shutdown(Shutdown::Write);
        });
        // Every answer is whole and JSON, and the connection ends.
        for line in client.rest() {
            let value: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("seed {seed}: {e}: {line}"));
            let answers = value.as_array().cloned().unwrap_or_else(|| vec![value]);
            for answer in answers {
                assert_eq!(answer["jsonrpc"], "2.0", "seed {seed}: {line}");
                assert!(answer["error"]["code"].is_i64(), "seed {seed}: {line}");
            }
        }
        writing.join().unwrap_or_else(|_| panic!("seed {seed}: the writer waits for ever"));
    }
    assert_eq!(served.client().ask(WEIGHT), DONE);
    assert_eq!(served.stop().0, ["weight vda 7"]);
}

#[test]
fn a6_stop_ends_clients_that_are_idle_in_a_line_or_not_reading() {
    let served = Served::new();
    let mut idle = served.client();
    assert_eq!(idle.ask(WEIGHT), DONE);
    let mut midway = served.client();
    midway.send(&WEIGHT.as_bytes()[..20]);
    let deaf = served.client();
    deaf.stream().set_nonblocking(true).expect("open");
    let _ = deaf.stream().write(format!("{WEIGHT}\n").repeat(100_000).as_bytes());
    let (_, took) = served.stop();
    assert!(took < PROMPT, "{took:?}");
    assert_eq!((idle.rest(), midway.rest()), (vec![], vec![]));
}

#[test]
fn a6_stop_waits_for_the_call_that_has_begun_and_begins_no_other() {
    let served = Served::new();
    let stuck = served.client();
    let quiet = WEIGHT.replace("\"id\":1,", "");
    // Nothing is answered, so no failure to write can be what ends it.
    let first = STUCK.replace("\"id\":1,", "");
    stuck.send(format!("{first}\n{}", format!("{quiet}\n").repeat(200)).as_bytes());
    served.fake.wait_for(1);
    let fake = Arc::clone(&served.fake);
    let opening = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        fake.open_gate();
    });
    let (changes, took) = served.stop();
    assert_eq!(changes, [""; 0]);
    assert!(took >= Duration::from_millis(100) && took < PROMPT, "{took:?}");
    opening.join().expect("no panic");
}

#[test]
fn a6_nothing_is_left_after_the_end() {
    let listener = |dir: &tempfile::TempDir| UnixListener::bind(dir.path().join("s"));
    let dir = tempfile::tempdir().expect("a directory");
    let fake = FakeDaemon::new();
    let steer = Arc::clone(&fake) as Arc<dyn Steer>;
    let server = AdminServer::start(listener(&dir).expect("free"), steer).expect("it starts");
    let clients: Vec<UnixStream> =
        (0..4).map(|_| UnixStream::connect(dir.path().join("s")).expect("it listens")).collect();
    drop(server);
    assert_eq!(Arc::strong_count(&fake), 1, "no thread holds it");
    let refused = UnixStream::connect(dir.path().join("s")).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    drop(clients);
}

#[test]
fn a_client_that_vanishes_gives_its_place_and_its_thread_back() {
    let (listener, dir) = {
        let dir = tempfile::tempdir().expect("a directory");
        (UnixListener::bind(dir.path().join("s")).expect("free"), dir)
    };
    let fake = FakeDaemon::new();
    let mut door = Door::new(listener, fake, LONG).expect("a door");
    for _ in 0..50 {
        let client = UnixStream::connect(dir.path().join("s")).expect("it listens");
        assert!(door.turn().expect("an accept"));
        assert_eq!(door.clients.len(), 1);
        drop(client);
        assert!(door.turn().expect("its bell"));
        assert_eq!(door.clients.len(), 0);
    }
    door.close();
}

#[test]
fn a_listener_that_fails_rests_instead_of_spinning() {
    // A socket that cannot accept stands for want of descriptors.
    let (broken, other) = UnixDatagram::pair().expect("a pair");
    other.send(b"x").expect("room");
    let listener = UnixListener::from(OwnedFd::from(broken));
    let mut door = Door::new(listener, FakeDaemon::new(), LONG).expect("a door");
    assert!(!door.resting);
    assert!(door.turn().expect("no end") && door.resting, "it rests after a failure");
    let begin = Instant::now();
    assert!(door.turn().expect("no end") && !door.resting, "it looks again");
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    door.close();
}

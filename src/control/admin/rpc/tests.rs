//! The specification of JSON-RPC 2.0, and R1 to R5, by exact answers.

use super::*;
use crate::control::admin::testing::FakeDaemon;
use crate::testkit::rng::Rng;

fn say(line: &str, fake: &FakeDaemon) -> Option<String> {
    let answer = answer(line.as_bytes(), fake, &mut || true)?;
    Some(String::from_utf8(answer).expect("JSON is UTF-8"))
}

fn error(id: &str, code: i32, message: &str) -> String {
    let message = serde_json::to_string(message).expect("text");
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},\"message\":{message}}}}}"
    )
}

/// Asks each line, which is to be refused with this id, code and message.
fn refused(cases: &[(&str, &str, i32, &str)]) {
    let fake = FakeDaemon::new();
    for (line, id, code, message) in cases {
        assert_eq!(say(line, &fake), Some(error(id, *code, message)), "to {line}");
    }
    assert_eq!(fake.changes(), [""; 0], "nothing has changed");
}

#[test]
fn what_is_no_json_is_refused() {
    let deep = "[".repeat(1000);
    refused(&[
        ("{", "null", -32700, "parse error: EOF while parsing an object at line 1 column 1"),
        ("x", "null", -32700, "parse error: expected value at line 1 column 1"),
        ("{} {}", "null", -32700, "parse error: trailing characters at line 1 column 4"),
        (&deep, "null", -32700, "parse error: recursion limit exceeded at line 1 column 128"),
    ]);
    let answer = answer(b"\"\xff\"", &*FakeDaemon::new(), &mut || true).expect("an answer");
    let expected = "parse error: invalid unicode code point at line 1 column 2";
    assert_eq!(String::from_utf8(answer).expect("UTF-8"), error("null", -32700, expected));
}

#[test]
fn what_is_no_request_is_refused() {
    let id = "invalid request: `id` is a string, null, or an integer of 64 bits";
    let version = "invalid request: `jsonrpc` has to be \"2.0\"";
    let method = "invalid request: `method` has to be a string";
    let params = "invalid request: `params` has to be an object";
    refused(&[
        ("1", "null", -32600, "invalid request: a request is an object"),
        ("null", "null", -32600, "invalid request: a request is an object"),
        ("{}", "null", -32600, version),
        (r#"{"id":1,"method":"version"}"#, "1", -32600, version),
        (r#"{"jsonrpc":2.0,"id":1,"method":"version"}"#, "1", -32600, version),
        (r#"{"jsonrpc":"1.0","id":1,"method":"version"}"#, "1", -32600, version),
        (r#"{"jsonrpc":"2.0","id":1}"#, "1", -32600, method),
        (r#"{"jsonrpc":"2.0","method":1,"params":"bar"}"#, "null", -32600, method),
        (r#"{"jsonrpc":"2.0","id":1,"method":"version","params":7}"#, "1", -32600, params),
        (r#"{"jsonrpc":"2.0","id":1,"method":"version","params":null}"#, "1", -32600, params),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"version"}"#, "null", -32600, id),
        (r#"{"jsonrpc":"2.0","id":18446744073709551616,"method":"version"}"#, "null", -32600, id),
        (r#"{"jsonrpc":"2.0","id":true,"method":"version"}"#, "null", -32600, id),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"version"}"#, "null", -32600, id),
        (r#"{"jsonrpc":"2.0","id":{},"method":"version"}"#, "null", -32600, id),
        (
            r#"{"jsonrpc":"2.0","id":"s","method":"version","parms":{}}"#,
            "\"s\"",
            -32600,
            "invalid request: unknown member `parms`",
        ),
    ]);
}

#[test]
fn ids_come_back_as_they_were() {
    let fake = FakeDaemon::new();
    let ids = ["0", "-1", "9223372036854775807", "18446744073709551615", "\"\\u0001\\\"\"", "null"];
    for id in ids {
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"disk.set-weight","params":{{"disk":"vda","weight":7}}}}"#
        );
        let answer = say(&line, &fake).expect("an answer");
        assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
    }
    assert_eq!(fake.changes().len(), ids.len());
}

/// A request with the id 1.
fn call(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

#[test]
fn wrong_parameters_are_refused_with_their_cause() {
    let cases = [
        ("version", r#"{"x":1}"#, "unknown field `x`, there are no fields"),
        ("disk.list", r#"{"x":1}"#, "unknown field `x`, there are no fields"),
        ("pool.list", "[]", "give them by name, as an object"),
        ("disk.stats", "{}", "missing field `disk`"),
        ("disk.stats", r#"{"disk":1}"#, "invalid type: integer `1`, expected a string"),
        (
            "disk.stats",
            r#"{"disk":"vda","bucket":true}"#,
            "unknown field `bucket`, expected one of `disk`, `queues`, `buckets`",
        ),
        ("disk.inspect", r#"{"disk":"vda","limit":0}"#, "limit is 0, but has to be from 1 to 4096"),
        (
            "disk.inspect",
            r#"{"disk":"vda","limit":4097}"#,
            "limit is 4097, but has to be from 1 to 4096",
        ),
        ("disk.set-limits", r#"{"disk":"vda"}"#, "missing field `limits`"),
        (
            "disk.set-limits",
            r#"{"disk":"vda","limits":{"iops":{"total":{"max":1}}}}"#,
            "unknown field `max`, expected one of `rate`, `burst`, `burst_seconds`",
        ),
        (
            "disk.set-limits",
            r#"{"disk":"vda","limits":{"bps":{"write":{"rate":-1}}}}"#,
            "invalid value: integer `-1`, expected u64",
        ),
        (
            "disk.set-weight",
            r#"{"disk":"vda","weight":0}"#,
            "weight is 0, but has to be from 1 to 1000",
        ),
        (
            "disk.set-weight",
            r#"{"disk":"vda","weight":1001}"#,
            "weight is 1001, but has to be from 1 to 1000",
        ),
        (
            "disk.set-weight",
            r#"{"disk":"vda","weight":65536}"#,
            "invalid value: integer `65536`, expected u16",
        ),
        ("disk.set-nr-requests", r#"{"disk":"vda"}"#, "missing field `nr_requests`"),
        (
            "disk.set-nr-requests",
            r#"{"disk":"vda","nr_requests":0}"#,
            "nr_requests is 0, but has to be from 1 to 65535",
        ),
        ("pool.get-scheduler", "{}", "missing field `pool`"),
        (
            "pool.set-scheduler",
            r#"{"pool":"ssd","scheduler":"kyber","tunables":{"read_lat_nsec":1.5}}"#,
            "invalid type: floating point `1.5`, expected a string or an integer",
        ),
        (
            "pool.tunable",
            r#"{"pool":"ssd","name":"fifo_batch","value":null}"#,
            "invalid type: null, expected a string or an integer",
        ),
        ("pool.tunable", r#"{"pool":"ssd","name":"x"}"#, "mq-deadline has no tunable `x`"),
        (
            "pool.set-hw-depth",
            r#"{"pool":"ssd","hw_depth":4294967296}"#,
            "invalid value: integer `4294967296`, expected u32",
        ),
        ("pool.set-hw-depth", r#"{"pool":"ssd"}"#, "missing field `hw_depth`"),
        (
            "pool.set-poll-max-us",
            r#"{"pool":"ssd","poll_max_us":10001}"#,
            "poll_max_us is 10001, but has to be from 0 to 10000",
        ),
        (
            "pool.set-nomerges",
            r#"{"pool":"ssd","nomerges":3}"#,
            "nomerges is 3, but has to be from 0 to 2",
        ),
    ];
    for (method, params, why) in cases {
        let message = format!("invalid params: {why}");
        refused(&[(&call(method, params), "1", -32602, &message)]);
    }
}

#[test]
fn every_method_names_the_disk_or_the_pool_that_there_is_not() {
    let disk = [
        ("disk.stats", ""),
        ("disk.inspect", ""),
        ("disk.set-limits", r#","limits":{}"#),
        ("disk.set-weight", r#","weight":1"#),
        ("disk.set-nr-requests", r#","nr_requests":1"#),
    ];
    for (method, more) in disk {
        let line = call(method, &format!(r#"{{"disk":"sda"{more}}}"#));
        refused(&[(&line, "1", -32001, "there is no disk `sda`: disk.list names them all")]);
    }
    let pool = [
        ("pool.get-scheduler", ""),
        ("pool.set-scheduler", r#","scheduler":"none""#),
        ("pool.tunable", r#","name":"x""#),
        ("pool.set-hw-depth", r#","hw_depth":0"#),
        ("pool.set-nomerges", r#","nomerges":0"#),
        ("pool.set-poll-max-us", r#","poll_max_us":0"#),
    ];
    for (method, more) in pool {
        let line = call(method, &format!(r#"{{"pool":"hdd"{more}}}"#));
        refused(&[(&line, "1", -32002, "there is no pool `hdd`: pool.list names them all")]);
    }
}

#[test]
fn the_other_errors_have_codes_of_their_own() {
    refused(&[
        (
            &call("Version", "{}"),
            "1",
            -32601,
            "method not found: Version: `version` names them all",
        ),
        (
            &call("disk.set-weight", r#"{"disk":"deaf","weight":1}"#),
            "1",
            -32004,
            "no answer in time (queue thread 0): what was asked for may still happen, so look again",
        ),
        (
            &call("disk.stats", r#"{"disk":"huge"}"#),
            "1",
            -32005,
            "the answer would have more than 4 MiB: ask for less (`queues`, `buckets`, `limit`), \
             or in several calls",
        ),
    ]);
    let internal = farewell(&Fault::Internal("odd".to_owned()));
    let internal = String::from_utf8(internal).expect("UTF-8");
    assert_eq!(internal, error("null", -32603, "internal error: odd"));
}

#[test]
fn what_is_left_out_has_its_default() {
    let fake = FakeDaemon::new();
    let with = |params| say(&call("disk.stats", params), &fake).expect("an answer");
    let plain = with(r#"{"disk":"vda"}"#);
    assert_eq!(plain, with(r#"{"disk":"vda","queues":true,"buckets":false}"#));
    assert!(plain.contains(r#""queue":1,"thread":1"#) && !plain.contains("buckets"), "{plain}");
    let all = say(&call("disk.inspect", r#"{"disk":"vda"}"#), &fake).expect("an answer");
    assert!(all.contains(r#""age_ns":28000000,"merged_into":17}]"#), "{all}");
}

/// What the reading side has to know of answers is what we write.
#[test]
fn results_can_be_read_back() {
    use crate::control::admin::shape;
    fn result<T: serde::de::DeserializeOwned + Serialize>(line: &str) {
        let answer = say(line, &FakeDaemon::new()).expect("an answer");
        let value: Value = serde_json::from_str(&answer).expect("JSON");
        let read: T = serde_json::from_value(value["result"].clone()).expect("as it was written");
        assert_eq!(serde_json::to_value(&read).expect("it was JSON"), value["result"]);
    }
    result::<shape::Version>(&call("version", "{}"));
    result::<shape::DiskList>(&call("disk.list", "{}"));
    result::<shape::DiskStats>(&call("disk.stats", r#"{"disk":"vda","buckets":true}"#));
    result::<shape::DiskStats>(&call("disk.stats", r#"{"disk":"vda","queues":false}"#));
    result::<shape::Inspection>(&call("disk.inspect", r#"{"disk":"vda"}"#));
    result::<shape::PoolList>(&call("pool.list", "{}"));
    result::<shape::SchedulerReport>(&call("pool.get-scheduler", r#"{"pool":"ssd"}"#));
    result::<shape::TunableValue>(&call("pool.tunable", r#"{"pool":"ssd","name":"fifo_batch"}"#));
}

#[test]
fn a_notification_is_carried_out_and_not_answered() {
    let fake = FakeDaemon::new();
    let quiet = |method: &str, params: &str| {
        let line = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        assert_eq!(say(&line, &fake), None);
    };
    quiet("pool.set-nomerges", r#"{"pool":"ssd","nomerges":1}"#);
    assert_eq!(fake.changes(), ["nomerges ssd 1"]);
    quiet("pool.set-nomerges", r#"{"pool":"ssd","nomerges":9}"#);
    quiet("no.such", "{}");
    quiet("disk.set-weight", "[1]");
    quiet("disk.stats", r#"{"disk":"huge"}"#);
    assert_eq!(fake.changes(), [""; 0]);
}

fn nomerges(id: &str, level: u8) -> String {
    let params = format!(r#"{{"pool":"ssd","nomerges":{level}}}"#);
    format!(r#"{{"jsonrpc":"2.0"{id},"method":"pool.set-nomerges","params":{params}}}"#)
}

#[test]
fn a_batch_is_answered_by_a_batch() {
    let fake = FakeDaemon::new();
    let calls = [&nomerges(r#","id":1"#, 2), "7", &nomerges("", 1), &nomerges(r#","id":"b""#, 0)];
    let answer = say(&format!("[{}]", calls.join(",")), &fake);
    let expected = [
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        &error("null", -32600, "invalid request: a request is an object"),
        r#"{"jsonrpc":"2.0","id":"b","result":{}}"#,
    ];
    assert_eq!(answer, Some(format!("[{}]", expected.join(","))));
    assert_eq!(fake.changes(), ["nomerges ssd 2", "nomerges ssd 1", "nomerges ssd 0"]);
    // Notifications only: nothing is answered, not even an empty list.
    let quiet = format!("[{},{}]", nomerges("", 0), nomerges("", 9));
    assert_eq!((say(&quiet, &fake), fake.changes().len()), (None, 1));
}

#[test]
fn an_empty_batch_and_one_too_many_are_refused_whole() {
    let why = |n| format!("invalid request: a batch has from 1 to 16 calls, this one has {n}");
    refused(&[("[]", "null", -32600, &why(0))]);
    let batch = |n| format!("[{}]", vec![nomerges("", 0); n].join(","));
    refused(&[(&batch(MAX_BATCH + 1), "null", -32600, &why(17))]);
    let fake = FakeDaemon::new();
    assert_eq!(say(&batch(MAX_BATCH), &fake), None);
    assert_eq!(fake.changes().len(), MAX_BATCH);
}

/// The results of a batch share the room of one answer; who comes too late hears so.
#[test]
fn a_batch_has_the_room_of_one_answer() {
    // One disk's statistics without `queues` are small, those of `huge` larger than the room; so
    // the room is made small instead.
    let fake = FakeDaemon::new();
    let stats: Value =
        serde_json::from_str(&call("disk.stats", r#"{"disk":"vda"}"#)).expect("JSON");
    let whole = one(stats.clone(), &*fake, MAX_ANSWER).expect("an answer");
    let around = r#"{"jsonrpc":"2.0","id":1,"result":}"#.len();
    assert_eq!(one(stats.clone(), &*fake, whole.len() - around), Some(whole.clone()));
    let refused = one(stats, &*fake, whole.len() - around - 1).expect("an answer");
    assert_eq!(refused, refusal(&json!(1), &Fault::TooLarge));
}

#[test]
fn a_line_ends_when_the_client_has_to_leave() {
    let fake = FakeDaemon::new();
    let batch =
        format!("[{}]", [nomerges(r#","id":1"#, 0), nomerges("", 1), nomerges("", 2)].join(","));
    let mut left = 2;
    let mut go_on = || {
        left -= 1;
        left >= 0
    };
    assert_eq!(answer(batch.as_bytes(), &*fake, &mut go_on), None);
    assert_eq!(fake.changes(), ["nomerges ssd 0", "nomerges ssd 1"]);
    let single = nomerges(r#","id":1"#, 0);
    assert_eq!(answer(single.as_bytes(), &*fake, &mut || false), None);
    assert_eq!(fake.changes(), [""; 0]);
}

/// Requests with a few bytes changed, left out or doubled: closer to what parsers trip over than
/// noise is.
#[test]
fn a5_any_line_has_an_answer_or_is_a_notification() {
    const ODD: &[u8; 19] = b"{}[]\",:019.-eE\\un\x00\xff";
    let fake = FakeDaemon::new();
    let seeds = [
        call("disk.set-limits", r#"{"disk":"vda","limits":{"iops":{"total":{"rate":1}}}}"#),
        call("pool.set-scheduler", r#"{"pool":"ssd","scheduler":"x","tunables":{"a":1}}"#),
        format!("[{},{}]", nomerges("", 1), nomerges(r#","id":-1"#, 1)),
    ];
    let (mut parsed, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let pick = usize::try_from(rng.below(3)).expect("small");
        let mut line = seeds[pick].clone().into_bytes();
        for _ in 0..=rng.below(3) {
            let at = usize::try_from(rng.below(line.len() as u64)).expect("small");
            match rng.below(3) {
                0 => line[at] = ODD[usize::try_from(rng.below(19)).expect("small")],
                1 => drop(line.remove(at)),
                _ => line.insert(at, line[at]),
            }
        }
        let Some(answer) = answer(&line, &*fake, &mut || true) else { continue };
        let value: Value = serde_json::from_slice(&answer)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}: {}", line.escape_ascii()));
        assert!(answer.len() < 1000 + 8 * line.len(), "seed {seed}: a long answer");
        match value["error"]["code"].as_i64() {
            Some(-32700) => refused += 1,
            _ => parsed += 1,
        }
    }
    assert!(parsed > 1000 && refused > 1000, "{parsed} parsed, {refused} refused");
}

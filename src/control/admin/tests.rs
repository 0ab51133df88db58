//! The documentation of the protocol, held against the protocol.

use std::collections::BTreeSet;

use super::SteerError;
use super::rpc::Fault;
use super::testing::Served;

/// One exchange: what is sent, and what is answered.
type Exchange = (String, String);

/// The documentation, and the examples in it: lines that begin with an arrow, each with the lines
/// below it up to the next arrow or fence.
fn documented() -> (String, Vec<Exchange>) {
    let source = include_str!("mod.rs");
    let text: Vec<&str> = source.lines().map_while(|l| l.strip_prefix("//!")).collect();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut open = None;
    for line in &text {
        let line = line.strip_prefix(' ').unwrap_or(line);
        if let Some(request) = line.strip_prefix("--> ") {
            exchanges.push((request.to_owned(), String::new()));
            open = Some(false);
        } else if let Some(answer) = line.strip_prefix("<-- ") {
            exchanges.last_mut().expect("an answer to something").1.push_str(answer);
            open = Some(true);
        } else if let (Some(below), Some(answer)) = (line.strip_prefix("     "), open) {
            let last = exchanges.last_mut().expect("more of something");
            let part = if answer { &mut last.1 } else { &mut last.0 };
            // Within a sentence the break stands for a blank.
            if part.ends_with(|c: char| c.is_ascii_alphabetic()) {
                part.push(' ');
            }
            part.push_str(below);
        } else {
            open = None;
        }
    }
    (text.join("\n"), exchanges)
}

#[test]
fn every_example_of_the_documentation_works() {
    let (_, exchanges) = documented();
    assert!(exchanges.len() >= 15, "{} examples were found", exchanges.len());
    let served = Served::new();
    let mut client = served.client();
    for (request, answer) in exchanges {
        let answer = answer.replace("X.Y.Z", env!("CARGO_PKG_VERSION"));
        assert_eq!(client.ask(&request), answer, "to {request}");
    }
    let (changes, _) = served.stop();
    assert_eq!(
        changes,
        [
            "limits vda LimitsConfig { iops: LimitSet { total: Limit { rate: 1000, burst: 4000, \
             burst_seconds: 10 }, read: Limit { rate: 0, burst: 0, burst_seconds: 0 }, write: \
             Limit { rate: 0, burst: 0, burst_seconds: 0 } }, bps: LimitSet { total: Limit { \
             rate: 0, burst: 0, burst_seconds: 0 }, read: Limit { rate: 0, burst: 0, \
             burst_seconds: 0 }, write: Limit { rate: 52428800, burst: 0, burst_seconds: 0 } }, \
             iops_size: 65536 }",
            "weight vda 200",
            "nr_requests vda Some(64)",
            "nr_requests vda None",
            "resize vda None false",
            "resize vda Some(2147483648) false",
            "scheduler ssd kyber [(\"read_lat_nsec\", \"1000000\")]",
            "hw_depth ssd Some(32)",
            "hw_depth ssd None",
            "nomerges ssd 2",
            "poll_max_us ssd 50",
        ]
    );
}

#[test]
fn every_method_is_documented_by_name_and_by_example() {
    let (text, exchanges) = documented();
    let served = Served::new();
    let answer = served.client().ask(r#"{"jsonrpc":"2.0","id":0,"method":"version"}"#);
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let methods = answer["result"]["methods"].as_array().expect("a list");
    let methods: BTreeSet<&str> = methods.iter().filter_map(serde_json::Value::as_str).collect();
    let titles: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix(" ## ")).collect();
    assert_eq!(methods, titles);
    for method in methods {
        let called = format!("\"method\":\"{method}\"");
        assert!(
            exchanges.iter().any(|(ask, got)| ask.contains(&called) && got.contains("\"result\"")),
            "{method} has no example"
        );
    }
}

#[test]
fn every_error_has_its_row_in_the_order_of_the_codes() {
    let text = String::new;
    let faults = [
        Fault::Parse(text()),
        Fault::Request(text()),
        Fault::Method(text()),
        Fault::Params(text()),
        Fault::Internal(text()),
        Fault::Steer(SteerError::NoSuchDisk(text())),
        Fault::Steer(SteerError::NoSuchPool(text())),
        Fault::Steer(SteerError::Refused { cause: text(), remedy: text() }),
        Fault::Steer(SteerError::Unanswered(text())),
        Fault::TooLarge,
        Fault::Crowded,
    ];
    let (documentation, _) = documented();
    let rows = documentation.lines().filter_map(|l| l.strip_prefix(" | -")?.split(' ').next());
    let codes = faults.iter().map(|fault| fault.code().unsigned_abs().to_string());
    let rows: Vec<String> = rows.filter(|r| *r != "--").map(str::to_owned).collect();
    assert_eq!(rows, codes.collect::<Vec<_>>());
}

//! Each key with its number, each rule with its line.

use super::super::value;
use super::super::word::{Place, Word};
use super::*;

fn read(text: &str) -> Result<LimitsConfig, String> {
    let word = Word { key: Place::CommandLine.key("throttle"), text: text.to_owned() };
    let limits_of = |pairs| limits(Some(pairs));
    value::pairs(&word, false).and_then(limits_of).map_err(|refusal| refusal.fault.to_string())
}

#[test]
fn every_key_has_its_number() {
    let names = names();
    assert_eq!(names.len(), 19);
    let mut reached = LimitsConfig::default();
    for (n, name) in (1000..).zip(&names) {
        match slot(&mut reached, name) {
            Some(Slot::Count(at) | Slot::Bytes(at)) => *at = n,
            Some(Slot::Seconds(at)) => *at = u32::try_from(n).expect("small"),
            None => panic!("{name}"),
        }
    }
    let limit =
        |n: u32| Limit { rate: u64::from(n), burst: u64::from(n + 1), burst_seconds: n + 2 };
    assert_eq!(
        reached,
        LimitsConfig {
            iops: LimitSet { total: limit(1000), read: limit(1003), write: limit(1006) },
            bps: LimitSet { total: limit(1009), read: limit(1012), write: limit(1015) },
            iops_size: 1018,
        }
    );
}

#[test]
fn what_is_said_is_what_holds() {
    let limits = read(
        "iops-read=100,iops-read-max=200,iops-read-max-length=60,iops-write=0,bps-total=10M,\
         bps-total-max=1G,iops-size=4k",
    );
    let mut expected = LimitsConfig { iops_size: 4096, ..LimitsConfig::default() };
    expected.iops.read = Limit { rate: 100, burst: 200, burst_seconds: 60 };
    expected.bps.total = Limit { rate: 10 << 20, burst: 1 << 30, burst_seconds: 0 };
    assert_eq!(limits, Ok(expected));
    assert_eq!(read("bps-read=2T").expect("fits").bps.read.rate, 2 << 40);
    assert_eq!(read("bps-read=1000000000000000").expect("fits").bps.read.rate, MAX);
    assert_eq!(limits_of_nothing(), LimitsConfig::default());
}

fn limits_of_nothing() -> LimitsConfig {
    limits(None).expect("nothing is no mistake")
}

#[test]
fn every_mistake_has_its_line() {
    let syntax = "give KEY=VALUE[,KEY=VALUE]..., as in iops-total=500,bps-read=10M";
    let keys = "give iops-total, iops-read, iops-write, bps-total, bps-read, bps-write, one of \
                these with -max or -max-length, or iops-size";
    let table = [
        ("", format!("--throttle=: {syntax}")),
        ("iops-total", format!("--throttle=iops-total: {syntax}")),
        ("iops-total=", format!("--throttle=iops-total=: {syntax}")),
        ("=5", format!("--throttle==5: {syntax}")),
        ("iops-total=5,", format!("--throttle=iops-total=5,: {syntax}")),
        (
            "iops-total=5,iops-total=5",
            "--throttle: iops-total is said twice: say it once".to_owned(),
        ),
        (
            "iops-totl=5",
            "--throttle=iops-totl=5: give a limit that there is: did you mean iops-total?".into(),
        ),
        ("speed=5", format!("--throttle=speed=5: {keys}")),
        ("iops=5", format!("--throttle=iops=5: {keys}")),
        (
            "iops-total-=5",
            "--throttle=iops-total-=5: give a limit that there is: did you mean iops-total?".into(),
        ),
        (
            "iops-total=5K",
            "--throttle=iops-total=5K: give a number from 0 to 1000000000000000".into(),
        ),
        (
            "iops-total=-5",
            "--throttle=iops-total=-5: give a number from 0 to 1000000000000000".into(),
        ),
        (
            "iops-total=1000000000000001",
            "--throttle=iops-total=1000000000000001: give a number from 0 to 1000000000000000"
                .into(),
        ),
        (
            "bps-read=5KB",
            "--throttle=bps-read=5KB: give bytes from 0 to 1000000000000000, with K, M, G or T if \
             you like"
                .into(),
        ),
        (
            "bps-read=99999999T",
            "--throttle=bps-read=99999999T: give bytes from 0 to 1000000000000000, with K, M, G \
             or T if you like"
                .into(),
        ),
        (
            "iops-read=1,iops-read-max=1,iops-read-max-length=0",
            "--throttle=iops-read-max-length=0: give seconds from 1 to 4294967295".into(),
        ),
        (
            "iops-total=5,iops-write=5",
            "--throttle: iops-total holds for reads and writes together, so that iops-write \
             cannot stand beside it: give the total alone, or iops-read and iops-write"
                .into(),
        ),
        (
            "bps-read=1,bps-total=5",
            "--throttle: bps-total holds for reads and writes together, so that bps-read cannot \
             stand beside it: give the total alone, or bps-read and bps-write"
                .into(),
        ),
        (
            "bps-read-max=5",
            "--throttle: bps-read-max needs bps-read: give both, or drop bps-read-max".into(),
        ),
        (
            "iops-total=5,iops-total-max=4",
            "--throttle: iops-total-max=4 is below iops-total=5: give at least 5, or drop \
             iops-total-max"
                .into(),
        ),
        (
            "iops-total=5,iops-total-max-length=4",
            "--throttle: iops-total-max-length needs iops-total-max: give both, or drop the length"
                .into(),
        ),
        (
            "bps-total=1T,bps-total-max=2T,bps-total-max-length=455",
            "--throttle: bps-total-max-length=455 is too long for bps-total-max=2199023255552: \
             give at most 454"
                .into(),
        ),
        (
            "iops-size=4096,bps-total=1M",
            "--throttle: iops-size says how operations are counted, and none are limited: give \
             iops-total, iops-read or iops-write as well, or drop it"
                .into(),
        ),
    ];
    for (text, line) in table {
        assert_eq!(read(text), Err(line), "{text}");
    }
}

/// A burst may last as long as its product with the length allows, to the second.
#[test]
fn the_longest_burst_is_taken() {
    for text in [
        "bps-total=1T,bps-total-max=2T,bps-total-max-length=454",
        "iops-read=1,iops-read-max=1,iops-read-max-length=4294967295",
        "iops-write=5,iops-write-max=5",
    ] {
        assert!(read(text).is_ok(), "{text}");
    }
}

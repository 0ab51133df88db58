//! The trace of every tag follows one grammar, from claim to release (I31).
//!
//! That each single step is an edge of T3 is asserted at the step. What the edges do not say:
//!
//! ```text
//! life     = rejected | flush | data
//! rejected = Done end
//! flush    = wait Done end            wait = FlushWait { Syncing FlushWait }
//! data     = Plugged [Throttled Plugged] [Staged] travel [wait] Done end
//! travel   = { Leftover | Merged | InFlight }     with InFlight or Merged in it
//! end      = Taken Free
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::blkmq::MergeConfig;
use crate::blkmq::tags::State;
use crate::testkit::core_disk::Faults;
use crate::testkit::core_sim::{Config, World};

/// The lives of tags.
#[derive(Default)]
struct Lives {
    /// Those that go on, by the tag's place.
    going: HashMap<(usize, u16), String>,
    /// How often each that is over was seen.
    over: BTreeMap<String, u32>,
}

thread_local! {
    /// Those of this thread's tags, if somebody wants to know.
    static LIVES: RefCell<Option<Lives>> = const { RefCell::new(None) };
}

fn letter(state: State) -> char {
    match state {
        State::Free => 'f',
        State::Plugged => 'p',
        State::Throttled => 't',
        State::Staged => 's',
        State::Leftover => 'l',
        State::FlushWait => 'w',
        State::InFlight => 'i',
        State::Syncing => 'y',
        State::Merged => 'm',
        State::Done => 'd',
        State::Taken => 'k',
    }
}

/// A tag of the set that begins at this place has moved.
pub(in crate::blkmq) fn moved(set: usize, tag: u16, from: State, to: State) {
    LIVES.with_borrow_mut(|lives| {
        let Some(Lives { going, over }) = lives else { return };
        let life = going.entry((set, tag)).or_default();
        if from == State::Free {
            life.clear(); // an earlier set of the same place may have been dropped
        }
        life.push(letter(to));
        if to == State::Free {
            *over.entry(std::mem::take(life)).or_default() += 1;
        }
    });
}

/// What is left of `life` after these letters, as often as they come.
fn skip<'l>(life: &'l str, letters: &str) -> &'l str {
    life.trim_start_matches(|c| letters.contains(c))
}

fn after<'l>(life: &'l str, part: &str) -> &'l str {
    life.strip_prefix(part).unwrap_or(life)
}

/// A wait for a sync, which may be on its own tag and may have to be repeated.
fn wait(life: &str) -> Option<&str> {
    let mut life = life.strip_prefix('w')?;
    while let Some(rest) = life.strip_prefix("yw") {
        life = rest;
    }
    Some(life)
}

fn is_life(life: &str) -> bool {
    let Some(rest) = life.strip_suffix("dkf") else { return false };
    if rest.is_empty() {
        return true; // rejected
    }
    let Some(rest) = rest.strip_prefix('p') else { return wait(rest) == Some("") };
    let rest = after(after(rest, "tp"), "s");
    let travelled = rest.len() - skip(rest, "lmi").len();
    let (travel, rest) = rest.split_at(travelled);
    travel.contains(['i', 'm']) && wait(rest).unwrap_or(rest).is_empty()
}

#[test]
fn the_grammar_knows_right_from_wrong() {
    for right in ["dkf", "wdkf", "wywdkf", "wywywdkf", "pidkf", "ptpsidkf", "psldkf"] {
        assert_eq!(is_life(right), right != "psldkf", "{right}: never with the kernel");
    }
    for right in ["pmdkf", "psmdkf", "plilidkf", "pimldkf", "piwywdkf", "piwdkf", "smdkf"] {
        assert_eq!(is_life(right), right != "smdkf", "{right}: staged before it was plugged");
    }
    for wrong in
        ["", "pdkf", "pid", "pidk", "piddkf", "piskf", "pisidkf", "pitpidkf", "wpidkf", "wydkf"]
    {
        assert!(!is_life(wrong), "{wrong}");
    }
}

#[test]
fn i31_every_tag_follows_the_grammar() {
    let faults = Faults { error: 20, short: 200, again: 200, busy: 300, at: None };
    LIVES.set(Some(Lives::default()));
    for seed in 0..400 {
        let merging = MergeConfig::default();
        let plain = Config { faults, merging, sequential: 700, ..Config::new(seed) };
        let strict = Config { fua: true, dsync: seed % 4 == 1, hw_depth: 3, ..plain };
        World::play(if seed % 2 == 0 { plain } else { strict }, 300);
    }
    let Lives { over, .. } = LIVES.take().expect("asked for above");
    for (life, times) in &over {
        assert!(is_life(life), "{life}, {times} times");
    }
    for usual in ["dkf", "wywdkf", "wdkf", "pidkf", "psidkf", "pmdkf"] {
        assert!(over.contains_key(usual), "{usual} was never seen, but {:?}", over.keys());
    }
    assert!(over.len() > 50, "and many of the rest: {}", over.len());
    let all: u32 = over.values().sum();
    assert!(all > 20_000, "in numbers: {all}");
}

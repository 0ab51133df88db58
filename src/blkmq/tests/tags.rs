use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn bio(tag: u16) -> Bio {
    Bio::new(Tag(tag), Op::Flush)
}

#[test]
fn a_slot_fits_a_cache_line() {
    assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
}

#[test]
fn i36_each_claim_has_a_generation_of_its_own() {
    let mut tags = TagSet::new(1);
    for round in 1..=70_000u32 {
        tags.claim(&bio(0), Durable::No, Nanos(0), State::Plugged).expect("free");
        let generation = tags.slot(Tag(0)).generation;
        assert_eq!(u32::from(generation), round % 65_536);
        assert_eq!(tags.with_kernel(Tag(0), generation), None, "not with the kernel yet");
        tags.set(Tag(0), State::InFlight);
        assert_eq!(tags.with_kernel(Tag(0), generation), Some(State::InFlight));
        assert_eq!(tags.with_kernel(Tag(0), generation.wrapping_sub(1)), None);
        assert_eq!(tags.with_kernel(Tag(1), generation), None);
        tags.set(Tag(0), State::Done);
        tags.set(Tag(0), State::Taken);
        tags.set(Tag(0), State::Free);
    }
}

#[test]
fn only_the_edges_of_the_picture_exist() {
    const ALL: [State; STATES] = [
        State::Free,
        State::Plugged,
        State::Throttled,
        State::Staged,
        State::Leftover,
        State::FlushWait,
        State::InFlight,
        State::Syncing,
        State::Merged,
        State::Done,
        State::Taken,
    ];
    // A row per state, in the order above: what it leads to.
    let rows = [
        "01000100010",
        "00111010100",
        "01000000000",
        "00001010100",
        "00000010000",
        "00000001010",
        "00001100110",
        "00000100010",
        "00001100010",
        "00000000001",
        "10000000000",
    ];
    for (from, row) in ALL.iter().zip(rows) {
        for (to, edge) in ALL.iter().zip(row.chars()) {
            assert_eq!(from.leads_to(*to), edge == '1', "{from:?} to {to:?}");
        }
    }
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "tag 3: Free does not lead to InFlight"))]
fn a_wrong_edge_is_caught_in_debug_builds() {
    TagSet::new(4).set(Tag(3), State::InFlight);
    #[cfg(not(debug_assertions))]
    assert_eq!(TagSet::new(4).count(State::Free), 4);
}

#[derive(Debug, Clone)]
enum Step {
    Back(u16),
    Front(u16),
    Pop,
    /// All of the other list goes before this one.
    Prepend,
}

proptest! {
    #[test]
    fn a_list_agrees_with_a_deque(
        steps in proptest::collection::vec(
            prop_oneof![
                (0u16..20).prop_map(Step::Back),
                (0u16..20).prop_map(Step::Front),
                Just(Step::Pop),
                Just(Step::Prepend),
            ],
            0..200,
        )
    ) {
        let mut tags = TagSet::new(20);
        // Two lists share the slots: a tag is in one of them at most (T5).
        let mut lists = [TagList::EMPTY, TagList::EMPTY];
        let mut model = [VecDeque::new(), VecDeque::new()];
        for (i, step) in steps.into_iter().enumerate() {
            let n = i % 2;
            match step {
                Step::Back(t) | Step::Front(t) if model.iter().any(|m| m.contains(&t)) => {}
                Step::Back(t) => {
                    tags.push_back(&mut lists[n], Tag(t));
                    model[n].push_back(t);
                }
                Step::Front(t) => {
                    tags.push_front(&mut lists[n], Tag(t));
                    model[n].push_front(t);
                }
                Step::Prepend => {
                    let other = std::mem::replace(&mut lists[1 - n], TagList::EMPTY);
                    tags.prepend(&other, &mut lists[n]);
                    let mut first = std::mem::take(&mut model[1 - n]);
                    first.append(&mut model[n]);
                    model[n] = first;
                }
                Step::Pop => {
                    let got = tags.pop_front(&mut lists[n]).map(|t| t.0);
                    prop_assert_eq!(got, model[n].pop_front());
                }
            }
            for (list, model) in lists.iter().zip(&model) {
                prop_assert_eq!(list.front().map(|t| t.0), model.front().copied());
                prop_assert_eq!(list.is_empty(), model.is_empty());
            }
        }
    }
}

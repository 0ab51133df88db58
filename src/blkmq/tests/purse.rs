use super::*;

fn alone(depth: u32) -> (Arc<Credits>, Purse) {
    let credits = Arc::new(Credits::new(1, depth));
    (Arc::clone(&credits), Purse::new(credits, 0))
}

#[test]
fn i04_a_single_thread_counts_by_itself() {
    let (credits, mut purse) = alone(2);
    assert!(purse.try_take() && purse.try_take());
    assert!(!purse.worth_asking() && !purse.try_take(), "spent");
    assert_eq!(credits.set_depth(3).collect::<Vec<_>>(), [0], "it has to look again");
    assert!(purse.worth_asking() && purse.try_take());
    assert_eq!(credits.set_depth(1).collect::<Vec<_>>(), [0]);
    for left in [2, 1] {
        purse.give_back();
        assert_eq!(purse.held(), left);
        assert!(!purse.try_take(), "a smaller depth drains down");
    }
    purse.give_back();
    assert!(purse.try_take());
    purse.end_run();
    assert!(purse.settle().is_empty(), "nobody else is to be woken");
    assert_eq!(credits.used(), 0, "the shared words are left alone");
}

#[test]
fn what_went_without_a_limit_counts_when_one_comes() {
    let (credits, mut purse) = alone(0);
    assert!((0..1000).all(|_| purse.try_take()), "no limit");
    assert_eq!((purse.held(), purse.depth(), purse.depth_of()), (1000, 0, 0));
    assert!(!credits.set_depth(999).is_empty());
    assert!(!purse.try_take() && !purse.worth_asking(), "a thousand are out");
    (0..2).for_each(|_| purse.give_back());
    assert!(purse.worth_asking() && purse.try_take());
    assert_eq!((purse.held(), purse.depth_of()), (999, 999));
}

#[test]
#[should_panic(expected = "overflow")]
fn nobody_gives_back_what_it_has_not() {
    alone(1).1.give_back();
}

#[test]
fn one_of_several_threads_holds_what_all_can_see() {
    let credits = Arc::new(Credits::new(2, 2));
    let mut purses = [0, 1].map(|thread| Purse::new(Arc::clone(&credits), thread));
    let [first, second] = &mut purses;
    assert!(first.try_take() && first.try_take() && !second.try_take());
    assert_eq!((first.held(), second.held(), credits.used()), (2, 0, 2));
    second.end_run();
    assert!(second.settle().is_empty() && !second.worth_asking(), "it waits");
    first.give_back();
    first.end_run();
    assert_eq!(first.settle().collect::<Vec<_>>(), [1], "who waits is handed it");
    assert!(second.worth_asking() && second.try_take());
    assert_eq!((first.depth(), credits.used()), (2, 2));
}

use super::*;
use crate::block::Tag;
use crate::testkit::alloc::allocations;
use crate::testkit::core_disk::Rng;
use std::collections::BTreeMap;

const DEPTH: u16 = 40;

fn id(hctx: u16, tag: u16) -> Ident {
    Ident { hctx: HctxId(hctx), tag: Tag(tag) }
}

fn small(rng: &mut Rng, n: u64) -> u16 {
    u16::try_from(rng.below(n)).expect("small")
}

impl Nodes {
    /// Checks a subtree wholly, and answers with its height and what it holds, in order.
    fn check(&self, at: Cell, up: Cell, out: &mut Vec<Ident>) -> u8 {
        if at == NIL {
            return 0;
        }
        let node = &self.flat[at];
        assert_eq!(node.up, up, "the way up is the way down");
        let left = self.check(node.kids[LEFT], at, out);
        out.push(node.id);
        let right = self.check(node.kids[RIGHT], at, out);
        assert!(left.abs_diff(right) <= 1, "B2: {left} and {right}");
        assert_eq!(node.height, 1 + left.max(right), "B2: the height is true");
        node.height
    }
}

/// What a tree should be: by place, then by when it came.
type Model = BTreeMap<(Place, u64), Ident>;

fn compare(nodes: &Nodes, root: Root, model: &Model, place: Place) {
    let mut sorted = Vec::new();
    let height = nodes.check(root.0, NIL, &mut sorted);
    assert!(f64::from(height) <= 1.45 * ((model.len() + 2) as f64).log2(), "B2: {height}");
    assert_eq!(sorted, model.values().copied().collect::<Vec<_>>(), "B1");
    assert_eq!(root.is_empty(), model.is_empty());
    assert_eq!(nodes.first(root), model.values().next().copied());
    assert_eq!(nodes.last(root), model.values().next_back().copied());
    let from = model.range((place, 0)..).next();
    assert_eq!(nodes.first_from(root, place), from.map(|(_, id)| *id));
    let exact = model.range((place, 0)..=(place, u64::MAX)).map(|(_, id)| *id);
    assert_eq!(nodes.all_at(root, place).collect::<Vec<_>>(), exact.collect::<Vec<_>>());
    assert_eq!(nodes.first_from(root, Place::default()), nodes.first(root));
    for pair in sorted.windows(2) {
        assert_eq!(nodes.after(pair[0]), Some(pair[1]));
        assert_eq!(nodes.before(pair[1]), Some(pair[0]));
    }
    assert_eq!(sorted.first().and_then(|id| nodes.before(*id)), None);
    assert_eq!(sorted.last().and_then(|id| nodes.after(*id)), None);
    for (key, id) in model {
        assert!(nodes.holds(*id), "B3");
        assert_eq!(nodes.place(*id), key.0);
    }
}

/// A store with three trees, played against three ordered maps.
fn play(seed: u64, spread: u64, lanes: u64) {
    let mut rng = Rng::new(seed);
    let mut nodes = Nodes::new();
    (0..3).for_each(|h| nodes.attach(HctxId(h), DEPTH));
    let mut roots = [Root::new(); 3];
    let mut models = [Model::new(), Model::new(), Model::new()];
    let mut most = 0;
    for n in 0..500 {
        let tree = rng.index(3);
        let grow = rng.chance(if n < 250 { 700 } else { 400 });
        let id = id(small(&mut rng, 3), small(&mut rng, u64::from(DEPTH)));
        let (lane, start) = (LaneId(small(&mut rng, lanes)), Sector(rng.below(spread)));
        if grow && !nodes.holds(id) {
            let root = &mut roots[tree];
            assert_eq!(allocations(|| nodes.insert(root, id, lane, start)), 0);
            models[tree].insert((Place::new(lane, start), n), id);
        } else if !grow && let Some(key) = nth(&models[tree], rng.next()) {
            let id = models[tree].remove(&key).expect("it was there");
            let root = &mut roots[tree];
            assert_eq!(allocations(|| nodes.remove(root, id)), 0);
            assert!(!nodes.holds(id), "B3");
        }
        most = most.max(models[tree].len());
        compare(&nodes, roots[tree], &models[tree], Place::new(lane, start));
    }
    assert!(most >= 15, "seed {seed}: only {most} in a tree");
}

fn nth(model: &Model, n: u64) -> Option<(Place, u64)> {
    let len = u64::try_from(model.len()).expect("small");
    let n = usize::try_from(n.checked_rem(len)?).expect("small");
    model.keys().nth(n).copied()
}

#[test]
fn trees_agree_with_ordered_maps() {
    for seed in 0..20 {
        play(seed, 1 << 40, 3);
    }
}

#[test]
fn equal_places_keep_the_order_of_arrival() {
    for seed in 0..20 {
        play(1000 + seed, 4, 1);
    }
}

#[test]
fn lanes_count_before_sectors() {
    assert!(Place::new(LaneId(0), Sector(u64::MAX)) < Place::new(LaneId(1), Sector(0)));
    let mut nodes = Nodes::new();
    nodes.attach(HctxId(0), 4);
    let mut root = Root::new();
    for (tag, lane, sector) in [(0, 1, 5), (1, 0, 9), (2, 1, 4), (3, 0, 10)] {
        nodes.insert(&mut root, id(0, tag), LaneId(lane), Sector(sector));
    }
    let mut order = vec![nodes.first(root).expect("four")];
    while let Some(next) = nodes.after(order[order.len() - 1]) {
        order.push(next);
    }
    assert_eq!(order.iter().map(|id| id.tag.0).collect::<Vec<_>>(), [1, 3, 2, 0]);
}

#[test]
fn no_order_of_coming_makes_a_list_of_it() {
    let n = 1024u16;
    let orders: [fn(u64) -> u64; 4] =
        [|i| i, |i| 5000 - i, |i| if i % 2 == 0 { i } else { 5000 - i }, |_| 7];
    for order in orders {
        let mut nodes = Nodes::new();
        nodes.attach(HctxId(0), n);
        let mut root = Root::new();
        for t in 0..n {
            nodes.insert(&mut root, id(0, t), LaneId(0), Sector(order(u64::from(t))));
        }
        let height = nodes.check(root.0, NIL, &mut Vec::new());
        assert!(height <= 14, "B2: {height} for {n}");
        for t in 0..n {
            let first = nodes.first(root).expect("not empty yet");
            assert!(t % 100 > 0 || nodes.check(root.0, NIL, &mut Vec::new()) <= 14);
            nodes.remove(&mut root, first);
        }
        assert!(root.is_empty());
    }
}

#[test]
#[should_panic(expected = "a request is in one tree at a time")]
fn a_request_in_two_trees_is_a_bug() {
    let mut nodes = Nodes::new();
    nodes.attach(HctxId(0), 1);
    let (mut one, mut other) = (Root::new(), Root::new());
    nodes.insert(&mut one, id(0, 0), LaneId(0), Sector(1));
    nodes.insert(&mut other, id(0, 0), LaneId(0), Sector(1));
}

#[test]
#[should_panic(expected = "a hctx leaves with nothing waiting")]
fn a_hctx_that_waits_does_not_leave() {
    let mut nodes = Nodes::new();
    nodes.attach(HctxId(0), 1);
    nodes.insert(&mut Root::new(), id(0, 0), LaneId(0), Sector(1));
    nodes.detach(HctxId(0));
}

#[test]
#[should_panic(expected = "only what is in a tree is taken out of it")]
fn taking_out_what_is_not_in_is_a_bug() {
    let mut nodes = Nodes::new();
    nodes.attach(HctxId(0), 1);
    nodes.remove(&mut Root::new(), id(0, 0));
}

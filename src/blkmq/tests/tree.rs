use super::*;
use crate::block::Tag;
use crate::testkit::alloc::allocations;
use crate::testkit::core_disk::Rng;
use std::collections::BTreeMap;

const DEPTH: u16 = 120;

fn id(hctx: u16, tag: u16) -> Ident {
    Ident { hctx: HctxId(hctx), tag: Tag(tag) }
}

fn small(rng: &mut Rng, n: u64) -> u16 {
    u16::try_from(rng.below(n)).expect("small")
}

impl Root {
    fn is_empty(self) -> bool {
        self.0 == NIL
    }
}

impl Nodes {
    /// Checks a subtree wholly, and answers with its height. `leaves` gets the leaves, in order.
    fn check(&self, at: LeafId, up: LeafId, leaves: &mut Vec<LeafId>) -> u8 {
        if at == NIL {
            return 0;
        }
        let leaf = &self.leaves[at as usize];
        assert_eq!(leaf.up, up, "the way up is the way down");
        let left = self.check(leaf.kids[LEFT], at, leaves);
        leaves.push(at);
        let right = self.check(leaf.kids[RIGHT], at, leaves);
        assert!(left.abs_diff(right) <= 1, "B3: {left} and {right}");
        assert_eq!(leaf.height, 1 + left.max(right), "B3: the height is true");
        leaf.height
    }

    /// Checks a tree wholly, and answers with what it holds, in order.
    fn check_all(&self, root: Root) -> Vec<Ident> {
        let mut leaves = Vec::new();
        let height = self.check(root.0, NIL, &mut leaves);
        assert!(f64::from(height) <= 1.45 * ((leaves.len() + 2) as f64).log2(), "B3: {height}");
        let mut all = Vec::new();
        let mut before = 0;
        for at in &leaves {
            let leaf = &self.leaves[*at as usize];
            let cells: Vec<Cell> = (0..leaf.len()).map(|rank| leaf.cell(rank)).collect();
            assert_eq!(leaf.cell(leaf.len()), NIL);
            assert!(before <= leaf.low, "B2: an earlier leaf ends before");
            for (rank, cell) in cells.iter().enumerate() {
                let spot = &self.spots[*cell];
                assert_eq!((spot.leaf, leaf.rank(spot.slot)), (*at, rank));
                assert_eq!(leaf.place(spot.slot), leaf.place_at(rank));
                assert!(leaf.low <= leaf.place_at(rank), "B2: the low is low");
                before = leaf.place_at(rank);
                all.push(spot.id);
            }
        }
        for pair in leaves.windows(2) {
            let more = pair.iter().any(|at| self.leaves[*at as usize].len() > FEW);
            assert!(more, "B4: one of two neighbours has many");
        }
        assert!(leaves.len() <= all.len() / 5 + 1, "B4: {} for {}", leaves.len(), all.len());
        all
    }
}

/// What a tree should be: by place, then by when it came.
type Model = BTreeMap<(Place, u64), Ident>;

fn compare(nodes: &Nodes, root: Root, model: &Model, place: Place) {
    let sorted = nodes.check_all(root);
    assert_eq!(sorted, model.values().copied().collect::<Vec<_>>(), "B1, B2");
    assert_eq!(root.is_empty(), model.is_empty());
    assert_eq!(nodes.first(root), model.values().next().copied());
    assert_eq!(nodes.last(root), model.values().next_back().copied());
    let from = model.range((place, 0)..).next();
    assert_eq!(nodes.first_from(root, place), from.map(|(_, id)| *id));
    let exact = model.range((place, 0)..=(place, u64::MAX)).map(|(_, id)| *id);
    assert_eq!(nodes.all_at(root, place).collect::<Vec<_>>(), exact.collect::<Vec<_>>());
    assert_eq!(nodes.first_at(root, place), nodes.all_at(root, place).next());
    assert_eq!(nodes.first_from(root, Place::default()), nodes.first(root));
    for pair in sorted.windows(2) {
        assert_eq!(nodes.after(pair[0]), Some(pair[1]));
        assert_eq!(nodes.before(pair[1]), Some(pair[0]));
    }
    assert_eq!(sorted.first().and_then(|id| nodes.before(*id)), None);
    assert_eq!(sorted.last().and_then(|id| nodes.after(*id)), None);
    for (key, id) in model {
        assert!(nodes.holds(*id), "it is in");
        assert_eq!(nodes.place(*id), key.0);
    }
}

/// A store with three trees, played against three ordered maps.
fn play(seed: u64, spread: u64, lanes: u64) {
    let mut rng = Rng::new(seed);
    let mut nodes = Nodes::with_trees(3);
    (0..3).for_each(|h| nodes.attach(HctxId(h), DEPTH));
    let mut roots = [Root::new(); 3];
    let mut models = [Model::new(), Model::new(), Model::new()];
    let mut most = 0;
    for n in 0..1200 {
        let tree = rng.index(3);
        let grow = rng.chance(if n < 600 { 800 } else { 300 });
        let id = id(small(&mut rng, 3), small(&mut rng, u64::from(DEPTH)));
        let (lane, start) = (LaneId(small(&mut rng, lanes)), Sector(rng.below(spread)));
        if grow && !nodes.holds(id) {
            let root = &mut roots[tree];
            assert_eq!(allocations(|| nodes.insert(root, id, lane, start)), 0);
            models[tree].insert((Place::new(lane, start), n), id);
        } else if !grow && let Some(key) = nth(&models[tree], rng.next()) {
            let id = models[tree].remove(&key).expect("it was there");
            let root = &mut roots[tree];
            let after = models[tree].range(key..).next().map(|(_, id)| *id);
            let mut next = NIL;
            let cell = nodes.spots.cell(id);
            assert_eq!(allocations(|| next = nodes.sort_out(root, cell)), 0);
            assert_eq!(nodes.name(next), after);
            assert!(!nodes.holds(id), "it is out");
        }
        most = most.max(models[tree].len());
        compare(&nodes, roots[tree], &models[tree], Place::new(lane, start));
    }
    assert!(most > LEAF + LEAF / 2, "seed {seed}: only {most} in a tree");
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

/// The worst for the store: as many trees as requests, and leaves that are as empty as they may be.
#[test]
fn there_are_leaves_enough_for_every_request() {
    let n = 1000u16;
    let mut nodes = Nodes::new();
    nodes.attach(HctxId(0), n);
    let mut roots = vec![Root::new(); usize::from(n)];
    for (t, root) in (0..).zip(&mut roots) {
        nodes.insert(root, id(0, t), LaneId(0), Sector(1));
    }
    for (t, root) in (0..).zip(&mut roots) {
        nodes.remove(root, id(0, t));
    }
    let (mut nodes, mut root) = (Nodes::with_trees(1), Root::new());
    nodes.attach(HctxId(0), n);
    let mut rng = Rng::new(1);
    let mut waiting: BTreeMap<u64, u16> = BTreeMap::new();
    let mut free: Vec<u16> = (0..n).collect();
    // Fill it, thin every second leaf out, fill it elsewhere.
    for round in 0..200 {
        let at = rng.below(1 << 30);
        for i in 0..40 {
            if let Some(t) = free.pop() {
                let sector = at + i * 2 + round % 2;
                nodes.insert(&mut root, id(0, t), LaneId(0), Sector(sector));
                free.extend(waiting.insert(sector, t).inspect(|t| {
                    nodes.remove(&mut root, id(0, *t));
                }));
            }
        }
        let thin: Vec<u64> = waiting
            .keys()
            .copied()
            .enumerate()
            .filter(|(i, _)| i % 40 > 9)
            .map(|(_, s)| s)
            .collect();
        for sector in thin {
            let t = waiting.remove(&sector).expect("it waits");
            nodes.remove(&mut root, id(0, t));
            free.push(t);
        }
        assert_eq!(nodes.check_all(root).len(), waiting.len());
    }
}

#[test]
fn attaching_while_others_wait_disturbs_nobody() {
    let (mut nodes, mut root) = (Nodes::with_trees(1), Root::new());
    nodes.attach(HctxId(1), 50);
    (0..50).for_each(|t| nodes.insert(&mut root, id(1, t), LaneId(0), Sector(100 - u64::from(t))));
    nodes.attach(HctxId(0), 500);
    (0..500).for_each(|t| nodes.insert(&mut root, id(0, t), LaneId(0), Sector(u64::from(t))));
    assert_eq!(nodes.check_all(root).len(), 550);
    assert_eq!(nodes.place(id(1, 0)), Place::new(LaneId(0), Sector(100)));
}

#[test]
fn lanes_count_before_sectors() {
    assert!(Place::new(LaneId(0), Sector(u64::MAX)) < Place::new(LaneId(1), Sector(0)));
    assert!(
        Place::new(LaneId(u16::MAX), Sector(u64::MAX)).0 < u64::MAX >> 1,
        "a free slot is after all"
    );
    let mut nodes = Nodes::with_trees(1);
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
        let mut nodes = Nodes::with_trees(1);
        nodes.attach(HctxId(0), n);
        let mut root = Root::new();
        for t in 0..n {
            nodes.insert(&mut root, id(0, t), LaneId(0), Sector(order(u64::from(t))));
        }
        let height = nodes.check(root.0, NIL, &mut Vec::new());
        assert!(height <= 9, "B3: {height} for {n}");
        for t in 0..n {
            let first = nodes.first(root).expect("not empty yet");
            assert!(t % 10 > 0 || nodes.check_all(root).len() == usize::from(n - t));
            nodes.remove(&mut root, first);
        }
        assert!(root.is_empty());
    }
}

#[test]
#[should_panic(expected = "a request is in one tree at a time")]
fn a_request_in_two_trees_is_a_bug() {
    let mut nodes = Nodes::with_trees(2);
    nodes.attach(HctxId(0), 1);
    let (mut one, mut other) = (Root::new(), Root::new());
    nodes.insert(&mut one, id(0, 0), LaneId(0), Sector(1));
    nodes.insert(&mut other, id(0, 0), LaneId(0), Sector(1));
}

#[test]
#[should_panic(expected = "a hctx leaves with nothing waiting")]
fn a_hctx_that_waits_does_not_leave() {
    let mut nodes = Nodes::with_trees(1);
    nodes.attach(HctxId(0), 1);
    nodes.insert(&mut Root::new(), id(0, 0), LaneId(0), Sector(1));
    nodes.detach(HctxId(0));
}

#[test]
#[should_panic(expected = "only what is in a tree is taken out of it")]
fn taking_out_what_is_not_in_is_a_bug() {
    let mut nodes = Nodes::with_trees(1);
    nodes.attach(HctxId(0), 1);
    nodes.remove(&mut Root::new(), id(0, 0));
}

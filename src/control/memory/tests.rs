use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;

fn file(len: u64) -> File {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(len).expect("room");
    file
}

fn spec(gpa: u64, size: u64, uva: u64) -> RegionSpec {
    RegionSpec { gpa, size, uva, offset: 0 }
}

/// A table of one-page regions at these pages, both in guest and in front-end addresses.
fn table(pages: &[u64]) -> MemoryTable {
    let regions = pages.iter().map(|p| (spec(p * PAGE, PAGE, p * PAGE), file(PAGE))).collect();
    MemoryTable::default().replaced(regions).expect("a good table")
}

fn refusal(done: Result<MemoryTable, Refusal>) -> String {
    done.expect_err("refused").to_string()
}

#[test]
fn a_table_becomes_a_generation() {
    let table = table(&[5, 1, 3]);
    let gpas: Vec<u64> = table.memory().regions().iter().map(|r| r.gpa()).collect();
    assert_eq!(gpas, [PAGE, 3 * PAGE, 5 * PAGE]);
    assert_eq!((table.len(), table.is_empty()), (3, false));
    assert!(MemoryTable::default().is_empty());
}

#[test]
fn overlap_in_either_space_is_refused() {
    let table = table(&[1, 3]);
    let over = |gpa, size, uva| refusal(table.added(spec(gpa, size, uva), file(size)));
    assert_eq!(
        over(2 * PAGE, 2 * PAGE, 8 * PAGE),
        "memory regions overlap in guest addresses at 0x3000"
    );
    assert_eq!(
        over(8 * PAGE, 2 * PAGE, 2 * PAGE),
        "memory regions overlap in front-end addresses at 0x3000"
    );
    assert_eq!(over(PAGE, PAGE, PAGE), "memory regions overlap in guest addresses at 0x1000");
    table.added(spec(2 * PAGE, PAGE, 2 * PAGE), file(PAGE)).expect("fits between them");
}

#[test]
fn a_bad_region_is_refused_and_the_table_stays() {
    let table = table(&[1]);
    let short = table.added(spec(8 * PAGE, 2 * PAGE, 8 * PAGE), file(PAGE));
    assert_eq!(
        refusal(short),
        "memory region at guest address 0x8000, 0x2000 bytes: the region is longer than its file"
    );
    let odd = RegionSpec { offset: 100, ..spec(8 * PAGE, PAGE, 8 * PAGE) };
    assert_eq!(
        refusal(table.added(odd, file(2 * PAGE))),
        "memory region at guest address 0x8000, 0x1000 bytes: \
         the region's offset is not a multiple of the page size"
    );
    let over = refusal(table.added(spec(u64::MAX - 5, PAGE, 8 * PAGE), file(PAGE)));
    assert!(over.ends_with("its addresses overflow"), "{over}");
    assert_eq!(table.len(), 1);
}

#[test]
fn there_are_509_slots() {
    let regions = |n: u64| {
        let backing = file(PAGE);
        (0..n)
            .map(|p| {
                let copy = backing.try_clone().expect("a duplicate");
                (spec(p * PAGE, PAGE, p * PAGE), copy)
            })
            .collect::<Vec<_>>()
    };
    let full = MemoryTable::default().replaced(regions(509)).expect("as many as promised");
    assert_eq!(full.len(), MAX_SLOTS);
    let more = full.added(spec(600 * PAGE, PAGE, 600 * PAGE), file(PAGE));
    assert_eq!(refusal(more), "510 memory regions are more than 509");
    let more = MemoryTable::default().replaced(regions(510));
    assert_eq!(refusal(more), "510 memory regions are more than 509");
}

#[test]
fn removing_names_the_region_without_its_offset() {
    let table = table(&[1, 3]);
    let named = RegionSpec { offset: 77, ..spec(3 * PAGE, PAGE, 3 * PAGE) };
    let left = table.removed(&named).expect("it is there");
    assert_eq!(left.len(), 1);
    assert!(Arc::ptr_eq(&left.memory().regions()[0], &table.memory().regions()[0]));
    let no = "there is no memory region at guest address 0x3000 with 0x1000 bytes";
    assert_eq!(refusal(left.removed(&named)), no);
    assert_eq!(refusal(table.removed(&spec(3 * PAGE, PAGE, 0))), no);
    let other = "there is no memory region at guest address 0x3000 with 0x800 bytes";
    assert_eq!(refusal(table.removed(&spec(3 * PAGE, 0x800, 3 * PAGE))), other);
}

#[test]
fn what_stays_is_not_mapped_again() {
    let (a, b) = (file(PAGE), file(PAGE));
    let entry = |page: u64, f: &File| {
        (spec(page * PAGE, PAGE, page * PAGE), f.try_clone().expect("a duplicate"))
    };
    let first = MemoryTable::default().replaced(vec![entry(1, &a), entry(2, &b)]).expect("good");
    let again = first.replaced(vec![entry(2, &b), entry(1, &a)]).expect("good");
    assert!(again.is_same(&first), "the order does not matter");
    // The same file elsewhere, and another file at the same place, are not the same.
    let moved = first.replaced(vec![entry(1, &a), entry(3, &b)]).expect("good");
    assert!(!moved.is_same(&first));
    assert!(Arc::ptr_eq(&moved.memory().regions()[0], &first.memory().regions()[0]));
    let other = first.replaced(vec![entry(1, &a), entry(2, &file(PAGE))]).expect("good");
    assert!(!other.is_same(&first));
    let fewer = first.replaced(vec![entry(1, &a)]).expect("good");
    assert!(!fewer.is_same(&first) && !first.is_same(&fewer));
}

#[test]
fn a_file_that_shrank_is_not_taken_again() {
    let backing = file(PAGE);
    let entry = || vec![(spec(0, PAGE, 0), backing.try_clone().expect("a duplicate"))];
    let first = MemoryTable::default().replaced(entry()).expect("good");
    backing.set_len(100).expect("shrunk");
    assert!(refusal(first.replaced(entry())).ends_with("longer than its file"));
}

proptest! {
    /// Against a model: a set of page ranges, where a region fits if it shares no page.
    #[test]
    fn the_table_is_a_set_of_disjoint_regions(
        steps in prop::collection::vec((any::<bool>(), 0_u64..16, 1_u64..4), 1..60),
    ) {
        let mut model: Vec<(u64, u64)> = Vec::new();
        let mut table = MemoryTable::default();
        for (add, page, pages) in steps {
            let spec = spec(page * PAGE, pages * PAGE, (page + 100) * PAGE);
            let (next, fits) = if add {
                let fits = model.iter().all(|(p, n)| page + pages <= *p || p + n <= page);
                (table.added(spec, file(pages * PAGE)), fits)
            } else {
                (table.removed(&spec), model.contains(&(page, pages)))
            };
            prop_assert_eq!(next.is_ok(), fits);
            let Ok(next) = next else { continue };
            table = next;
            if add {
                model.push((page, pages));
            } else {
                model.retain(|r| *r != (page, pages));
            }
            prop_assert_eq!(table.len(), model.len());
            for p in 0..20_u64 {
                let inside = model.iter().any(|(q, n)| (*q..q + n).contains(&p));
                prop_assert_eq!(table.memory().slice(p * PAGE, 1).is_ok(), inside);
                prop_assert_eq!(table.memory().slice_uva((p + 100) * PAGE, 1).is_ok(), inside);
            }
        }
    }
}

use super::*;

#[test]
fn i13_pressure_rises_to_nine_and_eight_clean_lists_bring_it_to_nothing() {
    let mut busy = Busyness::default();
    let rise: Vec<u8> = (0..9)
        .map(|_| {
            busy.refused();
            busy.level()
        })
        .collect();
    assert_eq!(rise, [2, 3, 4, 5, 6, 7, 8, 9, 9]);
    let fall: Vec<u8> = (0..8)
        .map(|_| {
            busy.clean();
            busy.level()
        })
        .collect();
    assert_eq!(fall, [7, 6, 5, 4, 3, 2, 1, 0]);
    busy.clean();
    assert_eq!(busy.level(), 0);
}

#[test]
fn i13_no_history_leaves_the_range() {
    // Every sequence of 12 lists, from nothing: the range is 0 to 9, and 8 clean ones end it.
    for history in 0u32..1 << 12 {
        let mut busy = Busyness::default();
        for bit in 0..12 {
            if history >> bit & 1 == 1 {
                busy.refused()
            } else {
                busy.clean()
            }
            assert!(busy.level() <= 9);
        }
        (0..8).for_each(|_| busy.clean());
        assert_eq!(busy.level(), 0);
    }
}

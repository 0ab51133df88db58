use super::*;
use crate::control::testing::World;
use crate::device::config_space::WRITEBACK_OFFSET as WRITEBACK;

fn refusal(disk: &Disk, offset: u32, bytes: &[u8]) -> String {
    write(disk, offset, bytes).expect_err("refused").to_string()
}

#[test]
fn reads_go_past_the_end_as_zeroes() {
    let world = World::new(1, 1);
    let whole = read(&world.disk, 0, 256).expect("answered");
    assert_eq!(whole.len(), 256);
    let part = read(&world.disk, 20, 8).expect("answered");
    assert_eq!(part, whole[20..28]);
    assert!(whole[100..].iter().all(|b| *b == 0));
    assert_eq!(read(&world.disk, 200, 4).expect("answered"), [0; 4]);
    assert_eq!(read(&world.disk, 0x100 + 20, 8).expect("answered"), part, "the other base");
}

#[test]
fn writeback_is_read_as_it_was_written() {
    let world = World::new(1, 1);
    let writeback = || read(&world.disk, WRITEBACK, 1).expect("answered");
    assert_eq!(writeback(), [1]);
    assert_eq!(write(&world.disk, WRITEBACK, &[1]).expect("accepted"), Change::None);
    assert_eq!(write(&world.disk, WRITEBACK, &[0]).expect("accepted"), Change::CacheOff);
    assert_eq!(writeback(), [0]);
    assert_eq!(write(&world.disk, WRITEBACK, &[0]).expect("accepted"), Change::None);
    assert_eq!(write(&world.disk, 0x100 + WRITEBACK, &[1]).expect("accepted"), Change::CacheOn);
    assert_eq!(writeback(), [1]);
}

#[test]
fn nothing_else_is_written() {
    let world = World::new(1, 1);
    let before = read(&world.disk, 0, 60).expect("answered");
    let only = "only writeback (1 byte at 32) can be written";
    let two = format!("config space, 2 bytes at offset 32: {only}");
    assert_eq!(refusal(&world.disk, WRITEBACK, &[0, 0]), two);
    let place = format!("config space, 1 bytes at offset 0: {only}");
    assert_eq!(refusal(&world.disk, 0, &[1]), place);
    assert_eq!(write(&world.disk, WRITEBACK, &[]).expect("nothing asked"), Change::None);
    assert_eq!(read(&world.disk, 0, 60).expect("answered"), before);
}

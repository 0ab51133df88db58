//! A disk whose size changes under running queues.

use super::shape::Shape;
use super::world::{SECTORS, World};

/// Reads the first sectors, those up to the middle, those from there on, and the last ones.
fn read_everywhere(world: &mut World, g: usize, half: bool) {
    let middle = SECTORS / 2;
    for (start, beyond) in
        [(0, false), (middle - 4, false), (middle - 1, half), (middle, half), (SECTORS - 4, half)]
    {
        world.add_read(g, start, 4, beyond);
    }
    world.kick(g);
    world.settle();
}

#[test]
fn the_next_request_is_held_against_the_size_of_now() {
    let mut world = World::new(0x512e, Shape { queues: 2, depth: 16, ..Shape::CALM });
    for g in [0, 1] {
        read_everywhere(&mut world, g, false);
    }
    // The queues run on, and nobody tells them.
    for half in [true, false, true, false] {
        let sectors = if half { SECTORS / 2 } else { SECTORS };
        world.disk.config.set_capacity(sectors as u64);
        for g in [0, 1] {
            read_everywhere(&mut world, g, half);
        }
    }
    assert_eq!(world.tally.failed, 0, "what is refused is not counted there");
    assert_eq!(world.tally.completed, 5 * 2 * 5);
}

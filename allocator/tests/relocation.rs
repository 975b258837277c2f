//! Evacuation where little room is left: at hand, or behind slabs without any.

#![cfg(not(loom))]

use slab_allocator::{ArenaOptions, LocalArena, Victim, VictimPolicy};
use std::collections::BTreeSet;
use std::ptr::NonNull;

const PAGE_BYTES: usize = 4096;

fn arena() -> LocalArena {
    LocalArena::new(&ArenaOptions {
        region_bytes: 64 << 20,
        ..ArenaOptions::default()
    })
    .expect("address space")
}

/// Objects of one size, by address.
struct Objects {
    size: usize,
    live: BTreeSet<NonNull<u8>>,
}

impl Objects {
    /// Fills `slabs` slabs of an empty arena to the last slot.
    fn in_full_slabs(arena: &mut LocalArena, size: usize, slabs: usize) -> Self {
        let mut live = BTreeSet::new();
        loop {
            let object = arena.allocate(size).expect("memory");
            if arena.stats().slabs > slabs {
                // SAFETY: the object is live, and forgotten.
                unsafe { arena.free(object, size) };
                arena.purge_all();
                assert_eq!(arena.stats().slabs, slabs);
                assert_eq!(arena.stats().free_bytes, 0);
                return Self { size, live };
            }
            live.insert(object);
        }
    }

    /// The objects of each slab, in order.
    fn by_slab(&self, slabs: usize) -> Vec<Vec<NonNull<u8>>> {
        assert!(self.live.len().is_multiple_of(slabs));
        let all: Vec<_> = self.live.iter().copied().collect();
        all.chunks(all.len() / slabs).map(<[_]>::to_vec).collect()
    }

    fn free(&mut self, arena: &mut LocalArena, object: NonNull<u8>) {
        assert!(self.live.remove(&object));
        // SAFETY: the object was live, and is forgotten.
        unsafe { arena.free(object, self.size) };
    }

    /// Moves what it can out of the victim; true if that was all.
    fn empty(&mut self, arena: &mut LocalArena, victim: &Victim) -> bool {
        let mut slot = 0;
        while let Some(live) = arena.live_from(victim, slot) {
            assert!(self.live.contains(&live.object), "nobody owns this object");
            let Some(target) = arena.allocate_for_relocation(self.size, victim) else {
                return false;
            };
            self.free(arena, live.object);
            self.live.insert(target);
            slot = live.slot + 1;
        }
        true
    }
}

/// What was freed last waits at hand to be allocated again, and counts as live in
/// its slab's books. It must not be taken for somebody's object.
#[test]
fn slots_at_hand_are_no_objects_of_a_victim() {
    let mut arena = arena();
    let mut objects = Objects::in_full_slabs(&mut arena, 100, 3);
    let slabs = objects.by_slab(3);
    // The first frees into a full slab come to hand, the rest does not.
    for object in &slabs[1][10..] {
        objects.free(&mut arena, *object);
    }
    for object in slabs[0][..8].iter().chain(&slabs[2][..8]) {
        objects.free(&mut arena, *object);
    }
    let victim = arena.next_victim(&VictimPolicy::default()).expect("one");
    assert_eq!(victim.live_at_start(), 10);
    assert!(objects.empty(&mut arena, &victim));
    assert!(arena.finish(victim).is_done);
    arena.check();
    assert_eq!(arena.stats().slabs, 2);
}

/// Between two slices of an evacuation the program allocates, which brings to hand
/// the very slots that the victim's objects are to move into.
#[test]
fn slots_at_hand_are_room_for_a_victim() {
    const ROOM: usize = 4;
    let mut arena = arena();
    let mut objects = Objects::in_full_slabs(&mut arena, 100, 2);
    let slabs = objects.by_slab(2);
    for object in slabs[0][..ROOM].iter().chain(&slabs[1][ROOM..]) {
        objects.free(&mut arena, *object);
    }
    let victim = arena.next_victim(&VictimPolicy::default()).expect("one");
    assert_eq!(victim.live_at_start() as usize, ROOM);
    let passing = arena.allocate(100).expect("memory");
    // SAFETY: the object is live, and nobody else knows of it.
    unsafe { arena.free(passing, 100) };
    assert!(
        objects.empty(&mut arena, &victim),
        "there is room for everything"
    );
    assert!(arena.finish(victim).is_done);
    arena.check();
    assert_eq!(arena.stats().slabs, 1);
}

/// The search for room stops after a few slabs, while the choice of a victim has
/// seen more of them: the class counts as stuck then, lest the same victim be
/// chosen for ever.
#[test]
fn a_victim_that_finds_no_room_is_not_chosen_again() {
    const SIZE: usize = 1024;
    const WITH_ROOM: usize = 2;
    const SLABS: usize = WITH_ROOM + 16;
    let mut arena = arena();
    let mut objects = Objects::in_full_slabs(&mut arena, SIZE, SLABS);
    let per_page = PAGE_BYTES / SIZE;
    for (number, slab) in objects.by_slab(SLABS).into_iter().enumerate() {
        assert!(slab[0].as_ptr().addr().is_multiple_of(PAGE_BYTES));
        assert!(slab.len() >= 3 * per_page);
        // One page stays full; where there shall be room, half of another as well.
        // The rest dies, and is punched.
        let kept = if number < WITH_ROOM {
            per_page + per_page / 2
        } else {
            per_page
        };
        for object in &slab[kept..] {
            objects.free(&mut arena, *object);
        }
    }
    arena.purge_all();
    assert!(arena.stats().punched_bytes >= SLABS * PAGE_BYTES);

    let (mut chosen, mut refused) = (0, 0);
    while let Some(victim) = arena.next_victim(&VictimPolicy::default()) {
        chosen += 1;
        refused += usize::from(!objects.empty(&mut arena, &victim));
        arena.finish(victim);
        assert!(chosen <= SLABS, "victims are chosen again and again");
    }
    assert!(refused > 0, "the case did not come about");
    arena.check();
}

//! Where the arrays of a cache lie: a computation on numbers.
//!
//! Each class has two arrays in every *tier*, and its stacks are in those of the first
//! tier with room for its capacity. So the arrays of classes that hold few slots lie
//! close together, and a program that uses a dozen sizes touches a page or two:
//!
//! ```text
//! tier 0                     tier 1                     tier 2
//! |class 0|class 1|..        |class 0|class 1|..        |class 0     |..
//! 2 x 16 slots each          2 x 128                    2 x capacity_max
//! ```

use crate::cache_capacity::{CLASSES, capacity_max};

pub(super) const TIERS: usize = 3;

/// Slots of an array in the tiers before the last.
const TIER_SLOTS: [usize; TIERS - 1] = [16, 128];

/// Slots of an array of the class in the tier; 0 where the class has none there, since
/// those of the last tier are no more than twice as long.
pub(super) const fn tier_slots(tier: usize, class: usize) -> usize {
    let max = capacity_max(class);
    if tier + 1 == TIERS {
        max
    } else if tier > 0 && max <= 2 * TIER_SLOTS[tier] {
        0
    } else if max < TIER_SLOTS[tier] {
        max
    } else {
        TIER_SLOTS[tier]
    }
}

/// The first tier whose arrays have room for so many slots of the class, if these are
/// no more than may be.
pub(super) const fn tier_for(class: usize, slots: usize) -> usize {
    let mut tier = 0;
    while tier + 1 < TIERS && tier_slots(tier, class) < slots {
        tier += 1;
    }
    tier
}

/// Where each class's two arrays begin, by tier. Classes whose first ones have all the room
/// that they may need have no others.
const STARTS: [[usize; CLASSES + 1]; TIERS] = {
    let mut starts = [[0; CLASSES + 1]; TIERS];
    let mut tier = 0;
    while tier < TIERS {
        if tier > 0 {
            starts[tier][0] = starts[tier - 1][CLASSES];
        }
        let mut class = 0;
        while class < CLASSES {
            let is_needed = tier == 0 || tier_slots(0, class) < capacity_max(class);
            let slots = if is_needed {
                tier_slots(tier, class)
            } else {
                0
            };
            starts[tier][class + 1] = starts[tier][class] + 2 * slots;
            class += 1;
        }
        tier += 1;
    }
    starts
};

/// Slots of all arrays.
pub(super) const SLOTS: usize = STARTS[TIERS - 1][CLASSES];

/// The tier in which this slot is.
pub(super) fn tier_of(slot: usize) -> usize {
    let before = |tier: &&[usize; CLASSES + 1]| tier[CLASSES] <= slot;
    STARTS.iter().take_while(before).count()
}

/// The number of the first slot of each of the class's two arrays in the tier.
pub(super) const fn array_starts(tier: usize, class: usize) -> (usize, usize) {
    let start = STARTS[tier][class];
    (start, start + tier_slots(tier, class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_have_room_and_do_not_overlap() {
        let mut ends = Vec::new();
        for class in 0..CLASSES {
            for slots in 1..=capacity_max(class) {
                let tier = tier_for(class, slots);
                let (one, other) = array_starts(tier, class);
                let room = tier_slots(tier, class);
                assert!(slots <= room && (0..tier).all(|tier| tier_slots(tier, class) < slots));
                assert!(
                    [one, other, other + room - 1]
                        .iter()
                        .all(|at| tier_of(*at) == tier)
                );
                ends.extend([(one, one + room), (other, other + room)]);
            }
        }
        ends.sort_unstable();
        ends.dedup();
        assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        assert!(ends.last().is_some_and(|last| last.1 <= SLOTS));
    }
}

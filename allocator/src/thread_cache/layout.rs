//! Where each class's arrays of slots lie in a cache.

use crate::cache_capacity::{CLASSES, capacity_max};

/// Slots of a *near* array. A class that comes to hold more moves to two *far* arrays
/// with room for [`capacity_max`]: so those of classes that hold few lie close
/// together, on few pages, and most programs touch no others.
pub(super) const NEAR_SLOTS: usize = 128;

/// Slots of a near array of the class.
pub(super) const fn near_max(class: usize) -> usize {
    let slots = capacity_max(class);
    if slots > NEAR_SLOTS {
        NEAR_SLOTS
    } else {
        slots
    }
}

/// Where each class's two near arrays begin in [`slots`](super::ThreadCache::slots), and the total.
pub(super) const NEAR_STARTS: [usize; CLASSES + 1] = {
    let mut starts = [0; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        starts[class + 1] = starts[class] + 2 * near_max(class);
        class += 1;
    }
    starts
};

/// The same for the far arrays, of classes that may have some, behind all near ones.
const FAR_STARTS: [usize; CLASSES + 1] = {
    let mut starts = [NEAR_STARTS[CLASSES]; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        let max = capacity_max(class);
        let slots = if max > near_max(class) { 2 * max } else { 0 };
        starts[class + 1] = starts[class] + slots;
        class += 1;
    }
    starts
};

pub(super) const SLOTS: usize = FAR_STARTS[CLASSES];

/// The number of the first slot of each of two arrays of the class.
pub(super) const fn near(class: usize) -> (usize, usize) {
    let start = NEAR_STARTS[class];
    (start, start + near_max(class))
}

pub(super) const fn far(class: usize) -> (usize, usize) {
    let start = FAR_STARTS[class];
    (start, start + capacity_max(class))
}

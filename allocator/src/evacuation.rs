//! Which slab to evacuate: the one whose pages cost the least to empty.
//!
//! A victim's objects may move only into slabs of the same class that are at
//! least as full as the victim and resident, never into a fresh one. With
//! every such move, from a slab with `a` live slots into one with `b >= a`,
//! the sum of the squared occupancies rises by `2 (b - a) + 2 > 0`. It is
//! bounded, so moving comes to an end, and nothing moves to and fro. What is
//! left after that is the subject of [`merging`](crate::merging).
//!
//! The choice looks at each class's lists by occupancy, not at slabs: the
//! class whose sparsest list promises the most pages per byte moved, then the
//! emptiest of the first few slabs on that list. (Victims from all classes by
//! one view, emptiest first: simulated to hold 1.09 times the live bytes where
//! choosing within the class that allocates ends at 1.31. Weighing age, as
//! log-structured stores do, moved twice as much for the same result.)

use crate::bin::{Bin, LISTS, OCCUPANCY_LISTS, PUNCHED};
use crate::size_class::SizeClass;
use crate::slab::Records;
use crate::units::{PAGE_BYTES, SlabId};

/// Which slabs are worth evacuating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VictimPolicy {
    /// The largest share of live slots, in percent, that a victim may have.
    pub live_percent_max: u8,
}

impl Default for VictimPolicy {
    /// At 75% three bytes move for each byte gained.
    fn default() -> VictimPolicy {
        VictimPolicy {
            live_percent_max: 75,
        }
    }
}

/// Some of an arena's size classes, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassSet([u64; 4]);

impl ClassSet {
    /// All classes.
    pub const ALL: ClassSet = ClassSet([u64::MAX; 4]);

    /// Adds a class, if there can be one with this number.
    pub fn insert(&mut self, class: usize) {
        if let Some(word) = self.0.get_mut(class >> 6) {
            *word |= 1 << (class & 63);
        }
    }

    /// Whether the class is one of them.
    pub fn contains(&self, class: usize) -> bool {
        let word = self.0.get(class >> 6).copied().unwrap_or(0);
        word >> (class & 63) & 1 != 0
    }
}

/// A slab that is being evacuated. It is off the allocation lists until
/// `LocalArena::finish` takes it back; its objects may be freed meanwhile.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a victim stays off the lists until it is finished"]
pub struct Victim {
    pub(crate) slab: SlabId,
    pub(crate) class: usize,
    /// Bytes of each of its slots.
    pub(crate) slot_bytes: usize,
    /// Live objects when it was chosen.
    pub(crate) live_at_start: u32,
    pub(crate) way: Way,
}

/// What becomes of a victim's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// They move into fuller slabs of their class.
    Evacuate,
    /// They move into slabs of larger classes.
    Merge,
    /// They move into the slab's first slots.
    Pack,
    /// They move into this new slab in a lower chunk.
    Lower(SlabId),
}

impl Victim {
    /// Number of the size class.
    pub fn class(&self) -> usize {
        self.class
    }

    /// Bytes of each of its slots.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Whether pages may be taken for its objects, fewer than come free.
    pub fn takes_pages(&self) -> bool {
        matches!(self.way, Way::Pack | Way::Lower(_))
    }

    /// Whether objects stay aligned as before when they move: those that go to
    /// slabs of another class may not.
    pub fn keeps_alignment(&self) -> bool {
        self.way != Way::Merge
    }

    /// Objects that it held when it was chosen.
    pub fn live_at_start(&self) -> u32 {
        self.live_at_start
    }
}

/// What emptying a slab would bring and cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    pages: u32,
    objects: u32,
    slot_bytes: u32,
}

impl Offer {
    /// Bytes that one object's move costs on top of its own: finding its
    /// owner and patching the reference take as long as copying these.
    const OBJECT_BYTES: u64 = 100;

    /// Bytes gained per byte moved, times 2^16.
    fn worth(&self) -> u64 {
        let gained = u64::from(self.pages) * PAGE_BYTES as u64;
        let moved = u64::from(self.objects) * (u64::from(self.slot_bytes) + Offer::OBJECT_BYTES);
        (gained << 16) / moved.max(1)
    }
}

/// Live slots of a slab in the middle of an occupancy list.
fn typical_live(class: &SizeClass, list: usize) -> u32 {
    let sixteenths = 2 * (OCCUPANCY_LISTS - 1 - list.min(OCCUPANCY_LISTS - 1)) as u32 + 1;
    (u32::from(class.slots) * sixteenths).div_ceil(16)
}

/// The fewest free slots that a slab on an occupancy list has.
fn free_min(class: &SizeClass, list: usize) -> u32 {
    (list as u32 * u32::from(class.slots)).div_ceil(OCCUPANCY_LISTS as u32) + 1
}

/// The class whose sparsest slabs promise the most. `bins` and `classes`
/// belong together.
///
/// Takes time in proportion to the number of classes, not of slabs.
pub(crate) fn next_class(
    bins: &[Bin],
    classes: &[SizeClass],
    policy: &VictimPolicy,
    among: &ClassSet,
) -> Option<usize> {
    let percent = policy.live_percent_max;
    let best = bins
        .iter()
        .zip(classes)
        .enumerate()
        .filter(|(class, (bin, _))| {
            bin.lists_used() != 0 && bin.stuck_percent < percent && among.contains(*class)
        })
        .map(|(class, (bin, shape))| {
            let list = bin.lists_used().ilog2() as usize;
            let offer = Offer {
                pages: u32::from(shape.pages),
                objects: typical_live(shape, list),
                slot_bytes: shape.size,
            };
            (offer.worth(), class)
        })
        .max();
    best.map(|(_, class)| class)
}

/// Takes the emptiest slab of a class off its bin's lists, if its objects are
/// few enough and fit elsewhere. If not, notes that in the bin.
///
/// # Safety
/// The records of the bin's slabs are accessed by the caller alone.
pub(crate) unsafe fn victim_of(
    bin: &mut Bin,
    shape: &SizeClass,
    class: usize,
    records: Records,
    policy: &VictimPolicy,
) -> Option<Victim> {
    /// Slabs of a list that are looked at, which bounds the time.
    const CANDIDATES: usize = 8;
    let mut best: Option<(u32, SlabId)> = None;
    for list in (0..LISTS)
        .rev()
        .filter(|list| bin.lists_used() >> list & 1 != 0)
    {
        // SAFETY: passed on to the caller.
        for (id, slab) in unsafe { bin.iter(records, list) }.take(CANDIDATES) {
            let live = u32::from(shape.slots - slab.record().free);
            if best.is_none_or(|(least, _)| live < least) {
                best = Some((live, id));
            }
        }
        // Slabs with punched pages are not in order of occupancy.
        if list != PUNCHED {
            break;
        }
    }
    bin.stuck_percent = policy.live_percent_max;
    let (live, id) = best?;
    if live * 100 > u32::from(shape.slots) * u32::from(policy.live_percent_max) {
        return None;
    }
    // SAFETY: passed on to the caller.
    if !unsafe { has_room(bin, shape, records, id, live) } {
        bin.stuck_percent = u8::MAX;
        return None;
    }
    bin.stuck_percent = 0;
    // SAFETY: the slab was found on a list; otherwise passed on to the caller.
    unsafe { bin.take_off(records, id) };
    Some(Victim {
        slab: id,
        class,
        slot_bytes: shape.size as usize,
        live_at_start: live,
        way: Way::Evacuate,
    })
}

/// Whether slabs that are resident and at least as full as the victim have
/// room for its `live` objects.
///
/// # Safety
/// As [`victim_of`].
unsafe fn has_room(
    bin: &Bin,
    shape: &SizeClass,
    records: Records,
    victim: SlabId,
    live: u32,
) -> bool {
    /// Slabs that are looked at, which bounds the time.
    const CANDIDATES: usize = 64;
    if bin.free + bin.at_hand() < live {
        return false;
    }
    // SAFETY: the victim is live; passed on to the caller.
    let own_list = unsafe { records.slab(victim) }.record().list as usize;
    let mut room = 0;
    let current = bin.current();
    if !current.is_none() {
        // SAFETY: the current slab is live; passed on to the caller.
        let slab = unsafe { records.slab(current) };
        let free = u32::from(slab.record().free) + bin.at_hand();
        if slab.record().punched == 0 && u32::from(shape.slots) - free >= live {
            room += free;
        }
    }
    let fuller = own_list.min(OCCUPANCY_LISTS);
    for list in 0..fuller {
        room += bin.length(list) * free_min(shape, list);
    }
    if room >= live {
        return true;
    }
    // Not even by the least that the lists promise: look at slabs, those with
    // the most room first.
    let mut left = CANDIDATES;
    let own_too = own_list.min(OCCUPANCY_LISTS - 1);
    for list in (0..=own_too).rev() {
        if list < fuller {
            room -= bin.length(list) * free_min(shape, list);
        }
        // SAFETY: passed on to the caller.
        for (id, slab) in unsafe { bin.iter(records, list) }.take(left) {
            left -= 1;
            let free = u32::from(slab.record().free);
            if id != victim && u32::from(shape.slots) - free >= live {
                room += free;
            }
        }
        if room >= live {
            return true;
        }
    }
    // SAFETY: passed on to the caller.
    for (id, slab) in unsafe { bin.iter(records, PUNCHED) }.take(left) {
        let free = u32::from(slab.record().free);
        if id != victim && u32::from(shape.slots) - free >= live {
            room += slab
                .free_resident(shape)
                .map(|(_, bits)| bits.count_ones())
                .sum::<u32>();
        }
        if room >= live {
            return true;
        }
    }
    false
}

/// What evacuating all that can be would bring, for one class or for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// Slabs that would be released.
    pub slabs: u32,
    /// Pages that would come free.
    pub pages: u32,
    /// Objects that would have to move.
    pub objects: u64,
    /// Bytes of their slots.
    pub bytes: u64,
}

impl Prediction {
    /// Adds another class's figures.
    pub fn add(&mut self, other: &Prediction) {
        self.slabs += other.slabs;
        self.pages += other.pages;
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// What evacuating a class until its objects fill the fewest slabs would
/// bring. Looks at the slabs that would be released.
///
/// # Safety
/// As [`victim_of`].
pub(crate) unsafe fn predict(bin: &Bin, shape: &SizeClass, records: Records) -> Prediction {
    let needed = bin.taken(shape).div_ceil(u32::from(shape.slots));
    let mut left = bin.slabs - needed;
    let mut prediction = Prediction::default();
    for list in (0..LISTS).rev() {
        // SAFETY: passed on to the caller.
        for (_, slab) in unsafe { bin.iter(records, list) } {
            if left == 0 {
                return prediction;
            }
            left -= 1;
            let live = u64::from(shape.slots - slab.record().free);
            let punched = slab.record().punched.count_ones();
            prediction.add(&Prediction {
                slabs: 1,
                pages: u32::from(shape.pages) - punched,
                objects: live,
                bytes: live * u64::from(shape.size),
            });
        }
    }
    prediction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class::{FINE, GENERAL};

    #[test]
    fn emptier_slabs_and_larger_objects_are_worth_more() {
        let offer = |objects, slot_bytes| Offer {
            pages: 4,
            objects,
            slot_bytes,
        };
        assert!(offer(5, 120).worth() > offer(6, 120).worth());
        // The same bytes in fewer objects.
        assert!(offer(5, 1200).worth() > offer(50, 120).worth());
        assert!(offer(0, 16).worth() > offer(1, 16).worth());
    }

    #[test]
    fn lists_promise_what_their_slabs_have() {
        for class in FINE.classes().iter().chain(GENERAL.classes()) {
            for free in 1..u32::from(class.slots) {
                let list = class.eighth_of(free - 1) as usize;
                assert!(free >= free_min(class, list), "{class:?} {free}");
            }
        }
    }
}

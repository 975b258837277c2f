//! What becomes of the last slabs of each class.
//!
//! What no evacuation gains is in the last slabs of each class, the more of it the
//! more classes are in use and the less is live. Further ways gain that, to
//! be used once nothing can be evacuated any more:
//!
//! **Merging.** The few objects of a slab become *guests* in free slots of
//! classes that are up to half as large again. They take nothing that was of use to
//! anybody, and a slab is released for them, so this comes to an end, too.
//!
//! **Packing.** The objects of a slab move into its own first slots, and the pages
//! behind them are punched.
//!
//! (63,000 records of 0.1 to 2 KB, cut down to 70 bytes each, a tenth of which
//! is left: 2.5 times the live bytes by evacuation alone, 1.5 with packing, 1.16
//! with both.)
//!
//! What is left then lies in slabs here and there. Where they are few, they are
//! *lowered*, each into a new slab in a lower chunk, so that high chunks close and
//! what is known of these is given back.

use crate::bin::{Bin, LISTS, PUNCHED};
use crate::evacuation::{Victim, Way};
use crate::size_class::SizeClass;
use crate::slab::Records;
use crate::units::SlabId;

/// Slabs of a list that are looked at for merging and packing, which bounds the
/// time.
const LAST_SLABS: usize = 16;

/// The classes that a guest of the class `home` may lodge with.
pub(crate) fn hosts(classes: &[SizeClass], home: usize) -> core::ops::Range<usize> {
    let size_max = classes[home].size + classes[home].size / 2;
    let after = &classes[home + 1..];
    home + 1..home + 1 + after.partition_point(|host| host.size <= size_max)
}

/// Takes the slab off its bin's lists that has the fewest live bytes, at most half
/// of its slots, of all whose objects find room in slabs of larger classes. No
/// bin has a current slab. `bins` and `classes` belong together.
///
/// Takes time in proportion to the number of classes.
///
/// # Safety
/// The records of the bins' slabs are accessed by the caller alone.
pub(crate) unsafe fn merge_victim(
    bins: &mut [Bin],
    classes: &[SizeClass],
    records: Records,
) -> Option<Victim> {
    let mut best: Option<(u32, usize, SlabId, u32)> = None;
    for home in 0..bins.len() {
        let shape = &classes[home];
        if bins[home].merge_failed {
            continue;
        }
        // SAFETY: passed on to the caller.
        let Some((live, id)) = (unsafe { emptiest(&bins[home], shape, records) }) else {
            continue;
        };
        let bytes = live * shape.size;
        if live * 2 > u32::from(shape.slots) || best.is_some_and(|(least, ..)| bytes >= least) {
            continue;
        }
        // SAFETY: passed on to the caller.
        let room_of = |host: usize| unsafe { free_resident(&bins[host], &classes[host], records) };
        let hosts = hosts(classes, home);
        let room: u32 = hosts
            .take_while(|host| *host < bins.len())
            .map(room_of)
            .sum();
        if room >= live {
            best = Some((bytes, home, id, live));
        }
    }
    let (_, class, slab, live_at_start) = best?;
    // SAFETY: the slab was found on a list; otherwise passed on to the caller.
    unsafe { bins[class].take_off(records, slab) };
    Some(Victim {
        slab,
        class,
        slot_bytes: classes[class].size as usize,
        live_at_start,
        way: Way::Merge,
    })
}

/// The slab on a bin's lists with the fewest live slots, and their number.
///
/// # Safety
/// As [`merge_victim`].
unsafe fn emptiest(bin: &Bin, shape: &SizeClass, records: Records) -> Option<(u32, SlabId)> {
    let sparsest = bin.lists_used() & !(1 << PUNCHED);
    let lists = [PUNCHED as u32, sparsest.checked_ilog2().unwrap_or(0)];
    let slabs = lists.into_iter().flat_map(|list| {
        // SAFETY: passed on to the caller.
        unsafe { bin.iter(records, list as usize) }.take(LAST_SLABS)
    });
    slabs
        .map(|(id, slab)| (u32::from(shape.slots - slab.record().free), id))
        .min()
}

/// Free slots of a bin's listed slabs that lie on resident pages, or fewer if
/// there are many.
///
/// # Safety
/// As [`merge_victim`].
unsafe fn free_resident(bin: &Bin, shape: &SizeClass, records: Records) -> u32 {
    let mut free = 0;
    for list in (0..LISTS).filter(|list| bin.lists_used() >> list & 1 != 0) {
        // SAFETY: passed on to the caller.
        for (_, slab) in unsafe { bin.iter(records, list) }.take(LAST_SLABS) {
            free += if list == PUNCHED {
                let words = slab.free_resident(shape);
                words.map(|(_, bits)| bits.count_ones()).sum()
            } else {
                u32::from(slab.record().free)
            };
        }
    }
    free
}

/// Takes a slab off its bin's lists whose objects, moved together, would leave at
/// least one more page without any. The bin has no current slab.
///
/// # Safety
/// As [`merge_victim`].
pub(crate) unsafe fn packing_victim(
    bin: &mut Bin,
    shape: &SizeClass,
    class: usize,
    records: Records,
) -> Option<Victim> {
    if shape.pages == 1 || bin.packing_failed {
        return None;
    }
    for list in (0..LISTS)
        .rev()
        .filter(|list| bin.lists_used() >> list & 1 != 0)
    {
        // SAFETY: passed on to the caller.
        for (slab, view) in unsafe { bin.iter(records, list) }.take(LAST_SLABS) {
            let live = u32::from(shape.slots - view.record().free);
            let needed = shape.pages_of_slots(0, live - 1).1 + 1;
            if u32::from(shape.pages) - view.record().punched.count_ones() > needed {
                // SAFETY: the slab was found on a list; otherwise passed on.
                unsafe { bin.take_off(records, slab) };
                return Some(Victim {
                    slab,
                    class,
                    slot_bytes: shape.size as usize,
                    live_at_start: live,
                    way: Way::Pack,
                });
            }
        }
    }
    None
}

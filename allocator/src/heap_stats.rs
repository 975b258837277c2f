//! The process heap's books as a struct: where its memory is, by class, by arena and
//! by thread cache.
//!
//! Taking them allocates nothing and stops nobody. The lock of each bin is held for
//! as long as it takes to copy its counts, that of the pages likewise; what lies in
//! the threads' caches is read while they go on. So while other threads allocate and
//! free, the parts are of moments that lie close together, not of one. The fast paths
//! count nothing: what a class has handed out follows from the books of slabs.

use crate::arena_table::ArenaTable;
use crate::process_arena::{CLASSES, ClassFigures};
use crate::shared_pages::SharedPages;
use crate::size_class::{GENERAL, SizeClass};
use crate::stats::{ArenaStats, ClassStats, Traffic};
use crate::sync::Lock;
use crate::thread::Registry;
use crate::units::PAGE_BYTES;
use core::mem::zeroed;

/// The process heap's books at one moment. While other threads allocate and free,
/// the parts are read one after the other and agree only roughly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// All arenas together. Of the slots, those in threads' caches are in none of
    /// its parts, so that
    /// `slab_bytes = live_bytes + free_bytes + tail_bytes + cached_bytes`. Slots
    /// that other threads have freed and the owner has not taken back yet count as
    /// live.
    pub arenas: ArenaStats,
    /// Free slots in threads' caches.
    pub cached_bytes: usize,
    /// Arenas, whether a thread uses them or not.
    pub arena_count: usize,
    /// Threads that have a cache.
    pub thread_count: usize,
    /// Batches between slabs and caches, of all arenas.
    pub traffic: Traffic,
}

/// What the process heap holds of one size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapClassStats {
    /// Slots and slabs. Slots in threads' caches count as free.
    pub class: ClassStats,
    /// Of the free slots, those in threads' caches.
    pub cached: u32,
    /// Slabs without a free slot of their own: those in caches count as used here.
    pub full_slabs: u32,
    /// Slabs from which slots are handed out at present, one for each arena at most.
    pub current_slabs: u32,
    /// Wholly free slabs that are kept for reuse.
    pub empty_slabs: u32,
    /// Ends of slabs that belong to no slot, in bytes.
    pub tail_bytes: usize,
    /// What rounding sizes up to the class has cost at most, in bytes: as if each
    /// live object were one byte larger than the next smaller class that C has. The
    /// sizes that were asked for are not kept, since that would cost every call.
    /// Objects that are aligned to more than 16 bytes may cost more.
    pub rounding_bytes_max: usize,
    /// Batches between the class's slabs and caches.
    pub traffic: Traffic,
}

/// What one arena of the process heap holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapArenaStats {
    /// The arena's number.
    pub number: u16,
    /// Threads that use it.
    pub threads: u32,
    /// Slabs.
    pub slabs: u32,
    /// Pages of these, in bytes.
    pub slab_bytes: usize,
    /// Slots in use, in threads' caches or on their way back from other threads.
    pub taken_bytes: usize,
    /// Free slots.
    pub free_bytes: usize,
    /// Classes for which other threads have freed slots that are not taken back yet.
    pub waiting_classes: u32,
    /// The arena's own record.
    pub metadata_bytes: usize,
    /// Batches between the arena's slabs and caches.
    pub traffic: Traffic,
}

/// What one thread keeps at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadCacheStats {
    /// The number of the thread's record, which another thread gets when it ends.
    pub number: u32,
    /// The arena that serves the thread.
    pub arena: u16,
    /// Free slots.
    pub slots: usize,
    /// Their bytes.
    pub bytes: usize,
    /// What it has room for at present, in bytes of slots, in one of two stacks.
    pub capacity_bytes: usize,
    /// To what that may grow, 2 to 16 slots of each class aside. It follows the arena's
    /// live bytes, up to `cache_bytes` of the settings.
    pub limit_bytes: usize,
}

/// Where the figures come from.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) pages: &'a SharedPages,
    pub(crate) arenas: &'a ArenaTable,
    pub(crate) registry: &'a Lock<Registry>,
}

/// The figures of the heap and of all of its classes.
pub(crate) struct Snapshot {
    pub(crate) heap: HeapStats,
    classes: [HeapClassStats; CLASSES],
}

impl Snapshot {
    /// The classes that have had a slab, by ascending size.
    pub(crate) fn classes(&self) -> impl Iterator<Item = &HeapClassStats> {
        self.classes.iter().filter(|class| class.traffic.fills > 0)
    }
}

/// Slots of each class in all threads' caches, and what these are.
struct Cached {
    slots: [usize; CLASSES],
    threads: usize,
    record_bytes: usize,
}

impl Sources<'_> {
    /// The figures of this moment. Takes some 10 us, more with many arenas and threads.
    pub(crate) fn snapshot(&self) -> Snapshot {
        // SAFETY: All of it is numbers. An array of `default()` is a store for each.
        let mut figures: [ClassFigures; CLASSES] = unsafe { zeroed() };
        let mut arena_count = 0;
        let mut record_bytes = 0;
        for arena in self.arenas.iter() {
            arena_count += 1;
            record_bytes += arena.count(&mut figures);
        }
        let cached = self.cached();
        let pages = |pages: &mut crate::shared_pages::Pages| {
            ArenaStats::of_pages(&pages.source, &pages.large)
        };
        let mut heap = HeapStats {
            arenas: self.pages.with(pages),
            arena_count,
            thread_count: cached.threads,
            ..HeapStats::default()
        };
        // SAFETY: As above.
        let mut classes: [HeapClassStats; CLASSES] = unsafe { zeroed() };
        let total = &mut heap.arenas;
        for (class, held) in figures.iter().enumerate() {
            let shape = GENERAL.class(class);
            // The caches change while they are counted: no more than the slabs bear out.
            let out = held.slabs * u32::from(shape.slots) - held.free;
            let in_caches = (cached.slots[class] as u32).min(out);
            classes[class] = class_stats(class, held, in_caches);
            total.slabs += held.slabs as usize;
            total.slab_bytes += held.slabs as usize * shape.slab_bytes();
            total.tail_bytes += classes[class].tail_bytes;
            total.free_bytes += held.free as usize * shape.size as usize;
            heap.cached_bytes += in_caches as usize * shape.size as usize;
            heap.traffic.add(&held.traffic);
        }
        total.live_bytes =
            total.slab_bytes - total.tail_bytes - total.free_bytes - heap.cached_bytes;
        total.metadata_bytes += record_bytes + cached.record_bytes;
        total.resident_bytes += total.metadata_bytes;
        Snapshot { heap, classes }
    }

    fn cached(&self) -> Cached {
        let mut cached = Cached {
            slots: [0; CLASSES],
            threads: 0,
            // The registry's own, which is little more than the list of records.
            record_bytes: PAGE_BYTES,
        };
        for thread in self.registry.lock().attached() {
            cached.threads += 1;
            cached.record_bytes += thread.resident_bytes();
            for (class, slots) in cached.slots.iter_mut().enumerate() {
                *slots += thread.cached(class);
            }
        }
        cached
    }

    /// The figures of each arena.
    pub(crate) fn arena_stats(self) -> impl Iterator<Item = HeapArenaStats> {
        self.arenas.iter().map(move |arena| {
            // SAFETY: As in `snapshot`.
            let mut figures: [ClassFigures; CLASSES] = unsafe { zeroed() };
            let metadata_bytes = arena.count(&mut figures);
            let mut stats = HeapArenaStats {
                number: arena.number(),
                threads: self.registry.lock().users(arena.number()),
                waiting_classes: arena.mail_count(),
                metadata_bytes,
                ..HeapArenaStats::default()
            };
            for (class, held) in figures.iter().enumerate() {
                let shape = GENERAL.class(class);
                let out = held.slabs * u32::from(shape.slots) - held.free;
                stats.slabs += held.slabs;
                stats.slab_bytes += held.slabs as usize * shape.slab_bytes();
                stats.taken_bytes += out as usize * shape.size as usize;
                stats.free_bytes += held.free as usize * shape.size as usize;
                stats.traffic.add(&held.traffic);
            }
            stats
        })
    }

    /// The figures of each thread's cache. The lock under which threads come and go
    /// is held for one thread at a time.
    pub(crate) fn thread_stats(self) -> impl Iterator<Item = ThreadCacheStats> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let registry = self.registry.lock();
            let (number, thread) = registry.attached_from(next)?;
            next = number + 1;
            let mut stats = ThreadCacheStats {
                number,
                arena: thread.arena(),
                capacity_bytes: thread.cache.capacity_bytes(),
                limit_bytes: thread.cache.limit_bytes(),
                ..ThreadCacheStats::default()
            };
            for class in 0..CLASSES {
                let slots = thread.cached(class);
                stats.slots += slots;
                stats.bytes += slots * GENERAL.class(class).size as usize;
            }
            Some(stats)
        })
    }
}

fn class_stats(class: usize, held: &ClassFigures, cached: u32) -> HeapClassStats {
    let shape = GENERAL.class(class);
    let free = held.free + cached;
    let live = held.slabs * u32::from(shape.slots) - free;
    let listed: u32 = held.by_occupancy.iter().sum();
    HeapClassStats {
        class: ClassStats {
            slot_bytes: shape.size as usize,
            slab_pages: u32::from(shape.pages),
            slab_slots: u32::from(shape.slots),
            slabs: held.slabs,
            live,
            free,
            by_occupancy: held.by_occupancy,
        },
        cached,
        full_slabs: held.slabs - listed - held.current_slabs - held.empty_slabs,
        current_slabs: held.current_slabs,
        empty_slabs: held.empty_slabs,
        tail_bytes: held.slabs as usize * shape.tail_bytes(),
        rounding_bytes_max: live as usize * rounding_max(class, shape),
        traffic: held.traffic,
    }
}

/// What rounding a size up to the class costs at most, in bytes.
fn rounding_max(class: usize, shape: &SizeClass) -> usize {
    const C_ALIGN: u32 = 16;
    let below = (0..class)
        .rev()
        .map(|smaller| GENERAL.class(smaller).size)
        .find(|size| size.is_multiple_of(C_ALIGN));
    // An object of 0 bytes has a slot of the least class.
    below.map_or(shape.size, |below| shape.size - below - 1) as usize
}

//! What compaction would gain and cost, told before it runs.
//!
//! The slabs of a shard are counted by size class, by their live slots and by their pages that were
//! given back, from the [map](crate::heap_map) of the heap: no lock is held for longer than one chunk
//! takes. On these counts the rules of compaction are played through, class by class:
//!
//! 1. *Evacuation*: the emptiest slabs are released as long as the others have room for their objects,
//!    the fullest first.
//! 2. *Merging*: what is left of a class, if it fills at most half a slab, goes to classes up to half
//!    as large again, where these have room.
//! 3. *Packing*: the objects of each slab that is not full are moved to its first pages, and the
//!    others are given back.
//! 4. *Lowering*: if little is left, it is gathered in the shard's lowest chunk. That frees no page of
//!    a slab, but it moves objects.
//!
//! What clients write meanwhile is not foreseen, nor is the order in which lists are searched: the
//! tests hold the result to within some percent of what compaction does.

use std::collections::BTreeMap;

use slab_allocator::ExtentKind;
use slab_allocator::units::PAGE_BYTES;

use crate::heap_map::ChunkMap;
use crate::settings::COMMAND_LIVE_PERCENT_MAX as LIVE_PERCENT_MAX;
use crate::statistics::CompactionLedger;

/// What compaction would do in one size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassForecast {
    /// Bytes of a slot.
    pub slot_bytes: u32,
    /// Slabs now.
    pub slabs: u64,
    /// Pages of slabs that have memory behind them now.
    pub pages: u64,
    /// Slots in use.
    pub live: u64,
    /// Slabs that would be released.
    pub released_slabs: u64,
    /// Pages that would come free, in slabs that stay as well.
    pub freed_pages: u64,
    /// Objects that would have to move.
    pub moved_objects: u64,
    /// Bytes of their slots.
    pub moved_bytes: u64,
}

impl ClassForecast {
    fn add(&mut self, other: &Self) {
        self.slabs += other.slabs;
        self.pages += other.pages;
        self.live += other.live;
        self.released_slabs += other.released_slabs;
        self.freed_pages += other.freed_pages;
        self.moved_objects += other.moved_objects;
        self.moved_bytes += other.moved_bytes;
    }
}

/// What compaction would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// By size class, in ascending order.
    pub classes: Vec<ClassForecast>,
}

impl Forecast {
    /// All classes together.
    #[must_use]
    pub fn total(&self) -> ClassForecast {
        let mut total = ClassForecast::default();
        self.classes.iter().for_each(|class| total.add(class));
        total
    }

    /// How long moving what one class, or all of them, would move takes, in nanoseconds, given what was moved so far.
    /// Giving the pages back is not in it.
    ///
    /// A part of the time goes with the objects (finding the reference to each, and patching it), one with their bytes,
    /// one with the slabs. Of the first, most is waiting for memory, so that it rises with the size of the heap. How
    /// fast the machine is follows from the past, once that is long enough.
    #[must_use]
    pub fn time_ns(&self, part: &ClassForecast, ledger: &CompactionLedger) -> u64 {
        /// From so many objects on, the past says more than the assumption.
        const OBJECTS_MIN: u64 = 10_000;
        let pages = self.classes.iter().map(|class| class.pages).sum();
        let work = |objects, bytes, slabs| work_ns(pages, objects, bytes, slabs);
        let past = work(
            ledger.moved_objects,
            ledger.moved_bytes,
            ledger.victims_released,
        );
        let pace = match ledger.moved_objects {
            OBJECTS_MIN.. => ledger.time_ns as f64 / past,
            _ => 1.0,
        };
        (work(part.moved_objects, part.moved_bytes, part.released_slabs) * pace) as u64
    }

    pub(crate) fn add(&mut self, class: &ClassForecast) {
        let key = class.slot_bytes;
        match self
            .classes
            .binary_search_by_key(&key, |one| one.slot_bytes)
        {
            Ok(at) => self.classes[at].add(class),
            Err(at) => self.classes.insert(at, *class),
        }
    }
}

/// What moving takes in a heap of so many pages, in nanoseconds, as measured on an otherwise idle virtual machine: figures
/// in `docs/compaction.md`.
fn work_ns(pages: u64, objects: u64, bytes: u64, slabs: u64) -> f64 {
    const BYTE_NS: f64 = 0.25;
    const SLAB_NS: f64 = 230.0;
    /// An object's time in a heap that the caches hold, and what each doubling beyond that adds, to an end.
    const OBJECT_NS: u32 = 60;
    const DOUBLING_NS: u32 = 20;
    const DOUBLINGS_MAX: u32 = 5;
    const CACHED_BYTES: u64 = 32 << 20;
    // Whole doublings: a logarithm of fractions would bring another library into the process.
    let doublings = (pages * PAGE_BYTES as u64 / CACHED_BYTES).max(1).ilog2();
    let object_ns = OBJECT_NS + DOUBLING_NS * doublings.min(DOUBLINGS_MAX);
    objects as f64 * f64::from(object_ns) + bytes as f64 * BYTE_NS + slabs as f64 * SLAB_NS
}

/// Slabs with as many live slots and pages given back as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    live: u32,
    punched: u32,
}

/// The slabs of one class in one shard, by how full they are.
#[derive(Clone, Debug, Default)]
struct Slabs {
    slots: u32,
    pages: u32,
    /// Slabs with free slots.
    partial: BTreeMap<Group, u64>,
    forecast: ClassForecast,
}

impl Slabs {
    /// Free slots of a slab that lie on pages with memory behind them.
    fn room(&self, group: Group) -> u32 {
        let resident = match group.punched {
            0 => self.slots,
            punched => (self.pages - punched) * PAGE_BYTES as u32 / self.forecast.slot_bytes,
        };
        resident.saturating_sub(group.live)
    }

    /// Free slots in all.
    fn room_in_all(&self) -> u64 {
        let rooms = self.partial.iter();
        rooms
            .map(|(group, count)| u64::from(self.room(*group)) * count)
            .sum()
    }

    fn put(&mut self, group: Group, count: u64) {
        if group.live < self.slots && count > 0 {
            *self.partial.entry(group).or_default() += count;
        }
    }

    fn take(&mut self, group: Group, count: u64) {
        if let Some(left) = self.partial.get_mut(&group) {
            *left -= count;
            if *left == 0 {
                self.partial.remove(&group);
            }
        }
    }

    /// Releases slabs of a group, whose objects move.
    fn release(&mut self, group: Group, count: u64) {
        self.take(group, count);
        self.forecast.released_slabs += count;
        self.forecast.freed_pages += u64::from(self.pages - group.punched) * count;
        self.moved(u64::from(group.live) * count);
    }

    fn moved(&mut self, objects: u64) {
        self.forecast.moved_objects += objects;
        self.forecast.moved_bytes += objects * u64::from(self.forecast.slot_bytes);
    }

    /// Puts objects into the fullest slabs, those with pages given back last. Returns how many find no
    /// room.
    fn fill(&mut self, mut objects: u64) -> u64 {
        while objects > 0 {
            let with_room = |group: &&Group| self.room(**group) > 0;
            let whole = self.partial.keys().rev().filter(|group| group.punched == 0);
            let punched = self.partial.keys().rev().filter(|group| group.punched > 0);
            let Some(&group) = whole.chain(punched).find(with_room) else {
                break;
            };
            let room = u64::from(self.room(group));
            let filled = (objects / room).min(self.partial[&group]);
            let (slabs, into_each) = match filled {
                0 => (1, objects),
                _ => (filled, room),
            };
            self.take(group, slabs);
            let live = group.live + into_each as u32;
            self.put(Group { live, ..group }, slabs);
            objects -= slabs * into_each;
        }
        objects
    }

    fn evacuate(&mut self) {
        let mut room = self.room_in_all();
        let mut objects = 0;
        let groups: Vec<(Group, u64)> = self.partial.iter().map(|(g, n)| (*g, *n)).collect();
        for (group, count) in groups {
            if group.live * 100 > self.slots * u32::from(LIVE_PERCENT_MAX) {
                break;
            }
            // A slab that goes takes its own room with it, and its objects need some.
            let need = u64::from(self.room(group) + group.live);
            let released = count.min(room / need.max(1));
            self.release(group, released);
            room -= released * need;
            objects += released * u64::from(group.live);
            if released < count {
                break;
            }
        }
        self.fill(objects);
    }

    /// Gives the pages back that the live objects of slabs do not need.
    fn pack(&mut self) {
        let groups: Vec<(Group, u64)> = self.partial.iter().map(|(g, n)| (*g, *n)).collect();
        for (group, count) in groups {
            let needed = (group.live * self.forecast.slot_bytes).div_ceil(PAGE_BYTES as u32);
            let gain = (self.pages - group.punched).saturating_sub(needed);
            if gain == 0 {
                continue;
            }
            self.forecast.freed_pages += u64::from(gain) * count;
            // Of objects that lie at random, so many lie behind the place that they all need.
            let behind = u64::from(group.live) * u64::from(self.slots - group.live);
            self.moved(behind.div_ceil(u64::from(self.slots)) * count);
        }
    }
}

/// What a shard's slabs would come to.
#[derive(Debug, Default)]
pub(crate) struct ShardForecast {
    classes: BTreeMap<u32, Slabs>,
    chunks: u64,
    large_pages: u64,
}

impl ShardForecast {
    /// Counts the slabs of a chunk.
    pub(crate) fn count(&mut self, chunk: &ChunkMap) {
        self.chunks += 1;
        self.large_pages += u64::from(chunk.stats.large_pages);
        for extent in &chunk.extents {
            let ExtentKind::Slab {
                slot_bytes,
                slots,
                live,
                punched,
                ..
            } = extent.kind
            else {
                continue;
            };
            let class = self.classes.entry(slot_bytes).or_default();
            (class.slots, class.pages) = (slots, extent.pages);
            let punched = punched.count_ones();
            class.forecast.slot_bytes = slot_bytes;
            class.forecast.slabs += 1;
            class.forecast.pages += u64::from(extent.pages - punched);
            class.forecast.live += u64::from(live);
            class.put(Group { live, punched }, 1);
        }
    }

    /// Plays compaction through.
    pub(crate) fn finish(mut self) -> impl Iterator<Item = ClassForecast> {
        self.classes.values_mut().for_each(Slabs::evacuate);
        while self.merge() {}
        self.classes.values_mut().for_each(Slabs::pack);
        self.lower();
        self.classes.into_values().map(|slabs| slabs.forecast)
    }

    /// Gathers what is left in one chunk, if it is little.
    fn lower(&mut self) {
        /// The most pages that are gathered however they are spread.
        const PAGES_MAX: u64 = 256;
        let left = |slabs: &Slabs| {
            slabs
                .forecast
                .pages
                .saturating_sub(slabs.forecast.freed_pages)
        };
        let pages: u64 = self.classes.values().map(left).sum();
        if pages + self.large_pages > PAGES_MAX || self.chunks == 0 {
            return;
        }
        for slabs in self.classes.values_mut() {
            // All chunks have their share of what is left; that of the lowest one stays.
            let elsewhere = slabs.forecast.live * (self.chunks - 1) / self.chunks;
            slabs.moved(elsewhere);
        }
    }

    /// Merges the slab with the fewest live bytes, at most half full, for which larger classes have
    /// room; false if there is none.
    fn merge(&mut self) -> bool {
        let mut best: Option<(u32, u32, Group)> = None;
        for (&slot_bytes, slabs) in &self.classes {
            let Some((&group, _)) = slabs.partial.first_key_value() else {
                continue;
            };
            let bytes = group.live * slot_bytes;
            let worse = best.is_some_and(|(least, ..)| bytes >= least);
            if group.live * 2 > slabs.slots || worse {
                continue;
            }
            let hosts = self
                .classes
                .range(slot_bytes + 1..=slot_bytes + slot_bytes / 2);
            let room: u64 = hosts.map(|(_, host)| host.room_in_all()).sum();
            if room >= u64::from(group.live) {
                best = Some((bytes, slot_bytes, group));
            }
        }
        let Some((_, slot_bytes, group)) = best else {
            return false;
        };
        let mut objects = u64::from(group.live);
        if let Some(home) = self.classes.get_mut(&slot_bytes) {
            home.release(group, 1);
        }
        let hosts = slot_bytes + 1..=slot_bytes + slot_bytes / 2;
        for (_, host) in self.classes.range_mut(hosts) {
            objects = host.fill(objects);
            host.evacuate();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_adds_up_over_the_classes_and_follows_the_past() {
        let class = |slot_bytes, moved_objects| ClassForecast {
            slot_bytes,
            pages: 1000,
            moved_objects,
            moved_bytes: moved_objects * u64::from(slot_bytes),
            released_slabs: 100,
            ..ClassForecast::default()
        };
        let mut forecast = Forecast {
            classes: vec![class(64, 20_000), class(512, 1000)],
        };
        let total = forecast.total();
        let nothing = CompactionLedger::default();
        let time_ns = forecast.time_ns(&total, &nothing);
        let classes = forecast.classes.iter();
        let sum: u64 = classes.map(|one| forecast.time_ns(one, &nothing)).sum();
        assert!(time_ns > 1_000_000 && time_ns.abs_diff(sum) <= 2);
        // On a machine that took three times as long for as much.
        let slow = CompactionLedger {
            moved_objects: total.moved_objects,
            moved_bytes: total.moved_bytes,
            victims_released: total.released_slabs,
            time_ns: 3 * time_ns,
            ..nothing
        };
        assert!(forecast.time_ns(&total, &slow).abs_diff(3 * time_ns) <= 3);
        // In a heap that no cache holds, each object takes longer.
        forecast.classes[0].pages = 1_000_000;
        assert!(forecast.time_ns(&total, &nothing) > time_ns * 3 / 2);
    }

    fn slabs(slot_bytes: u32, groups: &[(u32, u64)]) -> Slabs {
        let mut slabs = Slabs {
            slots: 16_384 / slot_bytes,
            pages: 4,
            ..Slabs::default()
        };
        slabs.forecast.slot_bytes = slot_bytes;
        for (live, count) in groups {
            slabs.put(
                Group {
                    live: *live,
                    punched: 0,
                },
                *count,
            );
        }
        slabs
    }

    #[test]
    fn the_emptiest_slabs_fill_the_fullest() {
        // 64 slots each: 10 with 16, 10 with 32 live ones are 480 objects, which fill 7 slabs and a half.
        let mut slabs = slabs(256, &[(16, 10), (32, 10)]);
        slabs.evacuate();
        assert_eq!(slabs.forecast.released_slabs, 12);
        assert_eq!(slabs.forecast.freed_pages, 48);
        assert_eq!(slabs.forecast.moved_objects, 160 + 64);
        let left: Vec<_> = slabs.partial.iter().map(|(g, n)| (g.live, *n)).collect();
        assert_eq!(left, [(32, 1)]);
        slabs.pack();
        assert_eq!(slabs.forecast.freed_pages, 50);
    }

    #[test]
    fn full_slabs_stay() {
        let mut slabs = slabs(256, &[(63, 100)]);
        slabs.evacuate();
        slabs.pack();
        assert_eq!(slabs.forecast.freed_pages, 0);
    }

    #[test]
    fn the_last_objects_of_a_class_go_to_larger_ones() {
        let mut shard = ShardForecast::default();
        shard.classes.insert(256, slabs(256, &[(10, 1)]));
        shard.classes.insert(320, slabs(320, &[(30, 1)]));
        shard.classes.insert(1024, slabs(1024, &[(8, 1)]));
        let done: Vec<_> = shard.finish().map(|class| class.freed_pages).collect();
        assert_eq!(done, [4, 0, 2]);
    }
}

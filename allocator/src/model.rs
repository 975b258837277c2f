//! Operations on a [`LocalArena`] next to a model of it, for property tests
//! and the fuzzer: after each step the arena's books must agree, live objects
//! must not overlap, and their bytes must be what was written.

use crate::evacuation::{Victim, VictimPolicy};
use crate::local_arena::LocalArena;
use crate::options::{ArenaOptions, Classes};
use crate::os::fake::{Faults, has_refused, inject};
use crate::stats::ExtentKind;
use crate::units::{CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES};
use core::ptr::NonNull;
use std::collections::BTreeMap;

/// One step. Picks name a live object by its place modulo their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Allocate `size` bytes.
    Allocate { size: u32 },
    /// Allocate several objects of one size, so that slabs fill.
    AllocateMany { size: u16, count: u8 },
    /// Allocate at a multiple of 2^`align_log2` bytes.
    AllocateAligned { size: u32, align_log2: u8 },
    /// Free an object, naming its size.
    Free { pick: u32 },
    /// Free an object without its size.
    FreeUnsized { pick: u32 },
    /// Free every `step`-th object.
    FreeMany { step: u8, offset: u8 },
    /// Change an object's size.
    Reallocate { pick: u32, size: u32 },
    /// Make an object larger where it lies, if that can be.
    GrowInPlace { pick: u32, by: u32 },
    /// Move up to `objects` objects out of victims.
    Evacuate { objects: u8 },
    /// Free the next objects of the present victim.
    FreeInVictim { objects: u8 },
    /// Take the present victim back, emptied or not.
    Finish,
    /// Let time pass and give back what is due.
    PurgeDue { elapsed_ms: u16 },
    /// Give back everything.
    PurgeAll,
}

/// Sizes of which many objects are made, so that slabs fill.
const SIZES: [u16; 12] = [
    16, 40, 120, 232, 264, 500, 1000, 1500, 3000, 4096, 9000, 20_000,
];

impl Op {
    /// Reads an operation and the faults that it meets off the front of
    /// `bytes`; `None` at their end.
    pub fn decode(bytes: &mut &[u8]) -> Option<(Op, u8)> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        let [kind, faults, a, b, c, d, e, f] = *head;
        let long = u32::from_le_bytes([a, b, c, d]);
        let short = u16::from_le_bytes([e, f]);
        let size = match c % 16 {
            0 => long % (6 << 20),
            1..=3 => long % 100_000,
            _ => long % 2000,
        };
        let op = match kind % 16 {
            0 | 1 => Op::Allocate { size },
            2..=4 => Op::AllocateMany {
                size: SIZES[a as usize % SIZES.len()],
                count: f,
            },
            5 => Op::AllocateAligned {
                size,
                align_log2: f % 23,
            },
            6 => Op::Free { pick: long },
            7 => Op::FreeUnsized { pick: long },
            8 | 9 => Op::FreeMany {
                step: 1 + a % 6,
                offset: b,
            },
            10 => Op::Reallocate {
                pick: u32::from(short),
                size,
            },
            11 => Op::GrowInPlace {
                pick: u32::from(short),
                by: size,
            },
            12 | 13 => Op::Evacuate { objects: a % 64 },
            14 => Op::PurgeDue { elapsed_ms: short },
            _ if a < 128 => Op::FreeInVictim { objects: b % 8 },
            _ if a < 192 => Op::Finish,
            _ => Op::PurgeAll,
        };
        // Most steps meet no fault.
        Some((op, if faults < 32 { faults & 7 } else { 0 }))
    }
}

#[derive(Clone, Copy, Debug)]
struct Object {
    address: usize,
    size: usize,
    /// Alignment that was asked for; 0 if none was.
    align: usize,
    seed: u8,
}

/// An arena and what it must hold.
#[derive(Debug)]
pub struct Subject {
    arena: LocalArena,
    live: Vec<Object>,
    /// From an object's address to its place in `live`.
    places: BTreeMap<usize, usize>,
    victim: Option<(Victim, u32)>,
    now_ms: u64,
    seed: u8,
    bytes_max: usize,
    bytes: usize,
}

/// Offsets in an object of `size` bytes that carry its mark: all of a small
/// one, and of a large one the borders of its pages.
fn marked(size: usize) -> impl Iterator<Item = usize> {
    let step = if size > 4096 { 1024 } else { 1 };
    (0..size).step_by(step).chain(size.checked_sub(1))
}

impl Subject {
    /// An empty arena that holds at most `bytes_max` bytes of objects.
    pub fn new(classes: Classes, bytes_max: usize) -> Option<Subject> {
        let arena = LocalArena::new(&ArenaOptions {
            region_bytes: if cfg!(miri) { 8 << 20 } else { 64 << 20 },
            classes,
            decay_ms: 300,
            punch: true,
        })?;
        Some(Subject {
            arena,
            live: Vec::new(),
            places: BTreeMap::new(),
            victim: None,
            now_ms: 0,
            seed: 0,
            bytes_max,
            bytes: 0,
        })
    }

    /// The arena.
    pub fn arena(&self) -> &LocalArena {
        &self.arena
    }

    fn pointer(&self, address: usize) -> NonNull<u8> {
        let offset = address - self.arena.base().as_ptr().addr();
        // SAFETY: objects lie in the region, behind its start.
        unsafe { self.arena.base().add(offset) }
    }

    fn enter(&mut self, object: NonNull<u8>, size: usize, align: usize) {
        let address = object.as_ptr().addr();
        let usable = match align {
            // SAFETY: the object is live.
            0 => unsafe { self.arena.usable_size(object) },
            _ => size,
        };
        assert!(usable >= size);
        let wanted = match align {
            0 if usable.is_multiple_of(16) => 16,
            0 => 8,
            align => align,
        };
        assert!(
            address.is_multiple_of(wanted),
            "{address:#x} is not aligned to {wanted}"
        );
        let reference = self.arena.reference_of(object);
        assert!(reference != 0 && self.arena.object_at(reference) == object);
        if let Some((other, place)) = self.places.range(..=address).next_back() {
            assert!(
                other + self.live[*place].size.max(1) <= address,
                "objects overlap"
            );
        }
        if let Some((other, _)) = self.places.range(address..).next() {
            assert!(address + size.max(1) <= *other, "objects overlap");
        }
        self.seed = self.seed.wrapping_add(1);
        let object = Object {
            address,
            size,
            align,
            seed: self.seed,
        };
        self.mark(&object);
        self.places.insert(address, self.live.len());
        self.live.push(object);
        self.bytes += size;
    }

    fn mark(&self, object: &Object) {
        let start = self.pointer(object.address);
        for offset in marked(object.size) {
            // SAFETY: the object is live and holds that many bytes.
            unsafe { start.add(offset).write(object.seed ^ offset as u8) };
        }
    }

    fn verify(&self, object: &Object, bytes: usize) {
        let start = self.pointer(object.address);
        for offset in marked(object.size).filter(|offset| *offset < bytes) {
            // SAFETY: the object is live and holds that many bytes.
            let byte = unsafe { start.add(offset).read() };
            assert_eq!(
                byte,
                object.seed ^ offset as u8,
                "byte {offset} of {object:?}"
            );
        }
    }

    fn leave(&mut self, place: usize) -> Object {
        let object = self.live.swap_remove(place);
        self.places.remove(&object.address);
        if let Some(moved) = self.live.get(place) {
            self.places.insert(moved.address, place);
        }
        self.bytes -= object.size;
        object
    }

    fn pick(&self, pick: u32) -> Option<usize> {
        (!self.live.is_empty()).then(|| pick as usize % self.live.len())
    }

    fn free(&mut self, place: usize, sized: bool) {
        let object = self.leave(place);
        self.verify(&object, object.size);
        let pointer = self.pointer(object.address);
        let sized = sized || self.guest_bytes(&object) > 0;
        // SAFETY: the object was live and has left the model.
        unsafe {
            match (sized, object.align) {
                (false, _) => self.arena.free_unsized(pointer),
                (true, 0) => self.arena.free(pointer, object.size),
                (true, align) => self.arena.free_aligned(pointer, object.size, align),
            }
        }
    }

    /// Bytes by which an object's slot is larger than its class's.
    fn guest_bytes(&self, object: &Object) -> usize {
        if object.align != 0 {
            return 0;
        }
        // SAFETY: the object is live.
        let held = unsafe { self.arena.usable_size(self.pointer(object.address)) };
        let own = self.arena.usable_size_for(object.size);
        assert!(held * 2 <= own * 3, "a slot of {held} bytes for {own}");
        held - own
    }

    /// Performs one step, during which the system refuses what `faults` says:
    /// 1 commits, 2 purges, 4 moves of pages. Huge pages are not looked for here.
    pub fn apply(&mut self, op: Op, faults: u8) {
        let faults = Faults {
            reserve: false,
            commit: faults & 1 != 0,
            purge: faults & 2 != 0,
            move_pages: faults & 4 != 0,
            huge: false,
        };
        match op {
            Op::Allocate { size } => self.allocate(size as usize, 0, faults),
            Op::AllocateMany { size, count } => {
                for _ in 0..count {
                    self.allocate(size as usize, 0, faults);
                }
            }
            Op::AllocateAligned { size, align_log2 } => {
                self.allocate(size as usize, 1 << align_log2, faults);
            }
            Op::Free { pick } => {
                if let Some(place) = self.pick(pick) {
                    inject(faults, || self.free(place, true));
                }
            }
            Op::FreeUnsized { pick } => {
                if let Some(place) = self.pick(pick) {
                    inject(faults, || self.free(place, false));
                }
            }
            Op::FreeMany { step, offset } => {
                let mut place = offset as usize;
                while place < self.live.len() {
                    self.free(place, true);
                    place += step as usize;
                }
            }
            Op::Reallocate { pick, size } => {
                let Some(place) = self.pick(pick) else { return };
                let object = self.live[place];
                if object.align != 0 || self.bytes + size as usize > self.bytes_max {
                    return;
                }
                let object = self.leave(place);
                let pointer = self.pointer(object.address);
                let size = size as usize;
                // SAFETY: the object is live, and the model follows its move.
                let moved = inject(faults, || unsafe {
                    self.arena.reallocate(pointer, object.size, size)
                });
                let kept = match moved {
                    Some(_) => object.size.min(size),
                    None => object.size,
                };
                let (now, size) = moved.map_or((pointer, object.size), |now| (now, size));
                let address = now.as_ptr().addr();
                self.verify(&Object { address, ..object }, kept);
                self.enter(now, size, 0);
            }
            Op::GrowInPlace { pick, by } => {
                let Some(place) = self.pick(pick) else { return };
                let object = self.live[place];
                let size = object.size + by as usize;
                if object.align != 0 || self.bytes + by as usize > self.bytes_max {
                    return;
                }
                let object = self.leave(place);
                let pointer = self.pointer(object.address);
                // SAFETY: the object is live.
                let grown = inject(faults, || unsafe {
                    self.arena.grow_in_place(pointer, object.size, size)
                });
                self.verify(&object, object.size);
                self.enter(pointer, if grown { size } else { object.size }, 0);
            }
            Op::Evacuate { objects } => self.evacuate(u32::from(objects)),
            Op::FreeInVictim { objects } => {
                for _ in 0..objects {
                    let Some((victim, from)) = &self.victim else {
                        return;
                    };
                    let Some(live) = self.arena.live_from(victim, *from) else {
                        return;
                    };
                    self.free(self.places[&live.object.as_ptr().addr()], true);
                }
            }
            Op::Finish => {
                if let Some((victim, _)) = self.victim.take() {
                    self.arena.finish(victim);
                }
            }
            Op::PurgeDue { elapsed_ms } => {
                self.now_ms += u64::from(elapsed_ms);
                let purged = inject(faults, || self.arena.purge_due(self.now_ms, 4 << 20));
                // Of the system's pages only whole ones can go.
                let purgeable = self.arena.source.pages.counts().purgeable();
                assert!(purged.next_due_ms.is_some() || purgeable == 0);
            }
            Op::PurgeAll => {
                inject(faults, || self.arena.purge_all());
                if !faults.purge && !has_refused() {
                    assert_eq!(self.arena.source.pages.counts().purgeable(), 0);
                }
            }
        }
    }

    fn allocate(&mut self, size: usize, align: usize, faults: Faults) {
        if self.bytes + size > self.bytes_max {
            return;
        }
        let object = inject(faults, || match align {
            0 => self.arena.allocate(size),
            align => self.arena.allocate_aligned(size, align),
        });
        match object {
            Some(object) => self.enter(object, size, align),
            None => assert!(
                faults.commit
                    || has_refused()
                    || align > 4096
                    || cfg!(miri)
                    || self.bytes > self.bytes_max / 8
                    || !self.has_free_chunks(size),
                "{size} bytes were refused"
            ),
        }
    }

    /// Whether there is a gap of as many whole chunks as `size` bytes take. A page in
    /// every other chunk, as a large alignment puts it there, leaves none for two.
    fn has_free_chunks(&self, size: usize) -> bool {
        let wanted = size.div_ceil(CHUNK_BYTES).max(1) as u32;
        let end = (self.arena.stats().region_bytes / PAGE_BYTES) as u32;
        let used = self.arena.extents().filter_map(|extent| match extent.kind {
            ExtentKind::Free { .. } => None,
            _ => Some((extent.start_page, extent.start_page + extent.pages)),
        });
        // The first chunk is never used.
        let mut gap_start = CHUNK_PAGES;
        used.chain([(end, end)]).any(|(start, after)| {
            let chunks = (start / CHUNK_PAGES).saturating_sub(gap_start.div_ceil(CHUNK_PAGES));
            gap_start = after;
            chunks >= wanted
        })
    }

    /// Moves up to `objects` objects out of the present victim or new ones.
    fn evacuate(&mut self, objects: u32) {
        let mut left = objects;
        while left > 0 {
            let (victim, from) = match self.victim.take() {
                Some(present) => present,
                None => {
                    let victim = self.arena.next_victim(&VictimPolicy::default());
                    let victim = victim.or_else(|| self.arena.next_merge());
                    let victim = victim.or_else(|| self.arena.next_packing());
                    match victim.or_else(|| self.arena.next_lowering()) {
                        Some(victim) => (victim, 0),
                        None => return,
                    }
                }
            };
            let Some(live) = self.arena.live_from(&victim, from) else {
                let finished = self.arena.finish(victim);
                assert!(
                    finished.is_done || has_refused(),
                    "an emptied victim is released"
                );
                continue;
            };
            let place = self.places[&live.object.as_ptr().addr()];
            let object = self.live[place];
            if object.align != 0 && !victim.keeps_alignment() {
                self.arena.finish(victim);
                return;
            }
            let size = if object.align == 0 {
                object.size
            } else {
                victim.slot_bytes()
            };
            let fresh = self.arena.waste().fresh_bytes_total;
            let Some(target) = self.arena.allocate_for_relocation(size, &victim) else {
                self.arena.finish(victim);
                return;
            };
            if !victim.takes_pages() {
                assert_eq!(self.arena.waste().fresh_bytes_total, fresh);
            }
            self.leave(place);
            // SAFETY: both objects are live and hold `size` bytes; the model
            // follows the move.
            unsafe {
                core::ptr::copy_nonoverlapping(live.object.as_ptr(), target.as_ptr(), size);
                self.arena.free(live.object, size);
            }
            let address = target.as_ptr().addr();
            self.verify(&Object { address, ..object }, object.size);
            self.enter(target, object.size, object.align);
            self.victim = Some((victim, live.slot + 1));
            left -= 1;
        }
    }

    /// Checks the arena's books against each other and against the model.
    pub fn check(&self) {
        self.arena.check();
        let stats = self.arena.stats();
        let (mut held, mut guests) = (0, 0);
        for object in &self.live {
            guests += self.guest_bytes(object);
            // SAFETY: the object is live.
            held += unsafe { self.arena.usable_size(self.pointer(object.address)) };
        }
        assert_eq!(held, stats.live_bytes + stats.large_bytes);
        assert_eq!(guests, stats.guest_bytes);
    }

    /// Verifies and frees everything, after which the arena must hold nothing
    /// but a few pages of records.
    pub fn finish(mut self) {
        if let Some((victim, _)) = self.victim.take() {
            self.arena.finish(victim);
        }
        while let Some(place) = self.live.len().checked_sub(1) {
            self.free(place, place % 2 == 0);
        }
        self.arena.purge_all();
        self.check();
        let stats = self.arena.stats();
        assert_eq!((stats.slabs, stats.dirty_bytes), (0, 0));
        assert!(stats.resident_bytes <= 128 << 10, "{stats:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::{inject_at, reserved_bytes, with_page_bytes};
    use proptest::prelude::*;

    #[test]
    fn pages_in_every_other_chunk_leave_no_room_for_two_chunks() {
        let mut subject = Subject::new(Classes::Fine, 24 << 20).unwrap();
        let page = Op::AllocateAligned {
            size: 4096,
            align_log2: 22,
        };
        // Where the region starts decides whether that takes 15 pages or 16.
        let mut pages = 0;
        while subject.has_free_chunks(2 * CHUNK_BYTES) {
            subject.apply(page, 0);
            pages += 1;
            assert!(pages <= 16 && subject.live.len() == pages);
        }
        assert!(subject.has_free_chunks(CHUNK_BYTES));
        for size in [2 * CHUNK_BYTES, CHUNK_BYTES] {
            subject.apply(Op::Allocate { size: size as u32 }, 0);
            subject.check();
        }
        assert_eq!(subject.live.len(), pages + 1);
        subject.finish();
    }

    proptest! {
        #[test]
        fn an_arena_agrees_with_its_model(
            general in any::<bool>(),
            steps in prop::collection::vec(any::<[u8; 8]>(), 1..150),
        ) {
            agrees(general, &steps);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The same where the system's pages are larger than ours: every request is
        /// held to them.
        #[test]
        fn an_arena_agrees_with_its_model_on_large_pages(
            general in any::<bool>(),
            page_bytes in prop::sample::select(vec![8_usize << 10, 16 << 10, 64 << 10]),
            steps in prop::collection::vec(any::<[u8; 8]>(), 1..150),
        ) {
            with_page_bytes(page_bytes, || agrees(general, &steps));
        }
    }

    /// Every request to the system that a long sequence of operations makes is refused
    /// in turn, that for address space included: nothing is lost, what was allocated
    /// stays as it was, and all goes on.
    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn each_request_may_be_refused() {
        let mut random = 1_u64;
        let steps: Vec<[u8; 8]> = (0..120)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                let mut step = random.rotate_left(29).to_le_bytes();
                step[1] = 255;
                step
            })
            .collect();
        let kinds = [(Classes::Fine, 4 << 10), (Classes::General, 16 << 10)];
        for (classes, page_bytes) in kinds {
            with_page_bytes(page_bytes, || {
                // Where the region lies decides how much an alignment skips, and so how
                // many requests there are in a run.
                let (mut number, mut runs_without) = (0, 0);
                while runs_without < 10 {
                    match is_survived(number, classes, &steps) {
                        true => runs_without = 0,
                        false => runs_without += 1,
                    }
                    number += 1;
                }
                assert!(number > 30, "{number} requests");
            });
        }
    }

    /// Goes through the steps while the request of this number is refused. Returns
    /// whether there was such a request.
    fn is_survived(number: u32, classes: Classes, steps: &[[u8; 8]]) -> bool {
        let reserved = reserved_bytes();
        let (subject, met) = inject_at(number, || {
            let mut subject = Subject::new(classes, 24 << 20)?;
            let mut was_refused = false;
            for bytes in steps {
                let (op, faults) = Op::decode(&mut &bytes[..]).unwrap();
                subject.apply(op, faults);
                if has_refused() && !was_refused {
                    was_refused = true;
                    subject.check();
                }
            }
            Some(subject)
        });
        match subject {
            Some(subject) => {
                subject.check();
                subject.finish();
            }
            None => assert!(met, "address space is there"),
        }
        assert_eq!(reserved_bytes(), reserved, "request {number}");
        met
    }

    fn agrees(general: bool, steps: &[[u8; 8]]) {
        let classes = match general {
            true => Classes::General,
            false => Classes::Fine,
        };
        let bytes_max = if cfg!(miri) { 100 << 10 } else { 24 << 20 };
        let mut subject = Subject::new(classes, bytes_max).unwrap();
        for bytes in steps {
            let (op, faults) = Op::decode(&mut &bytes[..]).unwrap();
            subject.apply(op, faults);
            if !cfg!(miri) {
                subject.check();
            }
        }
        subject.finish();
    }
}

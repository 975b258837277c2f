//! `HandleArena`: objects that move, for safe code.
//!
//! Every object is a slice of bytes with exactly one [`Handle`], which its owner
//! keeps. [`HandleArena::compact`] moves the objects of sparse slabs into fuller
//! ones, and calls its owner with each object's bytes: the owner finds the object's
//! handle, most often by a key among those bytes, and lets it be patched. So nothing
//! leads to an object but the owner's own index, and what moving costs is in
//! proportion to the bytes moved, not to the objects held.
//!
//! Why this is sound without `unsafe` in the owner: a handle cannot be copied or
//! made up, [`HandleArena::remove`] takes it away, and only a handle that is shown to
//! name the object that moves is patched. An object that the owner does not find
//! stays where it is.
//!
//! ```
//! use slab_allocator::{ArenaOptions, Handle, HandleArena, VictimPolicy};
//! use std::collections::HashMap;
//!
//! let mut arena = HandleArena::new(&ArenaOptions::default()).expect("address space");
//! let mut index: HashMap<u32, Handle> = HashMap::new();
//! for key in 0..10_000u32 {
//!     // The object carries its key in its first four bytes.
//!     let mut object = [7; 100];
//!     object[..4].copy_from_slice(&key.to_le_bytes());
//!     index.insert(key, arena.insert(&object).expect("memory"));
//! }
//! for key in (0..10_000).filter(|key| key % 10 != 0) {
//!     arena.remove(index.remove(&key).unwrap());
//! }
//! let before = arena.arena().stats().slab_bytes;
//!
//! let compacted = arena.compact(&VictimPolicy::default(), usize::MAX, |object, relocation| {
//!     let key = u32::from_le_bytes(object[..4].try_into().unwrap());
//!     if let Some(handle) = index.get_mut(&key) {
//!         relocation.patch(handle);
//!     }
//! });
//! assert!(compacted.is_done && compacted.refused_objects == 0);
//! assert!(arena.arena().stats().slab_bytes < before / 4);
//! assert_eq!(arena.get(&index[&50])[..4], 50u32.to_le_bytes());
//! arena.purge_all();
//! ```
//!
//! `allocator/examples/compacting_cache.rs` is a cache that does this by itself,
//! slice by slice.

use crate::evacuation::{Victim, VictimPolicy};
use crate::local_arena::LocalArena;
use crate::options::ArenaOptions;
use crate::stats::Purged;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::units::PAGE_BYTES;
use core::cell::Cell;
use core::num::NonZeroU32;
use core::ptr::NonNull;

/// Every object begins with its length.
const HEADER_BYTES: usize = size_of::<u32>();

/// Number of the next arena. A number is never given twice, so that the handles of
/// one that is gone fit no later one.
static NEXT_ARENA: AtomicU32 = AtomicU32::new(0);

/// The one name of an object in a [`HandleArena`], 8 bytes long, as is
/// `Option<Handle>`.
///
/// A handle that is dropped leaves its object live until the arena is dropped, and
/// its slab with it: use [`HandleArena::remove`].
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "an object without its handle stays until the arena is dropped"]
pub struct Handle {
    /// Never 0, by the arena's promise.
    reference: NonZeroU32,
    arena: u32,
}

/// A move that is under way: the object has been copied, its handle still names the
/// old place.
#[derive(Debug)]
pub struct Relocation<'a> {
    old: NonZeroU32,
    new: NonZeroU32,
    arena: u32,
    is_done: &'a Cell<bool>,
}

impl Relocation<'_> {
    /// Lets the handle name the object's new place. False, with nothing changed, for
    /// the handle of any other object.
    pub fn patch(self, handle: &mut Handle) -> bool {
        let is_own = handle.arena == self.arena && handle.reference == self.old;
        if is_own {
            handle.reference = self.new;
            self.is_done.set(true);
        }
        is_own
    }
}

/// What a call of [`HandleArena::compact`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Nothing is left that is worth moving. False where the bytes were used up,
    /// or an object was refused.
    pub is_done: bool,
    /// Objects that were moved.
    pub moved_objects: usize,
    /// Their bytes.
    pub moved_bytes: usize,
    /// Objects whose handle was not patched, and which stay where they are.
    pub refused_objects: usize,
    /// Bytes of the pages that came free. They stay resident until they are purged.
    pub freed_bytes: usize,
}

/// A slab that is being emptied.
#[derive(Debug)]
struct Moving {
    victim: Victim,
    next_slot: u32,
    refused: bool,
}

/// An arena of byte slices that are named by handles, so that safe code can have
/// them moved together. See the [module](self) for an example.
///
/// Each object takes 4 bytes for its length on top of its own. Like [`LocalArena`],
/// it has no lock, no thread and no clock; it can be sent to another thread, and all
/// that it holds is dropped with it.
#[derive(Debug)]
pub struct HandleArena {
    arena: LocalArena,
    id: u32,
    moving: Option<Moving>,
}

impl HandleArena {
    /// Makes an arena. It takes address space, and memory only as it is used.
    /// `None` where the process may not have the address space.
    pub fn new(options: &ArenaOptions) -> Option<HandleArena> {
        // The number is all that is exchanged, so no other memory needs ordering.
        let id = NEXT_ARENA
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(1))
            .ok()?;
        Some(HandleArena {
            arena: LocalArena::new(options)?,
            id,
            moving: None,
        })
    }

    /// The arena below, for its statistics and predictions.
    pub fn arena(&self) -> &LocalArena {
        &self.arena
    }

    /// Copies the bytes into a new object. `None` if there is no memory, or if it is
    /// longer than 4 GiB.
    ///
    /// Takes constant time beside the copying.
    pub fn insert(&mut self, bytes: &[u8]) -> Option<Handle> {
        let (object, handle) = self.allocate(bytes.len())?;
        // SAFETY: the object is new and has room for so many bytes behind its header.
        unsafe {
            let start = object.add(HEADER_BYTES);
            start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        Some(handle)
    }

    /// Makes an object of `len` zero bytes, to be filled by
    /// [`HandleArena::get_mut`]. `None` as for [`HandleArena::insert`].
    pub fn insert_zeroed(&mut self, len: usize) -> Option<Handle> {
        let (object, handle) = self.allocate(len)?;
        // SAFETY: the object is new and has room for so many bytes behind its header.
        unsafe { object.add(HEADER_BYTES).write_bytes(0, len) };
        Some(handle)
    }

    /// An object whose header alone is written. Its caller writes the rest before
    /// anybody sees the handle.
    fn allocate(&mut self, len: usize) -> Option<(NonNull<u8>, Handle)> {
        let header = u32::try_from(len).ok()?;
        let object = self.arena.allocate(HEADER_BYTES + len)?;
        let reference = NonZeroU32::new(self.arena.reference_of(object))?;
        // SAFETY: the object is new, at least 4 bytes long and aligned to 8.
        unsafe { object.cast().write(header) };
        let arena = self.id;
        Some((object, Handle { reference, arena }))
    }

    /// The object, by its handle.
    ///
    /// # Panics
    /// If the handle is of another arena.
    fn object(&self, handle: &Handle) -> NonNull<u8> {
        assert_eq!(handle.arena, self.id, "a handle of another arena");
        self.arena.object_at(handle.reference.get())
    }

    /// The object's bytes, in constant time.
    ///
    /// # Panics
    /// If the handle is of another arena.
    pub fn get(&self, handle: &Handle) -> &[u8] {
        let object = self.object(handle);
        // SAFETY: a handle names a live object, whose bytes are written. They change
        // and move by way of the arena alone, which is borrowed.
        unsafe { bytes_of(object).as_ref() }
    }

    /// The object's bytes, to be changed in place.
    ///
    /// # Panics
    /// If the handle is of another arena.
    pub fn get_mut(&mut self, handle: &Handle) -> &mut [u8] {
        let object = self.object(handle);
        // SAFETY: as for `get`, and the arena is borrowed exclusively.
        unsafe { bytes_of(object).as_mut() }
    }

    /// Frees the object, in constant time.
    ///
    /// # Panics
    /// If the handle is of another arena.
    pub fn remove(&mut self, handle: Handle) {
        let object = self.object(&handle);
        // SAFETY: the handle names a live object of this size, and was its only name.
        unsafe {
            self.arena
                .free(object, HEADER_BYTES + bytes_of(object).len())
        };
    }

    /// Moves objects out of sparse slabs into fuller ones until slabs are worth
    /// emptying no more, or about `bytes_max` bytes have moved: the next call goes
    /// on from there. First whole slabs, then the last ones of each size class.
    ///
    /// For each object `relocate` is called with its bytes, and has to find its
    /// handle and to [`patch`](Relocation::patch) it. If it does not, the object and
    /// its slab stay, and the call ends with that slab; the next one may choose it
    /// again.
    ///
    /// Takes time in proportion to the bytes moved, and for each slab to the number
    /// of size classes in use: some 100 ns an object with `relocate`'s own time on
    /// top. If `relocate` panics, the object is where its handle says.
    pub fn compact(
        &mut self,
        policy: &VictimPolicy,
        bytes_max: usize,
        mut relocate: impl FnMut(&[u8], Relocation<'_>),
    ) -> Compacted {
        let mut compacted = Compacted::default();
        while compacted.moved_bytes < bytes_max {
            if self.moving.is_none() {
                self.moving = self.next_victim(policy);
            }
            let Some(moving) = &mut self.moving else {
                compacted.is_done = true;
                break;
            };
            match move_next(&mut self.arena, self.id, moving, &mut relocate) {
                Some(Ok(bytes)) => {
                    compacted.moved_objects += 1;
                    compacted.moved_bytes += bytes;
                }
                Some(Err(Refused)) => {
                    moving.refused = true;
                    compacted.refused_objects += 1;
                }
                None => {
                    let refused = moving.refused;
                    if let Some(moving) = self.moving.take() {
                        let pages = self.arena.finish(moving.victim).freed_pages;
                        compacted.freed_bytes += pages as usize * PAGE_BYTES;
                    }
                    if refused {
                        break;
                    }
                }
            }
        }
        compacted
    }

    fn next_victim(&mut self, policy: &VictimPolicy) -> Option<Moving> {
        let arena = &mut self.arena;
        let mut victim = arena.next_victim(policy);
        victim = victim.or_else(|| arena.next_merge());
        victim = victim.or_else(|| arena.next_packing());
        victim = victim.or_else(|| arena.next_lowering());
        Some(Moving {
            victim: victim?,
            next_slot: 0,
            refused: false,
        })
    }

    /// As [`LocalArena::purge_due`].
    pub fn purge_due(&mut self, now_ms: u64, bytes_max: usize) -> Purged {
        self.arena.purge_due(now_ms, bytes_max)
    }

    /// Gives back all free pages at once. Returns the bytes.
    pub fn purge_all(&mut self) -> usize {
        self.arena.purge_all()
    }
}

/// The object's owner did not patch its handle.
struct Refused;

/// An object that lies in two places. Frees the one that its handle does not name,
/// also when the owner panics.
struct Move<'a> {
    arena: &'a mut LocalArena,
    old: NonNull<u8>,
    new: NonNull<u8>,
    bytes: usize,
    is_done: Cell<bool>,
}

impl Drop for Move<'_> {
    fn drop(&mut self) {
        let unnamed = if self.is_done.get() {
            self.old
        } else {
            self.new
        };
        // SAFETY: both places were allocated with this size, and no handle names
        // this one.
        unsafe { self.arena.free(unnamed, self.bytes) };
    }
}

/// Moves the victim's next object; says how many bytes. `None` if there is none, or
/// no room for it.
fn move_next(
    arena: &mut LocalArena,
    id: u32,
    moving: &mut Moving,
    relocate: &mut impl FnMut(&[u8], Relocation<'_>),
) -> Option<Result<usize, Refused>> {
    let live = arena.live_from(&moving.victim, moving.next_slot)?;
    moving.next_slot = live.slot + 1;
    let old = live.object;
    // SAFETY: all of the arena's objects are made by `allocate` above.
    let bytes = HEADER_BYTES + unsafe { bytes_of(old) }.len();
    let new = arena.allocate_for_relocation(bytes, &moving.victim)?;
    // SAFETY: both are live, distinct, and hold that many bytes.
    unsafe { new.copy_from_nonoverlapping(old, bytes) };
    let references = (arena.reference_of(old), arena.reference_of(new));
    let copied = Move {
        arena,
        old,
        new,
        bytes,
        is_done: Cell::new(false),
    };
    let relocation = Relocation {
        old: NonZeroU32::new(references.0)?,
        new: NonZeroU32::new(references.1)?,
        arena: id,
        is_done: &copied.is_done,
    };
    // SAFETY: the copy is live and nobody writes to it: the owner cannot reach the
    // arena, which is borrowed.
    relocate(unsafe { bytes_of(new).as_ref() }, relocation);
    Some(if copied.is_done.get() {
        Ok(bytes)
    } else {
        Err(Refused)
    })
}

/// The bytes behind an object's header.
///
/// # Safety
/// The object is live and of a `HandleArena`.
unsafe fn bytes_of(object: NonNull<u8>) -> NonNull<[u8]> {
    // SAFETY: passed on to the caller; the header is part of every object.
    unsafe {
        let len: u32 = object.cast().read();
        NonNull::slice_from_raw_parts(object.add(HEADER_BYTES), len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::vec::Vec;

    const FULL: VictimPolicy = VictimPolicy {
        live_percent_max: 92,
    };

    /// Objects of several sizes by key, of which only each tenth is left.
    fn sparse(count: u32) -> (HandleArena, HashMap<u32, Handle>) {
        let options = ArenaOptions {
            region_bytes: 64 << 20,
            ..ArenaOptions::default()
        };
        let mut arena = HandleArena::new(&options).unwrap();
        let mut index = HashMap::new();
        for key in 0..count {
            index.insert(key, arena.insert(&object(key)).unwrap());
        }
        for key in (0..count).filter(|key| key % 10 != 3) {
            arena.remove(index.remove(&key).unwrap());
        }
        (arena, index)
    }

    fn object(key: u32) -> Vec<u8> {
        let mut bytes = key.to_le_bytes().to_vec();
        bytes.resize(4 + (key as usize * 37) % 700, key as u8);
        bytes
    }

    fn key_of(bytes: &[u8]) -> u32 {
        u32::from_le_bytes(bytes[..4].try_into().unwrap())
    }

    fn check(arena: &HandleArena, index: &HashMap<u32, Handle>) {
        arena.arena().check();
        for (key, handle) in index {
            assert_eq!(arena.get(handle), object(*key));
        }
    }

    #[test]
    fn objects_move_together_slice_by_slice_and_keep_their_bytes() {
        let count = if cfg!(miri) { 300 } else { 20_000 };
        let (mut arena, mut index) = sparse(count);
        let before = arena.arena().stats();
        let (mut slices, mut moved) = (0, 0);
        loop {
            let done = arena.compact(&FULL, 1000, |bytes, relocation| {
                let handle = index.get_mut(&key_of(bytes)).unwrap();
                assert!(relocation.patch(handle));
            });
            assert!(done.moved_bytes < 1000 + HEADER_BYTES + 704);
            moved += done.moved_objects;
            slices += 1;
            // The owner changes things between slices.
            if slices % 8 == 1 {
                let key = *index.keys().next().unwrap();
                arena.remove(index.remove(&key).unwrap());
                index.insert(key, arena.insert(&object(key)).unwrap());
            }
            if slices % 64 == 0 {
                check(&arena, &index);
            }
            if done.is_done {
                break;
            }
        }
        check(&arena, &index);
        arena.purge_all();
        let after = arena.arena().stats();
        assert_eq!(after.live_bytes - after.guest_bytes, {
            let sizes = index.keys().map(|key| object(*key).len() + HEADER_BYTES);
            sizes.map(|size| arena.arena().usable_size_for(size)).sum()
        });
        assert!(moved > 0);
        if !cfg!(miri) {
            assert!(
                after.slab_bytes - after.punched_bytes
                    < (before.slab_bytes - before.punched_bytes) / 4
            );
        }
        for (_, handle) in index {
            arena.remove(handle);
        }
        arena.arena().check();
        assert_eq!(arena.arena().stats().live_bytes, 0);
    }

    #[test]
    fn what_the_owner_does_not_patch_stays() {
        let count = if cfg!(miri) { 300 } else { 5000 };
        let (mut arena, mut index) = sparse(count);
        let live = arena.arena().stats().live_bytes;
        let done = arena.compact(&FULL, usize::MAX, |_, _| ());
        assert!(!done.is_done && done.refused_objects > 0 && done.moved_objects == 0);
        // Another object's handle is none for this one.
        let wrong = index.remove(&3).unwrap();
        let mut wrong = Some(wrong);
        let done = arena.compact(&FULL, usize::MAX, |bytes, relocation| {
            if key_of(bytes) != 3 {
                assert!(!relocation.patch(wrong.as_mut().unwrap()));
            }
        });
        assert_eq!(done.moved_objects, 0);
        index.insert(3, wrong.take().unwrap());
        check(&arena, &index);
        assert_eq!(arena.arena().stats().live_bytes, live);
    }

    #[test]
    fn an_owner_that_panics_loses_nothing() {
        let count = if cfg!(miri) { 300 } else { 5000 };
        let (mut arena, mut index) = sparse(count);
        let live = arena.arena().stats().live_bytes;
        for patches in [false, true] {
            let panics = catch_unwind(AssertUnwindSafe(|| {
                arena.compact(&FULL, usize::MAX, |bytes, relocation| {
                    if patches {
                        relocation.patch(index.get_mut(&key_of(bytes)).unwrap());
                    }
                    panic!("the owner's");
                })
            }));
            assert!(panics.is_err());
            check(&arena, &index);
            assert_eq!(arena.arena().stats().live_bytes, live);
        }
    }

    #[test]
    #[should_panic(expected = "a handle of another arena")]
    fn handles_of_other_arenas_are_noticed() {
        let options = ArenaOptions {
            region_bytes: 64 << 20,
            ..ArenaOptions::default()
        };
        let mut first = HandleArena::new(&options).unwrap();
        let second = HandleArena::new(&options).unwrap();
        let handle = first.insert(b"first").unwrap();
        second.get(&handle);
    }

    #[test]
    fn objects_of_any_length_are_whole() {
        let options = ArenaOptions {
            region_bytes: 64 << 20,
            ..ArenaOptions::default()
        };
        let mut arena = HandleArena::new(&options).unwrap();
        assert_eq!(size_of::<Option<Handle>>(), 8);
        let empty = arena.insert(b"").unwrap();
        let long = arena.insert_zeroed(300_000).unwrap();
        assert!(arena.insert_zeroed(100 << 20).is_none());
        assert_eq!(arena.get(&empty), b"");
        arena.get_mut(&long)[299_999] = 1;
        assert_eq!(
            arena.get(&long).iter().map(|b| *b as usize).sum::<usize>(),
            1
        );
        arena.remove(empty);
        arena.remove(long);
        let stats = arena.arena().stats();
        assert_eq!((stats.live_bytes, stats.large_bytes), (0, 0));
    }
}

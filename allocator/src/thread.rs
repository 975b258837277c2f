//! Threads as the process heap sees them: the one thread-local pointer, and the
//! records that it leads to.
//!
//! The pointer has no destructor, since Rust's thread-locals with one may
//! allocate when they are first used. It starts at [`CLOSED`], a record whose cache
//! has no room, so that the fast paths need no test for a thread that is new: its
//! first allocation or free takes the slow path. The end of a thread is told by a
//! pthread key. Destructors of other keys may run after that and allocate: the
//! pointer is at [`LATE`] then, another record without room.

use crate::arena_table::ArenaTable;
use crate::hardened::Quarantine;
use crate::metadata::{Area, Table};
use crate::os;
use crate::process_arena::ProcessArena;
use crate::tenancy::Tenancy;
use crate::thread_cache::{Arrays, ThreadCache};
use crate::tls::thread_pointer;
use crate::units::{PAGE_BYTES, PageIndex, PageRun};
use core::cell::Cell;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr;

/// Most threads that can have a cache at the same time; any more do without. Where
/// address space is scarce there are as many as fit in one byte of so many, but at least
/// the last number.
const THREADS_MAX: usize = 1 << 16;
const ADDRESS_SHARE: usize = 8;
const THREADS_MAX_MIN: usize = 1 << 6;

/// Free records that keep their memory for the next threads.
const WARM_RECORDS_MAX: u32 = 8;

/// What the heap keeps for a thread.
#[repr(C)]
pub(crate) struct Thread {
    pub(crate) cache: ThreadCache,
    /// What the thread has freed and the hardened mode holds back.
    pub(crate) quarantine: Quarantine,
    /// The arena that fills the cache.
    arena: Cell<u16>,
    /// The last tick of the process's clock that the thread has answered.
    pub(crate) epoch: Cell<u32>,
    /// The record's place in the registry.
    index: Cell<u32>,
    /// The thread is at work for the heap profile: what it allocates meanwhile is not
    /// the program's.
    profiles: Cell<bool>,
}

// SAFETY: The cells belong to the thread that uses the record, and those of free
// records to the registry. Other threads read the cache alone, as it allows.
unsafe impl Sync for Thread {}

impl Thread {
    const fn closed() -> Self {
        Self {
            cache: ThreadCache::closed(),
            quarantine: Quarantine::new(),
            arena: Cell::new(0),
            epoch: Cell::new(0),
            index: Cell::new(0),
            profiles: Cell::new(false),
        }
    }

    /// The number of the arena that fills the thread's cache.
    #[inline]
    pub(crate) fn arena(&self) -> u16 {
        self.arena.get()
    }

    /// Whether the thread is at work for the heap profile.
    pub(crate) fn profiles(&self) -> bool {
        self.profiles.get()
    }

    /// Runs `act` as work for the heap profile.
    pub(crate) fn profile<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = self.profiles.replace(true);
        let result = act();
        self.profiles.set(before);
        result
    }

    /// How many slots of the class the thread holds that the program has not. Another
    /// thread may ask, as with [`ThreadCache::len`].
    pub(crate) fn cached(&self, class: usize) -> usize {
        self.cache.len(class) + self.quarantine.len(class)
    }

    /// Bytes of pages that the thread's record lies on, as far as it is in use. Another
    /// thread may ask.
    pub(crate) fn resident_bytes(&self) -> usize {
        // The cache counts them by a bit each.
        const { assert!(STRIDE <= 128 * PAGE_BYTES) };
        self.cache.resident_bytes(offset_of!(Record, arrays))
    }

    /// Whether the thread has a cache of its own.
    #[inline]
    pub(crate) fn has_cache(&self) -> bool {
        !ptr::eq(self, &CLOSED) && !self.is_late()
    }

    /// Whether the thread is about to end, and has given its cache up.
    #[inline]
    pub(crate) fn is_late(&self) -> bool {
        ptr::eq(self, &LATE)
    }
}

/// The record of every thread that has not called the heap yet.
static CLOSED: Thread = Thread::closed();

/// The record of every thread whose destructors are running.
static LATE: Thread = Thread::closed();

thread_pointer!(get_pointer, set_pointer, super::Thread, CLOSED);

/// The calling thread's record.
#[inline(always)]
pub(crate) fn current() -> &'static Thread {
    get_pointer()
}

/// Makes the record the calling thread's.
pub(crate) fn set_current(thread: &'static Thread) {
    set_pointer(thread);
}

/// Notes that the calling thread is about to end.
pub(crate) fn set_late() {
    set_current(&LATE);
}

/// Which records are in use, and which arena each thread uses.
pub(crate) struct Registry {
    area: Area,
    /// Records made so far.
    made: u32,
    /// A bit for every record below `made` that no thread uses. Apart, since most
    /// programs never have so many threads that more than the first word counts.
    free: Table<u64>,
    free_count: u32,
    tenancy: Tenancy,
}

/// What the registry has for each thread.
#[repr(C)]
struct Record {
    thread: Thread,
    /// Behind the rest, since most of them are never used.
    arrays: Arrays,
}

/// Bytes from one record to the next.
const STRIDE: usize = size_of::<Record>().next_multiple_of(PAGE_BYTES);

impl Registry {
    /// A registry without threads, of which so many may have an arena each; `None` where
    /// the process may not have the address space.
    pub(crate) fn new(unshared_arenas: u32) -> Option<Self> {
        let fitting = os::address_space_max() / ADDRESS_SHARE / STRIDE;
        let mut threads_max = fitting.clamp(THREADS_MAX_MIN, THREADS_MAX);
        let area = loop {
            match Area::reserve(threads_max * STRIDE, PAGE_BYTES, 8 * STRIDE) {
                Some(area) => break area,
                None if threads_max == THREADS_MAX_MIN => return None,
                None => threads_max = (threads_max / 2).max(THREADS_MAX_MIN),
            }
        };
        Some(Self {
            area,
            made: 0,
            free: Table::with_len(THREADS_MAX / 64)?,
            free_count: 0,
            tenancy: Tenancy::new(unshared_arenas),
        })
    }

    /// A record for a thread that has none, with an [arena](Tenancy::enter) and an open
    /// cache. `None` where memory is short.
    pub(crate) fn attach(
        &mut self,
        arenas: &ArenaTable,
        cache_budget: usize,
    ) -> Option<&'static Thread> {
        let record = self.take_record()?;
        let thread = &record.thread;
        let made = arenas.iter().count();
        // SAFETY: The registry is borrowed exclusively, and nobody else adds.
        let add = || unsafe { arenas.add() }.map(ProcessArena::number);
        let Some(arena) = self.tenancy.enter(made, add) else {
            self.put_record(thread.index.get());
            return None;
        };
        thread.arena.set(arena);
        // SAFETY: No thread uses the record yet, and the arrays are a part of it.
        unsafe { thread.cache.open(&record.arrays, cache_budget) };
        thread.quarantine.forget();
        Some(thread)
    }

    /// Takes the record of a thread back that is about to end and whose cache is
    /// empty. Returns whether no thread uses its arena any more.
    pub(crate) fn detach(&mut self, thread: &'static Thread) -> bool {
        let unused = self.tenancy.leave(thread.arena());
        self.put_record(thread.index.get());
        unused
    }

    /// Takes the records of all threads but one back, which a fork has left in the
    /// parent. What lies in their caches is lost.
    pub(crate) fn detach_others(&mut self, survivor: &'static Thread) {
        for index in 0..self.made {
            let thread = &self.record(index).thread;
            if !self.is_free(index) && !ptr::eq(thread, survivor) {
                self.detach(thread);
            }
        }
    }

    /// The records that threads use.
    pub(crate) fn attached(&self) -> impl Iterator<Item = &'static Thread> {
        (0..self.made)
            .filter(|index| !self.is_free(*index))
            .map(|index| &self.record(index).thread)
    }

    /// The first record from this number on that a thread uses, and its number.
    pub(crate) fn attached_from(&self, first: u32) -> Option<(u32, &'static Thread)> {
        (first..self.made)
            .find(|index| !self.is_free(*index))
            .map(|index| (index, &self.record(index).thread))
    }

    /// Threads that use the arena.
    pub(crate) fn users(&self, arena: u16) -> u32 {
        self.tenancy.users(arena)
    }

    fn record(&self, index: u32) -> &'static Record {
        debug_assert!(index < self.made);
        // SAFETY: Records below `made` are committed, valid as zeros or as they
        // were written, and stay as long as the process.
        unsafe {
            self.area
                .start()
                .add(index as usize * STRIDE)
                .cast()
                .as_ref()
        }
    }

    fn is_free(&self, index: u32) -> bool {
        self.free.items()[index as usize / 64] >> (index % 64) & 1 != 0
    }

    /// The lowest free record, else a new one.
    fn take_record(&mut self) -> Option<&'static Record> {
        let words = self.free.items_mut();
        let free = match self.free_count {
            0 => None,
            _ => words.iter().position(|word| *word != 0),
        };
        let index = match free {
            Some(word) => {
                let bits = words[word];
                words[word] = bits & (bits - 1);
                self.free_count -= 1;
                word as u32 * 64 + bits.trailing_zeros()
            }
            None => {
                let index = self.made;
                if !self.area.grow_to((index as usize + 1) * STRIDE) {
                    return None;
                }
                self.made += 1;
                index
            }
        };
        let record = self.record(index);
        record.thread.index.set(index);
        Some(record)
    }

    fn put_record(&mut self, index: u32) {
        self.free.items_mut()[index as usize / 64] |= 1 << (index % 64);
        self.free_count += 1;
        if self.free_count > WARM_RECORDS_MAX {
            // Zeros are a record with a closed cache. If the system refuses, or its
            // pages hold parts of others, the record is as good as it was.
            if os::page_bytes() > PAGE_BYTES {
                return;
            }
            let pages = (STRIDE / PAGE_BYTES) as u32;
            self.area.purge(&[PageRun {
                start: PageIndex(index * pages),
                pages,
            }]);
        }
    }
}

/// Has `hook` called with the record of each thread that ends after it was
/// [armed](ExitKey::arm).
#[derive(Clone, Copy)]
pub(crate) struct ExitKey(libc::pthread_key_t);

impl ExitKey {
    /// Creates the key; `None` where the process has used up its keys.
    pub(crate) fn new(hook: unsafe extern "C" fn(*mut c_void)) -> Option<Self> {
        let mut key = 0;
        // SAFETY: The hook is a function for as long as the process lives.
        let failed = unsafe { libc::pthread_key_create(&raw mut key, Some(hook)) };
        (failed == 0).then_some(Self(key))
    }

    /// Has the hook called when the calling thread ends.
    pub(crate) fn arm(self, thread: &'static Thread) {
        // SAFETY: The key exists. The value is only passed to the hook. Should
        // this fail, the record is not given back when the thread ends.
        unsafe { libc::pthread_setspecific(self.0, ptr::from_ref(thread).cast()) };
    }
}

//! The process heap as a whole: the one that backs the global allocator. Made by
//! the first thread that needs it, and never unmade.
//!
//! Here the parts below are put together: threads attach and leave, the fork
//! handlers take every lock in rank order, and the purge thread's tick goes over
//! arenas and pages.

use crate::arena_table::ArenaTable;
use crate::background::{Background, Work};
use crate::cache_capacity::{budget_bytes, whole_pages};
use crate::fatal::complain;
use crate::fork::{Handlers, Registration};
use crate::hardened::{self, Dice};
use crate::heap_profile::PROFILE;
use crate::heap_stats::Sources;
use crate::os;
use crate::page_heap::PageHeapOptions;
use crate::process_arena::{CLASSES, ProcessArena};
use crate::purger::{Caller, DIRTY_PAGES_START, DIRTY_PAGES_WAKE, PURGE_PAGES_MAX, Purger};
use crate::refault::Refaults;
use crate::report;
use crate::settings::{self, ExitReport, HugePages, Settings};
use crate::shared_pages::SharedPages;
use crate::size_class::GENERAL;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize};
use crate::sync::{Errno, Lock, Rank};
use crate::tenancy::ARENAS_MAX;
use crate::thread::{self, ExitKey, Registry, Thread};
use crate::thread_cache::Due;
use crate::units::{CHUNK_BYTES, PAGE_BYTES};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::MaybeUninit;

/// Address space of the heap, in bytes, if the process may have it; else half, and
/// so on down to the least of use.
const REGION_BYTES_MAX: usize = 1 << 40;
const REGION_BYTES_MIN: usize = 16 << 20;

/// The heap.
pub(crate) struct Process {
    pub(crate) pages: SharedPages,
    pub(crate) arenas: ArenaTable,
    registry: Lock<Registry>,
    exit_key: Option<ExitKey>,
}

struct Place {
    made: AtomicBool,
    making: Lock<()>,
    process: UnsafeCell<MaybeUninit<Process>>,
}

// SAFETY: `process` is written under the lock before `made` is set, and shared
// after that.
unsafe impl Sync for Place {}

static PLACE: Place = Place {
    made: AtomicBool::new(false),
    making: Lock::new(Rank::Registry, ()),
    process: UnsafeCell::new(MaybeUninit::uninit()),
};

static FORK: Registration = Registration::new(Handlers {
    prepare: fork_prepare,
    parent: fork_parent,
    child: fork_child,
});

static BACKGROUND: Background = Background::new(Work { tick, has_work });

/// Batches of slots that were left to other arenas' owners, as far as they are
/// counted, and from how many on it is worth a thread to look after them.
static MAILED: AtomicU32 = AtomicU32::new(0);
const MAILED_START: u32 = 32;

/// Bytes that a thread's cache may hold, before however large a heap.
static CACHE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Milliseconds within which free pages go back to the system, as last set.
static PURGE_DELAY_MS: AtomicU32 = AtomicU32::new(0);

/// The [`ExitReport`] that is written when the program exits.
static STATS_AT_EXIT: AtomicU8 = AtomicU8::new(ExitReport::None as u8);

/// Periods after which a thread that took no slow path has been away: what its cache
/// holds was of use then, and is not now.
const AWAY_PERIODS: u32 = 2;

static PURGER: Purger = Purger::new();

/// Resident pages from which on an allocation starts the purge thread, where a free
/// may not.
const RESIDENT_PAGES_START: u32 = (16 << 20) / PAGE_BYTES as u32;

/// Free pages for which a free starts the purge thread where the C library frees here,
/// too, if no fewer than are in use and the process has had no other thread.
const DIRTY_PAGES_LEFT: u32 = (2 << 20) / PAGE_BYTES as u32;

/// Whether a free may start the purge thread at any time. Not where the C library itself
/// frees here: it does so with the lock held that it takes to start a thread. It allocates
/// without that lock, so there an allocation starts the thread, in time; a free does in a
/// process that has had no other.
static FREES_START: AtomicBool = AtomicBool::new(true);

impl Process {
    /// The heap, if it has been made.
    #[inline]
    pub(crate) fn get() -> Option<&'static Self> {
        // Acquire meets the Release of `make`.
        // SAFETY: The heap was written before `made` was set.
        PLACE
            .made
            .load(Acquire)
            .then(|| unsafe { Self::get_unchecked() })
    }

    /// The heap.
    ///
    /// # Safety
    ///
    /// It has been made: a thread has attached, or an object exists.
    #[inline(always)]
    pub(crate) unsafe fn get_unchecked() -> &'static Self {
        // SAFETY: Written once, before the caller could know of it.
        unsafe { (*PLACE.process.get()).assume_init_ref() }
    }

    /// The heap, which is made if need be; `None` where the process may not have
    /// the address space.
    pub(crate) fn get_or_make() -> Option<&'static Self> {
        match Self::get() {
            Some(process) => Some(process),
            None => Self::make(),
        }
    }

    /// Reserves what the heap needs, with a region as large as possible.
    fn new(settings: &Settings) -> Option<Self> {
        // Under a limit the rest is for the program: its own mappings and stacks.
        let mut region_bytes = (os::address_space_max() / 2).min(REGION_BYTES_MAX);
        let errno = Errno::save();
        while region_bytes >= REGION_BYTES_MIN {
            if let Some(mut process) = Self::with_region(region_bytes, settings) {
                process.exit_key = ExitKey::new(thread_exit);
                errno.restore();
                return Some(process);
            }
            region_bytes /= 2;
        }
        None
    }

    fn with_region(region_bytes: usize, settings: &Settings) -> Option<Self> {
        let region_bytes = region_bytes.next_multiple_of(CHUNK_BYTES);
        let processors = processors();
        // A thread may be kept from its processor while it holds a lock that others wait
        // for, and so may as many as there are processors: hence more than these.
        let arenas_max = (processors * 4).min(ARENAS_MAX);
        Some(Self {
            pages: SharedPages::new(&PageHeapOptions {
                region_bytes,
                region_bytes_min: region_bytes,
                decay_ms: settings.purge_delay_ms,
            })?,
            arenas: ArenaTable::new(arenas_max as u16)?,
            registry: Lock::new(Rank::Registry, Registry::new(processors.max(2) as u32)?),
            exit_key: None,
        })
    }

    #[cold]
    fn make() -> Option<&'static Self> {
        {
            let _making = PLACE.making.lock();
            if !PLACE.made.load(Relaxed) {
                hardened::initialise();
                let settings = settings_of_environment();
                let process = Self::new(&settings)?;
                PURGE_DELAY_MS.store(settings.purge_delay_ms, Relaxed);
                CACHE_BYTES.store(settings.cache_bytes, Relaxed);
                PURGER.set_wants_huge(settings.huge_pages == HugePages::Dense);
                STATS_AT_EXIT.store(settings.stats_at_exit as u8, Relaxed);
                if !settings.background_thread {
                    BACKGROUND.forbid();
                }
                // SAFETY: The lock is held and nobody has seen the place yet.
                unsafe { (*PLACE.process.get()).write(process) };
                // Release meets the Acquire of `get`.
                PLACE.made.store(true, Release);
            }
        }
        // Without the lock, as the system may allocate here.
        static COMPLETED: AtomicBool = AtomicBool::new(false);
        if !COMPLETED.swap(true, Relaxed) {
            FORK.register_with_threads();
            if exit_report() != ExitReport::None {
                call_at_exit();
            }
        }
        Self::get()
    }

    /// Gives the calling thread, which has none, a cache and an arena. `None`
    /// where it has to do without.
    #[cold]
    pub(crate) fn attach(&self) -> Option<&'static Thread> {
        FORK.note_threads();
        if thread::current().is_late() {
            return None;
        }
        let budget = budget_bytes(0, 0, CACHE_BYTES.load(Relaxed));
        let thread = {
            let mut registry = self.registry.lock();
            let thread = registry.attach(&self.arenas, budget)?;
            // Under the lock, lest a profile that starts now miss the thread.
            if PROFILE.state() != 0 {
                thread.cache.end_reuse();
            }
            thread
        };
        thread::set_current(thread);
        if let Some(key) = self.exit_key {
            key.arm(thread);
        }
        Some(thread)
    }

    /// Has every thread's allocations counted from its next slow path on, which comes
    /// soon then: they take no more what was just freed. For a heap profile.
    pub(crate) fn end_reuse(&self) {
        let registry = self.registry.lock();
        registry
            .attached()
            .for_each(|thread| thread.cache.end_reuse());
    }

    /// The arena that serves the thread.
    #[inline]
    pub(crate) fn arena_of(&self, thread: &Thread) -> &ProcessArena {
        self.arenas.arena(thread.arena())
    }

    /// The arena of threads without a cache; `None` where memory is short.
    pub(crate) fn common_arena(&self) -> Option<&ProcessArena> {
        if self.arenas.is_empty() {
            let _registry = self.registry.lock();
            // SAFETY: Arenas are added under the registry's lock alone.
            unsafe { self.arenas.add() };
        }
        (!self.arenas.is_empty()).then(|| self.arenas.arena(0))
    }

    /// Gets slots for the thread to allocate, when it has none of the class; false
    /// where memory is exhausted.
    pub(crate) fn fill(&self, thread: &'static Thread, class: usize) -> bool {
        // Before the slots come, which a tick might flush.
        self.after_slow_event(thread);
        if thread.cache.is_sparse(class) {
            self.flush(thread, class, usize::MAX);
        }
        let room = thread.cache.room_for_fill(class);
        let arena = self.arena_of(thread);
        let mut filled = arena.fill(&self.pages, class, room);
        if filled.count == 0 {
            self.flush_all(thread);
            self.reclaim();
            filled = arena.fill(&self.pages, class, room);
        }
        // The stack gives out what lies last, and slots are best used in the order
        // of their addresses, unless that is to be random.
        Dice::throw().arrange(&mut room[..filled.count]);
        thread.cache.filled(class, filled.count);
        thread.cache.set_spread(class, filled.spread);
        self.start_if_due();
        filled.count > 0
    }

    /// Makes room for a slot that the thread frees, when there is none.
    pub(crate) fn make_room(&self, thread: &'static Thread, class: usize) {
        // Before the class grows, which a tick might take back.
        self.after_slow_event(thread);
        // Most likely it frees what others allocate, and has no use for it.
        let returns = thread.cache.only_frees(class);
        let grows = match returns {
            true => thread.cache.grow_to_return(class),
            false => thread.cache.grow(class),
        };
        if !grows {
            let freed = thread.cache.freed(class, usize::MAX);
            let count = if thread.cache.is_sparse(class) {
                freed.len()
            } else if returns {
                whole_pages(freed, freed.len())
            } else {
                whole_pages(freed, freed.len().div_ceil(2))
            };
            self.flush(thread, class, count);
            if thread.cache.is_full(class) {
                // The slabs have turned out not to be dense any more, so the class may
                // hold less than it does.
                self.flush(thread, class, usize::MAX);
            }
        }
    }

    /// Returns the `count` slots of the class that the thread freed first to their
    /// slabs.
    fn flush(&self, thread: &'static Thread, class: usize, count: usize) {
        if PROFILE.state() != 0 {
            self.take_sampled(thread, class);
        }
        let slots = thread.cache.freed(class, count);
        if !slots.is_empty() {
            // SAFETY: The cache holds free slots of the class, and forgets them.
            let released = unsafe {
                self.arenas
                    .release(&self.pages, thread.arena(), class, slots)
            };
            thread.cache.flushed(class, slots.len());
            if let Some(spread) = released.spread {
                thread.cache.set_spread(class, spread);
            }
            if released.mailed {
                let many = || MAILED.fetch_add(1, Relaxed) >= MAILED_START;
                self.notify(FREES_START.load(Relaxed) && (BACKGROUND.is_started() || many()));
            }
        }
    }

    /// Frees the sampled objects among what the thread freed as slots of the class.
    #[cold]
    pub(crate) fn take_sampled(&self, thread: &'static Thread, class: usize) {
        let freed = thread.cache.freed(class, usize::MAX);
        // Sampled objects start on pages of their own.
        let may_be = |object: &*mut u8| object.addr().is_multiple_of(PAGE_BYTES);
        if !freed.iter().any(may_be) {
            return;
        }
        let bytes = GENERAL.class(class).size as usize;
        thread.cache.retain_freed(class, |object| {
            // SAFETY: The object's owner has given it away.
            !(may_be(&object) && unsafe { PROFILE.free(&self.pages, object, Some(bytes)) })
        });
    }

    /// Returns all slots of the class in the thread's cache to their slabs.
    fn flush_class(&self, thread: &'static Thread, class: usize) {
        self.flush(thread, class, usize::MAX);
        if thread.cache.turn_to_flush(class) {
            self.flush(thread, class, usize::MAX);
        }
    }

    /// Returns everything in the calling thread's cache to the slabs.
    pub(crate) fn flush_all(&self, thread: &'static Thread) {
        self.end_quarantine(thread);
        for class in 0..CLASSES {
            self.flush_class(thread, class);
        }
    }

    /// Returns what the hardened mode holds back to the slabs.
    #[inline]
    fn end_quarantine(&self, thread: &'static Thread) {
        thread.quarantine.drain(|address, class| {
            let slots = [self.pages.pointer(address)];
            // SAFETY: The quarantine holds free slots of the class, and forgets them.
            unsafe {
                self.arenas
                    .release(&self.pages, thread.arena(), class, &slots)
            };
        });
    }

    /// What a fill or a flush may call for besides: the purge thread, and the
    /// clock of the thread's cache, lest idle classes hold memory.
    #[inline]
    fn after_slow_event(&self, thread: &'static Thread) {
        self.notify_if_dirty();
        let epoch = PURGER.epoch();
        let due = thread.cache.slow_event();
        if thread.epoch.get() != epoch {
            if epoch.wrapping_sub(thread.epoch.get()) >= AWAY_PERIODS {
                thread.cache.forget_use();
                self.end_quarantine(thread);
            }
            thread.epoch.set(epoch);
            self.tick_cache(thread);
        } else if due == Due::Tick {
            self.tick_cache(thread);
        } else if due == Due::Look {
            self.adapt_cache(thread, |class| thread.cache.trim(class));
        }
    }

    #[cold]
    fn tick_cache(&self, thread: &'static Thread) {
        self.adapt_cache(thread, |class| thread.cache.tick(class));
        thread.cache.ticked();
        if !BACKGROUND.is_started() {
            self.arena_of(thread).settle_whole_slabs(&self.pages);
        }
    }

    /// Gives the cache the budget that befits its arena, and flushes the classes for
    /// which `has_shrunk` says so.
    #[cold]
    fn adapt_cache(&self, thread: &'static Thread, has_shrunk: impl Fn(usize) -> bool) {
        let taken_bytes = self.arena_of(thread).taken_bytes();
        thread
            .cache
            .adapt_budget(taken_bytes, CACHE_BYTES.load(Relaxed));
        for class in 0..CLASSES {
            if has_shrunk(class) {
                self.flush_class(thread, class);
            }
        }
    }

    /// Wakes the purge thread if there is something for it.
    #[inline]
    pub(crate) fn notify_if_dirty(&self) {
        let dirty = self.pages.dirty();
        if dirty >= DIRTY_PAGES_WAKE {
            self.notify(self.frees_may_start(dirty));
        }
    }

    /// Whether a free may start the purge thread for so many free pages.
    fn frees_may_start(&self, dirty: u32) -> bool {
        match FREES_START.load(Relaxed) {
            true => dirty >= DIRTY_PAGES_START,
            // The C library frees what a thread had with that lock held: not as long as
            // there has been no other thread. Nobody may call the heap any more who could
            // start ours later, so this is for what a program leaves behind.
            false => {
                dirty >= DIRTY_PAGES_LEFT && dirty >= self.pages.resident() / 2 && FORK.is_alone()
            }
        }
    }

    /// Starts the purge thread from an allocation, where frees may not and it will be
    /// needed; wakes or starts it for dense chunks, which take no frees.
    #[inline]
    pub(crate) fn start_if_due(&self) {
        let resident = self.pages.resident();
        let due = self.pages.dirty() >= DIRTY_PAGES_START || resident >= RESIDENT_PAGES_START;
        if due && !FREES_START.load(Relaxed) {
            BACKGROUND.start_once();
        }
        if PURGER.may_have_dense(resident) {
            BACKGROUND.notify(true);
        }
    }

    /// Wakes the purge thread, and starts it if that is allowed. Where the system
    /// has refused it, does its work here now and then.
    #[inline]
    fn notify(&self, may_start: bool) {
        if !BACKGROUND.notify(may_start) {
            self.tick_without_thread();
        }
    }

    #[cold]
    fn tick_without_thread(&self) {
        let now_ms = os::now_ms();
        if PURGER.is_period_over(now_ms) {
            PURGER.tick(&self.pages, &self.arenas, now_ms, Caller::Program);
        }
    }

    /// Takes back all that other threads have freed and that idle arenas keep,
    /// when memory has run out.
    #[cold]
    pub(crate) fn reclaim(&self) {
        self.pages.with(|pages| {
            pages
                .fences
                .release_all(&mut pages.source.pages, &mut pages.large)
        });
        for arena in self.arenas.iter() {
            arena.settle(&self.pages);
            arena.settle(&self.pages);
        }
    }

    /// Gives back what free pages there are, up to [`PURGE_PAGES_MAX`].
    pub(crate) fn purge_some(&self) {
        self.reclaim();
        self.pages
            .with(|pages| pages.source.pages.purge(PURGE_PAGES_MAX));
    }

    /// Gives all free pages back at once. Returns the bytes.
    pub(crate) fn purge_all(&self) -> usize {
        self.reclaim();
        let mut bytes = 0;
        loop {
            let purged = self
                .pages
                .with(|pages| pages.source.pages.purge(PURGE_PAGES_MAX));
            bytes += purged as usize * PAGE_BYTES;
            if purged < PURGE_PAGES_MAX {
                return bytes + self.pages.with(|pages| pages.source.records.purge());
            }
        }
    }

    /// Where statistics come from.
    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources {
            pages: &self.pages,
            arenas: &self.arenas,
            registry: &self.registry,
        }
    }

    /// Changes the time in milliseconds within which free pages are given back.
    pub(crate) fn set_purge_delay_ms(&self, purge_delay_ms: u32) {
        PURGE_DELAY_MS.store(purge_delay_ms, Relaxed);
        self.pages.with(|pages| {
            pages.refaults = Refaults::new(purge_delay_ms);
            pages.source.pages.set_decay_ms(purge_delay_ms);
        });
        self.notify_if_dirty();
    }

    /// Allows the purge thread, or ends it.
    pub(crate) fn set_background_thread(&self, wanted: bool) {
        if wanted {
            BACKGROUND.allow();
        } else {
            BACKGROUND.forbid();
        }
        self.notify_if_dirty();
    }

    /// Changes how much a thread's cache may hold; each thread learns of it with the
    /// next tick of its cache.
    pub(crate) fn set_cache_bytes(&self, cache_bytes: usize) {
        CACHE_BYTES.store(cache_bytes, Relaxed);
        PURGER.next_epoch();
    }

    /// Changes which memory gets huge pages.
    pub(crate) fn set_huge_pages(&self, huge_pages: HugePages) {
        PURGER.set_wants_huge(huge_pages == HugePages::Dense);
        if huge_pages == HugePages::Off {
            self.pages
                .with(|pages| pages.source.pages.demote_everything());
        } else {
            // The thread may have nothing else to do.
            BACKGROUND.notify(false);
        }
    }

    /// Has figures written at exit, or not.
    pub(crate) fn set_stats_at_exit(&self, wanted: ExitReport) {
        STATS_AT_EXIT.store(wanted as u8, Relaxed);
        if wanted != ExitReport::None {
            call_at_exit();
        }
    }

    /// What is set.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            purge_delay_ms: PURGE_DELAY_MS.load(Relaxed),
            background_thread: BACKGROUND.is_allowed(),
            cache_bytes: CACHE_BYTES.load(Relaxed),
            huge_pages: match PURGER.wants_huge() {
                true => HugePages::Dense,
                false => HugePages::Off,
            },
            stats_at_exit: exit_report(),
            heap_profile: PROFILE.sample_bytes(),
        }
    }
}

/// Threads that can run at the same time.
fn processors() -> usize {
    // Not the C library's function, which lies far from any other that is used here:
    // the kernel maps 64 KiB of code around what is called.
    let mut set = [0_u64; 16];
    // SAFETY: The call writes no more bytes than it is told of. Where there are more
    // processors than fit, it fails; else it returns how many bytes it wrote.
    let written = unsafe {
        let room = size_of_val(&set);
        libc::syscall(libc::SYS_sched_getaffinity, 0, room, set.as_mut_ptr())
    };
    let processors: usize = match written {
        1.. => set.iter().map(|word| word.count_ones() as usize).sum(),
        _ => ARENAS_MAX,
    };
    processors.max(1)
}

fn settings_of_environment() -> Settings {
    os::environment(settings::VARIABLE).map_or_else(Settings::default, settings_of_text)
}

/// What the variable says. Hardly any program is started with one, so this code is apart
/// from what all of them run.
#[cold]
#[inline(never)]
fn settings_of_text(text: &[u8]) -> Settings {
    let name = settings::VARIABLE.to_str().unwrap_or_default();
    let settings = settings::parse(text, |item, expected| complain(name, item, expected));
    if settings.heap_profile > 0 && !cfg!(feature = "pprof") {
        complain(
            name,
            b"heap_profile",
            "the heap was built without the feature pprof",
        );
    }
    settings
}

/// Has [`at_exit`] called when the program exits. To be called without any lock.
fn call_at_exit() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Relaxed) {
        register_at_exit(at_exit);
    }
}

/// Has the handler called when the program exits, or when the library that this code is
/// part of is unloaded. To be called without any lock, as the system may allocate. Should
/// it fail, the handler is not called.
pub(crate) fn register_at_exit(handler: extern "C" fn(*mut c_void)) {
    // Not `atexit`, which C libraries do not export: each library that uses it brings
    // its own, made by the C compiler's linker scripts out of this one.
    unsafe extern "C" {
        fn __cxa_atexit(
            handler: extern "C" fn(*mut c_void),
            argument: *mut c_void,
            library: *const u8,
        ) -> core::ffi::c_int;
        static __dso_handle: u8;
    }
    // SAFETY: The handler lives as long as the library that the handle names.
    unsafe { __cxa_atexit(handler, core::ptr::null_mut(), &raw const __dso_handle) };
}

extern "C" fn at_exit(_: *mut c_void) {
    if let Some(process) = Process::get() {
        report::write_at_exit(process.sources(), &process.settings());
    }
}

fn exit_report() -> ExitReport {
    const TEXT: u8 = ExitReport::Text as u8;
    const JSON: u8 = ExitReport::Json as u8;
    match STATS_AT_EXIT.load(Relaxed) {
        TEXT => ExitReport::Text,
        JSON => ExitReport::Json,
        _ => ExitReport::None,
    }
}

/// What the purge thread does when it is awake.
fn tick() -> Option<u64> {
    FORK.note_threads();
    let process = Process::get()?;
    let now_ms = os::now_ms();
    PURGER.tick(&process.pages, &process.arenas, now_ms, Caller::PurgeThread)
}

/// Whether the purge thread is needed.
fn has_work() -> bool {
    Process::get().is_some_and(|process| Purger::has_work(&process.pages, &process.arenas))
}

/// From now on only allocations start the purge thread, since the C library's own
/// frees come here. And where its `calloc` is found to call [`note_threads`], it is relied
/// on for that.
pub(crate) fn serve_the_c_library(calloc: impl FnOnce()) {
    FREES_START.store(false, Relaxed);
    FORK.try_call(calloc);
}

/// Gets ready for more than one thread, if one is about to be made. The C library
/// allocates for it without any lock.
#[inline(always)]
pub(crate) fn note_threads() {
    FORK.note_threads();
}

/// Runs when a thread that has a cache ends.
unsafe extern "C" fn thread_exit(thread: *mut c_void) {
    // SAFETY: The key was armed with the thread's record, and the heap exists.
    let (thread, process) = unsafe { (&*thread.cast::<Thread>(), Process::get_unchecked()) };
    thread::set_late();
    // SAFETY: Neither call can fail.
    if unsafe { libc::getpid() == libc::gettid() } {
        // The main thread ends before its process, which ends with its last thread.
        // That must be one of the program's.
        BACKGROUND.forbid();
    }
    process.flush_all(thread);
    let arena = process.arena_of(thread);
    if process.registry.lock().detach(thread) {
        arena.settle(&process.pages);
    }
}

extern "C" fn fork_prepare() {
    PLACE.making.acquire_for_fork();
    if let Some(process) = Process::get() {
        process.registry.acquire_for_fork();
        for arena in process.arenas.iter() {
            arena.acquire_for_fork();
        }
        process.pages.lock().acquire_for_fork();
        PROFILE.acquire_for_fork();
    }
}

extern "C" fn fork_parent() {
    // SAFETY: `fork_prepare` took the locks on this thread.
    unsafe { open_after_fork() };
}

/// Slots that other threads were about to send to their owners stay away for good
/// in the child, as do those in these threads' caches.
extern "C" fn fork_child() {
    // SAFETY: `fork_prepare` took the locks on the thread that this is a copy of.
    unsafe { open_after_fork() };
    BACKGROUND.forget();
    if let Some(process) = Process::get() {
        process.registry.lock().detach_others(thread::current());
    }
}

/// # Safety
///
/// The calling thread, or the one it is a copy of, has run `fork_prepare`.
unsafe fn open_after_fork() {
    if let Some(process) = Process::get() {
        // SAFETY: The caller's promise.
        unsafe {
            PROFILE.release_after_fork();
            process.pages.lock().release_after_fork();
            for arena in process.arenas.iter() {
                arena.release_after_fork();
            }
            process.registry.release_after_fork();
        }
    }
    // SAFETY: As above.
    unsafe { PLACE.making.release_after_fork() };
}

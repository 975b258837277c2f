//! The heap profile: which call stacks the live objects come from, by a sample of them.
//!
//! [`sampling`](crate::sampling) says which allocations are looked at. Such an object
//! gets pages of its own, whatever its size, whose entry in the page map says so: a
//! free without a size sees it there, where it takes the slow path for large objects
//! anyway. A free with a size does not look, and puts the object on the thread's stack
//! of the class, like any slot; before anything else is done with the stack, the
//! sampled ones are picked out. So neither path costs anything for the objects that are
//! not sampled, whether the profile is on or not. (While the first profile starts, a thread
//! that is yet to be told may allocate again what it has just freed. A sampled object has
//! the room of its class, so that does no harm: it stays in the profile until it is freed
//! once more.)
//!
//! ```text
//! state   0: never on     odd: on     even: off, but sampled objects may be live
//! ```
//!
//! What is known is kept under one lock, which only sampled objects take: one of many
//! thousands.

use crate::call_stacks::{CallStacks, Sampled, StackId, Weighted};
use crate::fatal::{WRONG_SIZE, fatal};
use crate::sample_table::{Sample, SampleTable};
use crate::sampling::{Interval, Random, SPLITMIX_STEP, splitmix};
use crate::shared_pages::SharedPages;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use crate::sync::{Errno, Lock, Rank};
use crate::unwind::{self, DEPTH_MAX};

/// The process heap's profile.
pub(crate) static PROFILE: HeapProfile = HeapProfile::new();

/// Whether some profile was ever started. By itself, and written by
/// [`start`](HeapProfile::start) alone: where a library is linked without that, the
/// compiler sees that it stays false, and leaves out all that looks after samples.
static WAS_STARTED: AtomicBool = AtomicBool::new(false);

/// What the heap profile is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileStats {
    /// The mean number of bytes between two samples; 0 while nothing is sampled.
    pub sample_bytes: u32,
    /// Sampled objects that are live. Each has pages of its own.
    pub live_samples: u32,
    /// Call stacks that are kept.
    pub stacks: u32,
    /// Objects that could not be sampled for want of memory.
    pub dropped_samples: u64,
}

pub(crate) struct HeapProfile {
    state: AtomicU32,
    /// The interval in bytes, as last set.
    interval: AtomicU32,
    /// The state of the random numbers, which all threads share: they are drawn once
    /// for many allocations.
    random: AtomicU64,
    tables: Lock<Option<Tables>>,
}

struct Tables {
    stacks: CallStacks,
    samples: SampleTable,
    dropped: u64,
}

struct Shared<'a>(&'a AtomicU64);

impl Random for Shared<'_> {
    fn bits(&mut self) -> u64 {
        splitmix(self.0.fetch_add(SPLITMIX_STEP, Relaxed))
    }
}

impl HeapProfile {
    const fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            interval: AtomicU32::new(1),
            random: AtomicU64::new(0),
            tables: Lock::new(Rank::Profile, None),
        }
    }

    /// The state; 0 means that there is nothing to look after.
    #[inline(always)]
    pub(crate) fn state(&self) -> u32 {
        // What is seen of the state only after this is seen as what came before it: the
        // samples of a program that starts a profile begin a moment later.
        if WAS_STARTED.load(Relaxed) {
            self.state.load(Relaxed)
        } else {
            0
        }
    }

    /// Whether allocations are to be sampled.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        is_on(self.state())
    }

    /// Samples from now on, with other intervals if it is on already. False where
    /// memory is short, and in the hardened mode.
    pub(crate) fn start(&self, sample_bytes: usize, seed: u64) -> bool {
        // The hardened mode has its own use for what is behind an object.
        if cfg!(feature = "hardened") {
            return false;
        }
        let errno = Errno::save();
        unwind::prepare();
        let mut tables = self.tables.lock();
        if tables.is_none() {
            *tables = Tables::reserve();
        }
        if tables.is_some() {
            WAS_STARTED.store(true, Relaxed);
            self.random.store(splitmix(seed), Relaxed);
            self.interval
                .store(Interval::new(sample_bytes).bytes(), Relaxed);
            let state = self.state();
            self.state.store(state + 1 + (state & 1), Relaxed);
        }
        let started = tables.is_some();
        drop(tables);
        errno.restore();
        started
    }

    /// Samples no more. What is sampled stays known until it is freed.
    pub(crate) fn stop(&self) {
        let _tables = self.tables.lock();
        let state = self.state();
        self.state.store(state + (state & 1), Relaxed);
    }

    /// The interval in bytes; 0 while the profile is off.
    pub(crate) fn sample_bytes(&self) -> u32 {
        if self.is_on() {
            self.interval().bytes()
        } else {
            0
        }
    }

    /// The interval in bytes, as last set.
    #[cfg(feature = "pprof")]
    pub(crate) fn interval_bytes(&self) -> u32 {
        self.interval().bytes()
    }

    fn interval(&self) -> Interval {
        Interval::new(self.interval.load(Relaxed) as usize)
    }

    /// How many objects of so many bytes pass until one is sampled.
    pub(crate) fn passed(&self, bytes: usize) -> u32 {
        self.interval().passed(bytes, &mut Shared(&self.random))
    }

    /// Allocates an object that is sampled, as one of the calling function's. Null where
    /// that cannot be.
    pub(crate) fn allocate(&self, pages: &SharedPages, bytes: usize, align: usize) -> *mut u8 {
        let object = pages.allocate_large(bytes, align).0;
        if !object.is_null() && !self.sample(pages, object, bytes) {
            pages.free_large(object);
            return core::ptr::null_mut();
        }
        object
    }

    /// Makes a large object that was just allocated, or resized, a sampled one. False
    /// where memory is short.
    pub(crate) fn sample(&self, pages: &SharedPages, object: *mut u8, bytes: usize) -> bool {
        let errno = Errno::save();
        let mut addresses = [0; DEPTH_MAX];
        let count = unwind::trace(&mut addresses);
        let weight = self.interval().weight(bytes);
        let noted = self.tables.lock().as_mut().is_some_and(|tables| {
            let Some(stack) = tables.stacks.intern(&addresses[..count]) else {
                tables.dropped += 1;
                return false;
            };
            let sample = Sample {
                stack,
                bytes,
                weight,
            };
            if !tables.samples.add(pages.page_index(object), sample) {
                tables.dropped += 1;
                return false;
            }
            tables.stacks.allocated(stack, Weighted::new(bytes, weight));
            true
        });
        if noted {
            // SAFETY: The object is large, and nobody else knows of it yet.
            unsafe { pages.mark_sampled(object, true) };
        }
        errno.restore();
        noted
    }

    /// Frees the object if it is a sampled one; else false. Stops the process where it is
    /// known to be of another size.
    ///
    /// # Safety
    ///
    /// If the object is a live one, it is not used any more.
    pub(crate) unsafe fn free(
        &self,
        pages: &SharedPages,
        object: *mut u8,
        bytes: Option<usize>,
    ) -> bool {
        let Some(sample) = self.unsample(pages, object) else {
            return false;
        };
        if bytes.is_some_and(|bytes| bytes != sample.bytes) {
            fatal(WRONG_SIZE, object.addr());
        }
        pages.free_large(object);
        true
    }

    /// Forgets that an object was sampled, which then is a large one like others. `None` if
    /// it was not.
    fn unsample(&self, pages: &SharedPages, object: *mut u8) -> Option<Sample> {
        if !pages.is_sampled(object) {
            return None;
        }
        let mut tables = self.tables.lock();
        let tables = tables.as_mut()?;
        let sample = tables.samples.remove(pages.page_index(object))?;
        let weighted = Weighted::new(sample.bytes, sample.weight);
        tables.stacks.freed(sample.stack, weighted);
        // SAFETY: The object is a sampled one, and the caller's, unless it is freed twice
        // at the same time: then it was in the table for one of the two.
        unsafe { pages.mark_sampled(object, false) };
        Some(sample)
    }

    /// Bytes that a live sampled object may use; as many as if it were none.
    pub(crate) fn bytes(&self, pages: &SharedPages, object: *const u8) -> usize {
        let tables = self.tables.lock();
        let samples = tables.as_ref().map(|tables| &tables.samples);
        samples
            .and_then(|samples| samples.get(pages.page_index(object)))
            .map_or(0, |sample| sample.bytes)
    }

    /// Calls `visit` with the addresses of each call stack, the innermost first, and with
    /// what was sampled under it. The lock is held while one stack is copied.
    pub(crate) fn visit(&self, mut visit: impl FnMut(&[usize], &Sampled)) {
        let mut last: Option<StackId> = None;
        let mut addresses = [0; DEPTH_MAX];
        loop {
            let found = {
                let tables = self.tables.lock();
                let next = tables.as_ref().and_then(|tables| tables.stacks.after(last));
                next.map(|(id, words, sampled)| {
                    for (address, word) in addresses.iter_mut().zip(words) {
                        *address = *word as usize;
                    }
                    (id, words.len(), sampled)
                })
            };
            let Some((id, depth, sampled)) = found else {
                return;
            };
            last = Some(id);
            visit(&addresses[..depth], &sampled);
        }
    }

    /// What there is.
    pub(crate) fn stats(&self) -> ProfileStats {
        let tables = self.tables.lock();
        match tables.as_ref() {
            None => ProfileStats::default(),
            Some(tables) => ProfileStats {
                sample_bytes: self.sample_bytes(),
                live_samples: tables.samples.count(),
                stacks: tables.stacks.count(),
                dropped_samples: tables.dropped,
            },
        }
    }

    /// Takes the lock before a fork.
    pub(crate) fn acquire_for_fork(&self) {
        self.tables.acquire_for_fork();
    }

    /// Opens the lock again after a fork.
    ///
    /// # Safety
    ///
    /// As for [`Lock::release_after_fork`].
    pub(crate) unsafe fn release_after_fork(&self) {
        // SAFETY: Passed on to the caller.
        unsafe { self.tables.release_after_fork() };
    }
}

/// Whether allocations are sampled in this state.
pub(crate) fn is_on(state: u32) -> bool {
    state & 1 == 1
}

impl Tables {
    fn reserve() -> Option<Self> {
        Some(Self {
            stacks: CallStacks::reserve()?,
            samples: SampleTable::reserve()?,
            dropped: 0,
        })
    }
}

#[cfg(all(test, not(feature = "hardened")))]
mod tests {
    use super::*;
    use crate::large;
    use crate::os::fake::{Faults, inject};
    use crate::page_heap::PageHeapOptions;
    use crate::units::PAGE_BYTES;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        /// A small object that is sampled.
        Small(usize),
        /// A large object, which perhaps is.
        Large(usize, bool),
        Forget(usize),
        Free(usize),
        Stop,
        Start(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (8_usize..14_336).prop_map(Op::Small),
            4 => (16_385_usize..300_000, any::<bool>())
                .prop_map(|(bytes, is_sampled)| Op::Large(bytes, is_sampled)),
            1 => any::<usize>().prop_map(Op::Forget),
            4 => any::<usize>().prop_map(Op::Free),
            1 => Just(Op::Stop),
            1 => (1_usize..100_000).prop_map(Op::Start),
        ]
    }

    /// What is live: where, what the profile knows of it, and its mark.
    struct Object {
        start: *mut u8,
        sampled: Option<Weighted>,
        bytes: usize,
        mark: u8,
    }

    fn check(profile: &HeapProfile, pages: &SharedPages, objects: &[Object]) {
        pages.with(|pages| {
            pages.source.pages.check();
            large::check(&pages.source.pages, &pages.large);
            assert_eq!(pages.large.objects as usize, objects.len());
        });
        let mut sum = Sampled::default();
        profile.visit(|_, sampled| {
            sum.live_objects += sampled.live_objects;
            sum.live_bytes += sampled.live_bytes;
        });
        let known: Vec<_> = objects.iter().filter_map(|object| object.sampled).collect();
        assert_eq!(profile.stats().live_samples as usize, known.len());
        let weights: u64 = known.iter().map(|weighted| weighted.objects()).sum();
        let rounding = u64::from(profile.stats().stacks);
        assert!(sum.live_objects.abs_diff(weights >> 16) <= rounding);
        for object in objects {
            assert_eq!(pages.is_sampled(object.start), object.sampled.is_some());
            // SAFETY: The object is live.
            unsafe {
                assert_eq!(object.start.read(), object.mark);
                assert_eq!(object.start.add(object.bytes - 1).read(), object.mark);
            }
            if object.sampled.is_some() {
                assert!(profile.bytes(pages, object.start) >= object.bytes);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..<_>::default()
        })]

        /// Sampled objects are what the profile says they are, the books of the pages
        /// agree with them, and nothing is left of them, whatever the system refuses.
        #[test]
        #[cfg_attr(miri, ignore = "Miri knows no backtrace")]
        fn samples_agree_with_a_model(
            ops in prop::collection::vec((op(), any::<bool>(), any::<u8>()), 1..80),
        ) {
            let pages = SharedPages::new(&PageHeapOptions {
                region_bytes: 64 << 20,
                region_bytes_min: 64 << 20,
                decay_ms: 0,
            }).unwrap();
            let profile = HeapProfile::new();
            prop_assert!(profile.start(1000, 1));
            let mut objects = Vec::<Object>::new();
            for (op, refuses, mark) in ops {
                let faults = Faults { commit: refuses, ..Faults::default() };
                let weighted = |bytes| Weighted::new(bytes, profile.interval().weight(bytes));
                let made = match op {
                    Op::Small(bytes) => {
                        let start = inject(faults, || profile.allocate(&pages, bytes, 16));
                        Some((start, bytes, Some(weighted(bytes))))
                    }
                    Op::Large(bytes, is_sampled) => {
                        let start = pages.allocate_large(bytes, 1).0;
                        let bytes = bytes.next_multiple_of(PAGE_BYTES);
                        let is_sampled = is_sampled
                            && inject(faults, || profile.sample(&pages, start, bytes));
                        Some((start, bytes, is_sampled.then(|| weighted(bytes))))
                    }
                    Op::Forget(pick) if !objects.is_empty() => {
                        let at = pick % objects.len();
                        let object = &mut objects[at];
                        let was = profile.unsample(&pages, object.start);
                        prop_assert_eq!(was.is_some(), object.sampled.take().is_some());
                        None
                    }
                    Op::Free(pick) if !objects.is_empty() => {
                        let object = objects.swap_remove(pick % objects.len());
                        // SAFETY: The object is live and used no more.
                        let was = unsafe { profile.free(&pages, object.start, None) };
                        prop_assert_eq!(was, object.sampled.is_some());
                        if !was {
                            pages.free_large(object.start);
                        }
                        None
                    }
                    Op::Forget(_) | Op::Free(_) => None,
                    Op::Stop => {
                        profile.stop();
                        prop_assert!(!profile.is_on() && profile.state() != 0);
                        None
                    }
                    Op::Start(bytes) => {
                        prop_assert!(profile.start(bytes, 1) && profile.is_on());
                        None
                    }
                };
                if let Some((start, bytes, sampled)) = made.filter(|made| !made.0.is_null()) {
                    // SAFETY: The object is new and has this size.
                    unsafe { start.write_bytes(mark, bytes) };
                    objects.push(Object { start, sampled, bytes, mark });
                }
                check(&profile, &pages, &objects);
            }
            for object in core::mem::take(&mut objects) {
                // SAFETY: The object is live and used no more.
                if !unsafe { profile.free(&pages, object.start, None) } {
                    pages.free_large(object.start);
                }
            }
            check(&profile, &pages, &objects);
        }
    }
}

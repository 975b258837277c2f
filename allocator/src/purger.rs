//! What gives free pages of the process heap back, when it is time: called by the
//! purge thread, or by the program's own threads where there is none.
//!
//! A [tick](Purger::tick) does three things. Once per period, arenas take back what
//! other threads have freed, and give up what idle classes keep. Then pages go back
//! that have been free for as long as the decay allows, which is longer than asked
//! for where the heap is small or purged pages [come straight back](crate::refault). And
//! where the [control group](crate::cgroup) nears its limit, all free pages go at once.
//!
//! The purge thread besides [promotes](crate::promotion) dense chunks to huge pages, if
//! that is wanted, a few per tick.

use crate::arena_table::ArenaTable;
use crate::cgroup;
use crate::os;
use crate::process_arena::ProcessArena;
use crate::promotion::{Found, USED_PAGES_MIN};
use crate::refault::{Change, Totals};
use crate::shared_pages::{Pages, SharedPages};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use crate::sync::futex_wait;
use crate::units::{CHUNK_BYTES, CHUNK_PAGES, ChunkIndex, PAGE_BYTES};

/// Dirty pages for which a tick is worth it, and those for which a thread is.
pub(crate) const DIRTY_PAGES_WAKE: u32 = (256 << 10) / PAGE_BYTES as u32;
pub(crate) const DIRTY_PAGES_START: u32 = (1 << 20) / PAGE_BYTES as u32;

/// Pages that are given back under one hold of the page lock, and the nanoseconds
/// from then to the next, in which others get it.
pub(crate) const PURGE_PAGES_MAX: u32 = (2 << 20) / PAGE_BYTES as u32;
const PURGE_PAUSE_NS: u64 = 50_000;

/// The delay for which as many pages may be dirty as are in use, in proportion for any
/// other, and the pages that may be dirty in any case, as long as none come straight back.
const DELAY_MS_OF_WHOLE: u64 = 20_000;
const DIRTY_PAGES_LEAST: u32 = (6 << 20) / PAGE_BYTES as u32;

/// Bounds of the pause between ticks while there is something to do.
const PAUSE_MS_MIN: u64 = 10;
const PAUSE_MS_MAX: u64 = 1000;

/// The longest pause while pages are dirty: what is freed in the course of it is first
/// seen at its end.
const PAUSE_MS_DIRTY: u64 = 25;

/// The least number of milliseconds after which a class that was not used counts as
/// idle.
const IDLE_MS: u64 = 100;

/// Milliseconds for which the answer of the control group holds.
const LIMIT_MS: u64 = 1000;

/// Chunks that are promoted in one tick, and the milliseconds in which no further one
/// is begun, and the pause to the next tick: a collapse takes one millisecond or two,
/// and more where the system has to look for memory.
const PROMOTIONS_PER_TICK: u32 = 2;
const PROMOTION_MS_MAX: u64 = 2;
const PAUSE_MS_PROMOTION: u64 = 20;

/// Pages by which the heap grows from one look for dense chunks to the next.
const GROWTH_PAGES: u32 = 2 * CHUNK_PAGES;

/// Who calls a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The purge thread, which may take its time.
    PurgeThread,
    /// A thread of the program, in the course of an allocation or a free.
    Program,
}

/// When what was done last.
pub(crate) struct Purger {
    /// Counts periods of at least [`IDLE_MS`], of which every thread tells its cache
    /// in its next slow path.
    epoch: AtomicU32,
    /// When the current period began.
    period_start_ms: AtomicU64,
    /// Whether slots were handed out in the last period.
    was_busy: AtomicBool,
    /// When the control group was asked, and its answer.
    asked_ms: AtomicU64,
    is_near_limit: AtomicBool,
    /// Whether dense chunks are to become huge pages, and whether they can: one of
    /// [`UNKNOWN`], [`POSSIBLE`] and [`IMPOSSIBLE`].
    wants_huge: AtomicBool,
    can_huge: AtomicU32,
    /// Resident pages at the last look for dense chunks; more than there can be where
    /// that is in vain.
    looked_pages: AtomicU32,
}

const UNKNOWN: u32 = 0;
const POSSIBLE: u32 = 1;
const IMPOSSIBLE: u32 = 2;

impl Purger {
    /// Nothing has been done yet.
    pub(crate) const fn new() -> Self {
        Self {
            epoch: AtomicU32::new(0),
            period_start_ms: AtomicU64::new(0),
            was_busy: AtomicBool::new(false),
            asked_ms: AtomicU64::new(0),
            is_near_limit: AtomicBool::new(false),
            wants_huge: AtomicBool::new(false),
            can_huge: AtomicU32::new(UNKNOWN),
            looked_pages: AtomicU32::new(0),
        }
    }

    /// Says whether dense chunks are to become huge pages.
    pub(crate) fn set_wants_huge(&self, wanted: bool) {
        self.wants_huge.store(wanted, Relaxed);
    }

    /// Whether dense chunks are to become huge pages.
    pub(crate) fn wants_huge(&self) -> bool {
        self.wants_huge.load(Relaxed)
    }

    /// Whether the heap, with so many resident pages, may have dense chunks that nobody
    /// has looked at: it has grown since the last look, and a program that only grows
    /// gives no other cause for one.
    #[inline]
    pub(crate) fn may_have_dense(&self, resident: u32) -> bool {
        self.wants_huge()
            && resident >= USED_PAGES_MIN
            && resident >= self.looked_pages.load(Relaxed).saturating_add(GROWTH_PAGES)
    }

    /// The number of the current period.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// Begins another period for the threads' caches.
    pub(crate) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Relaxed);
    }

    /// Whether the current period is over.
    pub(crate) fn is_period_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.period_start_ms.load(Relaxed)) >= IDLE_MS
    }

    /// Whether a tick would find something to do.
    pub(crate) fn has_work(pages: &SharedPages, arenas: &ArenaTable) -> bool {
        pages.dirty() >= DIRTY_PAGES_WAKE || arenas.iter().any(ProcessArena::has_mail)
    }

    /// Does what is due at `now_ms`. Returns the milliseconds after which to call
    /// again; `None` while nothing is left to do.
    pub(crate) fn tick(
        &self,
        pages: &SharedPages,
        arenas: &ArenaTable,
        now_ms: u64,
        caller: Caller,
    ) -> Option<u64> {
        let least = pages.restart_dirty_least();
        let mut excess = pages.with(|pages| least.saturating_sub(dirty_max(pages)));
        if self.is_period_over(now_ms) {
            self.period_start_ms.store(now_ms, Relaxed);
            self.next_epoch();
            let mut busy = false;
            for arena in arenas.iter() {
                busy |= arena.settle(pages);
            }
            self.was_busy.store(busy, Relaxed);
        }
        let near_limit = caller == Caller::PurgeThread && self.ask_for_limit(pages, now_ms);
        let (change, pause_ms_max) = pages.with(|pages| adapt_delay(pages, now_ms));
        let all = near_limit || change == Change::Idle;
        let next_ms = loop {
            let (purged, next_ms) = pages.with(|pages| {
                let heap = &mut pages.source.pages;
                match all {
                    true => {
                        // Huge pages keep what they may, unless memory is short.
                        let spared = if near_limit {
                            0
                        } else {
                            heap.counts().spared()
                        };
                        let due = (heap.counts().dirty - spared).min(PURGE_PAGES_MAX);
                        (heap.purge(due), heap.purge_due(now_ms, 0).1)
                    }
                    false if excess >= PURGE_PAGES_MAX => {
                        excess -= PURGE_PAGES_MAX;
                        (heap.purge(PURGE_PAGES_MAX), None)
                    }
                    false => heap.purge_due(now_ms, PURGE_PAGES_MAX),
                }
            });
            if purged < PURGE_PAGES_MAX {
                break next_ms;
            }
            pause_ns(PURGE_PAUSE_NS);
        };
        pages.with(|pages| pages.source.records.purge());
        let promotion_ms = match caller {
            Caller::PurgeThread => self.promote(pages, now_ms),
            Caller::Program => None,
        };
        let pause_ms = match next_ms {
            Some(next_ms) => {
                let until = next_ms.saturating_sub(now_ms);
                let pause_ms = until.min(pause_ms_max.unwrap_or(PAUSE_MS_DIRTY));
                Some(pause_ms.clamp(PAUSE_MS_MIN, PAUSE_MS_DIRTY))
            }
            // What other threads have freed is taken in once per period: until then
            // nobody can tell how many pages that makes.
            None if arenas.iter().any(ProcessArena::has_mail) => Some(IDLE_MS),
            // One more period shows whether the heap is idle, and what it then keeps.
            None => self.was_busy.load(Relaxed).then_some(PAUSE_MS_MAX),
        };
        match (pause_ms, promotion_ms) {
            (Some(pause), Some(promotion)) => Some(pause.min(promotion)),
            (pause, promotion) => pause.or(promotion),
        }
    }

    /// Promotes a few dense chunks. Returns the milliseconds until there may be more;
    /// `None` where there are none unless the heap changes.
    fn promote(&self, pages: &SharedPages, now_ms: u64) -> Option<u64> {
        if !self.wants_huge() || self.can_huge.load(Relaxed) == IMPOSSIBLE {
            return None;
        }
        self.looked_pages.store(pages.resident(), Relaxed);
        let mut asked = 0;
        loop {
            match pages.with(|pages| pages.source.pages.next_dense(now_ms)) {
                Found::Dense(chunk) => {
                    if !self.finds_huge_possible() {
                        return None;
                    }
                    self.promote_chunk(pages, chunk);
                    asked += 1;
                    let spent_ms = os::now_ms().saturating_sub(now_ms);
                    if asked >= PROMOTIONS_PER_TICK || spent_ms >= PROMOTION_MS_MAX {
                        return Some(PAUSE_MS_PROMOTION);
                    }
                }
                Found::Later(0) => {}
                Found::Later(pause_ms) => return Some(pause_ms),
                Found::Nothing => return None,
            }
        }
    }

    /// Whether the system has huge pages of a chunk's size, which is asked for once.
    fn finds_huge_possible(&self) -> bool {
        if self.can_huge.load(Relaxed) == UNKNOWN {
            let possible = os::has_huge_pages(CHUNK_BYTES);
            let known = if possible { POSSIBLE } else { IMPOSSIBLE };
            self.can_huge.store(known, Relaxed);
            if !possible {
                self.looked_pages.store(u32::MAX, Relaxed);
            }
        }
        self.can_huge.load(Relaxed) == POSSIBLE
    }

    /// Promotes a chunk that was found dense, if all of it is resident in truth: the
    /// books count pages that were handed out and never touched.
    fn promote_chunk(&self, pages: &SharedPages, chunk: ChunkIndex) {
        let range = pages.with(|pages| pages.source.pages.chunk_range(chunk));
        // Whether it is wanted, too, is looked at under the lock under which all huge
        // pages are ended.
        let done = os::is_all_own(range)
            && pages.with(|pages| self.wants_huge() && pages.source.pages.promote(chunk))
            // SAFETY: The range is a chunk that was open a moment ago, hence committed.
            // If its contents were given up since, it was split before.
            && unsafe { os::collapse(range) };
        if !done {
            pages.with(|pages| pages.source.pages.refuse(chunk));
        }
    }

    /// Whether all free pages should go, because memory is short in the control
    /// group. Asks it seldom, and only if there are pages to give.
    fn ask_for_limit(&self, pages: &SharedPages, now_ms: u64) -> bool {
        let asked_ms = self.asked_ms.load(Relaxed);
        if pages.dirty() > 0 && (asked_ms == 0 || now_ms.saturating_sub(asked_ms) >= LIMIT_MS) {
            self.asked_ms.store(now_ms, Relaxed);
            self.is_near_limit.store(cgroup::is_near_limit(), Relaxed);
        }
        self.is_near_limit.load(Relaxed)
    }
}

/// Lets free pages stay as long as is worth it at present. Returns what has changed
/// and the milliseconds within which to look again, if that matters.
fn adapt_delay(pages: &mut Pages, now_ms: u64) -> (Change, Option<u64>) {
    let counts = pages.source.pages.counts();
    let totals = Totals {
        purged: counts.purged_total,
        fresh: counts.fresh_total,
        handed: counts.handed_total,
        resident: counts.resident(),
    };
    let change = pages.refaults.observe(now_ms, totals);
    if change != Change::None {
        let delay_ms = pages.refaults.delay_ms();
        pages.source.pages.set_decay_ms(delay_ms);
    }
    (change, pages.refaults.pause_ms_max())
}

/// Pages that may be dirty from one tick to the next. More of them need not wait for
/// their time: a heap whose sizes change would stay at twice what it holds until the
/// delay is over. Where the heap is small the bound rises with the delay, and where purged
/// pages come back faster than that, until all of them wait for their time.
fn dirty_max(pages: &Pages) -> u32 {
    let used = u64::from(pages.source.pages.counts().used);
    let (delay_ms, factor) = (pages.refaults.delay_ms(), pages.refaults.factor());
    let share = used * u64::from(delay_ms) * u64::from(factor) / DELAY_MS_OF_WHOLE;
    u32::try_from(share)
        .unwrap_or(u32::MAX)
        .max(DIRTY_PAGES_LEAST * pages.refaults.extension())
}

fn pause_ns(nanoseconds: u64) {
    static NEVER_WOKEN: AtomicU32 = AtomicU32::new(0);
    futex_wait(&NEVER_WOKEN, 0, Some(nanoseconds));
}

// Large objects leave nothing to purge in the hardened mode, which takes their memory at
// once.
#[cfg(all(test, not(feature = "hardened")))]
mod tests {
    use super::*;
    use crate::os::fake::{with_all_own, with_files};
    use crate::page_heap::PageHeapOptions;
    use crate::size_class::GENERAL;

    const DELAY_MS: u32 = 1000;
    const MIB: usize = 1 << 20;

    /// A purger with pages of its own, and a clock that stands still by itself.
    struct Subject {
        purger: Purger,
        pages: SharedPages,
        arenas: ArenaTable,
        now_ms: u64,
    }

    impl Subject {
        fn new() -> Self {
            let options = PageHeapOptions {
                region_bytes: 256 * MIB,
                region_bytes_min: 256 * MIB,
                decay_ms: DELAY_MS,
            };
            Self {
                purger: Purger::new(),
                pages: SharedPages::new(&options).unwrap(),
                arenas: ArenaTable::new(1).unwrap(),
                now_ms: 1_000_000,
            }
        }

        /// One whose heap is so large that free pages stay no longer than asked for, and
        /// what makes it so.
        fn large() -> (Self, *mut u8) {
            let subject = Self::new();
            let ballast = subject.allocate(64 * MIB);
            (subject, ballast)
        }

        /// Lets time go on by steps of 10 ms, with a tick in each.
        fn pass(&mut self, milliseconds: u64) {
            for _ in 0..milliseconds / 10 {
                self.now_ms += 10;
                self.tick(Caller::PurgeThread);
            }
        }

        fn tick(&self, caller: Caller) -> Option<u64> {
            self.purger
                .tick(&self.pages, &self.arenas, self.now_ms, caller)
        }

        fn allocate(&self, bytes: usize) -> *mut u8 {
            let object = self.pages.allocate_large(bytes, 1).0;
            assert!(!object.is_null());
            object
        }

        fn dirty_bytes(&self) -> usize {
            self.pages.dirty() as usize * PAGE_BYTES
        }

        fn purged_bytes(&self) -> usize {
            let purged = |pages: &mut Pages| pages.source.pages.counts().purged_total;
            self.pages.with(purged) as usize * PAGE_BYTES
        }
    }

    const NO_LIMIT: [(&str, &str); 1] = [("/proc/self/cgroup", "0::/\n")];

    fn limited(usage: &'static str) -> [(&'static str, &'static str); 3] {
        [
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/memory.current", usage),
            ("/sys/fs/cgroup/memory.max", "1000\n"),
        ]
    }

    #[test]
    fn free_pages_go_within_the_delay_and_then_nothing_is_left_to_do() {
        let (mut subject, ballast) = Subject::large();
        with_files(&NO_LIMIT, || {
            subject.pages.free_large(subject.allocate(12 * MIB));
            subject.pass(10);
            assert_eq!(subject.dirty_bytes(), 12 * MIB);
            subject.pass(u64::from(DELAY_MS) + 100);
            assert_eq!(subject.dirty_bytes(), 0);
            assert_eq!(subject.tick(Caller::PurgeThread), None);
        });
        subject.pages.free_large(ballast);
    }

    #[test]
    fn free_pages_of_a_small_heap_stay_longer() {
        // The heap's megabytes, and how many times as long as asked for.
        for (heap, patience) in [(6, 8), (12, 4), (24, 2), (60, 1)] {
            let mut subject = Subject::new();
            with_files(&NO_LIMIT, || {
                // Two of them are free, so there is no excess.
                let used = subject.allocate((heap - 2) * MIB);
                subject.pages.free_large(subject.allocate(2 * MIB));
                let delay_ms = u64::from(DELAY_MS) * patience;
                subject.pass(delay_ms / 4);
                assert!(
                    subject.dirty_bytes() > MIB,
                    "{heap} {}",
                    subject.dirty_bytes()
                );
                subject.pass(delay_ms * 3 / 4 + 100);
                assert_eq!(subject.dirty_bytes(), 0, "{heap}");
                subject.pages.free_large(used);
            });
        }
    }

    #[test]
    fn what_is_left_of_a_large_heap_goes_as_soon_as_asked_for() {
        let mut subject = Subject::new();
        with_files(&NO_LIMIT, || {
            subject.pages.free_large(subject.allocate(100 * MIB));
            subject.pass(u64::from(DELAY_MS) + 200);
            assert_eq!(subject.dirty_bytes(), 0);
        });
    }

    #[test]
    fn many_free_pages_that_nobody_takes_do_not_wait() {
        let mut subject = Subject::new();
        with_files(&NO_LIMIT, || {
            let used = subject.allocate(160 * MIB);
            subject.pages.free_large(subject.allocate(60 * MIB));
            subject.tick(Caller::PurgeThread);
            assert_eq!(subject.dirty_bytes(), 60 * MIB, "they may be taken at once");
            subject.pass(20);
            // A twentieth of what is in use, to the next step of a purge.
            let kept = subject.dirty_bytes();
            assert!((8 * MIB..=10 * MIB).contains(&kept), "{kept}");
            subject.pages.free_large(used);
        });
    }

    #[test]
    fn free_pages_that_are_taken_between_ticks_stay() {
        let subject = Subject::new();
        with_files(&NO_LIMIT, || {
            for _ in 0..20 {
                let object = subject.allocate(60 * MIB);
                subject.pages.free_large(object);
                subject.tick(Caller::PurgeThread);
            }
            assert_eq!(subject.purged_bytes(), 0);
        });
    }

    /// A program that frees some of its large objects and allocates others, each tick.
    #[test]
    fn what_a_program_goes_on_taking_back_soon_stays_for_its_delay() {
        let (mut subject, ballast) = Subject::large();
        let purged_in_a_second = |subject: &mut Subject| {
            let before = subject.purged_bytes();
            for _ in 0..25 {
                let object = subject.allocate(32 * MIB);
                subject.pass(20);
                subject.pages.free_large(object);
                subject.pass(20);
            }
            subject.purged_bytes() - before
        };
        with_files(&NO_LIMIT, || {
            let first = purged_in_a_second(&mut subject);
            assert!(first >= 100 * MIB, "{first}");
            assert_eq!(purged_in_a_second(&mut subject), 0);
            subject.pass(u64::from(DELAY_MS) + 300);
            assert_eq!(subject.dirty_bytes(), 0, "it is idle");
        });
        subject.pages.free_large(ballast);
    }

    #[test]
    fn what_other_threads_have_freed_is_taken_in_within_a_period() {
        let mut subject = Subject::new();
        subject.arenas = ArenaTable::new(2).unwrap();
        for _ in 0..2 {
            // SAFETY: No other thread knows of the table.
            unsafe { subject.arenas.add() }.unwrap();
        }
        let class = GENERAL.class_of(1024);
        let mut room = [core::ptr::null_mut(); 4];
        let (owner, other) = (subject.arenas.arena(0), 1);
        let filled = owner.fill(&subject.pages, class, &mut room).count;
        assert!(filled > 0);
        with_files(&NO_LIMIT, || {
            // The period is not over, so what comes now has to wait.
            subject.tick(Caller::PurgeThread);
            let (pages, arenas) = (&subject.pages, &subject.arenas);
            // SAFETY: The slots are of the class, and the test's.
            unsafe { arenas.release(pages, other, class, &room[..filled]) };
            assert!(Purger::has_work(pages, arenas));
            subject.now_ms += 10;
            let pause_ms = subject.tick(Caller::PurgeThread).unwrap();
            assert!(subject.arenas.arena(0).has_mail() && pause_ms <= IDLE_MS);
            subject.now_ms += IDLE_MS;
            subject.tick(Caller::PurgeThread);
            assert!(!subject.arenas.arena(0).has_mail());
        });
    }

    #[test]
    fn near_the_limit_all_free_pages_go_at_once() {
        let mut subject = Subject::new();
        let object = subject.allocate(12 * MIB);
        with_files(&limited("990\n"), || {
            subject.pages.free_large(object);
            subject.tick(Caller::Program);
            assert_eq!(subject.dirty_bytes(), 12 * MIB, "others do not read files");
            subject.pass(10);
            assert_eq!(subject.dirty_bytes(), 0);
        });
        // The answer holds for a while, and no longer.
        with_files(&limited("500\n"), || {
            let object = subject.allocate(12 * MIB);
            subject.pages.free_large(object);
            subject.pass(10);
            assert_eq!(subject.dirty_bytes(), 0);
            subject.now_ms += LIMIT_MS;
            let object = subject.allocate(12 * MIB);
            subject.pages.free_large(object);
            subject.pass(10);
            assert_eq!(subject.dirty_bytes(), 12 * MIB);
        });
    }

    /// Bytes purged while so many come and go, and are free for less than the delay.
    fn purged_by_churn(subject: &mut Subject, bytes: usize, rounds: u32) -> usize {
        let before = subject.purged_bytes();
        for _ in 0..rounds {
            let object = subject.allocate(bytes);
            subject.pass(100);
            subject.pages.free_large(object);
            subject.pass(u64::from(DELAY_MS) - 100);
        }
        subject.purged_bytes() - before
    }

    fn huge_chunks(subject: &Subject) -> u32 {
        let count = |pages: &mut Pages| pages.source.pages.counts().huge_chunks;
        subject.pages.with(count)
    }

    #[test]
    fn dense_chunks_are_promoted_where_that_is_wanted_and_pays() {
        let mut subject = Subject::new();
        let object = subject.allocate(40 * MIB);
        with_files(&NO_LIMIT, || {
            subject.pass(6000);
            assert_eq!(huge_chunks(&subject), 0, "nobody wants any");
            subject.purger.set_wants_huge(true);
            with_all_own(false, || subject.pass(4000));
            assert_eq!(huge_chunks(&subject), 0, "nothing was touched");
            subject.pass(200);
            assert_eq!(huge_chunks(&subject), 0, "the next look is later");
            let mut pauses = 0;
            for _ in 0..1000 {
                subject.now_ms += 1000;
                match subject.tick(Caller::PurgeThread) {
                    Some(_) => pauses += 1,
                    None => break,
                }
            }
            assert_eq!(huge_chunks(&subject), 20);
            assert!((10..100).contains(&pauses), "{pauses} ticks");
        });
        let demote = |pages: &mut Pages| pages.source.pages.demote_everything();
        subject.pages.with(demote);
        subject.pages.free_large(object);
    }

    #[test]
    fn growth_alone_is_a_cause_to_look_for_dense_chunks() {
        let mut subject = Subject::new();
        let may_have = |subject: &Subject| subject.purger.may_have_dense(subject.pages.resident());
        let first = subject.allocate(40 * MIB);
        assert!(!may_have(&subject), "nobody wants any");
        subject.purger.set_wants_huge(true);
        let pass = |subject: &mut Subject, chunks: u32| {
            assert!(may_have(subject));
            with_files(&NO_LIMIT, || {
                for _ in 0..1000 {
                    subject.now_ms += 1000;
                    if subject.tick(Caller::PurgeThread).is_none() {
                        break;
                    }
                }
            });
            assert_eq!(huge_chunks(subject), chunks);
            assert!(!may_have(subject));
        };
        pass(&mut subject, 20);
        let little = subject.allocate(2 * MIB);
        assert!(!may_have(&subject));
        let more = subject.allocate(8 * MIB);
        pass(&mut subject, 25);
        for object in [first, little, more] {
            subject.pages.free_large(object);
        }
    }

    #[test]
    fn the_program_s_own_threads_promote_nothing() {
        let subject = Subject::new();
        let object = subject.allocate(40 * MIB);
        subject.purger.set_wants_huge(true);
        for _ in 0..100 {
            subject.tick(Caller::Program);
        }
        assert_eq!(huge_chunks(&subject), 0);
        subject.pages.free_large(object);
    }

    #[test]
    fn pages_that_come_back_stay_until_the_program_is_idle() {
        // Fewer than may be dirty from one tick to the next, and more.
        for bytes in [5 * MIB, 12 * MIB] {
            let (mut subject, ballast) = Subject::large();
            with_files(&NO_LIMIT, || {
                // At first most goes in every round.
                let first = purged_by_churn(&mut subject, bytes, 1);
                assert!(first >= bytes / 6 * 5, "{first}");
                purged_by_churn(&mut subject, bytes, 5);
                let learnt = purged_by_churn(&mut subject, bytes, 5);
                assert!(
                    learnt <= first,
                    "in five rounds no more than in one: {learnt}"
                );
                // Nobody takes pages for as long as the delay that was asked for.
                assert!(subject.dirty_bytes() > bytes / 6 * 5);
                subject.pass(200);
                assert_eq!(subject.dirty_bytes(), 0);
                subject.pages.free_large(ballast);
            });
        }
    }
}

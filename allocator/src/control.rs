//! Settings of the process heap by function. Those of the
//! [environment](crate::settings) come first, when the heap is first used.

use crate::global_alloc::SlabAlloc;
use crate::process::Process;
use crate::settings::{ExitReport, HugePages, Profile, Settings};

impl SlabAlloc {
    /// Changes everything that a profile stands for.
    ///
    /// ```
    /// use slab_allocator::{Profile, SlabAlloc};
    ///
    /// SlabAlloc::new().set_profile(Profile::Throughput);
    /// assert_eq!(SlabAlloc::new().settings().purge_delay_ms, 10_000);
    /// ```
    pub fn set_profile(&self, profile: Profile) {
        let settings = profile.settings();
        self.set_purge_delay_ms(settings.purge_delay_ms);
        self.set_background_thread(settings.background_thread);
        self.set_cache_bytes(settings.cache_bytes);
        self.set_huge_pages(settings.huge_pages);
        self.set_stats_at_exit(settings.stats_at_exit);
    }

    /// Changes the time in milliseconds within which free pages go back to the
    /// system; 0 lets the background thread give them back as soon as it can. 1000
    /// by default.
    pub fn set_purge_delay_ms(&self, purge_delay_ms: u32) {
        if let Some(process) = Process::get_or_make() {
            process.set_purge_delay_ms(purge_delay_ms);
        }
    }

    /// Says whether a thread of the heap's gives free pages back, which is the
    /// default. It is started when there is something to do for the first time, and
    /// ends within a moment once it is not wanted. Without it the program's own
    /// calls do the work now and then, so that an idle program does not shrink.
    pub fn set_background_thread(&self, wanted: bool) {
        if let Some(process) = Process::get_or_make() {
            process.set_background_thread(wanted);
        }
    }

    /// Changes how many bytes of free objects a thread keeps at hand at most; before
    /// a small heap it keeps less. Two objects of each size may come on top. 1 MiB
    /// by default.
    pub fn set_cache_bytes(&self, cache_bytes: usize) {
        if let Some(process) = Process::get_or_make() {
            process.set_cache_bytes(cache_bytes);
        }
    }

    /// Changes which memory gets huge pages. The background thread makes them, some
    /// seconds after memory has come into use, at most about a hundred per second. What
    /// is no longer to have any gets small pages at once, at 0.1 ms for each huge one.
    pub fn set_huge_pages(&self, huge_pages: HugePages) {
        if let Some(process) = Process::get_or_make() {
            process.set_huge_pages(huge_pages);
        }
    }

    /// Says whether and how statistics are written to standard error when the program
    /// exits by `exit` or by the end of `main`; not so by default.
    pub fn set_stats_at_exit(&self, wanted: ExitReport) {
        if let Some(process) = Process::get_or_make() {
            process.set_stats_at_exit(wanted);
        }
    }

    /// What holds at this moment.
    pub fn settings(&self) -> Settings {
        Process::get_or_make().map_or_else(Settings::default, Process::settings)
    }
}

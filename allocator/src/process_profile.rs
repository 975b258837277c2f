//! The process heap's profile by function. `docs/heap-profile.md` tells how to use it.

use crate::call_stacks::Sampled;
use crate::global_alloc::SlabAlloc;
use crate::heap_profile::{PROFILE, ProfileStats};
use crate::os;
use crate::process::Process;
use crate::profiled;
use crate::thread;

impl SlabAlloc {
    /// Samples allocations from now on, one in `sample_bytes` bytes on average: 1 stands
    /// for every allocation, and 512 KiB are hardly felt. If sampling is on already, it
    /// goes on with this interval. False where memory is short.
    ///
    /// Sampled objects have pages of their own, so memory grows by one page for each
    /// `sample_bytes` of live objects. Other threads follow when they have used up what
    /// their caches had to be allocated then, which passes unseen.
    pub fn start_heap_profile(&self, sample_bytes: usize) -> bool {
        // SAFETY: The call cannot fail.
        let process = unsafe { libc::getpid() } as u64;
        self.start_heap_profile_with_seed(sample_bytes, os::now_ms() ^ process << 40)
    }

    /// The same with the seed of the random numbers: a program with one thread has the
    /// same objects sampled each time.
    pub fn start_heap_profile_with_seed(&self, sample_bytes: usize, seed: u64) -> bool {
        let Some(process) = Process::get_or_make() else {
            return false;
        };
        if !PROFILE.start(sample_bytes, seed) {
            return false;
        }
        process.end_reuse();
        let thread = thread::current();
        if thread.has_cache() {
            profiled::follow(thread, PROFILE.state());
        }
        true
    }

    /// Samples no more. What was sampled stays in the profile, and leaves it when it is
    /// freed.
    pub fn stop_heap_profile(&self) {
        PROFILE.stop();
    }

    /// Calls `visit` with each call stack under which objects were sampled: the return
    /// addresses, the innermost first, and estimates of all objects that were allocated
    /// there, scaled up from the sampled ones. `visit` may allocate.
    ///
    /// Objects that were freed with their size, as Rust programs do, count as live while
    /// they lie in a thread's cache; those in the calling thread's do not.
    pub fn visit_heap_profile(&self, visit: impl FnMut(&[usize], &Sampled)) {
        self.flush_thread_cache();
        self.as_profile_work(|| PROFILE.visit(visit));
    }

    /// Runs `act`, whose allocations are not sampled if the thread has a cache.
    pub(crate) fn as_profile_work(&self, act: impl FnOnce()) {
        let thread = thread::current();
        if thread.has_cache() {
            thread.profile(act);
        } else {
            act();
        }
    }

    /// What the heap profile is about.
    pub fn heap_profile_stats(&self) -> ProfileStats {
        PROFILE.stats()
    }
}

//! Whether a thread allocates again at once what it has just freed of a class.
//!
//! The owner says so as the class comes and goes sparse; any thread may end it for good,
//! for all allocations to be seen by a heap profile. One word holds the answer, with which
//! the fast path compares the top of the freed slots. The owner changes it by a
//! compare-exchange, so an end that comes in between is not undone.

use crate::sync::atomic::AtomicPtr;
use crate::sync::atomic::Ordering::Relaxed;
use core::ptr;

/// A place in an array of slots.
pub(crate) type Place = *mut *mut u8;

/// Above neither of these is any place.
const PAUSED: Place = ptr::without_provenance_mut(usize::MAX - 1);
const ENDED: Place = ptr::without_provenance_mut(usize::MAX);

/// From where on freed slots are allocated again.
#[repr(transparent)]
pub(crate) struct Reuse(AtomicPtr<*mut u8>);

impl Reuse {
    /// For a stack that starts at null, where nothing can lie.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The same; loom's atomics cannot be made in a constant.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Starts anew, whatever was before: the slots of the stack that starts at `base` are
    /// reused. Nobody may [end](Self::end) it meanwhile.
    pub(crate) fn open(&self, base: Place) {
        self.0.store(base, Relaxed);
    }

    /// Reuses the slots of the stack that starts at `base`, or none for now, unless that
    /// has ended. For the owner.
    pub(crate) fn set(&self, base: Option<Place>) {
        let new = base.unwrap_or(PAUSED);
        let old = self.0.load(Relaxed);
        if old != ENDED && old != new {
            // It fails where another thread has just ended it.
            let _ = self.0.compare_exchange(old, new, Relaxed, Relaxed);
        }
    }

    /// Reuses nothing until the next [`open`](Self::open). Any thread may call this: the
    /// owner learns of it a moment later.
    pub(crate) fn end(&self) {
        // An exchange like the owner's, so that one of the two comes first.
        self.0.swap(ENDED, Relaxed);
    }

    /// Whether the slot below this top of the stack is to be allocated.
    #[inline(always)]
    pub(crate) fn allows(&self, top: Place) -> bool {
        top > self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(not(loom))]
    #[test]
    fn what_is_above_the_start_is_reused_unless_that_is_paused_or_ended() {
        use super::*;

        let base: Place = ptr::without_provenance_mut(64);
        let above = ptr::without_provenance_mut(72);
        let reuse = Reuse::new();
        assert!(!reuse.allows(ptr::null_mut()), "no place is above null");
        reuse.open(base);
        assert!(reuse.allows(above) && !reuse.allows(base));
        reuse.set(None);
        assert!(!reuse.allows(above));
        reuse.set(Some(above));
        assert!(!reuse.allows(above));
        reuse.set(Some(base));
        assert!(reuse.allows(above));
        reuse.end();
        reuse.set(None);
        reuse.set(Some(base));
        assert!(!reuse.allows(above));
        reuse.open(base);
        assert!(reuse.allows(above));
    }

    #[cfg(loom)]
    #[test]
    fn loom_no_change_of_the_owners_undoes_the_end() {
        use super::*;
        use loom::sync::Arc;

        loom::model(|| {
            let base: Place = ptr::without_provenance_mut(64);
            let above = ptr::without_provenance_mut(72);
            let reuse = Arc::new(Reuse::new());
            reuse.open(base);
            let other = {
                let reuse = Arc::clone(&reuse);
                loom::thread::spawn(move || reuse.end())
            };
            reuse.set(None);
            reuse.set(Some(base));
            other.join().unwrap();
            assert!(!reuse.allows(above));
            reuse.set(Some(base));
            assert!(!reuse.allows(above));
        });
    }
}

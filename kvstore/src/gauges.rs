//! Figures of a shard that others read without its lock.
//!
//! The shard writes them under its lock, and only when they have changed by enough to matter, so
//! that the cache line stays shared among those who read it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Changes of the bytes in use that are not worth telling.
const USED_STEP_BYTES: u64 = 4096;

/// No maintenance is wanted.
pub(crate) const NEVER_MS: u64 = u64::MAX;

/// What one shard tells.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Gauges {
    used_bytes: AtomicU64,
    resident_bytes: AtomicU64,
    resident_max_bytes: AtomicU64,
    due_ms: AtomicU64,
}

// All loads and stores are relaxed: each figure stands for itself, and whoever acts on one takes the
// shard's lock and looks again.
impl Gauges {
    pub(crate) fn new() -> Self {
        Gauges {
            used_bytes: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
            resident_max_bytes: AtomicU64::new(0),
            due_ms: AtomicU64::new(NEVER_MS),
        }
    }

    /// Bytes of slots in use, to within a page.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_used_bytes(&self, bytes: u64) {
        if bytes.abs_diff(self.used_bytes()) >= USED_STEP_BYTES || bytes == 0 {
            self.used_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes resident, as of the last growth, purge or maintenance.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_resident_bytes(&self, bytes: u64) {
        self.resident_bytes.store(bytes, Ordering::Relaxed);
        if bytes > self.resident_max_bytes() {
            self.resident_max_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// The most bytes that were resident since [`Gauges::forget_resident_max`].
    pub(crate) fn resident_max_bytes(&self) -> u64 {
        self.resident_max_bytes.load(Ordering::Relaxed)
    }

    /// Begins anew with what is resident now. Another thread's figure may be lost that comes at the same time.
    pub(crate) fn forget_resident_max(&self) {
        let bytes = self.resident_bytes();
        self.resident_max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// When the shard wants maintenance, in milliseconds of Unix time; [`NEVER_MS`] for not at all.
    #[inline]
    pub(crate) fn due_ms(&self) -> u64 {
        self.due_ms.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_due_ms(&self, due_ms: u64) {
        self.due_ms.store(due_ms, Ordering::Relaxed);
    }
}

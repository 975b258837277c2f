//! Which address space the allocator has reserved: so that who looks at the process's
//! mappings can tell the allocator's from others.
//!
//! A fixed table, in which a reservation is noted when it is made. Reservations are
//! few and live long; one that finds no place is served all the same, and the table
//! says then that it is not complete.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most reservations that are noted: an arena has about ten.
const NOTED_MAX: usize = 1024;

/// First address, 0 where the place is free, and length in bytes.
struct Place {
    start: AtomicUsize,
    bytes: AtomicUsize,
}

static PLACES: [Place; NOTED_MAX] = [const {
    Place {
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
    }
}; NOTED_MAX];

/// Set once a reservation has found no place.
static IS_INCOMPLETE: AtomicBool = AtomicBool::new(false);

pub(super) fn note(start: NonNull<u8>, bytes: usize) {
    let start = start.as_ptr().addr();
    for place in &PLACES {
        // Relaxed: readers tolerate a length that is about to change.
        let taken = place
            .start
            .compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            place.bytes.store(bytes, Ordering::Relaxed);
            return;
        }
    }
    IS_INCOMPLETE.store(true, Ordering::Relaxed);
}

pub(super) fn forget(start: NonNull<u8>) {
    let start = start.as_ptr().addr();
    let noted = |place: &&Place| place.start.load(Ordering::Relaxed) == start;
    if let Some(place) = PLACES.iter().find(noted) {
        place.bytes.store(0, Ordering::Relaxed);
        place.start.store(0, Ordering::Relaxed);
    }
}

/// Visits the address space that the allocator has reserved for all of its arenas and
/// records, in no order: first address and length in bytes. False if there is more
/// than was noted.
pub fn reservations(mut visit: impl FnMut(usize, usize)) -> bool {
    for place in &PLACES {
        let start = place.start.load(Ordering::Relaxed);
        let bytes = place.bytes.load(Ordering::Relaxed);
        if start != 0 && bytes != 0 {
            visit(start, bytes);
        }
    }
    !IS_INCOMPLETE.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_visited_until_it_is_forgotten() {
        // No reservation has an address of page 0.
        let start = NonNull::<u8>::dangling();
        let seen = || {
            let mut seen = 0;
            reservations(|at, bytes| {
                if at == start.as_ptr().addr() {
                    seen += bytes;
                }
            });
            seen
        };
        note(start, 4096);
        assert_eq!(seen(), 4096);
        forget(start);
        assert_eq!(seen(), 0);
    }
}

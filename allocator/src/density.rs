//! Which chunks are worth a huge page: a computation on numbers, with the clock passed
//! in.
//!
//! A huge page spares the processor's table of addresses 511 entries out of 512, and
//! is worth it where all of a chunk is in use. Where the system makes them by itself
//! it fills pages that the program has never touched, and those that were given back.
//! So only chunks are taken that are *whole*, all pages handed out and resident, and
//! that have been so for some time: a sweep over all chunks goes about once a second,
//! and a chunk must be whole in [`SWEEPS`] of them. A chunk for which it did not
//! work out or did not last waits twice as long the next time.
//!
//! The rule that dense chunks should be kept dense, and sparse ones broken up, is that
//! of TCMalloc's huge-page filler (A. H. Hunter et al., "Beyond malloc efficiency to
//! fleet efficiency", OSDI 2021); jemalloc's `hpa` makes huge pages late, as here.

/// Sweeps that must find a chunk whole, one after the other.
const SWEEPS: u8 = 2;

/// Milliseconds from one sweep to the next.
const SWEEP_MS: u64 = 1000;

/// Setbacks after which a chunk waits no longer still, and after which one that never
/// had a huge page is left alone.
const SETBACKS_MAX: u8 = 6;

/// For how long a chunk has been dense, and what has come of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Density {
    /// Huge pages are allowed in the chunk.
    pub(crate) is_huge: bool,
    /// Sweeps that have found the chunk whole since it last was not.
    sweeps: u8,
    /// How often it was not worth it, or did not last.
    setbacks: u8,
}

/// What a sweep makes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is nothing to do.
    Leave,
    /// It may be worth it in a later sweep.
    Wait,
    /// It is worth a huge page.
    Dense,
}

impl Density {
    /// Notes that pages of the chunk were freed, or given back.
    #[inline]
    pub(crate) fn disturbed(&mut self) {
        self.sweeps = 0;
    }

    /// Takes in whether a sweep has found the chunk whole.
    pub(crate) fn look(&mut self, is_whole: bool) -> Verdict {
        if self.is_huge || !is_whole || self.setbacks > SETBACKS_MAX {
            return Verdict::Leave;
        }
        if self.sweeps < SWEEPS << self.setbacks {
            self.sweeps += 1;
            return Verdict::Wait;
        }
        Verdict::Dense
    }

    /// Notes that the chunk could not have a huge page, or should not.
    pub(crate) fn refused(&mut self) {
        *self = Density {
            is_huge: false,
            sweeps: 0,
            setbacks: (self.setbacks + 1).min(SETBACKS_MAX + 1),
        };
    }

    /// Notes that the chunk has a huge page.
    pub(crate) fn promoted(&mut self) {
        self.is_huge = true;
    }

    /// Notes that the huge page was split.
    pub(crate) fn demoted(&mut self) {
        *self = Density {
            is_huge: false,
            sweeps: 0,
            setbacks: (self.setbacks + 1).min(SETBACKS_MAX),
        };
    }
}

/// Where the sweep over all chunks stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweep {
    /// The next chunk to look at.
    pub(crate) cursor: u32,
    /// This sweep has found a chunk that may be worth it in a later one.
    pub(crate) has_waiting: bool,
    /// When the next sweep begins.
    due_ms: u64,
}

impl Sweep {
    /// The milliseconds until the sweep may go on; 0 in the middle of one.
    pub(crate) fn pause_ms(&self, now_ms: u64) -> u64 {
        match self.cursor {
            0 => self.due_ms.saturating_sub(now_ms),
            _ => 0,
        }
    }

    /// Ends the sweep. Returns the milliseconds until the next; `None` where it would
    /// find nothing unless the heap changes.
    pub(crate) fn ended(&mut self, now_ms: u64) -> Option<u64> {
        let next = self.has_waiting.then_some(SWEEP_MS);
        *self = Sweep {
            cursor: 0,
            has_waiting: false,
            due_ms: now_ms + SWEEP_MS,
        };
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps until the chunk, whole in all of them, counts as dense.
    fn sweeps_until_dense(density: &mut Density) -> Option<u32> {
        (0..1000).find(|_| density.look(true) == Verdict::Dense)
    }

    #[test]
    fn a_chunk_must_be_whole_for_some_time_and_longer_after_each_setback() {
        let mut density = Density::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(sweeps_until_dense(&mut density).unwrap());
            density.promoted();
            assert_eq!(density.look(true), Verdict::Leave);
            density.demoted();
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 128, 128]);
    }

    #[test]
    fn what_is_never_possible_is_given_up() {
        let mut density = Density::default();
        for _ in 0..7 {
            assert!(sweeps_until_dense(&mut density).is_some());
            density.refused();
        }
        assert_eq!(density.look(true), Verdict::Leave);
        assert_eq!(sweeps_until_dense(&mut density), None);
    }

    #[test]
    fn a_change_starts_the_wait_anew() {
        let mut density = Density::default();
        assert_eq!(density.look(true), Verdict::Wait);
        assert_eq!(density.look(true), Verdict::Wait);
        density.disturbed();
        assert_eq!(density.look(false), Verdict::Leave);
        assert_eq!(sweeps_until_dense(&mut density), Some(2));
    }

    #[test]
    fn sweeps_go_on_while_there_is_something_to_wait_for() {
        let mut sweep = Sweep::default();
        assert_eq!(sweep.pause_ms(5000), 0);
        sweep.cursor = 7;
        sweep.has_waiting = true;
        assert_eq!(sweep.pause_ms(5000), 0);
        assert_eq!(sweep.ended(5000), Some(SWEEP_MS));
        assert_eq!(sweep.pause_ms(5100), SWEEP_MS - 100);
        assert_eq!(sweep.pause_ms(9000), 0);
        assert_eq!(sweep.ended(9000), None);
    }
}

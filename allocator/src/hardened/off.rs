//! The hardened mode where it is off: nothing.

use crate::bin::Bin;
use crate::size_class::SizeClass;

/// Bytes that a slot has to have beyond what is asked for.
pub(crate) const SEAL_BYTES: usize = 0;

/// Slots that are handed out hold zeros.
pub(crate) const SLOTS_ARE_ZERO: bool = false;

/// There are no secrets.
#[inline(always)]
pub(crate) fn initialise() {}

/// Bytes of a slab's ledger.
pub(crate) const fn ledger_bytes(_class: &SizeClass) -> usize {
    0
}

/// Writes an empty ledger, which takes no bytes.
///
/// # Safety
///
/// None is needed.
#[inline(always)]
pub(crate) unsafe fn clear_ledger(_place: *mut u8, _class: &SizeClass) {}

/// Verifies nothing about a slab that is about to be released.
///
/// # Safety
///
/// None is needed.
#[inline(always)]
pub(crate) unsafe fn verify_released(_start: *const u8, _punched: u16, _class: &SizeClass) {}

/// No choice is random: slots go in the order of their addresses.
pub(crate) struct Dice;

impl Dice {
    #[inline(always)]
    pub(crate) fn throw() -> Self {
        Self
    }

    /// Takes the first slot at hand.
    #[inline(always)]
    pub(crate) fn take(&mut self, bin: &mut Bin) -> Option<usize> {
        bin.take()
    }

    /// Puts slots in an order such that the lowest, of ascending ones, is last.
    #[inline(always)]
    pub(crate) fn arrange(&mut self, slots: &mut [*mut u8]) {
        slots.reverse();
    }
}

/// Holds no slot back.
pub(crate) struct Quarantine;

impl Quarantine {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Forgets nothing.
    #[inline(always)]
    pub(crate) fn forget(&self) {}

    /// Slots of the class.
    #[inline(always)]
    pub(crate) fn len(&self, _class: usize) -> usize {
        0
    }

    /// Gives up nothing.
    #[inline(always)]
    pub(crate) fn drain(&self, _release: impl FnMut(usize, usize)) {}
}

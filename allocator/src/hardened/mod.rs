//! The hardened mode: what stands between a program's mistakes and the heap. The Cargo
//! feature `hardened` turns it on; without it everything here is nothing, and the paths
//! that call it are the same instructions as if they did not.
//!
//! ```text
//! a slot of 48 bytes, 29 of which were asked for
//! | object                       | seal                                   |
//! 0                              29           40       44     46      48
//!                                | canary ..  | canary | slack | slack |
//! ```
//!
//! - **Seal.** A request is enlarged by [`SEAL_BYTES`], and all bytes behind what was
//!   asked for hold a canary: a keyed hash of the slot's address. No byte of it is zero,
//!   so that the end of a string that is one too long is always seen. Its last eight
//!   bytes say besides how many bytes the seal has (the *slack*, twice), hence what was
//!   asked for. A free, and every question about the object, verifies all of it.
//! - **Ledger.** A bit per slot, in the slab's record: the program has the slot. Set by
//!   one atomic instruction when it is handed out and cleared by one when it is freed,
//!   so that of two frees one finds it clear, whichever threads they are of and whether
//!   the slot lies in a cache, in a quarantine or in its slab.
//! - **Zeros.** A freed slot is cleared, and must still be so when it is handed out or
//!   its slab's pages go back: else someone has written to it. So `calloc` need not
//!   clear, and what was freed cannot be read.
//! - **Quarantine.** A freed slot changes places with a random one of those that the
//!   thread freed before, and this goes to the end of a queue.
//! - **Dice.** Slots are taken from their slab, and put in the thread's cache, in random
//!   order.
//!
//! What says which slots are free lies apart from the slots in all modes, so no write to
//! a slot can forge it. Which parts of this mode meet which mistakes, and what they cost,
//! is the subject of `docs/hardened.md`; guard pages are in `fences`.
//!
//! The mechanisms are those of the field: canaries, zeros that are verified and
//! quarantines as in GrapheneOS's `hardened_malloc`, a header that is a keyed checksum,
//! with the size in it, as in LLVM's Scudo (here it is a footer).

#[cfg(not(feature = "hardened"))]
mod off;
#[cfg(feature = "hardened")]
mod on;

#[cfg(not(feature = "hardened"))]
#[cfg_attr(
    loom,
    allow(unused_imports, reason = "the process heap is what uses them")
)]
pub(crate) use off::*;
#[cfg(feature = "hardened")]
pub(crate) use on::*;

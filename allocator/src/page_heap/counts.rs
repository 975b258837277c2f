//! Where a page heap's pages are, as numbers.

use crate::buddy::BuddyCounts;
use crate::units::CHUNK_PAGES;

/// Free pages per huge page, on average, that stay for its sake: a sixty-fourth.
const SPARED_PAGES: u32 = CHUNK_PAGES / 64;

/// Where a heap's pages are, and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageCounts {
    /// Pages handed out.
    pub(crate) used: u32,
    /// Pages handed out without memory behind them.
    pub(crate) punched: u32,
    /// Free pages with memory behind them.
    pub(crate) dirty: u32,
    /// Of these, those that lie in a page of the system's with pages in use.
    pub(crate) held: u32,
    /// Chunks that huge pages are allowed in, and dirty pages in them.
    pub(crate) huge_chunks: u32,
    pub(crate) huge_dirty: u32,
    /// How often a chunk has got a huge page, and lost it.
    pub(crate) promotions: u64,
    pub(crate) demotions: u64,
    /// Chunks with pages handed out or dirty, and groups with such chunks.
    pub(crate) open_chunks: u32,
    pub(crate) open_groups: u32,
    /// Pairs of chunks with such chunks.
    pub(crate) open_pairs: u32,
    /// Pages ever handed out.
    pub(crate) handed_total: u64,
    /// Those among them that had no memory behind them.
    pub(crate) fresh_total: u64,
    /// Pages ever given back to the system, free or punched.
    pub(crate) purged_total: u64,
    /// Requests to give memory back that the system refused.
    pub(crate) purges_refused: u64,
    /// Free blocks by order; splits and merges so far.
    pub(crate) buddy: BuddyCounts,
}

impl PageCounts {
    /// Pages that have, or may have, memory behind them.
    pub(crate) fn resident(&self) -> u32 {
        self.used - self.punched + self.dirty
    }

    /// Dirty pages that are to be given back in time: all but those that cannot go
    /// alone, and a few in huge pages, which are worth more than they weigh.
    pub(crate) fn purgeable(&self) -> u32 {
        self.dirty - self.held - self.spared()
    }

    /// Dirty pages that stay because the others in their huge pages are in use.
    pub(crate) fn spared(&self) -> u32 {
        (self.huge_chunks * SPARED_PAGES).min(self.huge_dirty)
    }
}

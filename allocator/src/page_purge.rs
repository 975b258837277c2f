//! The page heap's way of giving memory back to the system: free pages that have
//! been dirty for long enough, and dead pages inside runs that are in use.
//!
//! Free pages of wholly free chunks go first, since such a chunk is closed after
//! that, then those at the highest addresses, where emptiness gathers, and last those
//! in huge pages, which are split for it. Runs go in batches, neighbours joined, by
//! one request to the system each.
//!
//! Where the system's pages are larger than ours, only whole ones go. What is free
//! in others stays dirty.

use crate::buddy::runs;
use crate::decay::Decay;
use crate::metadata::PURGE_RUNS;
use crate::page_heap::{DIRTY, PageHeap};
use crate::units::{ChunkIndex, PageIndex, PageRun};

impl PageHeap {
    /// Gives back up to `pages_max` dirty pages: first those of wholly free
    /// chunks, then from the highest address down. Returns how many.
    pub(crate) fn purge(&mut self, pages_max: u32) -> u32 {
        let mut batch = Batch::new();
        let mut purged = 0;
        for turn in [Turn::Free, Turn::Small, Turn::Huge] {
            let mut end = self.frontier;
            if turn == Turn::Huge && self.counts.huge_chunks == 0 {
                break;
            }
            while let Some(chunk) = self.sets.last_below(DIRTY, end) {
                end = chunk;
                if purged + batch.pages >= pages_max {
                    break;
                }
                let record = &self.chunks.items()[chunk as usize];
                let is_due = match turn {
                    Turn::Free => record.buddy.is_all_free(),
                    Turn::Small => !record.density.is_huge,
                    Turn::Huge => true,
                };
                if !is_due {
                    continue;
                }
                let first = ChunkIndex(chunk).first_page();
                for (mut start, mut free) in runs(record.purgeable_bits(self.system_pages)) {
                    // More than one piece where clean pages go with the dirty ones.
                    while free > 0 {
                        let left = pages_max.saturating_sub(purged + batch.pages);
                        if left == 0 {
                            break;
                        }
                        let record = &self.chunks.items()[chunk as usize];
                        let pages = free.min(left.saturating_add(self.system_pages - 1))
                            / self.system_pages
                            * self.system_pages;
                        let dirty = record.count_dirty(start, pages);
                        let run = PageRun {
                            start: first.plus(start),
                            pages,
                        };
                        (start, free) = (start + pages, free - pages);
                        if batch.push(run, dirty) {
                            continue;
                        }
                        match self.flush(&mut batch) {
                            Some(pages) => purged += pages,
                            None => return purged,
                        }
                        batch.push(run, dirty);
                    }
                }
            }
            match self.flush(&mut batch) {
                Some(pages) => purged += pages,
                None => return purged,
            }
        }
        purged
    }

    /// Purges the pages of the batch and empties it; `None` where the system
    /// refused some, which stay dirty.
    fn flush(&mut self, batch: &mut Batch) -> Option<u32> {
        let done = self.give_back(batch.runs());
        let complete = done == batch.runs().len();
        for index in 0..done {
            for (chunk, start, pages) in batch.runs()[index].by_chunk() {
                let gone = self.chunks.items_mut()[chunk.0 as usize].purged(start, pages);
                self.counts.dirty -= gone;
                self.counts.purged_total += u64::from(gone);
                self.relist(chunk.0);
                self.close_if_idle(chunk.0);
            }
        }
        let pages = batch.pages;
        *batch = Batch::new();
        complete.then_some(pages)
    }

    /// Asks the system to take the memory of the runs. Returns how many of
    /// them, from the first on, it took.
    fn give_back(&mut self, runs: &[PageRun]) -> usize {
        let done = match self.demote_all(runs) {
            true => self.region.purge(runs),
            false => 0,
        };
        self.counts.purges_refused += u64::from(done < runs.len());
        done
    }

    /// Gives back what has been dirty for long enough, but at most `pages_max`
    /// pages. Returns the number of pages and the time at which the next are
    /// due; `None` while nothing is dirty.
    pub(crate) fn purge_due(&mut self, now_ms: u64, pages_max: u32) -> (u32, Option<u64>) {
        let dirty = self.counts.purgeable();
        let due = dirty - self.decay.allowed(now_ms, dirty);
        let asked = due.min(pages_max);
        let purged = if asked > 0 { self.purge(asked) } else { 0 };
        let dirty = self.counts.purgeable();
        self.decay.kept(dirty);
        let mut next = self.decay.next_due_ms(now_ms, dirty);
        if purged >= asked && asked < due {
            next = Some(now_ms);
        } else if purged < asked {
            // The system has refused; asking again at once would not help.
            const RETRY_MS: u64 = 100;
            next = next.map(|next| next.max(now_ms + RETRY_MS));
        }
        (purged, next)
    }

    /// Changes the time within which free pages are purged.
    pub(crate) fn set_decay_ms(&mut self, decay_ms: u32) {
        self.decay = Decay::new(decay_ms);
    }

    /// Gives back the memory of pages that are handed out but dead, in runs of
    /// [whole pages](PageHeap::whole_system_pages) of the system's. Returns
    /// how many runs, counted from the first, are punched.
    pub(crate) fn punch(&mut self, runs: &[PageRun]) -> usize {
        let mut done = 0;
        for batch in runs.chunks(PURGE_RUNS) {
            let taken = self.give_back(batch);
            for run in &batch[..taken] {
                for (chunk, start, pages) in run.by_chunk() {
                    let record = &mut self.chunks.items_mut()[chunk.0 as usize];
                    self.counts.punched += record.punched(start, pages);
                    self.counts.purged_total += u64::from(pages);
                }
            }
            done += taken;
            if taken < batch.len() {
                break;
            }
        }
        done
    }
}

/// Which chunks' pages are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Those of which no page is in use.
    Free,
    /// Those without a huge page.
    Small,
    /// All others.
    Huge,
}

/// Runs to be given back by one call; neighbours are joined.
struct Batch {
    runs: [PageRun; PURGE_RUNS],
    len: usize,
    /// Dirty pages in them.
    pages: u32,
}

impl Batch {
    fn new() -> Batch {
        let none = PageRun {
            start: PageIndex(0),
            pages: 0,
        };
        Batch {
            runs: [none; PURGE_RUNS],
            len: 0,
            pages: 0,
        }
    }

    fn runs(&self) -> &[PageRun] {
        &self.runs[..self.len]
    }

    /// Adds a run with so many dirty pages; false if the batch is full.
    fn push(&mut self, run: PageRun, dirty: u32) -> bool {
        if let Some(last) = self.runs[..self.len].last_mut()
            && (last.end() == run.start || run.end() == last.start)
        {
            last.start = last.start.min(run.start);
            last.pages += run.pages;
            self.pages += dirty;
            return true;
        }
        if self.len == PURGE_RUNS {
            return false;
        }
        self.runs[self.len] = run;
        self.len += 1;
        self.pages += dirty;
        true
    }
}

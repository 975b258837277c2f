//! Punching: giving back pages inside live slabs on which no slot is in use.
//!
//! It helps where objects cannot be moved. A page of slots of `s` bytes, of
//! which a share `u` is live at random, is dead with probability
//! `(1 - u)^(4096 / s)`: a tenth of live 256-byte slots leaves 18% of the
//! pages dead, of 1-KiB slots 66%. Below 256 bytes it is not worth the search.
//!
//! Only slabs at most half used are searched, and only after they have been
//! quiet from one search to the next: neither did slots come back, nor did the
//! slab allocate. A slab that was packed is punched at once, whatever its class.

use crate::bin::{Bin, LISTS, OCCUPANCY_LISTS};
use crate::metadata::PURGE_RUNS;
use crate::page_heap::PageHeap;
use crate::size_class::SizeClass;
use crate::slab::{Records, Slab};
use crate::units::{PageIndex, PageRun, SlabId};

/// Smallest slots whose slabs are searched.
const SLOT_BYTES_MIN: u32 = 256;
/// Flag in a record's `looked`: the slab was searched with that many free.
const SEARCHED: u16 = 1 << 15;
/// Most runs of dead pages in a slab of 16 pages.
const RUNS_PER_SLAB: usize = 8;

/// Which slabs to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// Those without a change since the last search.
    Quiet,
    /// All.
    All,
}

fn is_searched(class: &SizeClass) -> bool {
    class.size >= SLOT_BYTES_MIN && class.pages > 1
}

/// Whether a search may find something that the last one did not.
pub(crate) fn is_worthwhile(bin: &Bin, class: &SizeClass) -> bool {
    let sparse = bin.lists_used() >> (OCCUPANCY_LISTS / 2) != 0;
    is_searched(class) && sparse && (bin.search_again || bin.free != bin.searched_free)
}

/// Punches the dead pages in sparse slabs of a bin, looking at no more than
/// `budget` slabs, which sinks accordingly. Returns the number of pages.
///
/// # Safety
/// The records of the bin's slabs are accessed by the caller alone, and the
/// slabs lie in this page heap.
pub(crate) unsafe fn punch(
    bin: &mut Bin,
    class: &SizeClass,
    records: Records,
    pages: &mut PageHeap,
    search: Search,
    budget: &mut u32,
) -> u32 {
    if !is_worthwhile(bin, class) {
        return 0;
    }
    bin.searched_free = bin.free;
    bin.search_again = false;
    let mut punched = 0;
    let mut batch = Batch::new();
    for list in OCCUPANCY_LISTS / 2..LISTS {
        let mut id = bin.head(list);
        while !id.is_none() {
            if *budget == 0 {
                bin.search_again = true;
                break;
            }
            *budget -= 1;
            // SAFETY: slabs on lists are live; passed on to the caller.
            let slab = unsafe { records.slab(id) };
            // Punched slabs change lists when the batch is flushed, but only
            // such as the walk has passed.
            let next = slab.record().next;
            let dead = match look(slab, class, search) {
                Look::Dead(dead) => {
                    let record = slab.record();
                    pages.whole_system_pages(record.start, dead, record.punched)
                }
                Look::Later => {
                    bin.search_again = true;
                    0
                }
            };
            if dead != 0 && !batch.add(id, slab, dead) {
                // SAFETY: the slabs were found on lists of this bin.
                punched += unsafe { batch.flush(bin, class, records, pages) };
                batch.add(id, slab, dead);
            }
            id = next;
        }
        // SAFETY: as above.
        punched += unsafe { batch.flush(bin, class, records, pages) };
    }
    punched
}

/// Punches the dead pages of one slab, which has live slots and is on no list.
/// Returns their number.
pub(crate) fn punch_slab(mut slab: Slab, class: &SizeClass, pages: &mut PageHeap) -> u32 {
    let mut runs = [PageRun {
        start: PageIndex(0),
        pages: 0,
    }; RUNS_PER_SLAB];
    let mut len = 0;
    let record = slab.record();
    let dead = pages.whole_system_pages(record.start, slab.dead_pages(class), record.punched);
    for (first, pages) in runs_of(dead) {
        runs[len] = PageRun {
            start: slab.record().start.plus(first),
            pages,
        };
        len += 1;
    }
    let done = pages.punch(&runs[..len]);
    for run in &runs[..done] {
        note_punched(&mut slab, run);
    }
    runs[..done].iter().map(|run| run.pages).sum()
}

/// Notes in a slab's record that a run of its pages was punched.
fn note_punched(slab: &mut Slab, run: &PageRun) {
    let first = run.start.0 - slab.record().start.0;
    slab.record_mut().punched |= (((1u32 << run.pages) - 1) << first) as u16;
}

enum Look {
    /// Pages of the slab, as bits, that are dead, punched or not.
    Dead(u16),
    /// The slab has changed since the last search: the next one decides.
    Later,
}

fn look(mut slab: Slab, class: &SizeClass, search: Search) -> Look {
    let free = slab.record().free;
    let looked = slab.record().looked;
    if looked == free | SEARCHED {
        return Look::Dead(0);
    }
    if search == Search::Quiet && looked != free {
        slab.record_mut().looked = free;
        return Look::Later;
    }
    slab.record_mut().looked = free | SEARCHED;
    Look::Dead(slab.dead_pages(class))
}

/// Runs of dead pages, and the slabs that they lie in.
struct Batch {
    runs: [PageRun; PURGE_RUNS],
    slabs: [SlabId; PURGE_RUNS],
    len: usize,
}

impl Batch {
    fn new() -> Batch {
        let none = PageRun {
            start: PageIndex(0),
            pages: 0,
        };
        Batch {
            runs: [none; PURGE_RUNS],
            slabs: [SlabId::NONE; PURGE_RUNS],
            len: 0,
        }
    }

    /// Adds a slab's dead pages; false, with nothing added, if they do not fit.
    fn add(&mut self, id: SlabId, slab: Slab, dead: u16) -> bool {
        if self.len + RUNS_PER_SLAB > PURGE_RUNS {
            return false;
        }
        for (first, pages) in runs_of(dead) {
            self.runs[self.len] = PageRun {
                start: slab.record().start.plus(first),
                pages,
            };
            self.slabs[self.len] = id;
            self.len += 1;
        }
        true
    }

    /// Gives the pages back and notes it. Returns their number.
    ///
    /// # Safety
    /// The slabs are on lists of the bin; otherwise as [`punch`].
    unsafe fn flush(
        &mut self,
        bin: &mut Bin,
        class: &SizeClass,
        records: Records,
        pages: &mut PageHeap,
    ) -> u32 {
        let done = pages.punch(&self.runs[..self.len]);
        let mut punched = 0;
        for (run, id) in self.runs[..done].iter().zip(&self.slabs) {
            // SAFETY: slabs on lists are live; passed on to the caller.
            let mut slab = unsafe { records.slab(*id) };
            // SAFETY: the slab is on a list, and off it only in between. It
            // has live slots, or it would not have been on one.
            unsafe {
                bin.take_off(records, *id);
                note_punched(&mut slab, run);
                bin.enlist(records, class, *id);
            }
            punched += run.pages;
        }
        self.len = 0;
        punched
    }
}

/// The maximal runs of set bits: first bit and length.
fn runs_of(bits: u16) -> impl Iterator<Item = (u32, u32)> {
    let mut bits = u32::from(bits);
    core::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let start = bits.trailing_zeros();
        let pages = (bits >> start).trailing_ones();
        bits &= !(((1 << pages) - 1) << start);
        Some((start, pages))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_maximal() {
        for bits in 0..=u16::MAX {
            let mut seen = 0u32;
            let mut last_end = None;
            for (start, pages) in runs_of(bits) {
                assert!(last_end.is_none_or(|end| start > end));
                seen |= ((1 << pages) - 1) << start;
                last_end = Some(start + pages);
            }
            assert_eq!(seen, u32::from(bits));
            assert!(runs_of(bits).count() <= RUNS_PER_SLAB);
        }
    }
}

//! The directory of a table: which segment covers which range of prefixes. Pure.
//!
//! With `bits` bits the directory has `2^bits` cells; a prefix belongs to the cell that its highest
//! bits name. A segment of depth `d` is named by the `2^(bits - d)` cells of its range. When a
//! segment that has a single cell splits, every cell is doubled; when no segment has a single cell
//! any more, every other cell goes. A cell takes 8 bytes, and there is about one for 700 entries.

use crate::geometry::Geometry;
use crate::memory::Ref;

/// What a cell says about its segment: enough to find a bucket without reading the segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) segment: Ref,
    pub(crate) depth: u8,
    buckets: u8,
    homes: u8,
}

impl Cell {
    pub(crate) fn new(segment: Ref, depth: u32, geometry: Geometry) -> Self {
        Cell {
            segment,
            depth: depth as u8,
            buckets: geometry.buckets() as u8,
            homes: geometry.homes() as u8,
        }
    }

    #[inline]
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::new(usize::from(self.buckets), usize::from(self.homes))
    }
}

/// The cells of a table; none at all while the table is empty.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    cells: Vec<Cell>,
    bits: u32,
    /// Segments that have a single cell.
    deepest: usize,
}

/// The cells that name one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: usize,
    count: usize,
}

impl Directory {
    #[inline]
    fn index(&self, prefix: u64) -> usize {
        // Two shifts, since a shift by 64 is none.
        (prefix >> 1 >> (63 - self.bits)) as usize
    }

    /// The cell of a prefix; `None` while the table is empty.
    #[inline]
    pub(crate) fn get(&self, prefix: u64) -> Option<Cell> {
        self.cells.get(self.index(prefix)).copied()
    }

    fn range(&self, prefix: u64, depth: u32) -> Range {
        let count = 1 << (self.bits - depth);
        Range {
            first: self.index(prefix) & !(count - 1),
            count,
        }
    }

    /// Puts the first segment in, which covers everything.
    pub(crate) fn begin(&mut self, cell: Cell) {
        debug_assert!(self.cells.is_empty() && cell.depth == 0);
        self.cells.push(cell);
        self.bits = 0;
        self.deepest = 1;
    }

    /// Takes the last segment out.
    pub(crate) fn end(&mut self) {
        debug_assert!(self.bits == 0);
        *self = Directory::default();
    }

    /// Names another segment for the range of one with the same depth.
    pub(crate) fn replace(&mut self, prefix: u64, cell: Cell) {
        let range = self.range(prefix, u32::from(cell.depth));
        self.cells[range.first..range.first + range.count].fill(cell);
    }

    /// Names two halves for the range of the segment that covers `prefix`.
    pub(crate) fn split(&mut self, prefix: u64, low: Cell, high: Cell) {
        let depth = u32::from(low.depth) - 1;
        if depth == self.bits {
            self.double();
        }
        let range = self.range(prefix, depth);
        let half = range.count / 2;
        self.cells[range.first..range.first + half].fill(low);
        self.cells[range.first + half..range.first + range.count].fill(high);
        if u32::from(low.depth) == self.bits {
            self.deepest += 2;
        }
    }

    /// Names one segment for the ranges of the two halves that cover `prefix`.
    pub(crate) fn merge(&mut self, prefix: u64, cell: Cell) {
        let was_deepest = u32::from(cell.depth) + 1 == self.bits;
        self.replace(prefix, cell);
        if was_deepest {
            self.deepest -= 2;
            while self.deepest == 0 && self.bits > 0 {
                self.halve();
            }
        }
    }

    /// The other half of the range that a segment of `depth` at `prefix` is one half of, if it is
    /// not divided further.
    pub(crate) fn buddy(&self, prefix: u64, depth: u32) -> Option<Cell> {
        let bit = 1u64.checked_shl(64 - depth).filter(|_| depth > 0)?;
        let cell = self.get(prefix ^ bit)?;
        (u32::from(cell.depth) == depth).then_some(cell)
    }

    fn double(&mut self) {
        self.cells.reserve_exact(self.cells.len());
        let old = self.cells.len();
        self.cells.resize(2 * old, self.cells[old - 1]);
        for index in (0..old).rev() {
            let cell = self.cells[index];
            self.cells[2 * index] = cell;
            self.cells[2 * index + 1] = cell;
        }
        self.bits += 1;
        self.deepest = 0;
    }

    fn halve(&mut self) {
        let half = self.cells.len() / 2;
        for index in 0..half {
            self.cells[index] = self.cells[2 * index];
        }
        self.cells.truncate(half);
        self.cells.shrink_to_fit();
        self.bits -= 1;
        self.deepest = self
            .cells
            .iter()
            .filter(|cell| u32::from(cell.depth) == self.bits)
            .count();
    }

    /// Every segment once, in the order of prefixes, with the lowest prefix of its range.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (u64, Cell)> + '_ {
        let mut next = Some(0u64);
        std::iter::from_fn(move || {
            let prefix = next?;
            let cell = self.get(prefix)?;
            next = after(prefix, u32::from(cell.depth));
            Some((prefix, cell))
        })
    }

    /// Bytes of the cells.
    pub(crate) fn bytes(&self) -> usize {
        self.cells.capacity() * size_of::<Cell>()
    }

    /// Checks that the cells of each segment are exactly those of its range.
    ///
    /// # Panics
    /// If they are not.
    pub(crate) fn check(&self) {
        if self.cells.is_empty() {
            return;
        }
        assert_eq!(self.cells.len(), 1 << self.bits);
        let (mut cells, mut deepest) = (0, 0);
        for (prefix, cell) in self.segments() {
            let range = self.range(prefix, u32::from(cell.depth));
            assert_eq!(
                range.first, cells,
                "cells are skipped before prefix {prefix:x}"
            );
            assert!(
                self.cells[range.first..range.first + range.count]
                    .iter()
                    .all(|other| *other == cell)
            );
            cells += range.count;
            deepest += usize::from(u32::from(cell.depth) == self.bits);
        }
        assert_eq!((cells, deepest), (self.cells.len(), self.deepest));
    }
}

/// The lowest prefix behind the range of a segment; `None` behind the last one.
pub(crate) fn after(prefix: u64, depth: u32) -> Option<u64> {
    if depth == 0 {
        None
    } else {
        prefix.checked_add(1 << (64 - depth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cell(n: u32, depth: u32) -> Cell {
        Cell::new(
            Ref::from_raw(n).expect("not 0"),
            depth,
            Geometry::of_buckets(7),
        )
    }

    proptest! {
        /// Splits and merges at random places, against a map from range to segment.
        #[test]
        fn cells_follow_splits_and_merges(steps in proptest::collection::vec((any::<u64>(), any::<bool>()), 1..80)) {
            let mut directory = Directory::default();
            directory.begin(cell(1, 0));
            let mut model = std::collections::BTreeMap::from([(0u64, cell(1, 0))]);
            for (n, (prefix, grow)) in steps.into_iter().enumerate() {
                let at = directory.get(prefix).expect("not empty");
                let depth = u32::from(at.depth);
                let start = *model.range(..=prefix).next_back().expect("not empty").0;
                let n = n as u32 * 2 + 2;
                if grow && depth < 12 {
                    let (low, high) = (cell(n, depth + 1), cell(n + 1, depth + 1));
                    directory.split(prefix, low, high);
                    model.insert(start, low);
                    model.insert(start | 1 << (63 - depth), high);
                } else if let Some(buddy) = directory.buddy(start, depth) {
                    let low = start & !(1 << (64 - depth));
                    prop_assert!(buddy == model[&low] || buddy == model[&(low | 1 << (64 - depth))]);
                    model.remove(&(low | 1 << (64 - depth)));
                    model.insert(low, cell(n, depth - 1));
                    directory.merge(start, cell(n, depth - 1));
                } else {
                    let other = cell(n, depth);
                    directory.replace(prefix, other);
                    model.insert(start, other);
                }
                directory.check();
                prop_assert_eq!(directory.segments().collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
            }
            while model.len() > 1 {
                let (start, deepest) = model.iter().max_by_key(|(_, cell)| cell.depth).map(|(s, c)| (*s, *c)).expect("not empty");
                let depth = u32::from(deepest.depth);
                let low = start & !(1 << (64 - depth));
                model.remove(&(low | 1 << (64 - depth)));
                model.insert(low, cell(1, depth - 1));
                directory.merge(start, cell(1, depth - 1));
                directory.check();
            }
            prop_assert_eq!(directory.cells.len(), 1);
        }
    }
}

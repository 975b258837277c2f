//! The longest common subsequence of two strings.
//!
//! The classic table `L[i][j]`, the length for the first `i` bytes of one and the first `j` bytes of
//! the other, is kept by its steps along a row only: bit `j` of row `i` says whether `L[i][j + 1]` is
//! one more than `L[i][j]`. A row follows from the one before with a handful of operations per 64
//! columns (H. Hyyrö, "Bit-Parallel LCS-length Computation Revisited", 2004), and the way back through
//! the table needs no more than these bits: where the bytes differ, a set bit says that the value came
//! from above. So a table takes a 32nd of the memory of one that holds the lengths.

use std::collections::TryReserveError;

/// A run of bytes that both strings have, as positions of its first and last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// First and last position in the first string.
    pub(crate) a: (usize, usize),
    /// First and last position in the second string.
    pub(crate) b: (usize, usize),
}

impl Match {
    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.a.1 - self.a.0 + 1
    }
}

/// Length of the longest common subsequence. O(a * b / 64) time, O(b * distinct bytes of a) bits.
pub(crate) fn length(a: &[u8], b: &[u8]) -> Result<usize, TryReserveError> {
    let mut row = Row::new(b)?;
    for &byte in a {
        row.advance(byte);
    }
    Ok(row.steps())
}

/// The runs of the longest common subsequence, from the last one to the first. Of several longest ones
/// it is the one that is found from the ends, taking the second string's previous byte where both ways
/// are as long. O(a * b / 64) time, O(a * b) bits.
pub(crate) fn matches(a: &[u8], b: &[u8]) -> Result<Vec<Match>, TryReserveError> {
    // Rows are cut to whole bytes, so that a short second string does not waste most of each word.
    let stride = b.len().div_ceil(8);
    let mut table: Vec<u8> = Vec::new();
    table.try_reserve_exact(a.len().saturating_mul(stride))?;
    let mut row = Row::new(b)?;
    for &byte in a {
        row.advance(byte);
        let bytes = row.flat.iter().flat_map(|word| (!word).to_le_bytes());
        table.extend(bytes.take(stride));
    }

    let mut found: Vec<Match> = Vec::new();
    let (mut i, mut j) = (a.len(), b.len());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            match found.last_mut() {
                Some(run) if run.a.0 == i + 1 && run.b.0 == j + 1 => (run.a.0, run.b.0) = (i, j),
                _ => {
                    found.try_reserve(1)?;
                    found.push(Match {
                        a: (i, i),
                        b: (j, j),
                    });
                }
            }
        } else if table[(i - 1) * stride + (j - 1) / 8] >> ((j - 1) % 8) & 1 == 1 {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    Ok(found)
}

/// One row of the table.
struct Row<'b> {
    b: &'b [u8],
    /// Bit `j` is *clear* where the length grows from column `j` to `j + 1`.
    flat: Vec<u64>,
    /// For each byte that was met, the columns that hold it; empty for the others.
    columns: Box<[Vec<u64>; 256]>,
}

impl<'b> Row<'b> {
    fn new(b: &'b [u8]) -> Result<Self, TryReserveError> {
        let mut flat = Vec::new();
        flat.try_reserve_exact(b.len().div_ceil(64))?;
        flat.resize(b.len().div_ceil(64), u64::MAX);
        Ok(Self {
            b,
            flat,
            columns: Box::new([const { Vec::new() }; 256]),
        })
    }

    /// The next row: one more byte of the first string.
    fn advance(&mut self, byte: u8) {
        let columns = &mut self.columns[usize::from(byte)];
        if columns.is_empty() {
            columns.resize(self.flat.len(), 0);
            for (at, _) in self
                .b
                .iter()
                .enumerate()
                .filter(|(_, other)| **other == byte)
            {
                columns[at / 64] |= 1 << (at % 64);
            }
        }
        let mut carry = false;
        for (flat, &columns) in self.flat.iter_mut().zip(columns.iter()) {
            let (sum, first) = flat.overflowing_add(*flat & columns);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *flat = sum | (*flat & !columns);
            carry = first || second;
        }
    }

    /// How often the length grows along the row.
    fn steps(&self) -> usize {
        let bits: usize = self
            .flat
            .iter()
            .map(|word| word.count_zeros() as usize)
            .sum();
        // Columns behind the last one hold no byte, so their bits stay set.
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of lengths and the way back through it, by definition.
    fn by_definition(a: &[u8], b: &[u8]) -> (usize, Vec<(usize, usize)>) {
        let mut lengths = vec![vec![0usize; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                lengths[i][j] = if a[i - 1] == b[j - 1] {
                    lengths[i - 1][j - 1] + 1
                } else {
                    lengths[i - 1][j].max(lengths[i][j - 1])
                };
            }
        }
        let mut pairs = Vec::new();
        let (mut i, mut j) = (a.len(), b.len());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                (i, j) = (i - 1, j - 1);
                pairs.push((i, j));
            } else if lengths[i - 1][j] > lengths[i][j - 1] {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        (lengths[a.len()][b.len()], pairs)
    }

    fn pairs(found: &[Match]) -> Vec<(usize, usize)> {
        let of_one = |run: &Match| {
            let (a, b) = (run.a.0..=run.a.1, run.b.0..=run.b.1);
            a.zip(b).collect::<Vec<_>>().into_iter().rev()
        };
        found.iter().flat_map(of_one).collect()
    }

    #[test]
    fn runs_are_found_from_the_end() {
        let found = matches(b"ohmytext", b"mynewtext").unwrap();
        assert_eq!(
            found,
            [
                Match {
                    a: (4, 7),
                    b: (5, 8)
                },
                Match {
                    a: (2, 3),
                    b: (0, 1)
                }
            ]
        );
        assert_eq!(found[0].len(), 4);
        assert_eq!(matches(b"", b"abc").unwrap(), []);
        assert_eq!(matches(b"abc", b"").unwrap(), []);
        assert_eq!(length(b"", b"").unwrap(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_the_table_of_lengths(a in "[a-d]{0,200}", b in "[a-d]{0,200}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            let (expected, path) = by_definition(a, b);
            prop_assert_eq!(length(a, b).unwrap(), expected);
            let found = matches(a, b).unwrap();
            prop_assert_eq!(pairs(&found), path);
            prop_assert_eq!(found.iter().map(Match::len).sum::<usize>(), expected);
        }
    }
}

//! JSON of numbers and of names that need no escapes, which is all that pages get.

use std::fmt::Write as _;

/// Appends `[a,b,c]`.
pub(super) fn list(out: &mut String, numbers: impl IntoIterator<Item = i64>) {
    out.push('[');
    for (at, number) in numbers.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "{number}");
    }
    out.push(']');
}

//! The request parser: whatever comes, and in whatever pieces, it gives the same commands, spans
//! inside the buffer, and never panics.

#![no_main]
#![allow(dead_code)]

#[path = "../../server/src/resp/parse.rs"]
mod parse;

use libfuzzer_sys::fuzz_target;
use parse::{Limits, Parser, Progress};

/// The commands in `input`, handed over in pieces of at most `piece` bytes, and how it ended.
fn commands(input: &[u8], piece: usize, limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut buf, mut spans, mut parser) = (Vec::new(), Vec::new(), Parser::default());
    let mut found = Vec::new();
    for bytes in input.chunks(piece) {
        buf.extend_from_slice(bytes);
        loop {
            let before = parser.position();
            match parser.advance(&mut buf, &mut spans, limits) {
                Ok(Progress::Command) => {
                    found.push(spans.drain(..).map(|span| span.of(&buf).to_vec()).collect());
                }
                Ok(Progress::Nothing) => assert!(spans.is_empty()),
                Ok(Progress::Incomplete { missing }) => {
                    assert!(missing > 0);
                    break;
                }
                Err(error) => return (found, Some(error.to_string())),
            }
            assert!(parser.position() > before && parser.position() <= buf.len());
        }
    }
    (found, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((shape, input)) = data.split_first() else {
        return;
    };
    let limits = Limits {
        bulk_max_bytes: if shape & 1 == 0 { 512 << 20 } else { 64 },
        unauthenticated: shape & 2 != 0,
    };
    let whole = commands(input, usize::MAX, &limits);
    let pieces = commands(input, usize::from(shape >> 2) + 1, &limits);
    assert_eq!(whole, pieces);
});

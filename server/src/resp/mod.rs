//! The wire: RESP requests in, RESP2 or RESP3 replies out.
//!
//! Both halves are pure: [`parse`] turns bytes into spans of the same bytes, [`reply`] appends to a byte vector.
//! Neither knows sockets, sessions or commands.

pub(crate) mod parse;
pub(crate) mod reply;

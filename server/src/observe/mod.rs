//! What the server can say about itself.

pub(crate) mod stats;

//! See the README.

// The layers that use these two stand above them.
#[allow(dead_code)]
mod fatal;
#[allow(dead_code)]
mod sync;

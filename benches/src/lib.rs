//! Benchmarks of slabkv beside its peers, and what they share.

pub mod trial;

//! Benchmarks of slabkv beside its peers.

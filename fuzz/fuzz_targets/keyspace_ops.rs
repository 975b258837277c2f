//! Operations on a keyspace of one to four shards, compaction and the clock among them, against
//! maps; all invariants are checked after each step.

#![no_main]

use kvstore::model::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((shape, steps)) = data.split_first() else {
        return;
    };
    let shards = usize::from(shape % 4) + 1;
    // Every other keyspace is so small that it runs out of memory.
    let region_bytes = if shape & 4 == 0 { 1 << 30 } else { 4 << 20 };
    Model::new(u64::from(*shape), shards, region_bytes).run(steps);
});

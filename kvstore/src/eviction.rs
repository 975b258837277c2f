//! Eviction: keys go to make room, by the policy that `maxmemory-policy` names.
//!
//! As in Redis, the key evicted is the best of a few picked at random and of the best that earlier
//! picks have left over. A pick is a whole bucket: access bytes stand beside the tags, so some ten
//! keys are compared for one cache line, and only those worth remembering are read.

use crate::settings::EvictionPolicy;
use crate::shard::Shard;

/// Random buckets tried before segments are walked for a key with an expiry.
const TRIES: usize = 24;

/// Evicts one key; the bytes of its slot, or `None` if none may be evicted.
pub(crate) fn evict_one(shard: &mut Shard, now_ms: u64) -> Option<usize> {
    let policy = shard.settings().eviction_policy;
    if policy == EvictionPolicy::NoEviction {
        return None;
    }
    let samples = shard.settings().eviction_samples.clamp(1, 64) as usize;
    let mut found = 0;
    for _ in 0..TRIES {
        if found >= samples {
            break;
        }
        found += shard.sample(now_ms)?;
    }
    if let Some(bytes) = shard.evict_best(now_ms) {
        return Some(bytes);
    }
    // All that were remembered were used, changed or removed since, or hardly any key may go.
    shard.sample_in_order(now_ms)?;
    shard.evict_best(now_ms)
}

//! Eviction: keys go to make room, by the policy that `maxmemory-policy` names.
//!
//! As in Redis, the key evicted is the best of a few picked at random. Here a sample is whole
//! buckets: access bytes stand beside the tags, so ten keys are compared for one cache line and no
//! entry is read, unless the policy asks for expiries.

use crate::settings::EvictionPolicy;
use crate::shard::{Candidate, Shard};

/// Random buckets tried before segments are walked for a key with an expiry.
const TRIES: usize = 24;

/// Evicts one key; the bytes of its slot, or `None` if none may be evicted.
pub(crate) fn evict_one(shard: &mut Shard, now_ms: u64) -> Option<usize> {
    let policy = shard.settings().eviction_policy;
    if policy == EvictionPolicy::NoEviction {
        return None;
    }
    let samples = shard.settings().eviction_samples.clamp(1, 64) as usize;
    let db = shard.pick_database(policy.only_volatile())?;
    let mut candidates: Vec<Candidate> = Vec::new();
    for attempt in 0.. {
        if candidates.len() >= samples || attempt >= TRIES {
            break;
        }
        shard.sample(db, now_ms, policy.only_volatile(), &mut candidates);
    }
    if candidates.is_empty() {
        shard.sample_in_order(db, now_ms, policy.only_volatile(), &mut candidates);
    }
    let chosen = match policy {
        EvictionPolicy::AllKeysRandom | EvictionPolicy::VolatileRandom => {
            let n = shard.random_below(candidates.len());
            candidates.get(n)
        }
        EvictionPolicy::VolatileTtl => candidates
            .iter()
            .min_by_key(|candidate| shard.expiry_of(candidate)),
        _ => candidates.iter().max_by_key(|candidate| candidate.rank()),
    };
    let chosen = *chosen?;
    Some(shard.evict(db, now_ms, &chosen))
}

//! What an operator can turn while the keyspace runs.

/// How full, in percent, a slab may be that compaction on command empties: at 92 up to eleven bytes are
/// moved for each byte gained.
pub(crate) const COMMAND_LIVE_PERCENT_MAX: u8 = 92;

/// Which keys are evicted when memory runs out, as `maxmemory-policy` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// None: writes are refused.
    #[default]
    NoEviction,
    /// The longest unused of all keys.
    AllKeysLru,
    /// The longest unused of the keys with an expiry.
    VolatileLru,
    /// The least often used of all keys.
    AllKeysLfu,
    /// The least often used of the keys with an expiry.
    VolatileLfu,
    /// Any key.
    AllKeysRandom,
    /// Any key with an expiry.
    VolatileRandom,
    /// The key that expires soonest.
    VolatileTtl,
}

impl EvictionPolicy {
    /// Every policy with its name in the configuration.
    pub const NAMES: [(&'static str, EvictionPolicy); 8] = [
        ("volatile-lru", EvictionPolicy::VolatileLru),
        ("volatile-lfu", EvictionPolicy::VolatileLfu),
        ("volatile-random", EvictionPolicy::VolatileRandom),
        ("volatile-ttl", EvictionPolicy::VolatileTtl),
        ("allkeys-lru", EvictionPolicy::AllKeysLru),
        ("allkeys-lfu", EvictionPolicy::AllKeysLfu),
        ("allkeys-random", EvictionPolicy::AllKeysRandom),
        ("noeviction", EvictionPolicy::NoEviction),
    ];

    /// Whether only keys with an expiry may be evicted.
    #[must_use]
    pub fn only_volatile(self) -> bool {
        matches!(
            self,
            EvictionPolicy::VolatileLru
                | EvictionPolicy::VolatileLfu
                | EvictionPolicy::VolatileRandom
                | EvictionPolicy::VolatileTtl
        )
    }

    /// Whether it goes by when or how often keys were used.
    #[must_use]
    pub fn ranks_by_use(self) -> bool {
        matches!(
            self,
            EvictionPolicy::AllKeysLru
                | EvictionPolicy::VolatileLru
                | EvictionPolicy::AllKeysLfu
                | EvictionPolicy::VolatileLfu
        )
    }

    /// Whether access bytes count uses (LFU) instead of telling when the last one was (LRU).
    #[must_use]
    pub fn counts_uses(self) -> bool {
        matches!(
            self,
            EvictionPolicy::AllKeysLfu | EvictionPolicy::VolatileLfu
        )
    }
}

/// What `max_memory_bytes` is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryMeasure {
    /// Bytes of the slots and runs in use, as Redis counts.
    #[default]
    Used,
    /// Resident bytes: free slots, dirty pages and metadata count, too.
    Resident,
}

/// How compaction works, after the `active-defrag-*` directives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionSettings {
    /// Whether it runs by itself. On command it always runs.
    pub enabled: bool,
    /// Bytes of free slots per shard that are not worth any effort.
    pub ignore_bytes: u64,
    /// Background work starts when free slots take more than this percentage of the live bytes,
    /// and then goes on until no slab is left that is worth emptying.
    pub start_percent: u32,
    /// While the arena grows, slabs are held at this percentage of what their live slots need.
    pub target_percent: u32,
    /// The share of one core that background compaction may take when waste is at the target.
    pub cpu_percent_min: u32,
    /// The share of one core that it may take when waste is high.
    pub cpu_percent_max: u32,
    /// The waste, in percent over what is needed, at which `cpu_percent_max` applies.
    pub upper_percent: u32,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        CompactionSettings {
            enabled: true,
            ignore_bytes: 64 << 10,
            start_percent: 1,
            target_percent: 110,
            cpu_percent_min: 1,
            cpu_percent_max: 25,
            upper_percent: 110,
        }
    }
}

/// Settings that can be changed at any time by [`Keyspace::configure`](crate::Keyspace::configure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The limit that eviction keeps; 0 for none.
    pub max_memory_bytes: u64,
    /// What the limit is compared with.
    pub memory_measure: MemoryMeasure,
    /// Which keys go when the limit is reached.
    pub eviction_policy: EvictionPolicy,
    /// Keys looked at for each key evicted.
    pub eviction_samples: u32,
    /// How many uses move the LFU counter up, as in Redis.
    pub lfu_log_factor: u32,
    /// Minutes after which an unused LFU counter falls by one; 0 for never.
    pub lfu_decay_minutes: u32,
    /// Whether keys are expired without being touched.
    pub active_expiry: bool,
    /// Whether keys whose time has come stay where they are until something is written to them:
    /// readers do not see them, but nothing removes them (CLIENT PAUSE).
    pub keep_expired: bool,
    /// 1 to 10: how much active expiry may work, as `active-expire-effort`.
    pub active_expiry_effort: u32,
    /// Compaction.
    pub compaction: CompactionSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_memory_bytes: 0,
            memory_measure: MemoryMeasure::Used,
            eviction_policy: EvictionPolicy::NoEviction,
            eviction_samples: 5,
            lfu_log_factor: 10,
            lfu_decay_minutes: 1,
            active_expiry: true,
            keep_expired: false,
            active_expiry_effort: 1,
            compaction: CompactionSettings::default(),
        }
    }
}

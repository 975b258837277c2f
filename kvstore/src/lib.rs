//! A keyspace of strings in shards, each with its own lock, table and memory.
//!
//! A [`Keyspace`] is shared by all threads. A command hashes its keys with [`Keyspace::key`], locks
//! the shards they live in with [`Keyspace::lock`], and works on a [`Db`]:
//!
//! ```
//! use kvstore::{Keyspace, KeyspaceOptions, NewExpiry, NewValue, Touch, ValueRef, StringRef};
//!
//! let keyspace = Keyspace::new(&KeyspaceOptions::default())?;
//! let key = keyspace.key(b"greeting");
//! let now_ms = kvstore::clock::now_ms();
//!
//! let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
//! let mut db = locked.db(0, now_ms);
//! db.set(&key, NewValue::String(b"hello"), NewExpiry::At(now_ms + 1_000))?;
//! assert_eq!(db.get(&key, Touch::READ), Some(ValueRef::String(StringRef::Bytes(b"hello"))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Layers
//!
//! A file imports only from rows above its own; `tests/layers.rs` holds the order.
//!
//! | row | files | what lives there |
//! |---|---|---|
//! | words | `lengths`, then `clock` `key` `settings` `statistics` `error` | time, hashes and the order of keys, knobs, figures |
//! | rules | `geometry` `access` `header` `pacing` | pure: places in a segment, access bytes, an entry's header, when to compact |
//! | threads | `lock` `gauges` | several locks at once; figures that are read without them |
//! | values | `value` `watch` | what a key holds; who is told of its changes |
//! | memory | `memory` `entry` `bucket` `segment` | the shard's arena, and what lies in it: home of the raw memory |
//! | table | `table` | from key to entry |
//! | shard | `shard` | tables, entries and memory behind one lock |
//! | upkeep | `compaction` `expiry` `eviction`, then `maintenance` | what keeps a shard small |
//! | maps | `heap_map`, then `forecast` | what lies where in the arenas; what compaction would gain |
//! | faces | `db`, `locked`, `keyspace` | what a server uses |

mod access;
mod bucket;
pub mod clock;
mod compaction;
mod db;
mod entry;
mod error;
mod eviction;
mod expiry;
mod forecast;
mod gauges;
mod geometry;
mod header;
mod heap_map;
mod key;
mod keyspace;
mod lengths;
mod lock;
mod locked;
mod maintenance;
mod memory;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
mod pacing;
mod segment;
pub mod settings;
mod shard;
pub mod statistics;
mod table;
pub mod value;
mod watch;

pub use db::Db;
pub use error::{DATABASES_MAX, KeyspaceError, OutOfMemory, UpdateError};
pub use forecast::{ClassForecast, Forecast};
pub use heap_map::{ChunkMap, ClassInChunk, MapCursor};
pub use key::{Key, KeyHash, SHARDS_MAX, STRING_BYTES_MAX, ScanCursor, ShardSet};
pub use keyspace::{Keyspace, KeyspaceOptions, Maintained, NextDue, RoomMade};
pub use lengths::LengthHistogram;
pub use locked::Locked;
pub use settings::{CompactionSettings, EvictionPolicy, MemoryMeasure, Settings};
pub use shard::{Home, NewExpiry, Touch, Usage};
pub use value::string::{Decimal, StringRef, parse_integer};
pub use value::{Encoding, NewValue, ValueRef, ValueType};
pub use watch::WatchFlag;

pub use slab_allocator::units::{CHUNK_PAGES, PAGE_BYTES};
pub use slab_allocator::{ArenaStats, ChunkStats, ClassStats, Extent, ExtentKind, Prediction};

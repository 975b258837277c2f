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
//! | row | files |
//! |---|---|
//! | words | `clock` `error` `key` `lock` `settings` `statistics` |
//! | values | `value` `watch` |
//! | shard | `shard` |
//! | faces | `db`, then `keyspace` |

mod access;
mod bucket;
pub mod clock;
mod compaction;
mod db;
mod entry;
mod error;
mod eviction;
mod expiry;
mod gauges;
mod geometry;
mod header;
mod key;
mod keyspace;
mod lock;
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
pub use key::{Key, KeyHash, SHARDS_MAX, STRING_BYTES_MAX, ScanCursor, ShardSet};
pub use keyspace::{Keyspace, KeyspaceOptions, Locked, NextDue, RoomMade};
pub use settings::{CompactionSettings, EvictionPolicy, MemoryMeasure, Settings};
pub use shard::{NewExpiry, Touch, Usage};
pub use value::string::{Decimal, StringRef, parse_integer};
pub use value::{Encoding, NewValue, ValueRef, ValueType};
pub use watch::WatchFlag;

pub use slab_allocator::{ArenaStats, ClassStats, Prediction};

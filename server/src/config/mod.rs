//! Configuration: what can be set, and the values in force.

use std::sync::atomic::{AtomicI64, AtomicUsize};

/// The values in force. Each is read where it is needed, so a change holds from the next command on.
#[derive(Debug)]
pub(crate) struct Config {
    /// TCP port; 0 for none.
    pub(crate) port: u16,
    /// Number of workers.
    pub(crate) workers: usize,
    /// Number of databases.
    pub(crate) databases: usize,
    /// Most clients at a time.
    pub(crate) max_clients: AtomicUsize,
    /// Longest argument in bytes.
    pub(crate) bulk_max_bytes: AtomicI64,
}

impl Config {
    /// What holds without a configuration file.
    pub(crate) fn defaults() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self {
            port: 6379,
            workers: cores.min(8),
            databases: 16,
            max_clients: AtomicUsize::new(10_000),
            bulk_max_bytes: AtomicI64::new(512 << 20),
        }
    }
}

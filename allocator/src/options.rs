//! Options of arenas.

use crate::size_class::{self, ClassTable};

/// Which table of size classes an arena uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Classes {
    /// Steps of 8 bytes up to 256, then 16 per doubling up to 32 KiB, in slabs
    /// of at least 4 pages. Objects are aligned to 8 bytes, and to 16 where
    /// their size is a multiple of 16. Rounding costs about 2%.
    #[default]
    Fine,
    /// Steps of 16 bytes up to 128, then 8 per doubling up to 14 KiB, in slabs
    /// of one page where the tail allows. Objects of more than 8 bytes are
    /// aligned to 16.
    General,
}

impl Classes {
    /// The table itself.
    pub fn table(self) -> &'static ClassTable {
        match self {
            Classes::Fine => &size_class::FINE,
            Classes::General => &size_class::GENERAL,
        }
    }
}

/// What an arena is made with. `ArenaOptions::default()` is right for a shard
/// of a keyspace.
///
/// ```
/// use slab_allocator::{ArenaOptions, Classes};
///
/// let bounded = ArenaOptions {
///     region_bytes: 64 << 20,
///     classes: Classes::General,
///     ..ArenaOptions::default()
/// };
/// assert_eq!(bounded.decay_ms, 1000);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ArenaOptions {
    /// Address space that the arena may use, in bytes; rounded up to whole
    /// chunks of 2 MiB. At most 32 GiB, so that every object is a `u32` in
    /// units of 8 bytes. Where the process may not reserve so much, half of
    /// it is tried, down to 64 MiB.
    pub region_bytes: usize,
    /// The table of size classes.
    pub classes: Classes,
    /// Milliseconds within which free pages go back to the system; 0 gives
    /// them back at the next call of `purge_due`.
    pub decay_ms: u32,
    /// Whether dead pages inside live slabs are given back, too.
    pub punch: bool,
}

impl Default for ArenaOptions {
    fn default() -> ArenaOptions {
        ArenaOptions {
            region_bytes: 32 << 30,
            classes: Classes::Fine,
            decay_ms: 1000,
            punch: true,
        }
    }
}

//! The steps that a [`Model`](super::Model) knows, how bytes become steps, and numbers keys and values.

/// One step. Keys and databases are named by numbers, modulo what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Store a string of `length` bytes, or an integer if `length` is odd and small.
    Set {
        db: u8,
        key: u16,
        length: u16,
        expiry: u16,
    },
    /// Store `count` keys in a row.
    SetMany {
        db: u8,
        from: u16,
        count: u16,
        length: u16,
        volatile: bool,
    },
    /// Store `count` keys in a row as one, the first ones twice: all or none.
    SetTogether {
        db: u8,
        from: u16,
        count: u8,
        length: u16,
    },
    /// Look up, as a reading command does.
    Get { db: u8, key: u16 },
    /// Look up several keys in a batch with prefetch.
    GetMany { db: u8, from: u16, count: u8 },
    /// Add to an integer.
    Increment { db: u8, key: u16, by: i32 },
    /// Append bytes.
    Append { db: u8, key: u16, length: u16 },
    /// Overwrite a part.
    SetRange {
        db: u8,
        key: u16,
        offset: u16,
        length: u8,
    },
    /// Remove a key.
    Remove { db: u8, key: u16 },
    /// Remove every `step`-th of `count` keys in a row.
    RemoveMany {
        db: u8,
        from: u16,
        count: u16,
        step: u8,
    },
    /// Set an expiry `after` milliseconds from now, or in the past.
    Expire { db: u8, key: u16, after: i16 },
    /// Remove the expiry.
    Persist { db: u8, key: u16 },
    /// Rename.
    Rename { db: u8, key: u16, to: u16 },
    /// Copy to another key of another or the same database.
    Copy {
        db: u8,
        key: u16,
        to_db: u8,
        to: u16,
    },
    /// Move to another database.
    Move { db: u8, key: u16, to_db: u8 },
    /// Go on with the scan.
    Scan { count: u16 },
    /// Pick a random key.
    RandomKey { db: u8, random: u32 },
    /// Clear a database.
    Clear { db: u8, background: bool },
    /// Clear all of them.
    ClearAll { background: bool },
    /// Swap two databases.
    Swap { first: u8, second: u8 },
    /// Let time pass.
    Wait { ms: u32 },
    /// Maintain all shards.
    Maintain { rounds: u8 },
    /// Compact as far as it goes.
    Compact,
    /// Give free pages back.
    Purge,
    /// Limit the memory to a share of what is used, and make room.
    Evict { policy: u8, percent: u8 },
    /// Change settings that may change under load.
    Configure {
        policy: u8,
        compaction: bool,
        active_expiry: bool,
    },
}

impl Op {
    /// Reads an operation off the front of `bytes`; `None` at their end.
    pub fn decode(bytes: &mut &[u8]) -> Option<Op> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        let [kind, a, b, c, d, e, f, g] = *head;
        let (key, other, third) = (
            u16::from_le_bytes([b, c]),
            u16::from_le_bytes([d, e]),
            u16::from_le_bytes([f, g]),
        );
        Some(match kind % 40 {
            0..=4 => Op::Set {
                db: a,
                key,
                length: other,
                expiry: third,
            },
            8 => Op::SetTogether {
                db: a,
                from: key,
                count: d,
                length: third,
            },
            5..=7 => Op::SetMany {
                db: a,
                from: key,
                count: other % 3000,
                length: third,
                volatile: g & 1 == 1,
            },
            9 | 10 => Op::Get { db: a, key },
            11 => Op::GetMany {
                db: a,
                from: key,
                count: d,
            },
            12 | 13 => Op::Increment {
                db: a,
                key,
                by: i32::from_le_bytes([d, e, f, g]),
            },
            14 | 15 => Op::Append {
                db: a,
                key,
                length: other,
            },
            16 => Op::SetRange {
                db: a,
                key,
                offset: other,
                length: f,
            },
            17..=19 => Op::Remove { db: a, key },
            20..=22 => Op::RemoveMany {
                db: a,
                from: key,
                count: other % 6000,
                step: f,
            },
            23 => Op::Expire {
                db: a,
                key,
                after: other as i16,
            },
            24 => Op::Persist { db: a, key },
            25 => Op::Rename {
                db: a,
                key,
                to: other,
            },
            26 => Op::Copy {
                db: a,
                key,
                to_db: f,
                to: other,
            },
            27 => Op::Move {
                db: a,
                key,
                to_db: f,
            },
            28..=30 => Op::Scan { count: key },
            31 => Op::RandomKey {
                db: a,
                random: u32::from_le_bytes([b, c, d, e]),
            },
            32 if a.is_multiple_of(4) => Op::Clear {
                db: b,
                background: c & 1 == 1,
            },
            32 if a % 32 == 1 => Op::ClearAll {
                background: c & 1 == 1,
            },
            32 => Op::Swap {
                first: b,
                second: c,
            },
            33 => Op::Wait {
                ms: u32::from(other) << (a % 20),
            },
            34 | 35 => Op::Maintain { rounds: a % 16 },
            36 => Op::Compact,
            37 => Op::Purge,
            38 => Op::Evict {
                policy: a,
                percent: b,
            },
            _ => Op::Configure {
                policy: a,
                compaction: b & 1 == 1,
                active_expiry: c & 1 == 1,
            },
        })
    }
}

/// The key with this number.
pub(super) fn key_bytes(n: u16) -> Vec<u8> {
    let mut bytes = format!("key:{n}").into_bytes();
    // Some are long enough for lengths of two bytes, and for another size class than the rest.
    let length = match n % 61 {
        0 => 0,
        1 => 200,
        2 => 20_000,
        rest => rest as usize % 40,
    };
    bytes.resize(bytes.len().max(length), b'.');
    bytes
}

/// A value for a key: with a number, of a length within limits.
pub(super) fn value_bytes(n: u16, length: u16) -> Vec<u8> {
    match length % 16 {
        // Now and then one that takes page runs.
        0 if length.is_multiple_of(4096) => vec![n as u8; usize::from(length) * 10],
        1..=3 => (i64::from(n) << (length % 48)).to_string().into_bytes(),
        _ => (0..length % 700).map(|at| (at ^ n) as u8 | 0x80).collect(),
    }
}

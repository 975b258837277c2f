//! The heap map that pages see: a tile per chunk, kept up to date bit by bit, and one chunk in full on request.
//!
//! ```text
//! tile   | chunk 3 | slot bytes of the class with most pages 2 | live 1 | in use 1 | dirty 1 |    live, in use and
//!                    0: none, 1: a large object                                               dirty: 255ths of 2 MiB
//! ```
//!
//! A chunk takes a few microseconds under its shard's lock, and a pass over all chunks goes on from second to second
//! within [`BUDGET`], so that the largest heap costs no more than that: a heap of 64 GiB is seen anew every half a
//! minute or so. Pages get what changed.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvstore::{CHUNK_PAGES, ChunkMap, ExtentKind, Keyspace, MapCursor, PAGE_BYTES};

/// Time per second for looking at chunks.
const BUDGET: Duration = Duration::from_millis(5);

/// Bytes of a chunk.
const CHUNK_BYTES: usize = CHUNK_PAGES as usize * PAGE_BYTES;

/// In the place of a slot's bytes: large objects.
const LARGE: u16 = 1;

/// A chunk in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tile {
    slot_bytes: u16,
    live: u8,
    used: u8,
    dirty: u8,
}

impl Tile {
    fn of(map: &ChunkMap) -> Self {
        let stats = &map.stats;
        let share = |bytes: usize| (bytes * 255).div_ceil(CHUNK_BYTES).min(255) as u8;
        let pages = |pages: u32| share(pages as usize * PAGE_BYTES);
        let widest = map
            .classes()
            .into_iter()
            .max_by_key(|class| (class.pages, class.slot_bytes));
        let slot_bytes = match widest {
            Some(class) if class.pages >= stats.large_pages => {
                u16::try_from(class.slot_bytes).unwrap_or(u16::MAX)
            }
            _ if stats.large_pages > 0 => LARGE,
            _ => 0,
        };
        Self {
            slot_bytes,
            live: share(stats.live_bytes + stats.large_pages as usize * PAGE_BYTES),
            used: pages(stats.slab_pages + stats.large_pages),
            dirty: pages(stats.dirty_pages),
        }
    }

    fn write(self, chunk: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&chunk.to_le_bytes()[..3]);
        out.extend_from_slice(&self.slot_bytes.to_le_bytes());
        out.extend_from_slice(&[self.live, self.used, self.dirty]);
    }
}

/// All tiles, as last looked at.
#[derive(Debug)]
pub(super) struct Tiles {
    /// By shard and chunk.
    shards: Vec<Vec<Tile>>,
    next: MapCursor,
    /// Chunks looked at since the pass began, and how many the last whole pass found.
    seen: usize,
    chunks: usize,
}

impl Tiles {
    /// None yet, of so many shards.
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards: vec![Vec::new(); shards],
            next: MapCursor::START,
            seen: 0,
            chunks: 0,
        }
    }

    /// Chunks with pages in use or resident, as the last whole pass found them.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.max(self.seen)
    }

    /// Looks at as many chunks as the budget allows, at most at each one once. Returns what changed as an event's data,
    /// if anything did.
    pub(super) fn go_on(&mut self, keyspace: &Keyspace, map: &mut ChunkMap) -> Option<String> {
        let until = Instant::now() + BUDGET;
        let mut changed = vec![Vec::new(); self.shards.len()];
        loop {
            let from = self.next;
            let Some(next) = keyspace.map_chunk(from, map) else {
                self.clear(
                    from,
                    MapCursor {
                        shard: self.shards.len(),
                        chunk: 0,
                    },
                    &mut changed,
                );
                (self.next, self.chunks, self.seen) = (MapCursor::START, self.seen, 0);
                break;
            };
            self.clear(from, map.at, &mut changed);
            self.put(map.at, Tile::of(map), &mut changed);
            self.seen += 1;
            self.next = next;
            if Instant::now() >= until {
                break;
            }
        }
        changed
            .iter()
            .any(|bytes| !bytes.is_empty())
            .then(|| data(&changed))
    }

    /// Notes that there is nothing from one place up to another.
    fn clear(&mut self, from: MapCursor, upto: MapCursor, changed: &mut [Vec<u8>]) {
        for shard in from.shard..(upto.shard + 1).min(self.shards.len()) {
            let first = if shard == from.shard { from.chunk } else { 0 };
            let end = if shard == upto.shard {
                upto.chunk
            } else {
                u32::MAX
            };
            let end = (end as usize).min(self.shards[shard].len()) as u32;
            for chunk in first..end {
                self.put(MapCursor { shard, chunk }, Tile::default(), changed);
            }
        }
    }

    fn put(&mut self, at: MapCursor, tile: Tile, changed: &mut [Vec<u8>]) {
        let tiles = &mut self.shards[at.shard];
        if tiles.len() <= at.chunk as usize {
            tiles.resize(at.chunk as usize + 1, Tile::default());
        }
        let known = &mut tiles[at.chunk as usize];
        if *known != tile {
            *known = tile;
            tile.write(at.chunk, &mut changed[at.shard]);
        }
    }

    /// All tiles as an event's data.
    pub(super) fn all(&self) -> String {
        let shards: Vec<Vec<u8>> = self
            .shards
            .iter()
            .map(|tiles| {
                let mut bytes = Vec::new();
                for (chunk, tile) in tiles.iter().enumerate() {
                    if *tile != Tile::default() {
                        tile.write(chunk as u32, &mut bytes);
                    }
                }
                bytes
            })
            .collect();
        data(&shards)
    }
}

/// `[[shard,"tiles"],...]`, of shards that have any.
fn data(shards: &[Vec<u8>]) -> String {
    let mut out = String::from("[");
    for (shard, bytes) in shards
        .iter()
        .enumerate()
        .filter(|(_, bytes)| !bytes.is_empty())
    {
        if out.len() > 1 {
            out.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "[{shard},\"{}\"]", STANDARD.encode(bytes));
    }
    out.push(']');
    out
}

/// One chunk as JSON: its extents as `[kind, first page, pages, slot bytes, slots, live, punched pages as bits]`, where
/// the kind is 0 for free and given back, 1 for free and dirty, 2 for a large object, 3 for a slab. `None` where there
/// is no such chunk.
pub(super) fn chunk(keyspace: &Keyspace, at: MapCursor) -> Option<String> {
    let mut map = ChunkMap::default();
    if at.shard >= keyspace.shards() {
        return None;
    }
    keyspace.map_chunk(at, &mut map).filter(|_| map.at == at)?;
    let mut out = format!(
        "{{\"shard\":{},\"chunk\":{},\"extents\":[",
        at.shard, at.chunk
    );
    for (number, extent) in map.extents.iter().enumerate() {
        let start = map.page_of(extent);
        let pages = extent.pages;
        let text = match extent.kind {
            ExtentKind::Free { dirty } => format!("[{},{start},{pages}]", u8::from(dirty)),
            ExtentKind::Large => format!("[2,{start},{pages}]"),
            ExtentKind::Slab {
                slot_bytes,
                slots,
                live,
                punched,
                ..
            } => format!("[3,{start},{pages},{slot_bytes},{slots},{live},{punched}]"),
        };
        out.push_str(if number > 0 { "," } else { "" });
        out.push_str(&text);
    }
    out.push_str("],\"free_blocks\":");
    super::json::list(
        &mut out,
        map.stats
            .free_blocks
            .iter()
            .map(|&blocks| i64::from(blocks)),
    );
    out.push('}');
    Some(out)
}

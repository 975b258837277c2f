//! MEMORY MAP: what lies where, as data and as a picture.
//!
//! Chunks are looked at one by one, and a shard's lock is held for one chunk at a time.

use kvstore::{CHUNK_PAGES, ChunkMap, Extent, ExtentKind, Keyspace, MapCursor, PAGE_BYTES};

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::observe::heap_picture::{Colouring, HeapPicture, PictureOptions};
use crate::resp::reply::Reply;

/// Chunks in a reply where no number is given, and the most.
const CHUNKS: i64 = 64;
const CHUNKS_MAX: i64 = 1024;
/// The smallest and the largest picture.
const COLUMNS: (i64, i64) = (8, 512);
const ROWS: (i64, i64) = (1, 256);

/// What a client asks for.
struct Request {
    is_picture: bool,
    from: MapCursor,
    chunks: usize,
    slabs: bool,
    picture: PictureOptions,
}

/// An argument that has to lie within a range.
fn within(args: Args<'_>, at: usize, (least, most): (i64, i64)) -> Result<usize, CommandError> {
    if at >= args.len() {
        return Err(CommandError::SYNTAX);
    }
    let value = args.integer(at)?;
    match usize::try_from(value) {
        Ok(size) if (least..=most).contains(&value) => Ok(size),
        _ => Err(format!("ERR value is out of range, must be {least} to {most}").into()),
    }
}

impl Request {
    fn parse(args: Args<'_>) -> Result<Self, CommandError> {
        let mut request = Self {
            is_picture: args.is(2, "picture"),
            from: MapCursor::START,
            chunks: CHUNKS as usize,
            slabs: false,
            picture: PictureOptions {
                columns: 64,
                rows: 24,
                colouring: Colouring::Occupancy,
                plain: false,
            },
        };
        let mut at = 2 + usize::from(request.is_picture);
        while at < args.len() {
            let option = args.get(at).to_ascii_lowercase();
            at += 1;
            match (option.as_slice(), request.is_picture) {
                (b"cursor", false) => {
                    let cursor = within(args, at, (0, i64::MAX))?;
                    request.from = MapCursor::from_number(cursor as u64);
                    at += 1;
                }
                (b"count", false) => {
                    request.chunks = within(args, at, (1, CHUNKS_MAX))?;
                    at += 1;
                }
                (b"slabs", false) => request.slabs = true,
                (b"columns", true) => {
                    request.picture.columns = within(args, at, COLUMNS)?;
                    at += 1;
                }
                (b"rows", true) => {
                    request.picture.rows = within(args, at, ROWS)?;
                    at += 1;
                }
                (b"by", true) => {
                    request.picture.colouring = match () {
                        () if args.is(at, "class") => Colouring::Class,
                        () if args.is(at, "occupancy") => Colouring::Occupancy,
                        () => return Err(CommandError::SYNTAX),
                    };
                    at += 1;
                }
                (b"plain", true) => request.picture.plain = true,
                _ => return Err(CommandError::SYNTAX),
            }
        }
        Ok(request)
    }
}

/// `MEMORY MAP [CURSOR cursor] [COUNT count] [SLABS]`, or
/// `MEMORY MAP PICTURE [COLUMNS columns] [ROWS rows] [BY <CLASS | OCCUPANCY>] [PLAIN]`
pub(crate) fn map(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let request = Request::parse(args)?;
    if request.is_picture {
        let text = ctx.without_locks(|services| draw(&services.keyspace, request.picture));
        ctx.reply.verbatim(b"txt", text.as_bytes());
        return Ok(());
    }
    let mut chunks = Reply::new();
    chunks.set_protocol(ctx.reply.protocol());
    let (open, count, next) = ctx.without_locks(|services| {
        let keyspace = &services.keyspace;
        let (count, next) = write_chunks(keyspace, &request, &mut chunks);
        (keyspace.open_chunks(), count, next)
    });
    let reply = &mut *ctx.reply;
    reply.map(6);
    reply.bulk(b"cursor");
    reply.bulk(next.get().to_string().as_bytes());
    for (name, number) in [
        ("page-bytes", PAGE_BYTES),
        ("chunk-pages", CHUNK_PAGES as usize),
        ("shards", ctx.services.keyspace.shards()),
        ("open-chunks", open),
    ] {
        reply.bulk(name.as_bytes());
        reply.count(number);
    }
    reply.bulk(b"chunks");
    reply.array(count);
    reply.raw(chunks.bytes());
    Ok(())
}

/// The picture of all chunks.
fn draw(keyspace: &Keyspace, options: PictureOptions) -> String {
    let mut picture = HeapPicture::new(options, keyspace.open_chunks(), keyspace.shards());
    let (mut from, mut chunk) = (MapCursor::START, ChunkMap::default());
    while let Some(next) = keyspace.map_chunk(from, &mut chunk) {
        picture.add(&chunk);
        from = next;
    }
    picture.text()
}

/// Writes the chunks that a request asks for; returns their number, and where to go on.
fn write_chunks(keyspace: &Keyspace, request: &Request, reply: &mut Reply) -> (usize, MapCursor) {
    let (mut from, mut chunk) = (request.from, ChunkMap::default());
    let mut count = 0;
    while let Some(next) = keyspace.map_chunk(from, &mut chunk) {
        if count == request.chunks {
            // There is one more, so that the cursor is not the end's.
            return (count, chunk.at);
        }
        write_chunk(&chunk, request.slabs, reply);
        count += 1;
        from = next;
    }
    (count, MapCursor::START)
}

fn write_chunk(chunk: &ChunkMap, slabs: bool, reply: &mut Reply) {
    let stats = &chunk.stats;
    reply.map(9 + usize::from(slabs));
    let number = |reply: &mut Reply, name: &str, number: usize| {
        reply.bulk(name.as_bytes());
        reply.count(number);
    };
    number(reply, "shard", chunk.at.shard);
    number(reply, "chunk", chunk.at.chunk as usize);
    reply.bulk(b"pages");
    let pages = [
        ("slab", stats.slab_pages),
        ("punched", stats.punched_pages),
        ("large", stats.large_pages),
        ("dirty", stats.dirty_pages),
        ("purged", stats.purged_pages),
    ];
    reply.map(pages.len());
    for (name, count) in pages {
        number(reply, name, count as usize);
    }
    number(reply, "slabs", stats.slabs as usize);
    number(reply, "live-bytes", stats.live_bytes);
    number(reply, "slot-bytes", stats.slot_bytes);
    reply.bulk(b"occupancy");
    let occupancy = stats.live_bytes as f64 / stats.slot_bytes.max(1) as f64;
    reply.double(&format!("{occupancy:.4}"));
    reply.bulk(b"free-blocks");
    reply.array(stats.free_blocks.len());
    for blocks in stats.free_blocks {
        reply.count(usize::from(blocks));
    }
    reply.bulk(b"classes");
    let classes = chunk.classes();
    reply.array(classes.len());
    for class in classes {
        reply.map(5);
        number(reply, "slot-bytes", class.slot_bytes as usize);
        number(reply, "slabs", class.slabs as usize);
        number(reply, "pages", class.pages as usize);
        number(reply, "slots", class.slots as usize);
        number(reply, "live", class.live as usize);
    }
    if slabs {
        reply.bulk(b"extents");
        reply.array(chunk.extents.len());
        for extent in &chunk.extents {
            write_extent(chunk.page_of(extent), extent, reply);
        }
    }
}

fn write_extent(page: usize, extent: &Extent, reply: &mut Reply) {
    let kind = match extent.kind {
        ExtentKind::Free { dirty: true } => "dirty",
        ExtentKind::Free { dirty: false } => "purged",
        ExtentKind::Large => "large",
        ExtentKind::Slab { .. } => "slab",
    };
    let slab = match extent.kind {
        ExtentKind::Slab {
            slot_bytes,
            slots,
            live,
            punched,
            ..
        } => Some([slot_bytes, slots, live, punched.count_ones()]),
        _ => None,
    };
    reply.array(3 + slab.map_or(0, |figures| figures.len()));
    reply.bulk(kind.as_bytes());
    reply.count(page);
    reply.count(extent.pages as usize);
    for figure in slab.into_iter().flatten() {
        reply.count(figure as usize);
    }
}

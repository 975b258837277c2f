//! The heap as a picture for a terminal: one cell for a few pages, in the order of addresses.
//!
//! A cell stands for a power of two of pages, the fewest with which the picture has its size. The glyph says how full
//! the slabs there are, or what else lies there; the colour says it again, or names the size class. Without colours the
//! glyph is a digit or a letter.

use std::fmt::Write as _;

use kvstore::{CHUNK_PAGES, ChunkMap, Extent, ExtentKind, PAGE_BYTES};

use crate::observe::memory::human;

/// What the colours stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colouring {
    /// How much of the slots is in use.
    Occupancy,
    /// The size class that has most pages of the cell.
    Class,
}

/// How a picture looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PictureOptions {
    /// Cells in a row.
    pub(crate) columns: usize,
    /// Most rows.
    pub(crate) rows: usize,
    /// What the colours stand for.
    pub(crate) colouring: Colouring,
    /// Letters and digits, no colours.
    pub(crate) plain: bool,
}

/// What most pages of a cell are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Slab,
    Punched,
    Large,
    Dirty,
    Purged,
}

const KINDS: [Kind; 5] = [
    Kind::Slab,
    Kind::Punched,
    Kind::Large,
    Kind::Dirty,
    Kind::Purged,
];

/// One cell of the picture.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// Pages of each kind.
    pages: [u32; KINDS.len()],
    /// Bytes of the slots in use on the pages of slabs.
    live_bytes: f32,
    /// The size class with most pages, by a running majority vote.
    slot_bytes: u32,
    votes: u32,
}

impl Cell {
    fn kind(&self) -> Kind {
        let at = (0..KINDS.len()).max_by_key(|&at| (self.pages[at], KINDS.len() - at));
        KINDS[at.unwrap_or(0)]
    }

    /// The share of its slab pages that is in use.
    fn occupancy(&self) -> f32 {
        let bytes = self.pages[0] as f32 * PAGE_BYTES as f32;
        (self.live_bytes / bytes.max(1.0)).min(1.0)
    }

    fn vote(&mut self, slot_bytes: u32) {
        if self.votes == 0 {
            self.slot_bytes = slot_bytes;
        }
        if self.slot_bytes == slot_bytes {
            self.votes += 1;
        } else {
            self.votes -= 1;
        }
    }
}

/// Colours of a terminal with 256 of them, from nearly empty to full.
const OCCUPANCY_COLOURS: [u8; 8] = [196, 202, 208, 214, 220, 190, 118, 40];
/// Colours of the size classes, by doublings from 8 bytes on.
const CLASS_COLOURS: [u8; 12] = [21, 27, 33, 39, 45, 50, 48, 82, 154, 226, 214, 202];

/// Which doubling from 8 bytes on a size class belongs to.
fn doubling(slot_bytes: u32) -> usize {
    let log = slot_bytes.max(8).next_power_of_two().ilog2() as usize;
    (log - 3).min(CLASS_COLOURS.len() - 1)
}

/// A picture in the making.
pub(crate) struct HeapPicture {
    options: PictureOptions,
    cells: Vec<Cell>,
    cell_pages: usize,
    chunks: usize,
    shards: usize,
    slab_bytes: u64,
    live_bytes: u64,
}

impl HeapPicture {
    /// A picture of so many chunks, give or take what opens and closes meanwhile.
    pub(crate) fn new(options: PictureOptions, chunks: usize, shards: usize) -> Self {
        let room = options.columns * options.rows;
        let pages = chunks * CHUNK_PAGES as usize;
        Self {
            options,
            cells: Vec::new(),
            cell_pages: pages.div_ceil(room).max(1).next_power_of_two(),
            chunks: 0,
            shards,
            slab_bytes: 0,
            live_bytes: 0,
        }
    }

    /// Adds the next chunk. What does not fit any more, since chunks have opened meanwhile, is left out.
    pub(crate) fn add(&mut self, chunk: &ChunkMap) {
        let first_page = self.chunks * CHUNK_PAGES as usize;
        self.chunks += 1;
        let end = (first_page + CHUNK_PAGES as usize).div_ceil(self.cell_pages);
        let room = self.options.columns * self.options.rows;
        if end > room {
            return;
        }
        self.slab_bytes += u64::from(chunk.stats.slab_pages) * PAGE_BYTES as u64;
        self.live_bytes += chunk.stats.live_bytes as u64;
        self.cells.resize(end, Cell::default());
        for extent in &chunk.extents {
            self.add_extent(first_page + chunk.page_of(extent), extent);
        }
    }

    fn add_extent(&mut self, first_page: usize, extent: &Extent) {
        for page in 0..extent.pages {
            let cell = &mut self.cells[(first_page + page as usize) / self.cell_pages];
            let kind = match extent.kind {
                ExtentKind::Free { dirty: true } => Kind::Dirty,
                ExtentKind::Free { dirty: false } => Kind::Purged,
                ExtentKind::Large => Kind::Large,
                ExtentKind::Slab { punched, .. } if punched >> page & 1 != 0 => Kind::Punched,
                ExtentKind::Slab {
                    slot_bytes,
                    live,
                    punched,
                    ..
                } => {
                    let resident = extent.pages - punched.count_ones();
                    cell.live_bytes += (live * slot_bytes) as f32 / resident.max(1) as f32;
                    cell.vote(slot_bytes);
                    Kind::Slab
                }
            };
            cell.pages[kind as usize] += 1;
        }
    }

    /// The picture, with what its cells mean below it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for row in self.cells.chunks(self.options.columns) {
            let mut colour = None;
            for cell in row {
                let (sign, wanted) = self.cell_sign(cell);
                paint(&mut text, &mut colour, wanted);
                text.push(sign);
            }
            paint(&mut text, &mut colour, None);
            text.push('\n');
        }
        if self.cells.is_empty() {
            text.push_str("Nothing is stored, and no page is held.\n");
        }
        text.push('\n');
        self.legend(&mut text);
        text
    }

    /// What shows a cell, and its colour.
    fn cell_sign(&self, cell: &Cell) -> (char, Option<u8>) {
        let PictureOptions {
            colouring, plain, ..
        } = self.options;
        let occupancy = cell.occupancy();
        let step = |steps: usize| ((occupancy * steps as f32) as usize).min(steps - 1);
        let doubling = doubling(cell.slot_bytes);
        match (cell.kind(), colouring) {
            (Kind::Slab, Colouring::Class) if plain => (class_letter(doubling), None),
            (Kind::Slab, Colouring::Class) => {
                let shade = ['░', '▒', '▓', '█'][step(4)];
                (shade, Some(CLASS_COLOURS[doubling]))
            }
            (Kind::Slab, Colouring::Occupancy) if plain => {
                (char::from(b'0' + step(10) as u8), None)
            }
            (Kind::Slab, Colouring::Occupancy) => ('█', Some(OCCUPANCY_COLOURS[step(8)])),
            (kind, _) => self.sign(kind),
        }
    }

    fn legend(&self, text: &mut String) {
        let plain = self.options.plain;
        let pages = if self.cell_pages == 1 {
            "page"
        } else {
            "pages"
        };
        let cell = human((self.cell_pages * PAGE_BYTES) as u64);
        let used = self.live_bytes as f64 * 100.0 / self.slab_bytes.max(1) as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "One cell: {} {pages}, {cell}. {} chunks of 2M in {} shards; slabs: {}, of which {used:.1}% are in use.",
            self.cell_pages,
            self.chunks,
            self.shards,
            human(self.slab_bytes),
        );
        match self.options.colouring {
            Colouring::Occupancy if plain => text.push_str("0..9 slots in use, in tenths"),
            Colouring::Occupancy => {
                for colour in OCCUPANCY_COLOURS {
                    glyph(text, '█', Some(colour));
                }
                text.push_str(" slots in use, from none to all");
            }
            Colouring::Class => {
                for (doubling, colour) in CLASS_COLOURS.into_iter().enumerate() {
                    match plain {
                        true => glyph(text, class_letter(doubling), None),
                        false => glyph(text, '█', Some(colour)),
                    }
                    let _ = write!(text, " ..{} ", human(8 << doubling));
                }
                if !plain {
                    text.push_str("the fuller, the denser");
                }
            }
        }
        text.push('\n');
        let others = [
            (Kind::Large, " large objects  "),
            (Kind::Punched, " given back inside of slabs  "),
            (Kind::Dirty, " free, still resident  "),
            (Kind::Purged, " free, given back\n"),
        ];
        for (kind, what) in others {
            let (sign, colour) = self.sign(kind);
            glyph(text, sign, colour);
            text.push_str(what);
        }
    }

    /// What shows pages that are not of slabs, and its colour.
    fn sign(&self, kind: Kind) -> (char, Option<u8>) {
        let (sign, letter, colour) = match kind {
            Kind::Slab => ('█', '#', OCCUPANCY_COLOURS[0]),
            Kind::Punched => ('○', 'o', 97),
            Kind::Large if self.options.colouring == Colouring::Class => ('■', 'L', 255),
            Kind::Large => ('■', 'L', 33),
            Kind::Dirty => ('░', ':', 244),
            Kind::Purged => ('·', '.', 238),
        };
        match self.options.plain {
            true => (letter, None),
            false => (sign, Some(colour)),
        }
    }
}

/// The letter of the size classes up to `8 << doubling` bytes.
fn class_letter(doubling: usize) -> char {
    char::from(b'a' + doubling as u8)
}

/// Writes one character in a colour of its own.
fn glyph(text: &mut String, sign: char, colour: Option<u8>) {
    let mut present = None;
    paint(text, &mut present, colour);
    text.push(sign);
    paint(text, &mut present, None);
}

/// Has what follows in this colour, by the escape sequences of terminals.
fn paint(text: &mut String, present: &mut Option<u8>, wanted: Option<u8>) {
    if *present == wanted {
        return;
    }
    *present = wanted;
    // Writing to a string cannot fail.
    let _ = match wanted {
        Some(colour) => write!(text, "\x1b[38;5;{colour}m"),
        None => write!(text, "\x1b[0m"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::{ChunkStats, MapCursor};

    fn picture(columns: usize, rows: usize, colouring: Colouring, chunks: usize) -> HeapPicture {
        let options = PictureOptions {
            columns,
            rows,
            colouring,
            plain: true,
        };
        HeapPicture::new(options, chunks, 1)
    }

    /// A chunk half of which are slabs of 4 pages, a quarter of whose slots are in use.
    fn chunk(number: u32) -> ChunkMap {
        let first = number * CHUNK_PAGES;
        let slab = |at: u32| Extent {
            start_page: first + 4 * at,
            pages: 4,
            kind: ExtentKind::Slab {
                class: 7,
                slot_bytes: 64,
                slots: 256,
                live: 64,
                punched: u16::from(at == 0) << 3,
            },
        };
        let mut extents: Vec<Extent> = (0..64).map(slab).collect();
        for (start, pages, kind) in [
            (256, 100, ExtentKind::Large),
            (356, 56, ExtentKind::Free { dirty: true }),
            (412, 100, ExtentKind::Free { dirty: false }),
        ] {
            extents.push(Extent {
                start_page: first + start,
                pages,
                kind,
            });
        }
        ChunkMap {
            at: MapCursor {
                shard: 0,
                chunk: number,
            },
            stats: ChunkStats {
                slab_pages: 255,
                live_bytes: 64 * 64 * 64,
                ..ChunkStats::default()
            },
            extents,
        }
    }

    #[test]
    fn a_cell_is_a_page_where_there_is_room() {
        let mut picture = picture(64, 8, Colouring::Occupancy, 1);
        picture.add(&chunk(1));
        let text = picture.text();
        let rows: Vec<&str> = text.lines().take(8).collect();
        assert_eq!(rows[0], format!("333o{}", "2".repeat(60)));
        assert_eq!(rows[3], "2".repeat(64));
        assert_eq!(rows[4], "L".repeat(64));
        let cells = rows.concat();
        let count = |sign: char| cells.matches(sign).count();
        assert_eq!((count('L'), count(':'), count('.')), (100, 56, 100));
        assert!(text.contains("One cell: 1 page, 4.00K. 1 chunks"), "{text}");
    }

    #[test]
    fn a_picture_keeps_to_its_size_whatever_opens_meanwhile() {
        let mut picture = picture(10, 4, Colouring::Class, 3);
        for number in 1..20 {
            picture.add(&chunk(number));
        }
        let text = picture.text();
        let rows: Vec<&str> = text.lines().take_while(|row| !row.is_empty()).collect();
        assert!(
            rows.len() <= 4 && rows.iter().all(|row| row.len() <= 10),
            "{text}"
        );
        // 64 pages a cell: four of slabs, then what most pages are: large, given back.
        assert!(rows[0].starts_with("ddddLL.."), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn colours_end_with_each_row() {
        let options = PictureOptions {
            columns: 16,
            rows: 4,
            colouring: Colouring::Occupancy,
            plain: false,
        };
        let mut picture = HeapPicture::new(options, 1, 1);
        picture.add(&chunk(1));
        for row in picture.text().lines().filter(|row| row.contains('\x1b')) {
            let last = row.rfind("\x1b[").expect("a colour");
            assert!(row[last..].starts_with("\x1b[0m"), "{row:?}");
        }
        assert!(
            HeapPicture::new(options, 0, 1)
                .text()
                .starts_with("Nothing")
        );
    }
}

//! Resident memory outside of the allocator, mapping by mapping: code, static data, stacks, and what else the process has
//! mapped.
//!
//! The kernel lists the mappings in `/proc/self/maps`; what of them is resident stands in `/proc/self/pagemap`, 8 bytes
//! for each page. The allocator's own address space is left out, so some thousand pages are looked at, however much data
//! there is. It takes a fraction of a millisecond.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use slab_allocator::PageUse;
use slab_allocator::units::{CHUNK_PAGES, PAGE_BYTES};

/// Bits of an entry of the page map: the page is resident; it belongs to a file or is shared.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
/// Entries read at a time: 16 KiB.
const ENTRIES: usize = 2048;

/// Resident bytes outside of the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutsideMemory {
    /// Pages of files: the program's code and its libraries.
    pub(crate) code_bytes: u64,
    /// Static data: pages of the program and its libraries that were written to, and what they have mapped beside them.
    pub(crate) static_bytes: u64,
    /// The first thread's stack.
    pub(crate) stack_bytes: u64,
    /// All other mappings: other threads' stacks, the C library's heap, the kernel's pages.
    pub(crate) other_bytes: u64,
}

/// What a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    /// Memory behind the static data of a file.
    Static,
    Stack,
    Other,
}

/// A line of the list of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    kind: Kind,
}

/// The readable mappings, in ascending order.
fn parse(maps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(access)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let parsed = (
            usize::from_str_radix(start, 16),
            usize::from_str_radix(end, 16),
        );
        let (Ok(start), Ok(end)) = parsed else {
            continue;
        };
        if !access.starts_with('r') {
            continue;
        }
        let path = fields.nth(3).unwrap_or("");
        let follows_file = mappings
            .last()
            .is_some_and(|last| last.end == start && last.kind == Kind::File);
        let kind = match path {
            "[stack]" => Kind::Stack,
            _ if path.starts_with('/') => Kind::File,
            // Zeroed static data has no file behind it and follows the rest.
            "" if follows_file => Kind::Static,
            _ => Kind::Other,
        };
        mappings.push(Mapping { start, end, kind });
    }
    mappings
}

/// What is left of a mapping without the `reserved` ranges, which are in ascending order.
fn without(mapping: Mapping, reserved: &[(usize, usize)]) -> impl Iterator<Item = (usize, usize)> {
    let mut start = mapping.start;
    let overlapping = reserved
        .iter()
        .filter(move |(from, to)| *from < mapping.end && *to > mapping.start);
    let ends = overlapping.copied().chain([(mapping.end, mapping.end)]);
    ends.filter_map(move |(from, to)| {
        let piece = (start, from.min(mapping.end));
        start = start.max(to);
        (piece.0 < piece.1).then_some(piece)
    })
}

/// What is resident outside of the allocator; `None` where the kernel does not tell.
pub(crate) fn outside_memory() -> Option<OutsideMemory> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    let mut reserved = Vec::with_capacity(128);
    slab_allocator::reservations(|start, bytes| reserved.push((start, start + bytes)));
    reserved.sort_unstable();
    let page_bytes = rustix::param::page_size();
    let mut outside = OutsideMemory::default();
    let mut buffer = vec![0; ENTRIES * 8];
    for mapping in parse(&maps) {
        for (start, end) in without(mapping, &reserved) {
            let mut page = start / page_bytes;
            while page < end / page_bytes {
                let count = (end / page_bytes - page).min(ENTRIES);
                let bytes = &mut buffer[..count * 8];
                // The kernel's own pages at the end of the address space cannot be read.
                if pagemap.read_exact_at(bytes, page as u64 * 8).is_err() {
                    break;
                }
                for entry in bytes.as_chunks::<8>().0 {
                    outside.add(mapping.kind, u64::from_ne_bytes(*entry), page_bytes as u64);
                }
                page += count;
            }
        }
    }
    Some(outside)
}

/// Pages that the process's heap counts and that nobody has touched yet, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeapUntouched {
    /// In slabs.
    pub(crate) slab_bytes: u64,
    /// In objects too large for slabs, as buffers that are not full.
    pub(crate) large_bytes: u64,
    /// Free pages.
    pub(crate) dirty_bytes: u64,
}

/// By how much the books of slabkv's heap are ahead of what is resident; nothing where the kernel does not tell. At most
/// `CHUNKS_MAX` chunks of 2 MiB are looked at.
pub(crate) fn heap_untouched() -> HeapUntouched {
    /// A chunk takes some 10 us.
    const CHUNKS_MAX: usize = 512;
    let mut untouched = HeapUntouched::default();
    let page_bytes = rustix::param::page_size();
    let Ok(pagemap) = File::open("/proc/self/pagemap") else {
        return untouched;
    };
    let mut uses = [PageUse::None; CHUNK_PAGES as usize];
    let mut buffer = [0; CHUNK_PAGES as usize * 8];
    let mut from = 0;
    for _ in 0..CHUNKS_MAX {
        let Some((chunk, start)) = slab_allocator::SlabAlloc::new().chunk_pages(from, &mut uses)
        else {
            break;
        };
        from = chunk + 1;
        // Where the system's pages are larger than the heap's, its map has entries for these alone.
        if page_bytes != PAGE_BYTES
            || pagemap
                .read_exact_at(&mut buffer, (start / page_bytes) as u64 * 8)
                .is_err()
        {
            break;
        }
        for (entry, usage) in buffer.as_chunks::<8>().0.iter().zip(uses) {
            let sum = match usage {
                _ if u64::from_ne_bytes(*entry) & PRESENT != 0 => continue,
                PageUse::None => continue,
                PageUse::Slab => &mut untouched.slab_bytes,
                PageUse::Large => &mut untouched.large_bytes,
                PageUse::Dirty => &mut untouched.dirty_bytes,
            };
            *sum += page_bytes as u64;
        }
    }
    untouched
}

/// Bytes of these ranges, each a first address and a length, that are not resident; 0 where the kernel does not tell.
pub(crate) fn untouched_bytes(ranges: &[(usize, usize)]) -> u64 {
    let Ok(pagemap) = File::open("/proc/self/pagemap") else {
        return 0;
    };
    let page_bytes = rustix::param::page_size();
    let mut buffer = vec![0; 64 * 8];
    let mut untouched = 0;
    for (start, bytes) in ranges {
        let pages = (bytes / page_bytes).min(64);
        let entries = &mut buffer[..pages * 8];
        if pagemap
            .read_exact_at(entries, (start / page_bytes) as u64 * 8)
            .is_err()
        {
            continue;
        }
        let absent = |entry: &&[u8; 8]| u64::from_ne_bytes(**entry) & PRESENT == 0;
        untouched += entries.as_chunks::<8>().0.iter().filter(absent).count() * page_bytes;
    }
    untouched as u64
}

impl OutsideMemory {
    fn add(&mut self, kind: Kind, entry: u64, page_bytes: u64) {
        if entry & PRESENT == 0 {
            return;
        }
        let sum = match kind {
            Kind::File if entry & OF_FILE != 0 => &mut self.code_bytes,
            Kind::File | Kind::Static => &mut self.static_bytes,
            Kind::Stack => &mut self.stack_bytes,
            Kind::Other => &mut self.other_bytes,
        };
        *sum += page_bytes;
    }

    /// All of it.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.code_bytes + self.static_bytes + self.stack_bytes + self.other_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let maps = "\
            1000-3000 r--p 00000000 fe:00 53 /usr/bin/slab kv\n\
            3000-4000 rw-p 00000000 fe:00 53 /usr/bin/slab kv\n\
            4000-6000 rw-p 00000000 00:00 0\n\
            6000-8000 rw-p 00000000 00:00 0 [heap]\n\
            8000-9000 ---p 00000000 00:00 0\n\
            9000-a000 rw-p 00000000 00:00 0\n\
            b000-c000 rw-p 00000000 00:00 0 [stack]\n\
            nonsense\n";
        let kinds: Vec<_> = parse(maps).iter().map(|mapping| mapping.kind).collect();
        use Kind::{File, Other, Stack, Static};
        assert_eq!(kinds, [File, File, Static, Other, Other, Stack]);
    }

    #[test]
    fn what_is_reserved_is_left_out() {
        let mapping = Mapping {
            start: 10,
            end: 50,
            kind: Kind::Other,
        };
        let pieces = |reserved: &[(usize, usize)]| without(mapping, reserved).collect::<Vec<_>>();
        assert_eq!(pieces(&[]), [(10, 50)]);
        assert_eq!(pieces(&[(0, 10), (50, 60)]), [(10, 50)]);
        assert_eq!(pieces(&[(0, 20), (30, 35)]), [(20, 30), (35, 50)]);
        assert_eq!(pieces(&[(0, 100)]), []);
        assert_eq!(pieces(&[(40, 100)]), [(10, 40)]);
    }

    #[test]
    fn a_touched_page_is_found() {
        let before = outside_memory().expect("the kernel tells");
        assert!(before.code_bytes > 100_000 && before.stack_bytes > 0);
        // SAFETY: a fresh anonymous mapping of the kernel's choice; it is written within its length.
        let mapped = unsafe {
            let mapped = libc::mmap(
                std::ptr::null_mut(),
                64 << 20,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(mapped, libc::MAP_FAILED);
            mapped.cast::<u8>().write_bytes(1, 60 << 20);
            mapped
        };
        let after = outside_memory().expect("the kernel tells");
        let grown = after.other_bytes - before.other_bytes;
        // Other tests' threads come and go.
        assert!(grown >= 50 << 20, "{grown}");
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(mapped, 64 << 20) };
    }
}

//! The heap profile in the format of pprof: `profile.proto` of
//! <https://github.com/google/pprof>, compressed by gzip.
//!
//! There are addresses in it and no names: whoever shows it finds these in the files of
//! the program and of its libraries, which the profile tells by path and build id.

use crate::call_stacks::Sampled;
use crate::global_alloc::SlabAlloc;
use crate::heap_profile::PROFILE;
use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{CStr, c_int, c_void};
use prost::Message;

/// What the values of a sample are, in order, and their units: the names that Go's and
/// jemalloc's profiles have.
const VALUES: [(&str, &str); 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// Functions that are not shown, with all that they call: the allocator's own, and those
/// through which programs call it.
const DROPPED: &str = "(?:.*slab_alloc.*|.*GlobalAlloc.*|_*(?:rust|rdl|rg|libc)_(?:re|ze)?alloc.*|\
     __rustc::.*|alloc::(?:alloc|raw_vec)::.*|(?:m|c|re|v|pv)alloc|reallocarray|(?:posix_)?memalign|\
     aligned_alloc|operator new.*|_Zn[wa].*)";

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "7")]
    drop_frames: i64,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

impl Profile {
    /// The number of a text. Each is put in once by its callers.
    fn text(&mut self, text: impl Into<String>) -> i64 {
        self.string_table.push(text.into());
        self.string_table.len() as i64 - 1
    }
}

impl SlabAlloc {
    /// The heap profile as pprof reads it, to be written to a file whose name ends in
    /// `.pb.gz`. Without samples where the profile has never been on. `None` where there
    /// is not the memory to put it together: some 100 bytes for each address of each
    /// call stack.
    pub fn heap_profile_pprof(&self) -> Option<Vec<u8>> {
        let mut stacks = 0_usize;
        let mut addresses = 0_usize;
        self.visit_heap_profile(|stack, _| {
            stacks += 1;
            addresses += stack.len();
        });
        // What follows ends the program where memory is short. There is room for it if
        // there is for one block as large.
        let room = Layout::from_size_align((1 << 20) + addresses * 100 + stacks * 400, 16).ok()?;
        let mut bytes = None;
        self.as_profile_work(|| {
            // SAFETY: The layout is not empty, and the block is freed at once.
            unsafe {
                let block = self.alloc(room);
                if block.is_null() {
                    return;
                }
                self.dealloc(block, room);
            }
            bytes = Some(compressed(&self.profile().encode_to_vec()));
        });
        bytes
    }

    fn profile(&self) -> Profile {
        let mut profile = Profile {
            time_nanos: now_ns(),
            period: i64::from(PROFILE.interval_bytes()),
            ..Profile::default()
        };
        profile.text("");
        for (kind, unit) in VALUES {
            let kind = profile.text(kind);
            let unit = profile.text(unit);
            profile.sample_type.push(ValueType { kind, unit });
        }
        profile.default_sample_type = profile.sample_type[3].kind;
        profile.drop_frames = profile.text(DROPPED);
        let kind = profile.text("space");
        let unit = profile.sample_type[1].unit;
        profile.period_type = Some(ValueType { kind, unit });
        add_mappings(&mut profile);
        let own = own_library(&profile.mapping);
        self.visit_heap_profile(|stack, sampled| {
            if *sampled != Sampled::default() {
                let callers = stack
                    .iter()
                    .position(|address| !own.contains(&(*address as u64)));
                profile
                    .sample
                    .push(sample(&stack[callers.unwrap_or(0)..], sampled));
            }
        });
        let mut addresses: Vec<u64> = Vec::new();
        for sample in &profile.sample {
            addresses.extend(&sample.location_id);
        }
        addresses.sort_unstable();
        addresses.dedup();
        profile.location = addresses
            .into_iter()
            .map(|address| Location {
                id: address,
                mapping_id: mapping_of(&profile.mapping, address),
                address,
            })
            .collect();
        profile
    }
}

fn sample(stack: &[usize], sampled: &Sampled) -> Sample {
    let values = [
        sampled.allocated_objects,
        sampled.allocated_bytes,
        sampled.live_objects,
        sampled.live_bytes,
    ];
    Sample {
        // A call lies before the address to which it returns. Locations are numbered by
        // their addresses.
        location_id: stack
            .iter()
            .filter(|address| **address > 1)
            .map(|address| *address as u64 - 1)
            .collect(),
        value: values.iter().map(|value| *value as i64).collect(),
    }
}

/// The number of the mapping with this address; 0 for none.
fn mapping_of(mappings: &[Mapping], address: u64) -> u64 {
    mappings
        .iter()
        .find(|mapping| (mapping.memory_start..mapping.memory_limit).contains(&address))
        .map_or(0, |mapping| mapping.id)
}

/// Where this code lies if it is a library of its own, whose calls among each other say
/// nothing about the program; else nothing.
fn own_library(mappings: &[Mapping]) -> core::ops::Range<u64> {
    let here = own_library as *const () as u64;
    let range = |mapping: &Mapping| mapping.memory_start..mapping.memory_limit;
    let mut libraries = mappings.iter().skip(1).map(range);
    libraries
        .find(|range| range.contains(&here))
        .unwrap_or(0..0)
}

/// A stream of gzip with the bytes: RFC 1952.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    const FASTEST: u8 = 1;
    // Deflate, no flags, no time, no extra flags, an unknown system.
    let mut stream = Vec::from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    stream.extend(miniz_oxide::deflate::compress_to_vec(bytes, FASTEST));
    stream.extend(crc32fast::hash(bytes).to_le_bytes());
    stream.extend((bytes.len() as u32).to_le_bytes());
    stream
}

fn now_ns() -> i64 {
    // SAFETY: Zeros are a time, and the call writes another.
    unsafe {
        let mut now = core::mem::zeroed::<libc::timespec>();
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    }
}

/// Adds the code of the program and of its libraries. The program comes first, which is
/// what pprof takes for the profile's main file.
fn add_mappings(profile: &mut Profile) {
    // SAFETY: The function is called with the profile, before the call returns.
    unsafe {
        libc::dl_iterate_phdr(
            Some(add_module),
            core::ptr::from_mut(profile).cast::<c_void>(),
        )
    };
}

/// Adds one module.
///
/// # Safety
///
/// As `dl_iterate_phdr` calls it, with a profile as `data`.
unsafe extern "C" fn add_module(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    data: *mut c_void,
) -> c_int {
    // SAFETY: Both are valid while the call lasts, and so are the module's headers.
    let (info, profile, headers) = unsafe {
        let info = &*info;
        let headers = core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (info, &mut *data.cast::<Profile>(), headers)
    };
    let name = if profile.mapping.is_empty() {
        path_of_program()
    } else {
        // SAFETY: The name is null or a C string.
        unsafe { text_of(info.dlpi_name) }
    };
    let filename = profile.text(name);
    let notes = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_NOTE);
    let build_id = notes
        // SAFETY: The module's notes are mapped and not written to.
        .map(|header| unsafe {
            let start = (info.dlpi_addr + header.p_vaddr) as usize as *const u8;
            build_id(core::slice::from_raw_parts(start, header.p_memsz as usize))
        })
        .find(|build_id| !build_id.is_empty());
    let build_id = build_id.map_or(0, |build_id| profile.text(build_id));
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 {
            let start = info.dlpi_addr + header.p_vaddr;
            profile.mapping.push(Mapping {
                id: profile.mapping.len() as u64 + 1,
                memory_start: start,
                memory_limit: start + header.p_memsz,
                file_offset: header.p_offset,
                filename,
                build_id,
            });
        }
    }
    0
}

/// # Safety
///
/// The text is null or a C string.
unsafe fn text_of(text: *const core::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: The caller's promise.
    String::from_utf8_lossy(unsafe { CStr::from_ptr(text) }.to_bytes()).into_owned()
}

fn path_of_program() -> String {
    let mut path = [0_u8; 4096];
    // SAFETY: The buffer is valid for its length.
    let length = unsafe {
        libc::readlink(
            c"/proc/self/exe".as_ptr(),
            path.as_mut_ptr().cast(),
            path.len(),
        )
    };
    let length = usize::try_from(length).unwrap_or(0);
    String::from_utf8_lossy(&path[..length]).into_owned()
}

/// The build id among a module's notes, in hexadecimal; empty if there is none. A note is
/// the lengths of name and content, the kind, the name and the content, each filled up to
/// 4 bytes.
fn build_id(mut notes: &[u8]) -> String {
    const KIND_BUILD_ID: u32 = 3;
    let word = |notes: &[u8], at: usize| {
        notes
            .get(4 * at..4 * at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_ne_bytes)
    };
    while let (Some(name), Some(content), Some(kind)) =
        (word(notes, 0), word(notes, 1), word(notes, 2))
    {
        let start = 12 + (name as usize).next_multiple_of(4);
        let end = start + content as usize;
        if kind == KIND_BUILD_ID
            && notes.get(12..16) == Some(b"GNU\0")
            && let Some(id) = notes.get(start..end)
        {
            let digit = |nibble| char::from_digit(u32::from(nibble), 16).unwrap_or('?');
            return id
                .iter()
                .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
                .collect();
        }
        let Some(rest) = notes.get(end.next_multiple_of(4)..) else {
            break;
        };
        notes = rest;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_found_among_notes() {
        let mut notes = Vec::new();
        let mut note = |name: &[u8], kind: u32, content: &[u8]| {
            notes.extend((name.len() as u32).to_ne_bytes());
            notes.extend((content.len() as u32).to_ne_bytes());
            notes.extend(kind.to_ne_bytes());
            for part in [name, content] {
                notes.extend(part);
                notes.resize(notes.len().next_multiple_of(4), 0);
            }
        };
        note(b"GNU\0", 1, &[9; 16]);
        note(b"stapsdt\0", 3, &[1, 2, 3]);
        note(b"GNU\0", 3, &[0xab, 0x01, 0xff]);
        assert_eq!(build_id(&notes), "ab01ff");
        for end in 0..notes.len() {
            assert!(build_id(&notes[..end]).is_empty() || end + 1 >= notes.len());
        }
    }

    #[test]
    fn the_stream_is_what_gzip_reads() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at / 100) as u8).collect();
        let stream = compressed(&bytes);
        assert!(stream.len() < bytes.len() / 10);
        let (body, end) = stream[10..].split_at(stream.len() - 18);
        assert_eq!(
            miniz_oxide::inflate::decompress_to_vec(body).unwrap(),
            bytes
        );
        assert_eq!(end[..4], crc32fast::hash(&bytes).to_le_bytes());
        assert_eq!(end[4..], 100_000_u32.to_le_bytes());
    }
}

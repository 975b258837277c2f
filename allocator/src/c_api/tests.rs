//! The C functions against a model that knows what each object holds, with the
//! system refusing memory at times.

use super::*;
use crate::os::fake::{Faults, inject};
use proptest::prelude::*;

fn errno() -> c_int {
    // SAFETY: The location is the calling thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

fn set_errno(value: c_int) {
    // SAFETY: As above.
    unsafe { *libc::__errno_location() = value };
}

/// A value that no function here sets.
const UNTOUCHED: c_int = libc::EXDEV;

#[derive(Clone, Debug)]
enum Op {
    Malloc(usize),
    Calloc(usize, usize),
    Aligned(u32, usize),
    PosixAligned(u32, usize),
    Realloc(usize, usize),
    ReallocArray(usize, usize, usize),
    Free(usize),
    FreeSized(usize),
    Trim,
    /// The system refuses memory for the next so many steps.
    Refuse(u8),
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0_usize..300,
        4 => 0_usize..20_000,
        1 => 0_usize..3_000_000,
        1 => usize::MAX - 20_000..=usize::MAX,
        1 => (0_u32..22).prop_map(|bit| 1 << bit),
        // More than the heap's region.
        1 => (41_u32..64).prop_map(|bit| 1 << bit),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let at = any::<usize>();
    prop_oneof![
        6 => sizes().prop_map(Op::Malloc),
        1 => (0_usize..4, sizes()).prop_map(|(count, size)| Op::Calloc(count, size)),
        1 => (1_usize << 41.., 1_usize..).prop_map(|(count, size)| Op::Calloc(count, size)),
        2 => (0_usize..50, 0_usize..500).prop_map(|(count, size)| Op::Calloc(count, size)),
        2 => (0_u32..24, sizes()).prop_map(|(align, size)| Op::Aligned(align, size)),
        2 => (0_u32..24, sizes()).prop_map(|(align, size)| Op::PosixAligned(align, size)),
        5 => (at, sizes()).prop_map(|(at, size)| Op::Realloc(at, size)),
        1 => (at, sizes(), 0_usize..9).prop_map(|(at, n, s)| Op::ReallocArray(at, n, s)),
        4 => at.prop_map(Op::Free),
        3 => at.prop_map(Op::FreeSized),
        1 => Just(Op::Trim),
        1 => (0_u8..10).prop_map(Op::Refuse),
    ]
}

/// A live object: what was asked for, and from which byte its contents follow.
struct Object {
    start: *mut u8,
    size: usize,
    seed: u8,
    /// As `posix_memalign` and `aligned_alloc` were told.
    align: usize,
}

/// The first bytes of an object and its last ones are enough to see any overlap.
fn marked(size: usize) -> impl Iterator<Item = usize> {
    (0..size.min(4096)).chain((size.saturating_sub(64).max(4096))..size)
}

impl Object {
    fn expected(seed: u8, at: usize) -> u8 {
        seed ^ (at as u8).wrapping_mul(37)
    }

    fn paint(&self) {
        for at in marked(self.size) {
            // SAFETY: The object is live and has this size.
            unsafe { self.start.add(at).write(Self::expected(self.seed, at)) };
        }
    }

    /// Checks what lies below `size` bytes, if that was marked when the object had
    /// its old size.
    fn check(&self, size: usize) {
        for at in marked(self.size).filter(|at| *at < size) {
            // SAFETY: As above.
            let found = unsafe { self.start.add(at).read() };
            assert_eq!(found, Self::expected(self.seed, at), "byte {at}");
        }
    }
}

#[derive(Default)]
struct Model {
    objects: Vec<Object>,
    made: u8,
}

impl Model {
    fn pick(&self, at: usize) -> Option<usize> {
        (!self.objects.is_empty()).then(|| at % self.objects.len())
    }

    /// Takes in the outcome of a request for `size` bytes.
    fn enter(&mut self, start: *mut c_void, size: Option<usize>, align: usize, refused: bool) {
        if start.is_null() {
            assert_eq!(errno(), libc::ENOMEM);
            let impossible = size.is_none_or(|size| size.saturating_add(align) > 1 << 30);
            assert!(refused || impossible, "{size:?} at {align}");
            return;
        }
        assert_eq!(errno(), UNTOUCHED);
        let size = size.expect("a size that overflows was served");
        assert!(start.addr().is_multiple_of(align.max(ALIGN)));
        // SAFETY: The object is live.
        let usable = unsafe { malloc_usable_size(start) };
        // Exactly what was asked for in the hardened mode.
        let exact = usable == size || size == 0 && usable == 1;
        let fits = exact || !cfg!(feature = "hardened") && usable >= size.max(1);
        assert!(fits, "{usable} of {size}");
        self.made = self.made.wrapping_add(1);
        let object = Object {
            start: start.cast(),
            size,
            seed: self.made,
            align,
        };
        object.paint();
        self.objects.push(object);
    }

    fn resize(
        &mut self,
        at: usize,
        bytes: Option<usize>,
        act: impl Fn(*mut c_void) -> *mut c_void,
        refused: bool,
    ) {
        let object = &self.objects[at];
        let moved = act(object.start.cast());
        if moved.is_null() && bytes != Some(0) {
            object.check(object.size);
            assert_eq!(errno(), libc::ENOMEM);
            assert!(
                refused || bytes.is_none_or(|bytes| bytes > 1 << 30),
                "{bytes:?}"
            );
            return;
        }
        let mut object = self.objects.swap_remove(at);
        let bytes = bytes.unwrap();
        if bytes == 0 {
            assert!(moved.is_null());
            assert_eq!(errno(), UNTOUCHED);
            return;
        }
        object.start = moved.cast();
        object.check(bytes);
        self.enter(moved, Some(bytes), ALIGN, refused);
    }

    fn apply(&mut self, op: &Op, refused: bool) {
        set_errno(UNTOUCHED);
        match *op {
            Op::Malloc(size) => self.enter(malloc(size), Some(size), ALIGN, refused),
            Op::Calloc(count, size) => {
                let bytes = count.checked_mul(size);
                let start = calloc(count, size);
                if !start.is_null() {
                    let bytes = bytes.unwrap();
                    // SAFETY: The object is live and has this size.
                    let all = unsafe { core::slice::from_raw_parts(start.cast::<u8>(), bytes) };
                    assert!(all.iter().all(|byte| *byte == 0));
                }
                self.enter(start, bytes, ALIGN, refused);
            }
            Op::Aligned(bit, size) => {
                self.enter(
                    aligned_alloc(1 << bit, size),
                    Some(size.min(isize::MAX as usize)),
                    1 << bit,
                    refused,
                );
            }
            Op::PosixAligned(bit, size) => {
                let unset = ptr::without_provenance_mut(1);
                let mut start = unset;
                // SAFETY: The place is this function's.
                let error = unsafe { posix_memalign(&raw mut start, 1 << bit, size) };
                assert_eq!(errno(), UNTOUCHED);
                if bit < 3 {
                    assert_eq!((error, start), (libc::EINVAL, unset));
                } else if error != 0 {
                    assert_eq!((error, start), (libc::ENOMEM, unset));
                    assert!(refused || size > 1 << 29, "{size} at {bit}");
                } else {
                    self.enter(start, Some(size), 1 << bit, refused);
                }
            }
            Op::Realloc(at, size) => match self.pick(at) {
                // SAFETY: The object is live.
                Some(at) => self.resize(
                    at,
                    Some(size),
                    |object| unsafe { realloc(object, size) },
                    refused,
                ),
                // SAFETY: Null is allowed.
                None => self.enter(
                    unsafe { realloc(ptr::null_mut(), size) },
                    Some(size),
                    ALIGN,
                    refused,
                ),
            },
            Op::ReallocArray(at, count, size) => {
                if let Some(at) = self.pick(at) {
                    // SAFETY: The object is live.
                    let act = |object| unsafe { reallocarray(object, count, size) };
                    self.resize(at, count.checked_mul(size), act, refused);
                }
            }
            Op::Free(at) | Op::FreeSized(at) => {
                let Some(at) = self.pick(at) else {
                    // SAFETY: Null is allowed.
                    unsafe {
                        free(ptr::null_mut());
                        free_sized(ptr::null_mut(), 8);
                        free_aligned_sized(ptr::null_mut(), 64, 64);
                    }
                    return;
                };
                let object = self.objects.swap_remove(at);
                object.check(object.size);
                let start = object.start.cast();
                // SAFETY: The object is live, and was asked for in this way.
                unsafe {
                    match op {
                        Op::Free(_) => free(start),
                        _ if object.align > ALIGN => {
                            free_aligned_sized(start, object.align, object.size)
                        }
                        _ => free_sized(start, object.size),
                    }
                }
                assert_eq!(errno(), UNTOUCHED);
            }
            Op::Trim => {
                malloc_trim(0);
            }
            Op::Refuse(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn objects_keep_what_was_written_and_failures_change_nothing(
        ops in prop::collection::vec(ops(), 1..120)
    ) {
        let mut model = Model::default();
        let mut refusals = 0_u8;
        for op in &ops {
            let refused = refusals > 0;
            refusals = refusals.saturating_sub(1);
            let faults = Faults {
                commit: refused,
                purge: refused,
                move_pages: refused,
                reserve: refused,
                huge: refused,
            };
            inject(faults, || model.apply(op, refused));
            if let Op::Refuse(steps) = op {
                refusals = *steps;
            }
        }
        for object in model.objects {
            object.check(object.size);
            // SAFETY: The object is live.
            unsafe { free(object.start.cast()) };
        }
    }
}

/// One page at a multiple of 16 KiB is a page run of the size of a class. If it
/// stayed in place, `free_sized` would take it for a slot.
#[test]
fn an_aligned_page_that_is_resized_to_a_small_object_moves() {
    let page = page_bytes();
    let aligned = aligned_alloc(4 * page, 1);
    // SAFETY: The objects are live, and have these sizes.
    unsafe {
        let usable = if cfg!(feature = "hardened") { 1 } else { page };
        assert_eq!(malloc_usable_size(aligned), usable);
        let small = realloc(aligned, page - 255);
        assert_ne!(small, aligned);
        free_sized(small, page - 255);
    }
}

#[test]
fn alignments_that_are_none_are_refused() {
    for align in [0, 3, 24, 100] {
        set_errno(UNTOUCHED);
        assert!(aligned_alloc(align, 8).is_null());
        assert_eq!(errno(), libc::EINVAL);
        let mut start = ptr::null_mut();
        // SAFETY: The place is this function's.
        let error = unsafe { posix_memalign(&raw mut start, align, 8) };
        assert_eq!((error, start), (libc::EINVAL, ptr::null_mut()));
        // The older function rounds up.
        let object = memalign(align, 8);
        assert!(
            object
                .addr()
                .is_multiple_of(align.max(1).next_power_of_two())
        );
        // SAFETY: The object is live.
        unsafe { free(object) };
    }
    assert!(memalign(usize::MAX, 8).is_null());
}

#[test]
fn page_aligned_objects_are_whole_pages_where_asked_for() {
    let page = page_bytes();
    for size in [0, 1, page, page + 1] {
        let (one, whole) = (valloc(size), pvalloc(size));
        assert!(one.addr().is_multiple_of(page) && whole.addr().is_multiple_of(page));
        // SAFETY: Both are live.
        unsafe {
            assert!(malloc_usable_size(whole) >= size.max(1).next_multiple_of(page));
            free(one);
            free(whole);
        }
    }
    assert!(pvalloc(usize::MAX - 5).is_null());
    assert!(valloc(usize::MAX - 5).is_null());
}

#[test]
fn objects_without_a_size_are_distinct_and_nothing_is_usable_of_null() {
    let (one, other) = (malloc(0), malloc(0));
    assert!(!one.is_null() && !other.is_null() && one != other);
    // SAFETY: Both are live; null is allowed.
    unsafe {
        assert_eq!(malloc_usable_size(ptr::null()), 0);
        assert!(realloc(one, 0).is_null());
        free(other);
    }
}

#[test]
fn alignments_beyond_a_chunk_are_kept() {
    for bit in 21..28 {
        let object = aligned_alloc(1 << bit, 100);
        assert!(!object.is_null());
        assert!(object.addr().is_multiple_of(1 << bit));
        // SAFETY: The object is live.
        unsafe { free(object) };
    }
}

#[test]
fn the_figures_of_mallinfo_hold_what_is_allocated() {
    let objects: Vec<_> = (0..100).map(|_| malloc(100_000)).collect();
    let info = mallinfo2();
    assert!(info.hblks >= 100 && info.hblkhd >= 10_000_000);
    assert!(info.uordblks >= info.hblkhd && info.arena >= info.uordblks);
    assert!(mallinfo().hblkhd >= 10_000_000);
    for object in objects {
        // SAFETY: The object is live.
        unsafe { free(object) };
    }
}

#[test]
fn malloc_info_writes_xml() {
    let object = malloc(100);
    let mut text = ptr::null_mut();
    let mut bytes = 0;
    // SAFETY: The stream is open while it is used, and its text is freed by the
    // C library that allocated it.
    let text = unsafe {
        let stream = libc::open_memstream(&raw mut text, &raw mut bytes);
        set_errno(UNTOUCHED);
        assert_eq!((malloc_info(1, stream), errno()), (-1, libc::EINVAL));
        assert_eq!(malloc_info(0, stream), 0);
        libc::fclose(stream);
        let copy = core::slice::from_raw_parts(text.cast::<u8>(), bytes).to_vec();
        libc::free(text.cast());
        String::from_utf8(copy).unwrap()
    };
    assert!(text.starts_with("<malloc version=\"slabkv-1\">\n"));
    assert!(text.ends_with("</malloc>\n"));
    assert!(text.contains("<class size=\"112\" slabs=\""), "{text}");
    assert!(text.contains("<total type=\"resident\" size=\""), "{text}");
    // SAFETY: The object is live.
    unsafe { free(object) };
}

//! What is timed: each workload makes a function that runs so many operations
//! with an allocator and says how long they took.

use crate::peers::Allocator;
use std::alloc::{GlobalAlloc, Layout, handle_alloc_error};
use std::hint::black_box;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Runs a number of operations.
pub(crate) type Run = Box<dyn FnMut(u64) -> Duration>;

/// A workload; an operation is one allocation and one free, or one `realloc`.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) prepare: Box<dyn Fn(Allocator) -> Run>,
}

/// All workloads; with `smoke` on a heap that is filled at once.
pub(crate) fn all(smoke: bool) -> Vec<Workload> {
    let live = if smoke { 10_000 } else { 1_000_000 };
    vec![
        workload("pair", |allocator| Box::new(move |n| pair(allocator, n))),
        workload("fifo_64", |allocator| Box::new(move |n| fifo(allocator, n))),
        workload("random_replace_1M", move |allocator| {
            let mut heap = Heap::filled(allocator, live, 16..512);
            Box::new(move |n| heap.replace_at_random(n))
        }),
        workload("random_replace_two_threads", move |allocator| {
            let mut heaps = [
                Heap::filled(allocator, live / 4, 16..512),
                Heap::filled(allocator, live / 4, 16..512),
            ];
            Box::new(move |n| two_threads(&mut heaps, n))
        }),
        workload("cross_thread", |allocator| {
            Box::new(move |n| cross_thread(allocator, n))
        }),
        workload("realloc_growth", |allocator| {
            Box::new(move |n| realloc_growth(allocator, n))
        }),
        workload("large_16K_to_1M", |allocator| {
            let mut heap = Heap::filled(allocator, 64, 16 << 10..1 << 20);
            Box::new(move |n| heap.replace_at_random(n))
        }),
    ]
}

fn workload(name: &'static str, prepare: impl Fn(Allocator) -> Run + 'static) -> Workload {
    Workload {
        name,
        prepare: Box::new(prepare),
    }
}

/// Allocates and writes the first byte, as every program does.
fn allocate(allocator: Allocator, size: usize) -> *mut u8 {
    let layout = layout(size);
    // SAFETY: No size here is zero.
    let object = unsafe { allocator.alloc(layout) };
    if object.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: The object is new and not empty.
    unsafe { object.write_volatile(1) };
    object
}

/// # Safety
///
/// `object` came from [`allocate`] with the same allocator and size.
unsafe fn free(allocator: Allocator, object: *mut u8, size: usize) {
    // SAFETY: The caller's promise.
    unsafe { allocator.dealloc(object, layout(size)) };
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("sizes are small")
}

/// Marsaglia's xorshift64: the same sequence for every allocator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(88_172_645_463_325_252)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * bound as u128) >> 64) as usize
    }
}

/// One object of 32 bytes, freed at once.
fn pair(allocator: Allocator, operations: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..operations {
        let object = black_box(allocate(allocator, black_box(32)));
        // SAFETY: Allocated above.
        unsafe { free(allocator, object, 32) };
    }
    start.elapsed()
}

/// The same, of an allocator and a size that are known when it is compiled.
#[inline(never)]
pub(crate) fn linked_pair(allocator: &impl GlobalAlloc, operations: u64) -> Duration {
    const LAYOUT: Layout = Layout::new::<[u64; 4]>();
    let start = Instant::now();
    for _ in 0..operations {
        // SAFETY: The size is not zero, and the object is freed with its layout.
        unsafe {
            let object = allocator.alloc(LAYOUT);
            if object.is_null() {
                handle_alloc_error(LAYOUT);
            }
            black_box(object).write_volatile(1);
            allocator.dealloc(object, LAYOUT);
        }
    }
    start.elapsed()
}

/// 64 objects of eight sizes, freed first in, first out.
fn fifo(allocator: Allocator, operations: u64) -> Duration {
    let size = |at: usize| 16 + (at & 7) * 16;
    let mut objects = [std::ptr::null_mut(); 64];
    let start = Instant::now();
    for _ in 0..operations.div_ceil(64) {
        for (at, object) in objects.iter_mut().enumerate() {
            *object = allocate(allocator, size(at));
        }
        for (at, object) in objects.iter().enumerate() {
            // SAFETY: Allocated above, and freed once.
            unsafe { free(allocator, *object, size(at)) };
        }
    }
    start
        .elapsed()
        .mul_f64(operations as f64 / (operations.div_ceil(64) * 64) as f64)
}

/// Live objects of random sizes.
pub(crate) struct Heap {
    allocator: Allocator,
    sizes: std::ops::Range<usize>,
    objects: Vec<(*mut u8, usize)>,
    random: Random,
}

// SAFETY: The objects belong to the heap, and any thread may free them.
unsafe impl Send for Heap {}

impl Heap {
    pub(crate) fn filled(
        allocator: Allocator,
        count: usize,
        sizes: std::ops::Range<usize>,
    ) -> Self {
        let mut heap = Self {
            allocator,
            sizes,
            objects: Vec::with_capacity(count),
            random: Random::new(),
        };
        for _ in 0..count {
            let object = heap.new_object();
            heap.objects.push(object);
        }
        heap
    }

    fn new_object(&mut self) -> (*mut u8, usize) {
        let size = self.sizes.start + self.random.below(self.sizes.len());
        (allocate(self.allocator, size), size)
    }

    /// Frees an object at random and allocates another in its place.
    fn replace_at_random(&mut self, operations: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..operations {
            let at = self.random.below(self.objects.len());
            let (object, size) = self.objects[at];
            // SAFETY: The object is live, and its place is filled anew.
            unsafe { free(self.allocator, object, size) };
            self.objects[at] = self.new_object();
        }
        start.elapsed()
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        for (object, size) in self.objects.drain(..) {
            // SAFETY: The object is live, and the heap forgets it.
            unsafe { free(self.allocator, object, size) };
        }
    }
}

/// Each thread replaces objects in a heap of its own.
fn two_threads(heaps: &mut [Heap; 2], operations: u64) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for heap in heaps {
            scope.spawn(move || heap.replace_at_random(operations / 2));
        }
    });
    start.elapsed()
}

/// Objects that one thread allocates and another frees.
struct Batch(Vec<(*mut u8, usize)>);

// SAFETY: The objects belong to the batch, and any thread may free them.
unsafe impl Send for Batch {}

/// One thread allocates, another frees; batches of 512 go round between them.
fn cross_thread(allocator: Allocator, operations: u64) -> Duration {
    const BATCH: usize = 512;
    const BATCHES: usize = 8;
    let (full_sender, full) = mpsc::sync_channel::<Batch>(BATCHES);
    let (empty_sender, empty) = mpsc::sync_channel::<Batch>(BATCHES);
    for _ in 0..BATCHES {
        empty_sender
            .send(Batch(Vec::with_capacity(BATCH)))
            .expect("the receiver lives");
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for mut batch in full {
                for (object, size) in batch.0.drain(..) {
                    // SAFETY: The other thread allocated it and gave it away.
                    unsafe { free(allocator, object, size) };
                }
                // The producer may have finished.
                let _ = empty_sender.send(batch);
            }
        });
        let mut random = Random::new();
        let mut left = operations as usize;
        while left > 0 {
            let mut batch = empty.recv().expect("the consumer returns every batch");
            let count = left.min(BATCH);
            for _ in 0..count {
                let size = 16 + random.below(240);
                batch.0.push((allocate(allocator, size), size));
            }
            left -= count;
            full_sender.send(batch).expect("the consumer waits");
        }
        drop(full_sender);
    });
    start.elapsed()
}

/// Buffers that grow by half from 32 bytes to 4 MiB, as a `Vec` that is pushed to.
fn realloc_growth(allocator: Allocator, operations: u64) -> Duration {
    let mut done = 0;
    let start = Instant::now();
    while done < operations {
        let mut size = 32;
        let mut object = allocate(allocator, size);
        while size < 4 << 20 && done < operations {
            let new = size + size / 2;
            // SAFETY: The object is live and has this size.
            object = unsafe { allocator.realloc(object, layout(size), new) };
            assert!(!object.is_null());
            // SAFETY: The object has this size now.
            unsafe { object.add(new - 1).write_volatile(1) };
            size = new;
            done += 1;
        }
        // SAFETY: The object is live and has this size.
        unsafe { free(allocator, object, size) };
    }
    start.elapsed()
}

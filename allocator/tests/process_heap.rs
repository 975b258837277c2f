//! The process heap under load. This program runs on it, so whatever the test
//! harness does is part of the load.

#![cfg(not(loom))]

use slab_allocator::SlabAlloc;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::mpsc;

#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

/// An object that knows what it holds.
struct Object {
    start: *mut u8,
    layout: Layout,
    seed: u8,
}

// SAFETY: The object is owned, and any thread may free it.
unsafe impl Send for Object {}

impl Object {
    fn new(size: usize, align: usize, seed: u8, zeroed: bool) -> Self {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: No size here is zero.
        let start = unsafe {
            if zeroed {
                ALLOCATOR.alloc_zeroed(layout)
            } else {
                ALLOCATOR.alloc(layout)
            }
        };
        assert!(!start.is_null());
        assert!(
            start.addr().is_multiple_of(align),
            "{layout:?} at {start:?}"
        );
        let object = Self {
            start,
            layout,
            seed,
        };
        if zeroed {
            assert!(object.bytes().iter().all(|byte| *byte == 0), "{layout:?}");
        }
        // SAFETY: The object is live.
        assert!(unsafe { ALLOCATOR.usable_size(start) } >= size);
        object.paint(0);
        object
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: The object is live and has this size.
        unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
    }

    /// Every byte depends on its place, so that a shift would be noticed.
    fn expected(&self, at: usize) -> u8 {
        self.seed.wrapping_add((at as u8).wrapping_mul(31)) ^ (at >> 8) as u8
    }

    fn paint(&self, from: usize) {
        for at in from..self.layout.size() {
            // SAFETY: The object is live and has this size.
            unsafe { self.start.add(at).write(self.expected(at)) };
        }
    }

    fn check(&self) {
        let wrong = self
            .bytes()
            .iter()
            .enumerate()
            .find(|(at, byte)| **byte != self.expected(*at));
        assert!(
            wrong.is_none(),
            "{:?} of {:?} at {:?}",
            wrong,
            self.layout,
            self.start
        );
    }

    fn resize(&mut self, size: usize) {
        let kept = size.min(self.layout.size());
        // SAFETY: The object is live and has this layout.
        let start = unsafe { ALLOCATOR.realloc(self.start, self.layout, size) };
        assert!(!start.is_null());
        self.start = start;
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        assert!(start.addr().is_multiple_of(self.layout.align()));
        let bytes = self.bytes();
        assert!((0..kept).all(|at| bytes[at] == self.expected(at)));
        self.paint(kept);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.check();
        // SAFETY: The object is live and has this layout.
        unsafe {
            if self.seed & 1 == 0 {
                ALLOCATOR.dealloc(self.start, self.layout);
            } else {
                ALLOCATOR.free_unsized(self.start);
            }
        }
    }
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() % bound
    }

    /// Mostly small, seldom large, now and then huge; any alignment.
    fn object(&mut self) -> Object {
        let size = match self.below(1000) {
            0..700 => 1 + self.below(300),
            700..900 => 1 + self.below(5_000),
            900..995 => 1 + self.below(60_000),
            _ => 1 + self.below(5 << 20),
        };
        let align = if self.below(4) == 0 {
            1 << self.below(14)
        } else {
            8
        };
        Object::new(size, align, self.next() as u8, self.below(8) == 0)
    }
}

fn churn(seed: u64, steps: usize, live_max: usize) {
    let mut random = Random(seed);
    let mut live = Vec::new();
    for _ in 0..steps {
        match random.below(10) {
            0..5 => live.push(random.object()),
            5..9 if !live.is_empty() => {
                live.swap_remove(random.below(live.len()));
            }
            9 if !live.is_empty() => {
                let at = random.below(live.len());
                let size = live[at].layout.size();
                live[at].resize((size / 2 + random.below(size + 100)).max(1));
            }
            _ => {}
        }
        if live.len() > live_max {
            live.truncate(live_max / 10);
        }
    }
}

/// With the heap the budget of the thread's cache grows and shrinks again: its
/// classes lose capacity in the midst of allocations.
#[test]
fn a_cache_whose_budget_shrinks_still_hands_out_slots() {
    for round in 0..4 {
        let objects: Vec<Object> = (0..150_000_usize)
            .map(|at| Object::new(16 + at * 7919 % 496, 8, (at + round) as u8, false))
            .collect();
        let mut left = objects;
        while left.len() > 1 {
            // Every second one, so that no order is kept.
            let mut kept = Vec::with_capacity(left.len() / 2 + 1);
            for (at, object) in left.drain(..).enumerate() {
                if at % 2 == 1 {
                    kept.push(object);
                }
            }
            left = kept;
        }
    }
}

#[test]
fn objects_keep_their_bytes() {
    churn(0x9E37_79B9_7F4A_7C15, 40_000, 2_000);
}

#[test]
fn objects_of_many_threads_keep_their_bytes() {
    std::thread::scope(|scope| {
        for seed in 1..=8 {
            scope.spawn(move || churn(seed << 40 | 0x2545_F491, 8_000, 500));
        }
    });
}

#[test]
fn objects_may_be_freed_by_any_thread() {
    const THREADS: usize = 4;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::channel::<Object>()).unzip();
    std::thread::scope(|scope| {
        for (number, receiver) in receivers.into_iter().enumerate() {
            let senders = senders.clone();
            scope.spawn(move || {
                let mut random = Random(77 + number as u64);
                for _ in 0..10_000 {
                    let object = random.object();
                    senders[random.below(THREADS)].send(object).ok();
                    if random.below(3) > 0 {
                        receiver.try_iter().take(4).for_each(drop);
                    }
                }
                drop(senders);
                receiver.try_iter().for_each(drop);
            });
        }
        drop(senders);
    });
}

/// Objects of one size, all of whose slabs are shared by the two threads, freed in
/// the order in which they were made.
#[test]
fn a_queue_between_two_threads() {
    for size in [1, 8, 64, 100, 1000, 4096, 10_000, 20_000] {
        let (sender, receiver) = mpsc::sync_channel::<Vec<Object>>(4);
        let consumer = std::thread::spawn(move || receiver.into_iter().flatten().for_each(drop));
        for batch in 0..40 {
            sender
                .send(
                    (0..100)
                        .map(|i| Object::new(size, 8, batch ^ i, false))
                        .collect(),
                )
                .unwrap();
        }
        drop(sender);
        consumer.join().unwrap();
    }
}

#[test]
fn destructors_of_thread_locals_may_allocate_and_free() {
    struct Late(Vec<Object>);

    impl Drop for Late {
        fn drop(&mut self) {
            let mut random = Random(5);
            for _ in 0..100 {
                let object = random.object();
                self.0.push(object);
            }
        }
    }

    thread_local! {
        static LATE: std::cell::RefCell<Late> = const { std::cell::RefCell::new(Late(Vec::new())) };
    }

    for _ in 0..50 {
        std::thread::spawn(|| {
            let mut random = Random(3);
            LATE.with_borrow_mut(|late| late.0.extend((0..100).map(|_| random.object())));
        })
        .join()
        .unwrap();
    }
}

#[test]
fn alignments_far_beyond_a_page() {
    let objects: Vec<_> = (12..27)
        .flat_map(|log2| [1, 5_000, 3 << 20].map(|size| Object::new(size, 1 << log2, log2, false)))
        .collect();
    drop(objects);
    let beyond = Layout::from_size_align(100, 1 << 40).unwrap();
    // SAFETY: The size is not zero.
    assert!(unsafe { ALLOCATOR.alloc(beyond) }.is_null());
}

#[test]
fn absurd_requests_fail_and_harm_nothing() {
    for size in [1 << 45, isize::MAX as usize - 4096] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        // SAFETY: The size is not zero.
        assert!(unsafe { ALLOCATOR.alloc(layout) }.is_null());
        // SAFETY: The size is not zero.
        assert!(unsafe { ALLOCATOR.alloc_zeroed(layout) }.is_null());
    }
    let object = Object::new(100, 8, 1, false);
    // SAFETY: The object is live; null leaves it so.
    assert!(unsafe { ALLOCATOR.realloc(object.start, object.layout, 1 << 45) }.is_null());
    object.check();
}

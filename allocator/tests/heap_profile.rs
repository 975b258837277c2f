//! The heap profile: what it says against what is known, and that objects stay what they
//! are though they were sampled. Each case runs in a child of its own, since there is
//! one profile for the process.

#![cfg(not(any(loom, feature = "hardened")))]

use slab_allocator::{Sampled, SlabAlloc};
use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

#[global_allocator]
static HEAP: SlabAlloc = SlabAlloc::new();

/// Whether this is the child for the test; if not, runs it.
fn is_child(test: &str) -> bool {
    if std::env::var_os("SLABKV_TEST_CHILD").is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("SLABKV_TEST_CHILD", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    false
}

/// Where a function's code lies, as far as it matters: its own name is in the stack of
/// whatever it allocates.
macro_rules! allocators {
    ($($name:ident)*) => {$(
        #[inline(never)]
        fn $name(count: usize, size: usize) -> Vec<Vec<u8>> {
            let mut all = Vec::with_capacity(count);
            for at in 0..count {
                all.push(black_box(vec![at as u8; size]));
            }
            black_box(all)
        }
    )*};
}

allocators! { first second third }

type Allocate = fn(usize, usize) -> Vec<Vec<u8>>;

/// Sums over the stacks that lead through the function. Its code is at most a few hundred
/// bytes long, and no other function that allocates follows so closely.
fn under(function: Allocate) -> Sampled {
    let start = function as usize;
    let next = [first as Allocate, second, third]
        .into_iter()
        .map(|other| other as usize)
        .filter(|other| *other > start)
        .min()
        .unwrap_or(usize::MAX)
        .min(start + 1024);
    let mut sum = Sampled::default();
    HEAP.visit_heap_profile(|addresses, sampled| {
        if addresses
            .iter()
            .any(|address| (start..next).contains(address))
        {
            add(&mut sum, sampled);
        }
    });
    sum
}

fn add(sum: &mut Sampled, sampled: &Sampled) {
    sum.allocated_objects += sampled.allocated_objects;
    sum.allocated_bytes += sampled.allocated_bytes;
    sum.live_objects += sampled.live_objects;
    sum.live_bytes += sampled.live_bytes;
}

fn total() -> Sampled {
    let mut sum = Sampled::default();
    HEAP.visit_heap_profile(|_, sampled| add(&mut sum, sampled));
    sum
}

#[test]
fn at_an_interval_of_one_every_object_is_counted() {
    if !is_child("at_an_interval_of_one_every_object_is_counted") {
        return;
    }
    assert_eq!(total(), Sampled::default());
    let before = first(50, 100);
    assert!(HEAP.start_heap_profile(1));
    let mut by_first = first(300, 100);
    let by_second = second(20, 5000);
    let by_third = third(3, 100_000);
    // Their own arrays of pointers are allocated by these functions, too.
    assert_eq!(
        under(first),
        Sampled {
            allocated_objects: 301,
            allocated_bytes: 300 * 112 + 7680,
            live_objects: 301,
            live_bytes: 300 * 112 + 7680,
        }
    );
    assert_eq!(under(second).live_bytes, 20 * 5120 + 480);
    assert_eq!(under(third).live_bytes, 3 * 102_400 + 80);
    drop(before);
    by_first.truncate(100);
    assert_eq!(under(first).live_objects, 101);
    assert_eq!(under(first).allocated_objects, 301);

    HEAP.stop_heap_profile();
    let unseen = second(100, 5000);
    assert_eq!(under(second).allocated_objects, 21);
    drop((by_first, by_second, unseen));
    assert_eq!((under(first).live_objects, under(first).live_bytes), (0, 0));
    assert_eq!(under(second).live_objects, 0);
    // Objects freed while the profile is off, and the slots that they leave, are used
    // again like any other.
    drop(third(1000, 100));
    drop(by_third);
    assert_eq!(total().live_bytes, 0);
    assert_eq!(HEAP.heap_profile_stats().live_samples, 0);
    let stats = HEAP.stats();
    assert_eq!(stats.arenas.large_objects, 0, "{stats:?}");
}

#[test]
fn a_thread_that_frees_what_it_allocates_is_seen() {
    if !is_child("a_thread_that_frees_what_it_allocates_is_seen") {
        return;
    }
    let rounds = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let wait_for = |more: usize| {
        let end = rounds.load(Relaxed) + more;
        while rounds.load(Relaxed) < end {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                drop(third(1, 100));
                rounds.fetch_add(1, Relaxed);
            }
        });
        wait_for(10_000);
        assert!(HEAP.start_heap_profile(1));
        wait_for(10_000);
        let seen = under(third).allocated_objects;
        done.store(true, Relaxed);
        assert!(seen > 1_000, "{seen}");
    });
}

/// Estimates against the truth, within five standard errors of the binomial distribution:
/// `n` objects of which each is sampled with the probability `p` and counts `1/p`.
#[test]
fn estimates_are_near_the_truth() {
    const INTERVAL: usize = 8192;
    if !is_child("estimates_are_near_the_truth") {
        return;
    }
    assert!(HEAP.start_heap_profile_with_seed(INTERVAL, 1));
    let cases: [(Allocate, usize, usize, usize); 3] = [
        (first, 200_000, 40, 48),
        (second, 20_000, 1000, 1024),
        (third, 400, 20_000, 20_480),
    ];
    for (function, count, size, slot) in cases {
        let mut all = function(count, size);
        // The array of pointers, which is so large that it is sampled for certain.
        let array = (all.capacity() * 24).next_multiple_of(4096) as f64;
        let share = 1.0 - (-(slot as f64) / INTERVAL as f64).exp();
        let error = |count: usize| (count as f64 * (1.0 / share - 1.0)).sqrt() * slot as f64;
        let near = |sampled: u64, count: usize, more: f64| {
            let truth = (count * slot) as f64 + more;
            assert!(
                (sampled as f64 - truth).abs() < 5.0 * error(count) + 8192.0,
                "{size}: {sampled} for {truth}, within {}",
                error(count)
            );
        };
        let full = under(function);
        near(full.live_bytes, count, array);
        assert_eq!(full.allocated_bytes, full.live_bytes);
        all.truncate(count / 4);
        let rest = under(function);
        near(rest.live_bytes, count / 4, array);
        assert_eq!(rest.allocated_bytes, full.allocated_bytes);
        drop(all);
        assert_eq!(under(function).live_bytes, 0);
    }
}

/// A generator of numbers, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// An object with a pattern, and how it was allocated.
struct Object {
    start: *mut u8,
    layout: Layout,
    mark: u8,
}

// SAFETY: An object belongs to whoever has it.
unsafe impl Send for Object {}

impl Object {
    fn new(layout: Layout, mark: u8) -> Self {
        // SAFETY: The size is not 0.
        let start = unsafe { HEAP.alloc(layout) };
        assert!(!start.is_null() && start.addr().is_multiple_of(layout.align()));
        // SAFETY: The object is new and has this size.
        unsafe { start.write_bytes(mark, layout.size()) };
        let object = Self {
            start,
            layout,
            mark,
        };
        // SAFETY: The object is live.
        assert!(unsafe { HEAP.usable_size(start) } >= layout.size());
        object
    }

    fn check(&self, bytes: usize) {
        // SAFETY: The object is live and has at least so many bytes.
        let content = unsafe { std::slice::from_raw_parts(self.start, bytes) };
        assert!(content.iter().all(|byte| *byte == self.mark));
    }

    fn resize(&mut self, size: usize) {
        // SAFETY: The object is live, and used no more if it moves.
        self.start = unsafe { HEAP.realloc(self.start, self.layout, size) };
        assert!(!self.start.is_null());
        self.check(size.min(self.layout.size()));
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        // SAFETY: The object has this size.
        unsafe { self.start.write_bytes(self.mark, size) };
    }

    fn free(self, sized: bool) {
        self.check(self.layout.size());
        // SAFETY: The object is live and not used any more.
        unsafe {
            if sized {
                HEAP.dealloc(self.start, self.layout);
            } else {
                HEAP.free_unsized(self.start);
            }
        }
    }
}

/// Random allocations, with the profile switched on, off, and to other intervals.
fn churn(numbers: &mut Numbers, objects: &mut Vec<Object>, steps: usize) {
    for step in 0..steps {
        let size = 1 + match numbers.below(10) {
            0 => numbers.below(200_000),
            1..3 => numbers.below(20_000),
            _ => numbers.below(600),
        };
        match numbers.below(200) {
            0 => assert!(HEAP.start_heap_profile([1, 64, 4096, 65_536][numbers.below(4)])),
            1 => HEAP.stop_heap_profile(),
            2 => HEAP.flush_thread_cache(),
            3 => HEAP.visit_heap_profile(|addresses, _| assert!(!addresses.is_empty())),
            4..80 => {
                let align = 1 << [3, 4, 4, 4, 6, 12, 13, 14][numbers.below(8)];
                let layout = Layout::from_size_align(size, align).unwrap();
                objects.push(Object::new(layout, step as u8));
            }
            80..110 if !objects.is_empty() => {
                let at = numbers.below(objects.len());
                objects[at].resize(size);
            }
            _ if !objects.is_empty() => {
                let at = numbers.below(objects.len());
                objects.swap_remove(at).free(step % 3 > 0);
            }
            _ => {}
        }
    }
}

#[test]
fn objects_stay_whole_while_the_profile_goes_on_and_off() {
    if !is_child("objects_stay_whole_while_the_profile_goes_on_and_off") {
        return;
    }
    let large_objects = HEAP.stats().arenas.large_objects;
    // A thread alone, for which no other one turns the profile off: it is found allocating
    // in several places. How many stacks the threads below add depends on their order.
    assert!(HEAP.start_heap_profile(1));
    let mut objects = Vec::new();
    churn(&mut Numbers(12), &mut objects, 3000);
    objects.into_iter().for_each(|object| object.free(true));
    let alone = HEAP.heap_profile_stats();
    assert!(alone.stacks > 3, "{alone:?}");
    std::thread::scope(|scope| {
        // Objects go on from thread to thread, and threads end with sampled ones in
        // their caches.
        let (give, take) = std::sync::mpsc::channel::<Vec<Object>>();
        let take = std::sync::Arc::new(std::sync::Mutex::new(take));
        let mut threads = Vec::new();
        for seed in 0..12 {
            let (give, take) = (give.clone(), take.clone());
            let thread = scope.spawn(move || {
                let mut numbers = Numbers(seed);
                let mut objects = Vec::new();
                churn(&mut numbers, &mut objects, 1500);
                let others = take.lock().unwrap().try_recv();
                if let Ok(mut others) = others {
                    churn(&mut numbers, &mut others, 500);
                    others.into_iter().for_each(|object| object.free(true));
                }
                give.send(objects).unwrap();
            });
            threads.push(thread);
            if seed % 3 == 2 {
                threads.drain(..).for_each(|thread| thread.join().unwrap());
            }
        }
        drop(give);
        let take = take.lock().unwrap();
        while let Ok(objects) = take.recv() {
            objects.into_iter().for_each(|object| object.free(true));
        }
    });
    HEAP.stop_heap_profile();
    // What the test itself and its threads have left, which std keeps for a while.
    let left = total();
    let stats = HEAP.heap_profile_stats();
    assert_eq!(stats.dropped_samples, 0, "{stats:?}");
    assert!(stats.live_samples < 200, "{stats:?} {left:?}");
    let large = HEAP.stats().arenas.large_objects;
    assert!(
        large <= large_objects + stats.live_samples as usize,
        "{large} {stats:?}"
    );
}

/// Every kind of object in one place: what is asked for is what is given and counted,
/// however it is freed.
#[test]
fn any_object_can_be_sampled() {
    if !is_child("any_object_can_be_sampled") {
        return;
    }
    assert!(HEAP.start_heap_profile(1));
    let before = total();
    for size in [
        1,
        16,
        100,
        4096,
        8192,
        12_288,
        14_336,
        14_337,
        100_000,
        3 << 20,
    ] {
        for align in [8, 16, 64, 4096, 8192, 65_536] {
            for sized in [false, true] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let mut object = Object::new(layout, 7);
                assert!(total().live_bytes >= before.live_bytes + size as u64);
                object.resize(size * 2);
                object.resize(size);
                object.free(sized);
                assert_eq!(total().live_bytes, before.live_bytes, "{layout:?}");
            }
        }
    }
    // SAFETY: The size is not 0; the object has it, and is freed once.
    unsafe {
        let layout = Layout::from_size_align(10_000, 8).unwrap();
        let object = HEAP.alloc_zeroed(layout);
        let content = std::slice::from_raw_parts(object, 10_000);
        assert!(content.iter().all(|byte| *byte == 0));
        HEAP.dealloc(object, layout);
    }
}

#[test]
fn a_child_process_has_the_profile_of_its_own() {
    if !is_child("a_child_process_has_the_profile_of_its_own") {
        return;
    }
    assert!(HEAP.start_heap_profile(64));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(first(50, 700));
            }
        });
        for _ in 0..20 {
            let kept = second(10, 60_000);
            // SAFETY: The child calls the heap alone, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let more = second(10, 60_000);
                let live = under(second).live_bytes;
                drop((kept, more));
                let ended = under(second).live_bytes;
                let right = live >= 20 * 61_440 && ended == 0;
                // SAFETY: Ends the process.
                unsafe { libc::_exit(if right { 0 } else { 1 }) };
            }
            let mut status = 1;
            // SAFETY: The place is valid.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0);
            drop(kept);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

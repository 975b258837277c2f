//! The hardened mode as Rust programs meet it: children of this program use the heap at
//! random and misuse it once. Each must end at its mistake, and those without one not.

#![cfg(feature = "hardened")]

use slab_allocator::SlabAlloc;
use std::alloc::{GlobalAlloc, Layout};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

/// Names, for the children, a kind of misuse and a seed.
const VARIABLE: &str = "SLABKV_TEST_MISUSE";

const KINDS: &[&str] = &[
    "none",
    "double free",
    "double free elsewhere",
    "size",
    "class",
    "alignment",
    "overrun by zero",
    "overrun",
    "interior",
    "write after free",
    "foreign",
    "wild",
];

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn layout(&mut self) -> Layout {
        let size = match self.below(100) {
            0..80 => 1 + self.below(400),
            80..96 => 1 + self.below(9_000),
            _ => 1 + self.below(300_000),
        };
        let align = if self.below(4) == 0 {
            1 << self.below(9)
        } else {
            8
        };
        Layout::from_size_align(size, align).unwrap()
    }
}

#[derive(Clone, Copy)]
struct Object {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: Whoever gets an object may use it.
unsafe impl Send for Object {}

impl Object {
    fn new(layout: Layout) -> Self {
        // SAFETY: No layout here is empty; the object has its size.
        unsafe {
            let start = ALLOCATOR.alloc(layout);
            assert!(!start.is_null());
            start.write_bytes(0x5A, layout.size());
            Self { start, layout }
        }
    }

    /// Frees the object with what may be another layout than its own.
    fn free_as(self, layout: Layout) {
        // SAFETY: In the children that misuse nothing, the object is live and has this
        // layout. The others are to be stopped here.
        unsafe { ALLOCATOR.dealloc(self.start, layout) };
    }

    fn free(self) {
        self.free_as(self.layout);
    }

    fn resized(self, size: usize) -> Self {
        // SAFETY: The object is live and has its layout.
        let start = unsafe { ALLOCATOR.realloc(self.start, self.layout, size) };
        assert!(!start.is_null());
        let kept = self.layout.size().min(size);
        // SAFETY: The object has this size.
        unsafe {
            assert!((0..kept).all(|at| start.add(at).read() == 0x5A));
            start.write_bytes(0x5A, size);
        }
        let layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        Self { start, layout }
    }
}

fn churn(random: &mut Random, live: &mut Vec<Object>, steps: usize) {
    for _ in 0..steps {
        match random.below(8) {
            0..4 => live.push(Object::new(random.layout())),
            4..7 if live.len() > 20 => live.swap_remove(random.below(live.len())).free(),
            7 if !live.is_empty() => {
                let at = random.below(live.len());
                let size = live[at].layout.size();
                live[at] = live[at].resized(1 + random.below(2 * size));
            }
            _ => {}
        }
        if live.len() > 800 {
            live.drain(100..).for_each(Object::free);
        }
    }
}

fn misuse(random: &mut Random, live: &mut Vec<Object>, kind: &str) {
    let victim = live.swap_remove(random.below(live.len()));
    let layout = victim.layout;
    let of = |size, align| Layout::from_size_align(size, align).unwrap();
    match kind {
        "none" => victim.free(),
        "double free" => {
            victim.free();
            live.drain(..random.below(20)).for_each(Object::free);
            victim.free();
        }
        "double free elsewhere" => {
            std::thread::spawn(move || victim.free()).join().unwrap();
            victim.free();
        }
        "size" => victim.free_as(of(layout.size() + 1 + random.below(8), layout.align())),
        "class" => victim.free_as(of(layout.size() * 2 + 100, layout.align())),
        "alignment" => {
            // The slot of an object that is aligned to a page is another one's.
            let victim = Object::new(of(100 + random.below(1000), 8));
            victim.free_as(of(victim.layout.size(), 4096));
        }
        // SAFETY: None of what follows is sound. It is to be stopped.
        "overrun by zero" => unsafe {
            victim.start.add(layout.size()).write(0);
            victim.free();
        },
        // SAFETY: As above.
        "overrun" => unsafe {
            let first = layout.size() + random.below(8);
            for at in first..first + 1 + random.below(layout.size() + 8 - first) {
                let byte = victim.start.add(at);
                byte.write(!byte.read());
            }
            victim.free();
        },
        // SAFETY: As above.
        "interior" => unsafe {
            let start = victim.start.add(1 + random.below(layout.size()));
            Object { start, layout }.free();
        },
        // SAFETY: As above.
        "write after free" => unsafe {
            victim.free();
            victim.start.add(random.below(layout.size())).write(1);
            // The slot comes back to its slab and is the program's again after those of
            // all fuller slabs.
            ALLOCATOR.flush_thread_cache();
            for _ in 0..50_000 {
                let _kept = ALLOCATOR.alloc(layout);
            }
        },
        "foreign" => {
            let mut local = [0u64; 64];
            let start = local.as_mut_ptr().cast();
            Object { start, layout }.free();
        }
        "wild" => {
            let start = victim.start.wrapping_add(1 << 34);
            Object { start, layout }.free();
        }
        _ => panic!("{kind}"),
    }
}

/// Does nothing, but in the children of the tests below.
#[test]
fn child() {
    let Ok(task) = std::env::var(VARIABLE) else {
        return;
    };
    let (kind, seed) = task.rsplit_once(' ').unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ seed.parse::<u64>().unwrap() << 20);
    let mut live = Vec::new();
    let steps = 500 + random.below(3000);
    churn(&mut random, &mut live, steps);
    misuse(&mut random, &mut live, kind);
    if kind == "none" {
        std::thread::scope(|scope| {
            for seed in 1..3 {
                scope.spawn(move || churn(&mut Random(seed << 33), &mut Vec::new(), 3000));
            }
        });
        live.drain(..).for_each(Object::free);
        ALLOCATOR.purge();
        println!("nothing was found");
    }
}

/// What a child prints and the signal that it ends by.
fn run(kind: &str, seed: u64) -> (String, Option<i32>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, format!("{kind} {seed}"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (text, output.status.signal())
}

#[test]
fn every_misuse_is_found_and_nothing_else() {
    let seeds = std::env::var("SLABKV_TEST_SEEDS").map_or(6, |seeds| seeds.parse().unwrap());
    for kind in KINDS {
        for seed in 0..seeds {
            let (text, signal) = run(kind, seed);
            let task = format!("{kind} {seed}: signal {signal:?}\n{text}");
            if *kind == "none" {
                assert!(
                    signal.is_none() && text.contains("nothing was found"),
                    "{task}"
                );
                continue;
            }
            // Writes to a large object's guard pages, and to one that was freed, are
            // stopped by the processor.
            let found = text.contains("slabkv: ") && signal == Some(libc::SIGABRT);
            let faulted = signal == Some(libc::SIGSEGV) && *kind == "write after free";
            assert!(found || faulted, "{task}");
        }
    }
}

#[test]
fn the_message_names_pointer_and_class() {
    let (text, _) = run("overrun by zero", 3);
    let line = text.lines().find(|line| line.contains("slabkv: ")).unwrap();
    let (_, rest) = line
        .split_once("write beyond the end of an object (0x")
        .unwrap();
    let (pointer, rest) = rest.split_once(", class of ").unwrap();
    let (bytes, _) = rest.split_once(" bytes)").unwrap();
    assert!(usize::from_str_radix(pointer, 16).unwrap() > 1 << 20);
    assert!(bytes.parse::<usize>().unwrap() >= 16);
}

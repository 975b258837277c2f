//! Operations on the process heap by several threads next to a model of it, for
//! property tests and the fuzzer: objects must not overlap and keep what was written,
//! whichever thread frees or resizes them, and the books must agree after each step.
//!
//! Threads are real, with caches and arenas of their own, but work one at a time: each
//! waits for its next operation, so a sequence of operations does the same again if
//! nobody else uses the heap.

use crate::c_api;
use crate::global_alloc::SlabAlloc;
use crate::large;
use crate::os::fake::{Faults, inject};
use crate::process::Process;
use crate::size_class::GENERAL;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

const THREADS: usize = 4;

/// Bytes that a model holds at most.
const BYTES_MAX: usize = 24 << 20;

/// One step. Picks name a live object by its place modulo their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `malloc`, of as many objects as are named.
    Malloc { size: usize, count: u8 },
    /// `calloc`: all of it reads as zero.
    Calloc { size: usize },
    /// `aligned_alloc` at a multiple of 2^`align_log2` bytes.
    Aligned { size: usize, align_log2: u8 },
    /// `realloc`.
    Realloc { pick: usize, size: usize },
    /// `free`, or a free with the size.
    Free { pick: usize, sized: bool },
    /// Frees every `step`-th object.
    FreeMany { step: u8 },
    /// Gives the thread's cache back to the slabs.
    Flush,
    /// Gives all free memory back, and dead pages as far as they are due.
    Purge,
    /// The thread ends, and another takes its place.
    Exit,
}

impl Op {
    /// Reads an operation, its thread and the faults that it meets off the front of
    /// `bytes`; `None` at their end.
    pub fn decode(bytes: &mut &[u8]) -> Option<(Op, usize, u8)> {
        let (head, rest) = bytes.split_first_chunk::<6>()?;
        *bytes = rest;
        let [kind, thread, faults, a, b, c] = *head;
        let short = usize::from(u16::from_le_bytes([a, b]));
        let size = match c % 16 {
            0 => short * 64,
            1..=3 => short % 40_000,
            _ => short % 1200,
        };
        let pick = short;
        let op = match kind % 16 {
            0..=3 => Op::Malloc { size, count: c },
            4 => Op::Calloc { size },
            5 => Op::Aligned {
                size,
                align_log2: c % 18,
            },
            6 | 7 => Op::Realloc {
                pick,
                size: usize::from(c) * 97 + size,
            },
            8 | 9 => Op::Free {
                pick,
                sized: c % 2 == 0,
            },
            10 | 11 => Op::FreeMany { step: 1 + a % 7 },
            12 => Op::Flush,
            13 | 14 => Op::Purge,
            _ => Op::Exit,
        };
        // Most steps meet no fault.
        let faults = if faults < 32 { faults & 7 } else { 0 };
        Some((op, usize::from(thread) % THREADS, faults))
    }
}

#[derive(Clone, Copy, Debug)]
struct Object {
    size: usize,
    align: usize,
    seed: u8,
}

type Task = alloc::boxed::Box<dyn FnOnce() -> Vec<usize> + Send>;

/// A thread that runs one task after the other.
#[derive(Debug)]
struct Worker {
    tasks: Option<Sender<Task>>,
    results: Receiver<Vec<usize>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start() -> Worker {
        let (tasks, inbox) = channel::<Task>();
        let (outbox, results) = channel();
        let thread = std::thread::spawn(move || {
            for task in inbox {
                let _ = outbox.send(task());
            }
        });
        Worker {
            tasks: Some(tasks),
            results,
            thread: Some(thread),
        }
    }

    fn run(&self, task: impl FnOnce() -> Vec<usize> + Send + 'static) -> Vec<usize> {
        let tasks = self.tasks.as_ref().expect("the thread runs");
        tasks.send(alloc::boxed::Box::new(task)).expect("it runs");
        self.results.recv().expect("the task ends")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// The threads, and what they must find.
#[derive(Debug)]
pub struct Threads {
    workers: Vec<Worker>,
    /// By address.
    live: BTreeMap<usize, Object>,
    bytes: usize,
    seed: u8,
}

fn pointer(address: usize) -> *mut c_void {
    ptr::with_exposed_provenance_mut(address)
}

fn marked(size: usize) -> impl Iterator<Item = usize> {
    let step = if size > 4096 { 1024 } else { 1 };
    (0..size).step_by(step).chain(size.checked_sub(1))
}

impl Default for Threads {
    fn default() -> Threads {
        Threads::new()
    }
}

impl Threads {
    /// Threads that have not allocated yet.
    pub fn new() -> Threads {
        Threads {
            workers: (0..THREADS).map(|_| Worker::start()).collect(),
            live: BTreeMap::new(),
            bytes: 0,
            seed: 0,
        }
    }

    fn pick(&self, pick: usize) -> Option<usize> {
        let place = pick.checked_rem(self.live.len())?;
        self.live.keys().nth(place).copied()
    }

    fn enter(&mut self, address: usize, size: usize, align: usize) {
        assert!(address.is_multiple_of(align.max(16)));
        if let Some((before, object)) = self.live.range(..=address).next_back() {
            assert!(before + object.size.max(1) <= address, "objects overlap");
        }
        if let Some((behind, _)) = self.live.range(address..).next() {
            assert!(address + size.max(1) <= *behind, "objects overlap");
        }
        // SAFETY: The object is live.
        let usable = unsafe { c_api::malloc_usable_size(pointer(address)) };
        assert!(usable >= size, "{usable} of {size}");
        self.seed = self.seed.wrapping_add(1);
        for at in marked(size) {
            // SAFETY: As above.
            unsafe {
                pointer(address)
                    .cast::<u8>()
                    .add(at)
                    .write(self.seed ^ at as u8)
            };
        }
        let object = Object {
            size,
            align,
            seed: self.seed,
        };
        self.live.insert(address, object);
        self.bytes += size;
    }

    fn leave(&mut self, address: usize) -> Object {
        let object = self.live.remove(&address).expect("the object is live");
        self.bytes -= object.size;
        verify(address, object, object.size);
        object
    }

    /// Performs one step on a thread, during which the system refuses what `faults`
    /// says: 1 commits, 2 purges, 4 moves of pages.
    pub fn apply(&mut self, op: Op, thread: usize, faults: u8) {
        let faults = Faults {
            commit: faults & 1 != 0,
            purge: faults & 2 != 0,
            move_pages: faults & 4 != 0,
            ..Faults::default()
        };
        let room = BYTES_MAX - self.bytes;
        match op {
            Op::Malloc { size, count } => {
                let count = if size > 4096 { 1 } else { usize::from(count) };
                self.allocate(
                    thread,
                    faults,
                    size,
                    1,
                    count.min(room / size.max(1)),
                    move || c_api::malloc(size),
                );
            }
            Op::Calloc { size } if size <= room => {
                self.allocate(thread, faults, size, 1, 1, move || {
                    let object = c_api::calloc(size, 1);
                    if !object.is_null() {
                        // SAFETY: The object is live and has this size.
                        let all = unsafe { core::slice::from_raw_parts(object.cast(), size) };
                        assert!(all.iter().all(|byte: &u8| *byte == 0));
                    }
                    object
                });
            }
            Op::Aligned { size, align_log2 } if size <= room => {
                let align = 1 << align_log2;
                self.allocate(thread, faults, size, align, 1, move || {
                    c_api::aligned_alloc(align, size)
                });
            }
            Op::Realloc { pick, size } if size <= room && size > 0 => {
                let Some(address) = self.pick(pick) else {
                    return;
                };
                let object = self.leave(address);
                let moved = self.workers[thread].run(move || {
                    // SAFETY: The object is live, and the model follows its move.
                    let moved =
                        inject(faults, || unsafe { c_api::realloc(pointer(address), size) });
                    Vec::from([moved.expose_provenance()])
                })[0];
                if moved == 0 {
                    assert!(faults.commit, "{size} bytes were refused");
                    verify(address, object, object.size);
                    self.enter(address, object.size, object.align);
                } else {
                    verify(moved, object, size);
                    self.enter(moved, size, 1);
                }
            }
            Op::Free { pick, sized } => {
                let Some(address) = self.pick(pick) else {
                    return;
                };
                let object = self.leave(address);
                self.free(thread, faults, Vec::from([(address, object, sized)]));
            }
            Op::FreeMany { step } => {
                let chosen = self.live.keys().step_by(step.into()).copied();
                let chosen: Vec<usize> = chosen.collect();
                let leave = |address| (address, self.leave(address), address & 32 != 0);
                let objects = chosen.into_iter().map(leave).collect();
                self.free(thread, faults, objects);
            }
            Op::Flush => self.act(thread, faults, || SlabAlloc::new().flush_thread_cache()),
            Op::Purge => self.act(thread, faults, || {
                SlabAlloc::new().purge();
            }),
            Op::Exit => self.workers[thread] = Worker::start(),
            Op::Calloc { .. } | Op::Aligned { .. } | Op::Realloc { .. } => {}
        }
    }

    fn act(&self, thread: usize, faults: Faults, act: impl FnOnce() + Send + 'static) {
        self.workers[thread].run(move || {
            inject(faults, act);
            Vec::new()
        });
    }

    fn allocate(
        &mut self,
        thread: usize,
        faults: Faults,
        size: usize,
        align: usize,
        count: usize,
        act: impl Fn() -> *mut c_void + Send + 'static,
    ) {
        let objects = self.workers[thread].run(move || {
            let one = |_| inject(faults, &act).expose_provenance();
            (0..count).map(one).collect()
        });
        for address in objects {
            if address == 0 {
                assert!(faults.commit, "{size} bytes at {align} were refused");
            } else {
                self.enter(address, size, align);
            }
        }
    }

    fn free(&self, thread: usize, faults: Faults, objects: Vec<(usize, Object, bool)>) {
        self.act(thread, faults, move || {
            for (address, object, sized) in objects {
                let start = pointer(address);
                // SAFETY: The object was live, was asked for in this way, and has left
                // the model.
                unsafe {
                    match sized {
                        false => c_api::free(start),
                        true if object.align > 1 => {
                            c_api::free_aligned_sized(start, object.align, object.size);
                        }
                        true => c_api::free_sized(start, object.size),
                    }
                }
            }
        });
    }

    /// Checks the heap's books against each other.
    pub fn check(&self) {
        let Some(process) = Process::get() else {
            return;
        };
        for arena in process.arenas.iter() {
            for (class, bin) in arena.bins.iter().enumerate() {
                let slabs = bin.slabs.lock();
                let records = process.pages.records();
                // SAFETY: The lock is held.
                unsafe { slabs.bin.check(records, GENERAL.class(class), 0) };
            }
        }
        process.pages.with(|pages| {
            pages.source.pages.check();
            pages.source.records.check();
            large::check(&pages.source.pages, &pages.large);
        });
    }

    /// Verifies and frees everything on one thread, and ends all of them.
    pub fn finish(mut self) {
        self.apply(Op::FreeMany { step: 1 }, 0, 0);
        assert!(self.live.is_empty() && self.bytes == 0);
        self.workers.clear();
        self.check();
    }
}

/// Checks what lies below `bytes` bytes of an object that is at the address now.
fn verify(address: usize, object: Object, bytes: usize) {
    for at in marked(object.size).filter(|at| *at < bytes) {
        // SAFETY: The object is live and has at least so many bytes.
        let byte = unsafe { pointer(address).cast::<u8>().add(at).read() };
        assert_eq!(byte, object.seed ^ at as u8, "byte {at} of {object:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 24,
            failure_persistence: None,
            ..<_>::default()
        })]

        #[test]
        #[cfg_attr(miri, ignore = "too slow")]
        fn threads_agree_with_their_model(
            steps in prop::collection::vec(any::<[u8; 6]>(), 1..100),
        ) {
            let mut threads = Threads::new();
            for bytes in steps {
                let (op, thread, faults) = Op::decode(&mut &bytes[..]).unwrap();
                threads.apply(op, thread, faults);
                threads.check();
            }
            threads.finish();
        }
    }
}

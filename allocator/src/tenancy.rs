//! Which arena each thread uses, and which ones are left to be adopted.
//!
//! A thread takes an arena that nobody uses, with whatever it still holds: objects
//! that outlived their thread, and slots that others send to its inboxes meanwhile.
//! So what a thread leaves behind is found by the next one, and no arena is ever torn
//! down. Only where all arenas are in use is a new one made: for each thread as long as
//! they are no more than can run at the same time, then for every second one, up to a
//! limit. The others share the least used ones: their caches let them do so at little
//! cost, while what is free in the arena of a thread that sleeps is of use to nobody. A
//! program whose threads hand their objects on to younger ones holds a quarter less than
//! with an arena for each (`larson` of mimalloc-bench, two processors); with no more
//! arenas than processors, ten threads wait for each other's locks.
//!
//! The counts belong to the registry, whose lock orders those who come and go. The
//! last one to leave [settles](crate::process_arena::ProcessArena::settle) the arena
//! *after* it has let go of that lock, when somebody may already have adopted it:
//! all of that happens under the locks of the bins, as with any two threads of one
//! arena. The loom model below runs the two against each other and against a thread
//! that frees.

/// Most arenas of the process.
pub(crate) const ARENAS_MAX: usize = 256;

/// How many threads use each arena.
pub(crate) struct Tenancy {
    users: [u32; ARENAS_MAX],
    /// So many threads get an arena each.
    unshared: u32,
}

impl Tenancy {
    /// Nobody uses any arena. The first `unshared` threads are to have one each.
    pub(crate) const fn new(unshared: u32) -> Self {
        Self {
            users: [0; ARENAS_MAX],
            unshared,
        }
    }

    /// Finds a thread an arena among the `made` ones and counts it there: the first that
    /// nobody uses, else the one that `add` makes if the threads are many enough for one
    /// more, else the one that the fewest use. `None` where there is none and `add` makes
    /// none. Takes time in proportion to `made`.
    pub(crate) fn enter(&mut self, made: usize, add: impl FnOnce() -> Option<u16>) -> Option<u16> {
        let least_used = (0..made).min_by_key(|number| self.users[*number]);
        let arena = match least_used {
            Some(number) if self.users[number] == 0 => number as u16,
            Some(number) if made >= self.wanted(made) => number as u16,
            _ => add().or(least_used.map(|number| number as u16))?,
        };
        self.users[usize::from(arena)] += 1;
        Some(arena)
    }

    /// Arenas that befit the threads of those that were `made`, and one more.
    fn wanted(&self, made: usize) -> usize {
        let threads = self.users[..made].iter().sum::<u32>() + 1;
        self.unshared.max(threads.div_ceil(2)) as usize
    }

    /// A thread leaves the arena that it [entered](Tenancy::enter). Returns whether
    /// nobody uses it any more: then the thread settles it.
    pub(crate) fn leave(&mut self, arena: u16) -> bool {
        let users = &mut self.users[usize::from(arena)];
        *users -= 1;
        *users == 0
    }

    /// Threads that use the arena.
    pub(crate) fn users(&self, arena: u16) -> u32 {
        self.users[usize::from(arena)]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_arena_left_is_adopted_before_one_is_made() {
        let mut tenancy = Tenancy::new(2);
        assert_eq!(tenancy.enter(0, || Some(0)), Some(0));
        assert_eq!(tenancy.enter(1, || Some(1)), Some(1));
        assert!(tenancy.leave(0));
        assert_eq!(tenancy.enter(2, || unreachable!()), Some(0));
        assert_eq!((tenancy.users(0), tenancy.users(1)), (1, 1));
    }

    #[test]
    fn where_no_more_can_be_made_the_least_used_is_shared() {
        let mut tenancy = Tenancy::new(4);
        assert_eq!(tenancy.enter(0, || None), None);
        assert_eq!(tenancy.enter(0, || Some(0)), Some(0));
        assert_eq!(tenancy.enter(1, || Some(1)), Some(1));
        assert_eq!(tenancy.enter(2, || None), Some(0));
        assert_eq!(tenancy.enter(2, || None), Some(1));
        assert!(!tenancy.leave(1));
        assert_eq!(tenancy.enter(2, || None), Some(1));
        assert!(!tenancy.leave(0));
        assert!(tenancy.leave(0));
    }

    #[test]
    fn arenas_are_shared_by_two_once_there_are_more_threads_than_processors() {
        let mut tenancy = Tenancy::new(3);
        let mut made = 0;
        for thread in 0..20 {
            let arena = tenancy.enter(made, || {
                made += 1;
                Some(made as u16 - 1)
            });
            assert!(usize::from(arena.unwrap()) < made);
            let threads: usize = thread + 1;
            assert_eq!(made, threads.min(3).max(threads.div_ceil(2)));
        }
        assert!((0..made as u16).all(|arena| tenancy.users(arena) == 2));
        assert!(!tenancy.leave(4));
        assert_eq!(tenancy.enter(made, || unreachable!()), Some(4));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::remote_free::{Inbox, Outbox, RemoteWord, Words};
    use crate::sync::{Lock, Rank};
    use loom::sync::Arc;
    use loom::thread;

    /// Two arenas, each with one slab, whose word has the arena's number and one.
    struct Heap {
        tenancy: Lock<Tenancy>,
        made: Lock<usize>,
        words: [RemoteWord; 2],
        inboxes: [Inbox; 2],
        /// A bin's lock, and the slots that came back to it.
        bins: [Lock<u64>; 2],
    }

    impl Words for Heap {
        fn word(&self, id: u32) -> &RemoteWord {
            &self.words[id as usize - 1]
        }

        fn double_free(&self, id: u32, slots: u64) -> ! {
            panic!("slots {slots:b} of word {id} were freed twice")
        }
    }

    impl Heap {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                tenancy: Lock::new(Rank::Registry, Tenancy::new(2)),
                made: Lock::new(Rank::Bin, 0),
                words: [RemoteWord::new(0, 0, 0), RemoteWord::new(1, 0, 0)],
                inboxes: [Inbox::new(), Inbox::new()],
                bins: [Lock::new(Rank::Bin, 0), Lock::new(Rank::Bin, 0)],
            })
        }

        fn enter(&self) -> u16 {
            let mut tenancy = self.tenancy.lock();
            let made = *self.made.lock();
            let add = || {
                let mut made = self.made.lock();
                *made += 1;
                (*made <= 2).then(|| *made as u16 - 1)
            };
            let arena = tenancy.enter(made, add).expect("an arena");
            assert!(tenancy.users(arena) >= 1);
            arena
        }

        fn free(&self, arena: u16, slots: u64) {
            let mut outbox = Outbox::new(self, |owner| &self.inboxes[usize::from(owner)]);
            for slot in (0..4).filter(|slot| slots & 1 << slot != 0) {
                outbox.add(arena, u32::from(arena) + 1, 1 << slot);
            }
            outbox.send();
        }

        /// Takes back what was freed, as a fill, the purge thread and settling do.
        fn drain(&self, arena: u16) {
            let mut returned = self.bins[usize::from(arena)].lock();
            self.inboxes[usize::from(arena)].drain(self, |_, _, slots| {
                assert_eq!(*returned & slots, 0, "a slot came back twice");
                *returned |= slots;
            });
        }

        fn leave(&self, arena: u16) {
            let unused = self.tenancy.lock().leave(arena);
            if unused {
                self.drain(arena);
            }
        }
    }

    /// A thread ends while another one frees its objects and a third one starts: it
    /// adopts the arena, or makes its own if it comes too early, and every slot comes
    /// back once, to the arena that it is from.
    #[test]
    fn an_arena_is_adopted_while_slots_come_in() {
        loom::model(|| {
            let heap = Heap::new();
            let arena = heap.enter();
            let freer = {
                let heap = heap.clone();
                thread::spawn(move || heap.free(arena, 0b11))
            };
            let next = {
                let heap = heap.clone();
                thread::spawn(move || {
                    let own = heap.enter();
                    heap.drain(own);
                    own
                })
            };
            heap.leave(arena);
            freer.join().unwrap();
            let own = next.join().unwrap();
            let mut tenancy = heap.tenancy.lock();
            assert_eq!(tenancy.users(own), 1);
            if own != arena {
                assert_eq!(tenancy.users(arena), 0);
                assert_eq!(tenancy.enter(2, || unreachable!()), Some(arena));
            }
            drop(tenancy);
            heap.drain(arena);
            assert_eq!(*heap.bins[usize::from(arena)].lock(), 0b11);
            assert!(heap.inboxes.iter().all(Inbox::is_empty));
        });
    }

    /// Two threads of one arena end at the same time: one of them alone settles it.
    #[test]
    fn the_last_one_to_leave_settles() {
        loom::model(|| {
            let heap = Heap::new();
            let arena = heap.enter();
            assert_eq!(heap.tenancy.lock().enter(1, || None), Some(arena));
            heap.free(arena, 0b100);
            let other = {
                let heap = heap.clone();
                thread::spawn(move || heap.tenancy.lock().leave(arena))
            };
            let last = heap.tenancy.lock().leave(arena);
            assert!(last ^ other.join().unwrap());
            assert_eq!(heap.tenancy.lock().users(arena), 0);
        });
    }
}

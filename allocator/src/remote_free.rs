//! Frees by threads that do not own the slab.
//!
//! Each slab has, beside the free bitmap that only its owner touches, one or more
//! [`RemoteWord`]s for everybody else: an atomic with a bit for each of 64 slots, as in
//! the bitmap, and a link. To free slots of a foreign slab is one `fetch_or` of their
//! bits per word. Whoever finds that no bit was set has the licence to use the word's
//! link, and pushes the word on the [`Inbox`] of the slab's owner, a Treiber stack.
//! The owner takes the whole stack with one `swap` and each word's bits with one more.
//!
//! ```text
//!  a freeing thread                        the owner (holds its bin's lock)
//!  old = bits.fetch_or(slots)              id = head.swap(0)
//!  if old is 0:                            while id != 0:
//!      do next = head                          id' = next       (before the swap)
//!      while head.cas(next, word) fails        slots = bits.swap(0)
//! ```
//!
//! That a word is queued is not said apart, since it is exactly when it has a slot:
//! one read-modify-write either comes before the owner's `swap`, which then takes its
//! slots, or after it, when the word is empty and the slots wait for the push. So
//!
//! - **no wake-up is lost**: a word with a slot set is on an inbox, or a thread is
//!   about to push it;
//! - **no recycling race**: a thread touches a word only while slots that it freed
//!   itself are in it, unseen by the owner. Such a slab is not wholly free, so
//!   its record can be given to another slab, or its memory back to the system,
//!   as soon as the owner has seen every slot return. With a flag in a word of its
//!   own a thread may still be about to set it then, and the record would have to
//!   keep its type and its flag for ever.
//!
//! The owner must take slots only from words that it found on its inbox.

use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicU32, AtomicU64};

/// The slots of one word of one slab that other threads have freed.
///
/// All but the two atomics stays the same as long as the slab lives.
#[repr(C)]
pub(crate) struct RemoteWord {
    /// While a bit is set the word is on an inbox, or the thread that set the first is
    /// about to push it.
    bits: AtomicU64,
    /// The next word on the same inbox; belongs to whoever set the first bit.
    next: AtomicU32,
    owner: u16,
    offset: u8,
    index: u8,
}

impl RemoteWord {
    /// The empty word number `index` of a slab that the arena `owner` owns. Its
    /// own number is the slab's plus `offset`.
    pub(crate) fn new(owner: u16, offset: u8, index: u8) -> Self {
        Self {
            bits: AtomicU64::new(0),
            next: AtomicU32::new(0),
            owner,
            offset,
            index,
        }
    }

    /// The arena on whose inbox the word belongs.
    #[inline]
    pub(crate) fn owner(&self) -> u16 {
        self.owner
    }

    /// By how much the word's number exceeds its slab's.
    #[inline]
    pub(crate) fn offset(&self) -> u32 {
        u32::from(self.offset)
    }

    /// Which of the slab's words it is, here and in the slab's own bitmap.
    #[inline]
    pub(crate) fn index(&self) -> u32 {
        u32::from(self.index)
    }

    /// Frees slots.
    ///
    /// With [`Publish::MustPush`] the caller pushes the word, in a [`Chain`], on the
    /// inbox of the slab's owner, whom it must have read *before* this call:
    /// afterwards only the word may be touched, and only to push it.
    #[inline]
    fn publish(&self, slots: u64) -> Publish {
        debug_assert!(slots != 0);
        // Release gives the freed objects' contents to the owner's swap in
        // `Inbox::drain`. Acquire meets that swap as well: the owner has read
        // `next` before this thread writes it.
        let old = self.bits.fetch_or(slots, AcqRel);
        if old == 0 {
            Publish::MustPush
        } else if old & slots == 0 {
            Publish::Done
        } else {
            Publish::DoubleFree(old & slots)
        }
    }
}

/// What [`RemoteWord::publish`] leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Publish {
    /// Nothing: the word is on its way to the owner already.
    Done,
    /// The caller must push the word.
    MustPush,
    /// These slots had been freed before.
    DoubleFree(u64),
}

/// Finds words by their number, which is never 0.
pub(crate) trait Words {
    /// The word with this number.
    fn word(&self, id: u32) -> &RemoteWord;

    /// Stops the process because one of these slots of the word was freed twice.
    fn double_free(&self, id: u32, slots: u64) -> !;
}

/// Words on their way to one inbox, which they reach by a single push.
#[derive(Debug, Default)]
#[must_use]
struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    #[inline]
    fn is_empty(&self) -> bool {
        self.first == 0
    }

    /// Adds a word, for which the caller has got [`Publish::MustPush`].
    #[inline]
    fn add(&mut self, words: &impl Words, id: u32) {
        debug_assert!(id != 0);
        words.word(id).next.store(self.first, Relaxed);
        if self.first == 0 {
            self.last = id;
        }
        self.first = id;
    }
}

/// Words that an [`Outbox`] gathers slots of at the same time, and owners for whom it
/// builds chains.
const OUTBOX_WORDS: usize = 8;
const OUTBOX_CHAINS: usize = 4;

/// Slots on their way to the owners of their slabs: gathered, so that slots of one
/// word that come close together are freed by one `fetch_or`, and an inbox gets them
/// by one push.
pub(crate) struct Outbox<'a, W, I> {
    words: &'a W,
    inbox_of: I,
    /// No slots in an unused entry.
    pending: [Pending; OUTBOX_WORDS],
    /// No word in an unused chain.
    chains: [(u16, Chain); OUTBOX_CHAINS],
    mailed: bool,
}

#[derive(Clone, Copy, Default)]
struct Pending {
    slots: u64,
    word: u32,
    owner: u16,
}

/// The entry of [`Outbox::pending`] for a word. The numbers of words of slabs that were
/// made together lie at regular distances, whose low bits are few.
#[inline]
fn place_of(word: u32) -> usize {
    const { assert!(OUTBOX_WORDS == 8) };
    (word.wrapping_mul(0x9e37_79b9) >> 29) as usize
}

impl<'a, W: Words, I: Fn(u16) -> &'a Inbox> Outbox<'a, W, I> {
    /// An empty outbox. `inbox_of` gives the inbox of an owner.
    #[inline]
    pub(crate) fn new(words: &'a W, inbox_of: I) -> Self {
        Self {
            words,
            inbox_of,
            pending: [Pending::default(); OUTBOX_WORDS],
            chains: Default::default(),
            mailed: false,
        }
    }

    /// Frees slots of the owner's, now or later: their word's number and the mask of
    /// their bits. Stops the process if one is free already, where that is seen.
    #[inline]
    pub(crate) fn add(&mut self, owner: u16, word: u32, slots: u64) {
        let entry = &mut self.pending[place_of(word)];
        if entry.word == word && entry.slots & slots == 0 {
            entry.slots |= slots;
            return;
        }
        let new = Pending { slots, word, owner };
        let old = core::mem::replace(entry, new);
        if old.slots != 0 {
            self.publish(old);
        }
    }

    /// Frees all that was added. Returns whether some inbox has words now that had
    /// none before.
    #[inline]
    pub(crate) fn send(mut self) -> bool {
        for at in 0..OUTBOX_WORDS {
            if self.pending[at].slots != 0 {
                self.publish(self.pending[at]);
            }
        }
        for (owner, chain) in core::mem::take(&mut self.chains) {
            self.push(owner, chain);
        }
        self.mailed
    }

    #[inline]
    fn publish(&mut self, slots: Pending) {
        match self.words.word(slots.word).publish(slots.slots) {
            Publish::Done => {}
            Publish::MustPush => {
                let (owner, chain) = &mut self.chains[usize::from(slots.owner) % OUTBOX_CHAINS];
                if *owner != slots.owner {
                    let old = (*owner, core::mem::take(chain));
                    *owner = slots.owner;
                    chain.add(self.words, slots.word);
                    self.push(old.0, old.1);
                } else {
                    chain.add(self.words, slots.word);
                }
            }
            Publish::DoubleFree(twice) => self.words.double_free(slots.word, twice),
        }
    }

    #[inline]
    fn push(&mut self, owner: u16, chain: Chain) {
        if !chain.is_empty() {
            self.mailed |= (self.inbox_of)(owner).push(self.words, chain);
        }
    }
}

/// Words with slots for one owner. Zeroed memory is an empty inbox.
pub(crate) struct Inbox {
    head: AtomicU32,
}

impl Inbox {
    /// An empty inbox.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self {
            head: AtomicU32::new(0),
        }
    }

    /// Whether there is nothing to drain: a hint that saves the swap, since a push
    /// may be under way.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Relaxed) == 0
    }

    /// Puts the chain's words, at least one, on the inbox; true if they are the
    /// first there.
    #[inline]
    fn push(&self, words: &impl Words, chain: Chain) -> bool {
        debug_assert!(!chain.is_empty());
        let last = words.word(chain.last);
        let mut head = self.head.load(Relaxed);
        loop {
            last.next.store(head, Relaxed);
            // Release gives every link of the chain to the owner's swap in `drain`.
            // The words below came by earlier pushes, whose release sequence this
            // one continues.
            match self
                .head
                .compare_exchange_weak(head, chain.first, Release, Relaxed)
            {
                Ok(_) => return head == 0,
                Err(now) => head = now,
            }
        }
    }

    /// Takes every word and hands its number and slots to `take`. Returns how many
    /// words there were.
    ///
    /// Only the owner may call, that is the holder of its lock. `take` may release
    /// the slab once it has got back the last slot.
    #[inline]
    pub(crate) fn drain<W: Words>(
        &self,
        words: &W,
        mut take: impl FnMut(u32, &RemoteWord, u64),
    ) -> u32 {
        // Acquire meets the Release of every push that brought a word here.
        let mut id = self.head.swap(0, Acquire);
        let mut taken = 0;
        while id != 0 {
            let word = words.word(id);
            let taken_id = id;
            // The link is read before the swap clears the bits and with them gives the
            // link away; Release keeps it in this order for the next `publish`.
            id = word.next.load(Relaxed);
            // Acquire meets the Release of each `publish` whose slots are in here.
            let bits = word.bits.swap(0, AcqRel);
            debug_assert!(bits != 0);
            take(taken_id, word, bits);
            taken += 1;
        }
        taken
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Table(Vec<RemoteWord>);

    impl Words for Table {
        fn word(&self, id: u32) -> &RemoteWord {
            &self.0[id as usize - 1]
        }

        fn double_free(&self, id: u32, slots: u64) -> ! {
            panic!("slots {slots:b} of word {id} were freed twice")
        }
    }

    fn chain(words: &Table, ids: &[u32]) -> Chain {
        let mut chain = Chain::default();
        ids.iter().for_each(|id| chain.add(words, *id));
        chain
    }

    #[test]
    fn a_word_is_queued_once_until_it_is_drained() {
        let table = Table((0..3).map(|index| RemoteWord::new(7, 2, index)).collect());
        let inbox = Inbox::new();
        assert_eq!(inbox.drain(&table, |_, _, _| unreachable!()), 0);

        assert_eq!(table.0[0].publish(0b1), Publish::MustPush);
        assert!(inbox.push(&table, chain(&table, &[1])));
        assert_eq!(table.0[0].publish(0b100), Publish::Done);
        assert_eq!(table.0[2].publish(1 << 63), Publish::MustPush);
        assert_eq!(table.0[1].publish(0b1), Publish::MustPush);
        assert!(!inbox.push(&table, chain(&table, &[3, 2])));

        let mut got = Vec::new();
        assert_eq!(
            inbox.drain(&table, |id, word, slots| got.push((
                id,
                word.index(),
                slots
            ))),
            3
        );
        assert_eq!(got, [(2, 1, 1), (3, 2, 1 << 63), (1, 0, 0b101)]);
        assert!(inbox.is_empty());
        assert_eq!(table.0[0].publish(0b1), Publish::MustPush);
    }

    #[test]
    fn an_outbox_brings_every_slot_to_its_owner() {
        const WORDS: u32 = 40;
        let owner_of = |id: u32| (id % 7) as u16;
        let words = (1..=WORDS).map(|id| RemoteWord::new(owner_of(id), 0, 0));
        let table = Table(words.collect());
        let inboxes: Vec<_> = (0..7).map(|_| Inbox::new()).collect();
        let mut sent = vec![0_u64; WORDS as usize + 1];
        let mut got = sent.clone();
        let mut random = 1_u32;
        for round in 0..300 {
            let had_mail = inboxes.iter().filter(|inbox| !inbox.is_empty()).count();
            let mut outbox = Outbox::new(&table, |owner| &inboxes[usize::from(owner)]);
            for _ in 0..round % 20 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (id, bit) = (random >> 8 & 3 | random >> 20 & 0x1c, random >> 14 & 31);
                let id = 1 + id % WORDS;
                if sent[id as usize] >> bit & 1 == 0 {
                    sent[id as usize] |= 1 << bit;
                    outbox.add(owner_of(id), id, 1 << bit);
                }
            }
            let mailed = outbox.send();
            let has_mail = inboxes.iter().filter(|inbox| !inbox.is_empty()).count();
            assert_eq!(mailed, has_mail > had_mail);
            if round % 3 == 0 {
                for (owner, inbox) in inboxes.iter().enumerate() {
                    inbox.drain(&table, |id, _, slots| {
                        assert_eq!(usize::from(owner_of(id)), owner);
                        assert_eq!(got[id as usize] & slots, 0);
                        got[id as usize] |= slots;
                    });
                }
                assert_eq!(got, sent);
            }
        }
        assert!(sent.iter().map(|slots| slots.count_ones()).sum::<u32>() > 500);
    }

    #[test]
    fn slots_of_one_word_are_freed_together() {
        let table = Table((0..2).map(|index| RemoteWord::new(1, 0, index)).collect());
        let inbox = Inbox::new();
        let mut outbox = Outbox::new(&table, |_| &inbox);
        for slot in 0..u64::BITS {
            outbox.add(1, 1, 1 << slot);
            outbox.add(1, 2, 1 << slot);
            assert_eq!(table.0[0].bits.load(Relaxed), 0, "nothing is published yet");
        }
        assert!(outbox.send());
        let mut words = 0;
        inbox.drain(&table, |_, _, slots| {
            assert_eq!(slots, u64::MAX);
            words += 1;
        });
        assert_eq!(words, 2);
    }

    #[test]
    fn a_slot_freed_twice_is_noticed() {
        let word = RemoteWord::new(1, 0, 0);
        assert_eq!(word.publish(0b110), Publish::MustPush);
        assert_eq!(word.publish(0b011), Publish::DoubleFree(0b010));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    //! Every interleaving of a few threads over the code above.

    use super::*;
    use crate::sync::{Lock, Rank};
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    /// One arena with one slab of `slots` slots: the words that the slots are
    /// spread over, an object per slot, and what the owner has got back.
    struct Arena {
        words: Vec<RemoteWord>,
        inbox: Inbox,
        /// Written before the free by the freeing thread and after the drain by
        /// the owner: loom reports it if nothing orders the two.
        objects: Vec<UnsafeCell<u32>>,
        /// Slots that came back, in words as above.
        returned: Lock<Vec<u64>>,
    }

    // SAFETY: `objects` is ordered by the protocol under test, as loom verifies.
    unsafe impl Sync for Arena {}
    // SAFETY: As above.
    unsafe impl Send for Arena {}

    impl Words for Arena {
        fn word(&self, id: u32) -> &RemoteWord {
            &self.words[id as usize - 1]
        }

        fn double_free(&self, id: u32, slots: u64) -> ! {
            panic!("slots {slots:b} of word {id} were freed twice")
        }
    }

    impl Arena {
        fn new(words: u32) -> Arc<Self> {
            Arc::new(Self {
                words: (0..words)
                    .map(|index| RemoteWord::new(0, 0, index as u8))
                    .collect(),
                inbox: Inbox::new(),
                objects: (0..words * 4).map(|_| UnsafeCell::new(0)).collect(),
                returned: Lock::new(Rank::Bin, vec![0; words as usize]),
            })
        }

        /// Frees slots of one word as a thread that does not own the arena.
        fn free(&self, word: u32, slots: u64) {
            self.free_batch(&[(word, slots)]);
        }

        /// Frees slots of several words with one push.
        fn free_batch(&self, batch: &[(u32, u64)]) {
            let mut outbox = Outbox::new(self, |_| &self.inbox);
            for &(word, slots) in batch {
                self.write_objects(word, slots);
                for slot in (0..4).filter(|slot| slots & 1 << slot != 0) {
                    outbox.add(0, word + 1, 1 << slot);
                }
            }
            outbox.send();
        }

        fn drain(&self, returned: &mut [u64]) {
            self.inbox.drain(self, |id, _, slots| {
                let index = id - 1;
                let all = &mut returned[index as usize];
                assert_eq!(*all & slots, 0, "a slot came back twice");
                *all |= slots;
                self.write_objects(index, slots);
            });
        }

        fn write_objects(&self, word: u32, slots: u64) {
            for slot in (0..4).filter(|slot| slots & 1 << slot != 0) {
                // SAFETY: Whoever frees or has drained the slot owns its object.
                self.objects[(word * 4 + slot) as usize].with_mut(|value| unsafe { *value += 1 });
            }
        }
    }

    #[test]
    fn every_slot_comes_back_once() {
        loom::model(|| {
            let arena = Arena::new(1);
            let freers: Vec<_> = [0b001, 0b110]
                .map(|slots| {
                    let arena = arena.clone();
                    thread::spawn(move || arena.free(0, slots))
                })
                .into();
            arena.drain(&mut arena.returned.lock());
            for freer in freers {
                freer.join().unwrap();
            }
            let mut returned = arena.returned.lock();
            arena.drain(&mut returned);
            assert_eq!(*returned, [0b111]);
        });
    }

    #[test]
    fn words_of_one_slab_do_not_mix() {
        loom::model(|| {
            let arena = Arena::new(2);
            let freer = {
                let arena = arena.clone();
                thread::spawn(move || {
                    arena.free(0, 0b1);
                    arena.free(1, 0b10);
                })
            };
            arena.free(0, 0b100);
            arena.drain(&mut arena.returned.lock());
            freer.join().unwrap();
            let mut returned = arena.returned.lock();
            arena.drain(&mut returned);
            assert_eq!(*returned, [0b101, 0b10]);
        });
    }

    #[test]
    fn chains_do_not_mix() {
        loom::model(|| {
            let arena = Arena::new(2);
            let freer = {
                let arena = arena.clone();
                thread::spawn(move || arena.free_batch(&[(0, 0b1), (1, 0b10)]))
            };
            arena.free_batch(&[(1, 0b1), (0, 0b100)]);
            arena.drain(&mut arena.returned.lock());
            freer.join().unwrap();
            let mut returned = arena.returned.lock();
            arena.drain(&mut returned);
            assert_eq!(*returned, [0b101, 0b11]);
        });
    }

    /// A thread that frees the slab's last slot but one races with the owner,
    /// which reuses the record as soon as it has seen every slot: no trace of the
    /// old slab may turn up in the new one.
    #[test]
    fn a_record_is_free_to_be_recycled_once_every_slot_is_back() {
        loom::model(|| {
            let arena = Arena::new(1);
            let freers: Vec<_> = [0b01, 0b10]
                .map(|slots| {
                    let arena = arena.clone();
                    thread::spawn(move || arena.free(0, slots))
                })
                .into();
            let mut returned = arena.returned.lock();
            arena.drain(&mut returned);
            let recycled = returned[0] == 0b11;
            if recycled {
                // The record now serves another slab, with nothing freed yet.
                assert_eq!(arena.words[0].bits.load(Relaxed), 0);
                returned[0] = 0;
            }
            drop(returned);
            for freer in freers {
                freer.join().unwrap();
            }
            let mut returned = arena.returned.lock();
            arena.drain(&mut returned);
            assert_eq!(returned[0], if recycled { 0 } else { 0b11 });
            assert_eq!(arena.words[0].bits.load(Relaxed), 0);
            assert!(arena.inbox.is_empty());
        });
    }

    /// A slot that goes round: freed remotely, drained, handed out again, freed
    /// remotely by another thread, while the word may still be queued.
    #[test]
    fn a_slot_may_go_round() {
        loom::model(|| {
            let arena = Arena::new(1);
            let other = {
                let arena = arena.clone();
                thread::spawn(move || arena.free(0, 0b10))
            };
            arena.free(0, 0b01);
            let mut returned = arena.returned.lock();
            arena.drain(&mut returned);
            let came_back = returned[0] & 0b01 != 0;
            returned[0] &= !0b01;
            drop(returned);
            if came_back {
                arena.free(0, 0b01);
            }
            other.join().unwrap();
            let mut returned = arena.returned.lock();
            arena.drain(&mut returned);
            assert_eq!(*returned, [0b11]);
        });
    }
}

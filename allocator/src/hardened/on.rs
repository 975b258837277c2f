//! The hardened mode where it is on.

use crate::bin::Bin;
use crate::fatal::misuse;
use crate::os;
use crate::size_class::{GENERAL, SizeClass};
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::units::PAGE_BYTES;
use core::cell::{Cell, UnsafeCell};

/// Bytes that a slot has to have beyond what is asked for.
pub(crate) const SEAL_BYTES: usize = 8;

/// Slots that are handed out hold zeros.
pub(crate) const SLOTS_ARE_ZERO: bool = true;

/// What an object that was written to after it was freed is called.
const WRITTEN_AFTER_FREE: &str = "write to an object after it was freed";

/// Keys of the canaries and of the dice, and how many dice were thrown. Zeros before the
/// heap is made.
static KEYS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static THROWS: AtomicU64 = AtomicU64::new(0);

/// Makes the secrets, before the first slot is handed out.
pub(crate) fn initialise() {
    let mut words = [0; 3];
    os::random(&mut words);
    for (key, word) in KEYS.iter().zip(words) {
        // Odd numbers, which are not zero whatever the system gives.
        key.store(word | 1, Relaxed);
    }
}

#[inline]
fn key(index: usize) -> u64 {
    KEYS[index].load(Relaxed)
}

/// Mixes by a multiplication to 128 bits, whose halves are added without carry: the
/// step of Wang Yi's wyhash.
#[inline]
fn mix(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

/// The canary of a slot: no byte of it is zero.
#[inline]
fn canary(slot: *const u8) -> u64 {
    mix(slot.addr() as u64 ^ key(0), key(1)) | 0x0101_0101_0101_0101
}

/// The slack as it stands in the seal's last word.
#[inline]
fn slack_word(slack: usize) -> u64 {
    (slack as u64) << 32 | (slack as u64) << 48
}

/// Writes the seal of an object of `size` bytes.
///
/// # Safety
///
/// The slot has `slot_bytes` bytes, a multiple of 8, at least [`SEAL_BYTES`] more than
/// `size` and less than 64 KiB more; all of it is the caller's to write.
#[inline]
pub(crate) unsafe fn seal(slot: *mut u8, slot_bytes: usize, size: usize) {
    let canary = canary(slot);
    let slack = slot_bytes - size;
    debug_assert!((SEAL_BYTES..1 << 16).contains(&slack));
    // SAFETY: The caller's promise. All words but the first lie on multiples of 8; of
    // that, only the bytes that belong to the seal are written.
    unsafe {
        let mut at = slot_bytes - 8;
        slot.add(at).cast::<u64>().write(canary ^ slack_word(slack));
        while at >= size + 8 {
            at -= 8;
            slot.add(at).cast::<u64>().write(canary);
        }
        for at in size..at {
            slot.add(at).write(canary.to_ne_bytes()[at % 8]);
        }
    }
}

/// The size that was asked for, as the seal of an object says it; `None` where the seal
/// is not whole.
///
/// # Safety
///
/// The slot has `slot_bytes` bytes, a multiple of 8.
#[inline]
pub(crate) unsafe fn sealed_size(slot: *const u8, slot_bytes: usize) -> Option<usize> {
    let canary = canary(slot);
    // SAFETY: The slot has that many bytes; what the program does with it at the same
    // time is a mistake that may or may not be seen.
    unsafe {
        let mut at = slot_bytes - 8;
        let word = slot.add(at).cast::<u64>().read() ^ canary;
        let slack = (word >> 48) as usize;
        if word != slack_word(slack) || slack < SEAL_BYTES || slack > slot_bytes {
            return None;
        }
        let size = slot_bytes - slack;
        let mut wrong = 0;
        while at >= size + 8 {
            at -= 8;
            wrong |= slot.add(at).cast::<u64>().read() ^ canary;
        }
        for at in size..at {
            wrong |= u64::from(slot.add(at).read() ^ canary.to_ne_bytes()[at % 8]);
        }
        (wrong == 0).then_some(size)
    }
}

/// Clears the seal of an object of `size` bytes, so that the program, if it gets these
/// bytes, cannot read it.
///
/// # Safety
///
/// The slot has `slot_bytes` bytes, all of which are the caller's to write.
#[inline]
pub(crate) unsafe fn unseal(slot: *mut u8, slot_bytes: usize, size: usize) {
    // SAFETY: Passed on to the caller.
    unsafe { slot.add(size).write_bytes(0, slot_bytes - size) };
}

/// Whether all bytes of a slot are zero.
///
/// # Safety
///
/// The slot has `bytes` bytes, a multiple of 8, at a multiple of 8.
#[inline]
pub(crate) unsafe fn is_clear(slot: *const u8, bytes: usize) -> bool {
    // SAFETY: The slot has so many words.
    let words = unsafe { core::slice::from_raw_parts(slot.cast::<u64>(), bytes / 8) };
    // Without a way out of the loop, which lets the compiler use wide registers.
    words.iter().fold(0, |all, word| all | word) == 0
}

/// Bytes of a slab's ledger.
pub(crate) const fn ledger_bytes(class: &SizeClass) -> usize {
    (class.words as usize * 8).next_multiple_of(16)
}

/// Writes an empty ledger: the program has no slot of the slab.
///
/// # Safety
///
/// There is room for [`ledger_bytes`] bytes, which nobody else knows of yet.
pub(crate) unsafe fn clear_ledger(place: *mut u8, class: &SizeClass) {
    // SAFETY: The caller's promise.
    unsafe { place.write_bytes(0, ledger_bytes(class)) };
}

/// The word of a slab's ledger that has the slot's bit, and the bit.
///
/// # Safety
///
/// The ledger is that of a slab that is alive as long as the result is used, and has
/// such a slot.
#[inline]
unsafe fn ledger_word<'a>(ledger: *mut u8, slot: u32) -> (&'a AtomicU64, u64) {
    // SAFETY: The ledger has a word for every 64 slots.
    let word = unsafe { &*ledger.cast::<AtomicU64>().add(slot as usize >> 6) };
    (word, 1 << (slot & 63))
}

/// Notes that the program has the slot; false if it had it already.
///
/// # Safety
///
/// As for a slab's [`clear_ledger`], which has run; the slab is alive and has the slot.
#[inline]
pub(crate) unsafe fn enter(ledger: *mut u8, slot: u32) -> bool {
    // SAFETY: Passed on to the caller.
    let (word, bit) = unsafe { ledger_word(ledger, slot) };
    // Acquire meets the Release of `strike` in whichever thread freed the slot last.
    word.fetch_or(bit, AcqRel) & bit == 0
}

/// Notes that the program has the slot no longer; false if it had it not.
///
/// # Safety
///
/// As for [`enter`].
#[inline]
pub(crate) unsafe fn strike(ledger: *mut u8, slot: u32) -> bool {
    // SAFETY: Passed on to the caller.
    let (word, bit) = unsafe { ledger_word(ledger, slot) };
    // Release meets the Acquire of `enter`.
    word.fetch_and(!bit, AcqRel) & bit != 0
}

/// Whether the program has the slot.
///
/// # Safety
///
/// As for [`enter`].
#[inline]
pub(crate) unsafe fn is_entered(ledger: *mut u8, slot: u32) -> bool {
    // SAFETY: Passed on to the caller.
    let (word, bit) = unsafe { ledger_word(ledger, slot) };
    // Acquire, as in `enter`.
    word.load(Acquire) & bit != 0
}

/// Stops the process because of a free slot that is not clear.
#[cold]
pub(crate) fn written_after_free(slot: *const u8, class: &SizeClass) -> ! {
    misuse(WRITTEN_AFTER_FREE, slot.addr(), class.size)
}

/// Stops the process if a slab that is about to be released, all of whose slots are
/// free, holds anything but zeros. Punched pages are passed over.
///
/// # Safety
///
/// The slab is of the class and starts there, and nobody uses it.
pub(crate) unsafe fn verify_released(start: *const u8, punched: u16, class: &SizeClass) {
    for page in (0..usize::from(class.pages)).filter(|page| punched >> page & 1 == 0) {
        // SAFETY: The slab has so many pages.
        unsafe {
            let page = start.add(page * PAGE_BYTES);
            if !is_clear(page, PAGE_BYTES) {
                let words = core::slice::from_raw_parts(page.cast::<u64>(), PAGE_BYTES / 8);
                let at = words.iter().position(|word| *word != 0).unwrap_or(0);
                let offset = page.addr() - start.addr() + at * 8;
                let slot = class.slot_of(offset as u32) * class.size;
                written_after_free(start.add(slot as usize), class);
            }
        }
    }
}

/// Random numbers for one purpose.
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice that fall as no others do.
    pub(crate) fn throw() -> Self {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let throw = THROWS.fetch_add(STEP, Relaxed);
        Self(mix(throw ^ key(1), key(2)))
    }

    #[inline]
    fn next(&mut self) -> u64 {
        const STEP: u64 = 0xA076_1D64_78BD_642F;
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0, self.0 ^ key(2))
    }

    /// A number below `bound`.
    #[inline]
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Takes one of the slots at hand.
    pub(crate) fn take(&mut self, bin: &mut Bin) -> Option<usize> {
        let (_, mut bits) = bin.word_at_hand();
        if bits == 0 {
            return None;
        }
        for _ in 0..self.below(bits.count_ones() as usize) {
            bits &= bits - 1;
        }
        Some(bin.take_bit(bits.trailing_zeros()))
    }

    /// Puts slots in any order: the shuffle of Fisher and Yates.
    pub(crate) fn arrange(&mut self, slots: &mut [*mut u8]) {
        for last in (1..slots.len()).rev() {
            slots.swap(last, self.below(last + 1));
        }
    }
}

/// Slots that change places at random, those that wait in the queue after that, and the
/// bytes of these. Larger slots than the last number pass by the first stage.
const MIXED_SLOTS: usize = 128;
const QUEUED_SLOTS: usize = 256;
const QUEUED_BYTES_MAX: usize = 256 << 10;
const MIXED_SLOT_BYTES_MAX: usize = 1024;

/// The slots that a thread has freed last, in one word each: they cannot be allocated
/// yet. Zeros are an empty quarantine.
pub(crate) struct Quarantine {
    /// The state of the thread's dice; 0 before the first throw.
    dice: Cell<u64>,
    queued: Cell<u32>,
    /// Where the queue begins.
    first: Cell<u32>,
    queued_bytes: Cell<usize>,
    mixed: UnsafeCell<[Held; MIXED_SLOTS]>,
    queue: UnsafeCell<[Held; QUEUED_SLOTS]>,
}

/// A slot's address and, above it, one more than its class. 0 is none.
#[derive(Clone, Copy)]
struct Held(u64);

impl Held {
    const NONE: Self = Self(0);
    const CLASS_SHIFT: u32 = 56;

    #[inline]
    fn new(address: usize, class: usize) -> Self {
        Self(address as u64 | (class as u64 + 1) << Self::CLASS_SHIFT)
    }

    #[inline]
    fn parts(self) -> Option<(usize, usize)> {
        let class = (self.0 >> Self::CLASS_SHIFT) as usize;
        let address = (self.0 & ((1 << Self::CLASS_SHIFT) - 1)) as usize;
        Some((address, class.checked_sub(1)?))
    }
}

impl Quarantine {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self {
            dice: Cell::new(0),
            queued: Cell::new(0),
            first: Cell::new(0),
            queued_bytes: Cell::new(0),
            mixed: UnsafeCell::new([Held::NONE; MIXED_SLOTS]),
            queue: UnsafeCell::new([Held::NONE; QUEUED_SLOTS]),
        }
    }

    #[expect(
        clippy::mut_from_ref,
        reason = "the array behind an owned quarantine's cell"
    )]
    fn mixed(&self) -> &mut [Held; MIXED_SLOTS] {
        // SAFETY: Only the owner calls, and no caller keeps two references.
        unsafe { &mut *self.mixed.get() }
    }

    #[expect(
        clippy::mut_from_ref,
        reason = "the array behind an owned quarantine's cell"
    )]
    fn queue(&self) -> &mut [Held; QUEUED_SLOTS] {
        // SAFETY: As above.
        unsafe { &mut *self.queue.get() }
    }

    /// Takes a slot of the class in, and gives those up that have been here for long
    /// enough: their addresses and classes. Only the owner may call.
    pub(crate) fn admit(&self, slot: usize, class: usize, mut release: impl FnMut(usize, usize)) {
        let mut held = Held::new(slot, class);
        if GENERAL.class(class).size as usize <= MIXED_SLOT_BYTES_MAX {
            let mut dice = match self.dice.get() {
                0 => Dice::throw(),
                state => Dice(state),
            };
            let place = dice.below(MIXED_SLOTS);
            self.dice.set(dice.0);
            held = core::mem::replace(&mut self.mixed()[place], held);
        }
        if let Some((_, class)) = held.parts() {
            let end = (self.first.get() + self.queued.get()) as usize % QUEUED_SLOTS;
            self.queue()[end] = held;
            self.queued.set(self.queued.get() + 1);
            self.queued_bytes
                .set(self.queued_bytes.get() + GENERAL.class(class).size as usize);
        }
        while self.queued.get() as usize == QUEUED_SLOTS
            || self.queued_bytes.get() > QUEUED_BYTES_MAX
        {
            let Some((slot, class)) = self.take_first() else {
                break;
            };
            release(slot, class);
        }
    }

    fn take_first(&self) -> Option<(usize, usize)> {
        if self.queued.get() == 0 {
            return None;
        }
        let first = self.first.get();
        self.first.set((first + 1) % QUEUED_SLOTS as u32);
        self.queued.set(self.queued.get() - 1);
        let (slot, class) = self.queue()[first as usize].parts()?;
        self.queued_bytes
            .set(self.queued_bytes.get() - GENERAL.class(class).size as usize);
        Some((slot, class))
    }

    /// Gives all slots up. Only the owner may call.
    pub(crate) fn drain(&self, mut release: impl FnMut(usize, usize)) {
        while let Some((slot, class)) = self.take_first() {
            release(slot, class);
        }
        for place in 0..MIXED_SLOTS {
            let held = core::mem::replace(&mut self.mixed()[place], Held::NONE);
            if let Some((slot, class)) = held.parts() {
                release(slot, class);
            }
        }
    }

    /// Forgets what the last thread that used the record, which a fork has left behind,
    /// has held here. Only the owner may call.
    pub(crate) fn forget(&self) {
        self.dice.set(0);
        self.queued.set(0);
        self.queued_bytes.set(0);
        self.mixed().fill(Held::NONE);
    }

    /// Slots of the class. Another thread may ask, and gets an answer that was about
    /// true a moment ago.
    pub(crate) fn len(&self, class: usize) -> usize {
        let is_of_class = |held: &&AtomicU64| {
            Held(held.load(Relaxed))
                .parts()
                .is_some_and(|(_, of)| of == class)
        };
        // SAFETY: Both arrays consist of words.
        let (mixed, queue) = unsafe {
            (
                &*self.mixed.get().cast::<[AtomicU64; MIXED_SLOTS]>(),
                &*self.queue.get().cast::<[AtomicU64; QUEUED_SLOTS]>(),
            )
        };
        let first = self.first.get() as usize;
        let queued = (self.queued.get() as usize).min(QUEUED_SLOTS);
        mixed.iter().filter(is_of_class).count()
            + (first..first + queued)
                .map(|at| &queue[at % QUEUED_SLOTS])
                .filter(is_of_class)
                .count()
    }
}

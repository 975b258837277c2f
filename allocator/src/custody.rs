//! Who has each object: what the [hardened mode](crate::hardened) does where the program
//! gets one and where it gives one back. Without that mode, nothing: objects pass.

#[cfg(not(feature = "hardened"))]
pub(crate) use off::*;
#[cfg(feature = "hardened")]
pub(crate) use on::*;

#[cfg(not(feature = "hardened"))]
mod off {
    use crate::process::Process;
    use crate::size_class::GENERAL;
    use crate::thread_cache::StackPlace;

    /// Hands a slot of the class, or null, to the program, which asked for `size` bytes.
    #[inline(always)]
    pub(crate) fn hand_out(slot: *mut u8, _class: usize, _size: usize) -> *mut u8 {
        slot
    }

    /// Takes an object back, whose class's place this is, and passes to `keep` what may be
    /// allocated again. A large object, whose place is none of a class, passes as it is.
    ///
    /// # Safety
    ///
    /// As for [`heap::free`](crate::heap::free).
    #[inline(always)]
    pub(crate) unsafe fn take_back(
        object: *mut u8,
        place: StackPlace,
        _size: Option<usize>,
        mut keep: impl FnMut(*mut u8, StackPlace),
    ) {
        keep(object, place);
    }

    /// Bytes of an object of the class that the program may use.
    ///
    /// # Safety
    ///
    /// The object is live and of the class.
    #[inline(always)]
    pub(crate) unsafe fn usable_size(_object: *const u8, class: usize) -> usize {
        GENERAL.class(class).size as usize
    }

    /// Gives an object of `old` bytes the size `new` of the same class.
    ///
    /// # Safety
    ///
    /// The object is live and of the class.
    #[inline(always)]
    pub(crate) unsafe fn resize(object: *mut u8, _: usize, _old: usize, _new: usize) -> *mut u8 {
        object
    }

    /// Hands a large object, or null, to the program, which asked for `size` bytes.
    #[inline(always)]
    pub(crate) fn hand_out_large(object: *mut u8, _size: usize) -> *mut u8 {
        object
    }

    /// Verifies nothing of a large object.
    #[inline(always)]
    pub(crate) fn verify_large(_object: *const u8, _size: Option<usize>) {}

    /// Makes all of a large object of `size` bytes the program's.
    #[inline(always)]
    pub(crate) fn unseal_large(_object: *mut u8, _size: usize) {}

    /// Bytes of a large object that the program may use.
    ///
    /// # Safety
    ///
    /// The address lies on the first page of a live large object.
    #[inline(always)]
    pub(crate) unsafe fn large_usable_size(process: &Process, object: *const u8) -> usize {
        // SAFETY: Passed on to the caller.
        unsafe { process.pages.large_bytes(object) }
    }
}

#[cfg(feature = "hardened")]
mod on {
    use crate::fatal::{DOUBLE_FREE, WRONG_SIZE, misuse};
    use crate::hardened;
    use crate::page_map::LARGE_HEAD;
    use crate::process::Process;
    use crate::shared_pages::SharedPages;
    use crate::size_class::{GENERAL, SizeClass};
    use crate::thread;
    use crate::thread_cache::StackPlace;
    use crate::units::PAGE_BYTES;

    const OVERRUN: &str = "write beyond the end of an object";
    const NOT_LIVE: &str = "use of an object that was freed";
    const HANDED_OUT_TWICE: &str = "the heap is corrupt: a slot in use was to be handed out";

    /// A slot and where the ledger has its bit.
    struct Slot {
        ledger: *mut u8,
        number: u32,
        shape: &'static SizeClass,
    }

    fn pages() -> Option<&'static SharedPages> {
        Some(&Process::get()?.pages)
    }

    /// The slot of an object that is said to be of the class. Stops the process where
    /// there is none.
    fn slot_of(object: *const u8, class: usize) -> Slot {
        let shape = GENERAL.class(class);
        let Some(pages) = pages() else {
            misuse(
                "a pointer that was not allocated",
                object.addr(),
                shape.size,
            );
        };
        let slab = pages.slab_of_freed(object, class);
        // SAFETY: The page map says that there is such a slab. If the program has the
        // object, it keeps the slab alive. Else the slab may be released at the same
        // time, of which the bits read here then tell nothing; they stay readable.
        unsafe {
            Slot {
                ledger: pages.ledger(slab, shape),
                number: pages.slot_of(object, slab, shape),
                shape,
            }
        }
    }

    /// The size that was asked for. Stops the process where the seal is broken, or says
    /// another size than the program.
    ///
    /// # Safety
    ///
    /// The object was handed out and takes `bytes` bytes, with its seal.
    unsafe fn verified(
        object: *const u8,
        bytes: usize,
        slot_bytes: u32,
        size: Option<usize>,
    ) -> usize {
        // SAFETY: Passed on to the caller.
        let Some(asked) = (unsafe { hardened::sealed_size(object, bytes) }) else {
            misuse(OVERRUN, object.addr(), slot_bytes);
        };
        if size.is_some_and(|size| size != asked) {
            misuse(WRONG_SIZE, object.addr(), slot_bytes);
        }
        asked
    }

    pub(crate) fn hand_out(slot: *mut u8, class: usize, size: usize) -> *mut u8 {
        if slot.is_null() {
            return slot;
        }
        let Slot {
            ledger,
            number,
            shape,
        } = slot_of(slot, class);
        let bytes = shape.size as usize;
        // SAFETY: The slot came out of a cache or its slab, so it is nobody's, and has
        // room for the size and a seal.
        unsafe {
            if !hardened::is_clear(slot, bytes) {
                hardened::written_after_free(slot, shape);
            }
            if !hardened::enter(ledger, number) {
                misuse(HANDED_OUT_TWICE, slot.addr(), shape.size);
            }
            hardened::seal(slot, bytes, size);
        }
        slot
    }

    pub(crate) unsafe fn take_back(
        object: *mut u8,
        place: StackPlace,
        size: Option<usize>,
        mut keep: impl FnMut(*mut u8, StackPlace),
    ) {
        if !place.names_class() {
            return keep(object, place);
        }
        let class = place.class();
        let Slot {
            ledger,
            number,
            shape,
        } = slot_of(object, class);
        // SAFETY: The slot exists, and from here on no other thread frees it.
        unsafe {
            if !hardened::strike(ledger, number) {
                misuse(DOUBLE_FREE, object.addr(), shape.size);
            }
            verified(object, shape.size as usize, shape.size, size);
            object.write_bytes(0, shape.size as usize);
        }
        let thread = thread::current();
        match pages().filter(|_| thread.has_cache()) {
            Some(pages) => thread
                .quarantine
                .admit(object.addr(), class, |address, class| {
                    keep(pages.pointer(address), StackPlace::of_class(class))
                }),
            None => keep(object, place),
        }
    }

    pub(crate) unsafe fn usable_size(object: *const u8, class: usize) -> usize {
        let slot = slot_of(object, class);
        // SAFETY: The slot exists.
        unsafe {
            if !hardened::is_entered(slot.ledger, slot.number) {
                misuse(NOT_LIVE, object.addr(), slot.shape.size);
            }
            verified(object, slot.shape.size as usize, slot.shape.size, None)
        }
    }

    pub(crate) unsafe fn resize(object: *mut u8, class: usize, old: usize, new: usize) -> *mut u8 {
        let shape = GENERAL.class(class);
        let bytes = shape.size as usize;
        // SAFETY: Passed on to the caller; both sizes are of the class.
        unsafe {
            if usable_size(object, class) != old {
                misuse(WRONG_SIZE, object.addr(), shape.size);
            }
            hardened::unseal(object, bytes, old);
            hardened::seal(object, bytes, new);
        }
        object
    }

    /// Bytes of the large object that starts at the address; `None` where none does.
    fn large_bytes(object: *const u8) -> Option<usize> {
        let pages = pages()?;
        // SAFETY: The address lies in the region, and if a large object starts there,
        // nobody but the caller frees it.
        unsafe {
            let starts = pages.contains(object)
                && object.addr().is_multiple_of(PAGE_BYTES)
                && pages.class_entry(object) == LARGE_HEAD;
            starts.then(|| pages.large_bytes(object))
        }
    }

    pub(crate) fn hand_out_large(object: *mut u8, size: usize) -> *mut u8 {
        if let Some(bytes) = large_bytes(object) {
            // SAFETY: The object is new, and has room for the size and a seal.
            unsafe { hardened::seal(object, bytes, size) };
        }
        object
    }

    /// Stops the process where a large object's seal is broken, or says another size than
    /// the program. What is no large object at all is left to whoever frees it.
    pub(crate) fn verify_large(object: *const u8, size: Option<usize>) {
        if let Some(bytes) = large_bytes(object) {
            // SAFETY: The object is live.
            unsafe { verified(object, bytes, bytes as u32, size) };
        }
    }

    pub(crate) fn unseal_large(object: *mut u8, size: usize) {
        verify_large(object, Some(size));
        if let Some(bytes) = large_bytes(object) {
            // SAFETY: The object is live, and has that size.
            unsafe { hardened::unseal(object, bytes, size) };
        }
    }

    pub(crate) unsafe fn large_usable_size(process: &Process, object: *const u8) -> usize {
        // SAFETY: Passed on to the caller.
        unsafe {
            let bytes = process.pages.large_bytes(object);
            verified(object, bytes, bytes as u32, None)
        }
    }
}

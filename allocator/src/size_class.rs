//! Size classes: what a request is rounded up to, and how long the slabs of a
//! class are. Both tables are derived at compile time from their rules.
//!
//! | table | classes | slabs |
//! |---|---|---|
//! | [`FINE`] | 16 to 256 in steps of 8, then 16 per doubling up to 32 KiB | the shortest run of 4 to 16 pages whose tail wastes at most 3%; from 4 KiB on the run that wastes least |
//! | [`GENERAL`] | 8, then 16 to 128 in steps of 16, then 8 per doubling up to 14 KiB | one page where the tail wastes at most a sixteenth, else the shortest run that does |
//!
//! `GENERAL` is jemalloc's scheme with twice as many classes per doubling;
//! every class of jemalloc's table up to 14 KiB is one of its classes. Both
//! parameters were chosen by simulation over changing workloads: more classes
//! lower the peak, short slabs lower what stays behind.
//!
//! A request finds its class by one byte load up to 1 KiB, and by the
//! position of its leading bit beyond.

use crate::units::{PAGE_BYTES, PAGE_SHIFT};

/// Most classes that a table may have.
pub const CLASSES_MAX: usize = 144;
/// Most pages of a slab.
pub const SLAB_PAGES_MAX: usize = 16;
/// Most slots of a slab.
pub const SLAB_SLOTS_MAX: usize = 1024;
/// Most 64-bit words of a slab's free bitmap.
pub const SLAB_WORDS_MAX: usize = SLAB_SLOTS_MAX / 64;

/// Requests up to this many bytes find their class by table.
const TABLE_BYTES: usize = 1024;

/// One size class.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SizeClass {
    /// Bytes of a slot.
    pub size: u32,
    /// 2^32 / `size`, rounded up: [`SizeClass::slot_of`] divides by it.
    pub reciprocal: u32,
    /// 2^35 / `slots`, rounded up: [`SizeClass::eighth_of`] divides by it.
    eighths: u64,
    /// Slots of a slab.
    pub slots: u16,
    /// Pages of a slab.
    pub pages: u8,
    /// 64-bit words of the slab's free bitmap.
    pub words: u8,
}

impl SizeClass {
    const NONE: SizeClass = SizeClass {
        size: 0,
        reciprocal: 0,
        eighths: 0,
        slots: 0,
        pages: 0,
        words: 0,
    };

    const fn new(size: usize, pages: usize) -> SizeClass {
        let slots = pages * PAGE_BYTES / size;
        assert!(slots >= 1 && slots <= SLAB_SLOTS_MAX && pages <= SLAB_PAGES_MAX);
        SizeClass {
            size: size as u32,
            reciprocal: (1u64 << 32).div_ceil(size as u64) as u32,
            eighths: (1u64 << 35).div_ceil(slots as u64),
            slots: slots as u16,
            pages: pages as u8,
            words: slots.div_ceil(64) as u8,
        }
    }

    /// The slot that holds the byte at `offset` from the slab's start.
    ///
    /// Exact for every offset inside a slab: the rounded reciprocal is too
    /// large by less than 1, so the quotient is too large by less than
    /// `offset / 2^32 < 2^-16`, while a quotient that is not whole lies at
    /// least `1 / size >= 2^-15` below the next whole number.
    #[inline]
    pub const fn slot_of(&self, offset: u32) -> u32 {
        ((offset as u64 * self.reciprocal as u64) >> 32) as u32
    }

    /// In which eighth of the slab's slots the slot numbered `slot` lies.
    ///
    /// Exact: the quotient is too large by less than `slot / 2^32 < 2^-22`,
    /// while one that is not whole lies `1 / slots >= 2^-10` below the next.
    #[inline]
    pub const fn eighth_of(&self, slot: u32) -> u32 {
        ((slot as u64 * self.eighths) >> 32) as u32
    }

    /// The first and the last page of the slab that the slots from `first` to
    /// `last` touch.
    #[inline]
    pub const fn pages_of_slots(&self, first: u32, last: u32) -> (u32, u32) {
        let start = first * self.size;
        let end = (last + 1) * self.size - 1;
        (start >> PAGE_SHIFT, end >> PAGE_SHIFT)
    }

    /// Bytes at the slab's end that belong to no slot.
    pub const fn tail_bytes(&self) -> usize {
        self.pages as usize * PAGE_BYTES - self.slots as usize * self.size as usize
    }

    /// Bytes of a whole slab.
    pub const fn slab_bytes(&self) -> usize {
        self.pages as usize * PAGE_BYTES
    }
}

/// A table of size classes.
#[derive(Debug)]
pub struct ClassTable {
    /// Class of a request by `(size + 7) / 8`.
    lookup: [u8; TABLE_BYTES / 8 + 1],
    /// log2 of the classes per doubling above [`TABLE_BYTES`].
    steps_log2: u32,
    /// First class above [`TABLE_BYTES`].
    formula_base: u32,
    small_max: usize,
    count: usize,
    classes: [SizeClass; CLASSES_MAX],
}

impl ClassTable {
    /// The largest request, in bytes, that is served from slabs.
    #[inline]
    pub const fn small_max(&self) -> usize {
        self.small_max
    }

    /// The class of a request of `size` bytes, which is at most
    /// [`ClassTable::small_max`]. A request of 0 bytes gets the first class.
    #[inline(always)]
    pub const fn class_of(&self, size: usize) -> usize {
        debug_assert!(size <= self.small_max);
        if size <= TABLE_BYTES {
            self.lookup[(size + 7) >> 3] as usize
        } else {
            let last = size as u32 - 1;
            let leading = 31 - last.leading_zeros();
            let step = (last >> (leading - self.steps_log2)) - (1 << self.steps_log2);
            (self.formula_base + ((leading - TABLE_BYTES.ilog2()) << self.steps_log2) + step)
                as usize
        }
    }

    /// The smallest class whose slots hold `size` bytes and whose every slot
    /// is aligned to `align`, a power of two; `None` where only a page run
    /// serves. Slabs start on pages, so slots are aligned to whatever power
    /// of two divides both their size and a page.
    pub const fn class_of_aligned(&self, size: usize, align: usize) -> Option<usize> {
        if size > self.small_max || align > PAGE_BYTES {
            return None;
        }
        let mut class = self.class_of(size);
        while class < self.count {
            if (self.classes[class].size as usize).is_multiple_of(align) {
                return Some(class);
            }
            class += 1;
        }
        None
    }

    /// Bytes by which a slot of the class `host` is larger than one of `home`.
    #[inline]
    pub(crate) fn guest_bytes(&self, home: usize, host: usize) -> usize {
        (self.classes[host].size - self.classes[home].size) as usize
    }

    /// All classes, in ascending order of size.
    #[inline]
    pub fn classes(&self) -> &[SizeClass] {
        &self.classes[..self.count]
    }

    /// The class numbered `class`, which is below the number of classes.
    #[inline(always)]
    pub const fn class(&self, class: usize) -> &SizeClass {
        debug_assert!(class < self.count);
        &self.classes[class]
    }

    /// Number of classes.
    #[inline]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Sizes grow by `step` bytes from `first` up to `linear_to`, then by
    /// `1 << steps_log2` steps per doubling up to `last`.
    const fn derive(
        first: &[usize],
        step: usize,
        linear_to: usize,
        steps_log2: u32,
        last: usize,
        rule: SlabRule,
    ) -> ClassTable {
        let mut table = ClassTable {
            lookup: [0; TABLE_BYTES / 8 + 1],
            steps_log2,
            formula_base: 0,
            small_max: last,
            count: 0,
            classes: [SizeClass::NONE; CLASSES_MAX],
        };
        let mut i = 0;
        while i < first.len() {
            table.push(first[i], rule);
            i += 1;
        }
        let mut size = first[first.len() - 1];
        while size < last {
            size += if size < linear_to {
                step
            } else {
                1 << (size.ilog2() - steps_log2)
            };
            if size > TABLE_BYTES && table.formula_base == 0 {
                table.formula_base = table.count as u32;
            }
            table.push(size, rule);
        }
        assert!(size == last);
        let mut eighth = 0;
        let mut class = 0;
        while eighth < table.lookup.len() {
            if eighth * 8 > table.classes[class].size as usize {
                class += 1;
            }
            table.lookup[eighth] = class as u8;
            eighth += 1;
        }
        table
    }

    const fn push(&mut self, size: usize, rule: SlabRule) {
        self.classes[self.count] = SizeClass::new(size, rule.pages(size));
        self.count += 1;
    }
}

/// How long the slabs of a class are.
#[derive(Clone, Copy)]
struct SlabRule {
    pages_min: usize,
    /// The largest share of a slab that its tail may waste: so many of so many parts.
    tail_max: (usize, usize),
    /// From this slot size on the run is taken that wastes least.
    least_waste_from: usize,
}

impl SlabRule {
    const fn pages(self, size: usize) -> usize {
        let mut best = 0;
        let mut pages = self.pages_min;
        while pages <= SLAB_PAGES_MAX {
            let bytes = pages * PAGE_BYTES;
            let tail = bytes % size;
            let slots = bytes / size;
            if slots >= 1 && slots <= SLAB_SLOTS_MAX {
                if size < self.least_waste_from && tail * self.tail_max.1 <= bytes * self.tail_max.0
                {
                    return pages;
                }
                let best_bytes = best * PAGE_BYTES;
                if best == 0 || tail * best_bytes < best_bytes % size * bytes {
                    best = pages;
                }
            }
            pages += 1;
        }
        best
    }
}

/// The classes of the process heap: 63, up to 14 KiB.
pub static GENERAL: ClassTable = ClassTable::derive(
    &[8, 16],
    16,
    128,
    3,
    14 * 1024,
    SlabRule {
        pages_min: 1,
        tail_max: (1, 16),
        least_waste_from: usize::MAX,
    },
);

/// The classes of movable heaps, whose objects need no more than 8-byte
/// alignment: 143, up to 32 KiB.
pub static FINE: ClassTable = ClassTable::derive(
    &[16],
    8,
    256,
    4,
    32 * 1024,
    SlabRule {
        pages_min: 4,
        tail_max: (3, 100),
        least_waste_from: 4096,
    },
);

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> [&'static ClassTable; 2] {
        [&GENERAL, &FINE]
    }

    #[test]
    fn every_request_gets_the_smallest_class_that_holds_it() {
        for table in tables() {
            for size in 0..=table.small_max() {
                let expected = table
                    .classes()
                    .iter()
                    .position(|class| class.size as usize >= size)
                    .unwrap();
                assert_eq!(table.class_of(size), expected, "size {size}");
            }
        }
    }

    #[test]
    fn the_tables_have_the_promised_shape() {
        assert_eq!(GENERAL.count(), 63);
        assert_eq!(FINE.count(), 31 + 7 * 16);
        for table in tables() {
            let sizes: Vec<u32> = table.classes().iter().map(|class| class.size).collect();
            assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(sizes.iter().all(|size| size % 8 == 0));
        }
        let widest = FINE
            .classes()
            .windows(2)
            .filter(|pair| pair[0].size >= 256)
            .map(|pair| pair[1].size as f64 / pair[0].size as f64)
            .fold(0.0, f64::max);
        assert!(widest <= 1.0 + 1.0 / 16.0);
    }

    #[test]
    fn every_class_of_jemalloc_is_a_class_of_the_process_heap() {
        let mut sizes = vec![8u32];
        sizes.extend((16..=128).step_by(16));
        let mut base = 128;
        while base < 8192 {
            sizes.extend((1..=4).map(|step| base + step * base / 4));
            base *= 2;
        }
        sizes.extend([10240, 12288, 14336]);
        assert_eq!(sizes.len(), 36);
        for size in sizes {
            assert!(GENERAL.classes().iter().any(|class| class.size == size));
        }
    }

    #[test]
    fn slabs_are_as_short_as_their_rule_allows() {
        for class in GENERAL.classes() {
            assert!(class.tail_bytes() * 16 <= class.slab_bytes(), "{class:?}");
            for shorter in 1..class.pages as usize {
                let bytes = shorter * PAGE_BYTES;
                assert!(bytes < class.size as usize || bytes % class.size as usize * 16 > bytes);
            }
        }
        for class in FINE.classes() {
            assert!(class.pages >= 4);
            let waste = |pages: usize| {
                let bytes = pages * PAGE_BYTES;
                (bytes % class.size as usize) as f64 / bytes as f64
            };
            let longest = if class.size < 32 { 4 } else { 16 };
            let least = (4..=longest)
                .filter(|pages| pages * PAGE_BYTES >= class.size as usize)
                .map(waste)
                .fold(1.0, f64::min);
            let own = waste(class.pages as usize);
            assert!(
                own == least || class.size < 4096 && own <= 0.03,
                "{class:?}"
            );
            assert!(own <= 0.05, "{class:?}");
        }
    }

    #[test]
    fn slots_are_found_by_reciprocal_at_every_offset() {
        for table in tables() {
            for class in table.classes() {
                for offset in 0..class.slab_bytes() as u32 {
                    assert_eq!(class.slot_of(offset), offset / class.size);
                }
                for slot in 0..u32::from(class.slots) {
                    assert_eq!(class.eighth_of(slot), slot * 8 / u32::from(class.slots));
                }
            }
        }
    }

    #[test]
    fn aligned_requests_get_classes_that_divide() {
        for table in tables() {
            for align in [1, 2, 8, 16, 64, 256, 1024, 4096] {
                for size in (0..table.small_max()).step_by(7) {
                    let Some(class) = table.class_of_aligned(size, align) else {
                        assert!(size.next_multiple_of(align) > 8192);
                        continue;
                    };
                    let slot = table.class(class).size as usize;
                    assert!(slot >= size && slot.is_multiple_of(align));
                }
            }
            assert!(table.class_of_aligned(1, 8192).is_none());
        }
    }
}

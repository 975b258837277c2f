//! The full check of a table.

use crate::entry::Entry;
use crate::geometry::{offset, tag};
use crate::key::Placer;
use crate::memory::{Memory, Ref};
use crate::segment;
use crate::table::Table;
use crate::table::directory::after;
use crate::table::visit::Walk;

impl Table {
    /// Checks the whole table: directory, segments, buckets, places and tags of all entries, counts,
    /// bounds of expiry. Calls `on_entry` with every entry.
    ///
    /// # Panics
    /// If anything is wrong.
    pub(crate) fn check(
        &self,
        memory: &Memory,
        placer: &Placer,
        mut on_entry: impl FnMut(Ref, &Entry<'_>),
    ) {
        self.directory.check();
        let (mut len, mut volatiles, mut segments, mut bytes) = (0, 0, 0, 0);
        for (prefix, cell) in self.directory.segments() {
            // SAFETY: the directory names live segments; nothing changes during the borrow.
            let view = unsafe { segment::view(memory.address(cell.segment)) };
            let depth = u32::from(cell.depth);
            assert_eq!(
                (view.header.prefix, view.header.depth, view.geometry()),
                (prefix, cell.depth, cell.geometry())
            );
            if self.walk == Walk::Idle {
                assert!(
                    view.header.volatiles == 0
                        || view.header.earliest_expiry_ms >= self.earliest_expiry_ms
                );
            }
            segments += 1;
            bytes += cell.geometry().bytes();
            len += usize::from(view.header.len);
            volatiles += usize::from(view.header.volatiles);
            let prefix_of = |entry: Ref| {
                // SAFETY: the references in a table are live entries of its memory.
                placer.prefix(unsafe { Entry::read(memory, entry) }.key())
            };
            segment::check(&view, |entry| {
                cell.geometry().home(offset(prefix_of(entry), depth))
            });
            for (_, _, slot) in view.slots() {
                // SAFETY: as above.
                let entry = unsafe { Entry::read(memory, slot.reference) };
                let own = placer.prefix(entry.key());
                assert!(
                    own >= prefix && after(prefix, depth).is_none_or(|end| own < end),
                    "a key outside its segment"
                );
                assert_eq!(slot.tag, tag(offset(own, depth)));
                assert_eq!(slot.is_volatile, entry.header().expiry_ms().is_some());
                assert!(
                    entry
                        .header()
                        .expiry_ms()
                        .is_none_or(|at| at >= view.header.earliest_expiry_ms)
                );
                on_entry(slot.reference, &entry);
            }
        }
        assert_eq!(
            (self.len, self.volatiles, self.segments, self.segment_bytes),
            (len, volatiles, segments, bytes),
            "the table's counts"
        );
    }
}

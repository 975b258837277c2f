//! Compaction: the objects of sparse slabs move into fuller ones, and the pages go back.
//!
//! The arena chooses the slab that costs least to empty, over all size classes, and the slots to
//! move into: only in resident slabs that are at least as full, never in fresh ones, so that moving
//! terminates and never goes to and fro. When nothing is left to be evacuated, the last slabs of each
//! class are merged into those of larger classes, and what remains is packed into as few pages as it
//! needs. Here a slab's live objects are moved, in batches whose objects, buckets and targets are
//! asked for ahead of time, and the one reference to each is patched.
//!
//! It runs under the shard's lock between commands, in slices of at most a tenth of a millisecond;
//! when, and for how long, [`pacing`](crate::pacing) says.

use std::ptr::NonNull;
use std::time::Duration;

use slab_allocator::{ClassSet, Prediction, VictimPolicy};

use crate::clock::Stopwatch;
use crate::pacing::{Background, cpu_percent};
use crate::settings::COMMAND_LIVE_PERCENT_MAX as LIVE_PERCENT_MAX;
use crate::shard::{Moving, Relocation, Shard};

/// Objects moved between two looks at the clock, some 4 us.
const BATCH: usize = 32;

/// Slabs that are emptied at the same time. A sparse slab has few objects, and the more of them are
/// on their way from memory at once, the less each costs.
const VICTIMS: usize = 8;

/// Bytes moved between two looks at the clock.
const BATCH_BYTES: usize = 64 << 10;

/// The most free pages that a shard keeps while its arena grows, and the most given back at a time
/// then, in bytes.
const DIRTY_BYTES_MAX: usize = 1 << 20;

/// How far to go for what can be gained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// While the arena grows beyond the target: whole slabs, so that it need not.
    Growth,
    /// For gain that nobody waits for.
    Background,
    /// On command, or before keys must be evicted.
    Full,
    /// On command, in these size classes alone: evacuation, and nothing that other classes take part in.
    Only(ClassSet),
}

impl Effort {
    /// How full a slab may be to be emptied, in percent. At 75 three bytes are moved for each byte
    /// gained, at 90 nine.
    fn policy(self) -> VictimPolicy {
        VictimPolicy {
            live_percent_max: match self {
                Effort::Background => 80,
                Effort::Growth | Effort::Full | Effort::Only(_) => LIVE_PERCENT_MAX,
            },
        }
    }

    /// Whether slabs are merged and packed when none can be evacuated. Not while the arena grows:
    /// the last slabs of each class fill up again by themselves then.
    fn merges(self) -> bool {
        matches!(self, Effort::Background | Effort::Full)
    }
}

/// How a slice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SliceEnd {
    /// Its time was over.
    TimeOver,
    /// No slab is left whose objects fit into fuller ones.
    NoVictim,
}

/// After a write: if the arena has grown while its slabs are sparse, moves for as long as the bytes
/// written have earned.
#[inline]
pub(crate) fn after_write(shard: &mut Shard) {
    let waste = shard.memory().waste();
    if shard.pacing().has_grown(&waste) {
        after_growth(shard);
    }
}

#[cold]
fn after_growth(shard: &mut Shard) {
    let settings = shard.settings().compaction;
    let waste = shard.memory().waste();
    let budget_ns = shard.pacing().after_growth(&waste, &settings);
    if budget_ns == 0 {
        shard.ledger().skipped_below_target += 1;
    } else {
        let stopwatch = Stopwatch::with_limit(Duration::from_nanos(budget_ns));
        slice(shard, Effort::Growth, &stopwatch);
        shard.pacing().spent(stopwatch.elapsed().as_nanos() as u64);
    }
    // The arena took new pages although it has free ones: they are too scattered for what it needs.
    let arena = shard.memory().stats();
    if settings.enabled && arena.dirty_bytes > dirty_bytes_max(arena.live_bytes + arena.large_bytes)
    {
        shard.purge_free(DIRTY_BYTES_MAX);
        shard.tell_resident();
    } else {
        shard
            .gauges()
            .set_resident_bytes(arena.resident_bytes as u64);
    }
}

/// The free pages that a shard keeps while its arena grows, in bytes: a hundredth of what is live,
/// but no more than can be given back in a fraction of a millisecond at once.
fn dirty_bytes_max(live_bytes: usize) -> usize {
    (live_bytes / 100).clamp(128 << 10, DIRTY_BYTES_MAX)
}

/// What background compaction wants at `now_ms`.
pub(crate) fn background(shard: &mut Shard, now_ms: u64) -> Background {
    let settings = shard.settings().compaction;
    let waste = shard.memory().waste();
    let wants = shard.pacing().background(&waste, now_ms, &settings);
    if matches!(wants, Background::Wait(_)) {
        shard.ledger().skipped_while_deleting += 1;
    }
    wants
}

/// The share of a core, in percent, that background compaction of this shard may take.
pub(crate) fn background_percent(shard: &Shard) -> u32 {
    cpu_percent(&shard.memory().waste(), &shard.settings().compaction)
}

/// What emptying all sparse slabs would bring and cost.
pub(crate) fn predict(shard: &Shard) -> Prediction {
    shard.memory().arena().predict()
}

/// Moves objects until the stopwatch is over or nothing is left to gain.
pub(crate) fn slice(shard: &mut Shard, effort: Effort, stopwatch: &Stopwatch) -> SliceEnd {
    let started = Stopwatch::unlimited();
    let end = loop {
        if !move_batch(shard, effort) {
            shard.ledger().skipped_no_victim += 1;
            if !matches!(effort, Effort::Only(_)) {
                shard.pacing().exhausted();
            }
            break SliceEnd::NoVictim;
        }
        if stopwatch.is_over() {
            break SliceEnd::TimeOver;
        }
    };
    let ns = started.elapsed().as_nanos() as u64;
    let ledger = shard.ledger();
    ledger.slices += 1;
    ledger.time_ns += ns;
    ledger.longest_slice_ns = ledger.longest_slice_ns.max(ns);
    end
}

/// The next slab to empty; `alone` if no other one is being emptied.
fn choose_victim(shard: &mut Shard, effort: Effort, alone: bool) -> Option<Relocation> {
    let arena = shard.memory_mut().arena_mut();
    let mut victim = match effort {
        Effort::Only(classes) => arena.next_victim_among(&effort.policy(), &classes),
        _ => arena.next_victim(&effort.policy()),
    };
    // One slab's room for guests must not be promised to another one.
    if victim.is_none() && effort.merges() && alone {
        victim = arena.next_merge();
        victim = victim.or_else(|| arena.next_packing());
        victim = victim.or_else(|| arena.next_lowering());
    }
    let victim = victim?;
    let (ledger, of_class) = shard.ledgers(victim.class(), victim.slot_bytes());
    ledger.victims += 1;
    of_class.victims += 1;
    Some(Relocation {
        victim,
        next_slot: 0,
        ends: false,
        is_stuck: false,
    })
}

/// Moves the next objects of the present victims and of new ones; false if there are none.
fn move_batch(shard: &mut Shard, effort: Effort) -> bool {
    let mut objects = [None; BATCH];
    let (mut count, mut bytes) = (0, 0);
    let mut relocations = std::mem::take(shard.relocations_mut());
    let mut index = 0;
    while count < BATCH && bytes < BATCH_BYTES {
        if index == relocations.len() {
            if index == VICTIMS {
                break;
            }
            let Some(relocation) = choose_victim(shard, effort, index == 0) else {
                break;
            };
            relocations.push(relocation);
        }
        let relocation = &mut relocations[index];
        while count < BATCH && bytes < BATCH_BYTES {
            let arena = shard.memory_mut().arena_mut();
            let Some(live) = arena.live_from(&relocation.victim, relocation.next_slot) else {
                relocation.ends = true;
                break;
            };
            shard.memory().prefetch_address(live.object);
            relocation.next_slot = live.slot + 1;
            objects[count] = Some((live.object, index));
            count += 1;
            bytes += relocation.victim.slot_bytes();
        }
        index += 1;
    }
    let any = !relocations.is_empty();
    *shard.relocations_mut() = relocations;
    move_objects(shard, &objects);
    finish_ended(shard);
    any
}

/// Moves objects, each of which lies in the victim whose number stands beside it.
fn move_objects(shard: &mut Shard, objects: &[Option<(NonNull<u8>, usize)>; BATCH]) {
    let mut moving: [Option<Moving>; BATCH] = [None; BATCH];
    for (target, (object, index)) in moving.iter_mut().zip(objects.iter().flatten()) {
        // SAFETY: the arena says that the object is live and in the victim.
        *target = unsafe { shard.prepare_move(*object, *index) };
    }
    let (mut moved, mut bytes) = (0, 0);
    let mut by_victim = [(0, 0); VICTIMS];
    let victims = objects.iter().flatten().map(|(_, victim)| *victim);
    for (moving, victim) in moving.iter().zip(victims) {
        let Some(moving) = moving else {
            continue;
        };
        // SAFETY: it was prepared above.
        let done = unsafe { shard.move_out(*moving) };
        debug_assert!(done, "an object that nobody refers to");
        moved += u64::from(done);
        bytes += moving.bytes() as u64;
        by_victim[victim].0 += u64::from(done);
        by_victim[victim].1 += moving.bytes() as u64;
    }
    let relocations = std::mem::take(shard.relocations_mut());
    for (relocation, (objects, bytes)) in relocations.iter().zip(by_victim) {
        let victim = &relocation.victim;
        let (_, of_class) = shard.ledgers(victim.class(), victim.slot_bytes());
        of_class.moved_objects += objects;
        of_class.moved_bytes += bytes;
    }
    *shard.relocations_mut() = relocations;
    let ledger = shard.ledger();
    ledger.moved_objects += moved;
    ledger.moved_bytes += bytes;
}

/// Gives the victims of which all was looked at back to the arena: their pages, if they are empty.
fn finish_ended(shard: &mut Shard) {
    let mut relocations = std::mem::take(shard.relocations_mut());
    for relocation in
        relocations.extract_if(.., |relocation| relocation.ends || relocation.is_stuck)
    {
        let (class, slot_bytes) = (relocation.victim.class(), relocation.victim.slot_bytes());
        let finished = shard.memory_mut().arena_mut().finish(relocation.victim);
        let (ledger, of_class) = shard.ledgers(class, slot_bytes);
        if finished.is_done {
            let pages = u64::from(finished.freed_pages);
            ledger.victims_released += 1;
            ledger.freed_pages += pages;
            of_class.victims_released += 1;
            of_class.freed_pages += pages;
        } else {
            ledger.skipped_no_room += 1;
            of_class.skipped_no_room += 1;
        }
    }
    *shard.relocations_mut() = relocations;
}

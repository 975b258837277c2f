//! Maintenance of the worker's shards: when it runs, and who is told when a write makes it due.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use kvstore::NextDue;

use crate::clock::{Ticks, unix_ms, uptime};
use crate::observe::latency::background_events;
use crate::process;
use crate::worker::Worker;

/// Most time spent on one shard's maintenance at a time.
const MAINTENANCE_BUDGET: Duration = Duration::from_micros(500);

/// A shard that wants no maintenance for longer than this is told of the next write.
const MAINTENANCE_REST: Duration = Duration::from_millis(25);

/// When maintenance is due no sooner than this, all that was going on is over.
const LONG_REST: Duration = Duration::from_millis(500);

/// How much less the shards must hold than before, and half at most, for pages of code to go back as well.
const SHRUNK_BYTES_MIN: u64 = 2 << 20;

/// After a shard was idle, how long its first write waits for maintenance.
const MAINTENANCE_DELAY: Duration = Duration::from_millis(5);

impl Worker {
    fn own_shards(&self) -> impl Iterator<Item = usize> + use<> {
        (self.index..self.services.keyspace.shards()).step_by(self.services.clients.workers())
    }

    /// Maintains this worker's shards and notes when that is due again.
    pub(super) fn maintain(&mut self) {
        if self.services.cron_paused.load(Ordering::Relaxed) {
            self.maintenance_due = Some(Instant::now() + Duration::from_millis(100));
            return;
        }
        let began = Ticks::now();
        let keyspace = &self.services.keyspace;
        let now_ms = unix_ms();
        let mut due = None;
        let mut compacted = false;
        for shard in self.own_shards() {
            let (mut next, took) = keyspace.maintain_timed(shard, now_ms, MAINTENANCE_BUDGET);
            for (event, took) in background_events(&took) {
                self.services.note_latency(event, took);
            }
            compacted |= took.compaction > Duration::ZERO;
            let rests = match next {
                NextDue::After(after) => after > MAINTENANCE_REST,
                NextDue::Idle => true,
            };
            if rests {
                self.services
                    .idle_shards
                    .fetch_or(1 << shard, Ordering::Release);
                // Either the fence in `wake_maintainers` comes later, and the writer sees the bit, or this one does,
                // and what the write made due is seen here.
                fence(Ordering::SeqCst);
                next = keyspace.maintain(shard, now_ms, MAINTENANCE_BUDGET);
            }
            if let NextDue::After(after) = next {
                due = Some(due.map_or(after, |before: Duration| before.min(after)));
            }
        }
        self.maintenance_due = due.map(|after| Instant::now() + after);
        let totals = &self.services.stats.worker(self.index).totals;
        totals.maintenance_ticks.add(Ticks::now().since(began));
        if compacted {
            self.services.take_sample(uptime());
        }
        let rests = due.is_none_or(|after| after >= LONG_REST) && self.all_shards_rest();
        if rests && self.services.keyspace.has_shrunk(SHRUNK_BYTES_MIN) {
            // What filled the server and emptied it again has touched most of the program, of which a small one needs a
            // third. What is needed after all comes back in some tens of faults, a microsecond each.
            process::drop_program_pages();
        }
    }

    /// Whether no shard of any worker wants maintenance soon.
    fn all_shards_rest(&self) -> bool {
        let resting = self
            .services
            .idle_shards
            .load(Ordering::Relaxed)
            .count_ones();
        resting as usize == self.services.keyspace.shards()
    }

    /// After a write: shards that wanted no maintenance, or only much later, may want it soon.
    pub(super) fn wake_maintainers(&mut self) {
        fence(Ordering::SeqCst);
        if self.services.idle_shards.load(Ordering::Relaxed) == 0 {
            return;
        }
        let idle = self.services.idle_shards.swap(0, Ordering::Acquire);
        let workers = self.services.clients.workers();
        for worker in 0..workers {
            let mut shards = (worker..self.services.keyspace.shards()).step_by(workers);
            if shards.any(|shard| idle >> shard & 1 == 1) {
                self.services.rouse(worker, self.index);
            }
        }
    }

    pub(super) fn rouse_if_asked(&mut self) {
        if self.services.take_rouse(self.index) {
            let soon = Instant::now() + MAINTENANCE_DELAY;
            self.maintenance_due = Some(self.maintenance_due.map_or(soon, |due| due.min(soon)));
        }
    }
}

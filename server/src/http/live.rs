//! Events for open pages: made once a second while there is a page, and the same for all of them.
//!
//! A page gets a few events ahead; one that falls behind is cut off, comes back by itself and starts anew, so a slow
//! reader costs no more than those few events, which all pages share.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use kvstore::{ChunkMap, ShardSet};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::heap_map::Tiles;
use super::{Hall, access, json};
use crate::clock::{unix_us, uptime};
use crate::commands::context::Services;
use crate::config::directive::Id;
use crate::observe::history::{Step, names};
use crate::observe::info::VERSION;
use slab_allocator::stats::ClassStats;

/// Connections of which no page may take one, by how many there can be: for metrics and the question of health.
fn kept_free(connections_max: usize) -> usize {
    (connections_max / 16).max(4)
}

/// Events that may wait for a page.
const EVENTS_AHEAD: usize = 8;

/// Size classes of which pages are told.
const CLASSES: usize = 16;

/// The open pages.
pub(super) struct Live {
    pages: Mutex<Vec<mpsc::Sender<Bytes>>>,
    pages_max: usize,
    count: AtomicUsize,
    /// The first event of a page, made when one is opened and kept until the next tick.
    first: Mutex<Option<Bytes>>,
    tiles: Mutex<Option<Tiles>>,
    opened: Notify,
}

impl Live {
    /// None yet, of a server that takes so many connections.
    pub(super) fn new(connections_max: usize) -> Self {
        Self {
            pages: Mutex::default(),
            pages_max: connections_max - kept_free(connections_max),
            count: AtomicUsize::new(0),
            first: Mutex::default(),
            tiles: Mutex::default(),
            opened: Notify::new(),
        }
    }

    /// How many pages are open.
    pub(super) fn pages(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The events of a new page; `None` if there are too many pages.
    pub(super) fn open(&self, services: &Services) -> Option<mpsc::Receiver<Bytes>> {
        let mut pages = self.pages.lock();
        pages.retain(|page| !page.is_closed());
        if pages.len() >= self.pages_max {
            return None;
        }
        let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
        let first = {
            let tiles = self.tiles.lock();
            let mut first = self.first.lock();
            first
                .get_or_insert_with(|| greeting(services, tiles.as_ref()))
                .clone()
        };
        // There is room: the channel is new.
        let _ = sender.try_send(first);
        pages.push(sender);
        self.count.store(pages.len(), Ordering::Relaxed);
        self.opened.notify_one();
        Some(receiver)
    }

    /// Sends an event to all pages and lets go of those that are gone or behind. Returns how many are left.
    fn send(&self, event: &Bytes) -> usize {
        let mut pages = self.pages.lock();
        pages.retain(|page| page.try_send(event.clone()).is_ok());
        self.count.store(pages.len(), Ordering::Relaxed);
        pages.len()
    }

    fn close_all(&self) {
        self.pages.lock().clear();
        self.count.store(0, Ordering::Relaxed);
    }
}

/// Runs as long as the thread does.
pub(super) async fn run(hall: Arc<Hall>) {
    let services = &hall.services;
    let live = &hall.live;
    let mut password = services.config.text(Id::HttpPassword);
    loop {
        while live.pages() == 0 {
            *live.tiles.lock() = None;
            *live.first.lock() = None;
            live.opened.notified().await;
        }
        let mut map = ChunkMap::default();
        *live.tiles.lock() = Some(Tiles::new(services.keyspace.shards()));
        loop {
            let now = services.config.text(Id::HttpPassword);
            if now != password {
                // Whoever has a page open has to bring the new one.
                password = now;
                live.close_all();
                break;
            }
            let event = Bytes::from(tick(&hall, &mut map));
            *live.first.lock() = None;
            if live.send(&event) == 0 {
                break;
            }
            tokio::time::sleep(until_next_second()).await;
        }
    }
}

/// How long it is until the next second since the start has begun.
fn until_next_second() -> Duration {
    let passed = Duration::from_nanos(u64::from(uptime().subsec_nanos()));
    Duration::from_secs(1) - passed + Duration::from_millis(5)
}

/// What a new page has to know first.
fn greeting(services: &Services, tiles: Option<&Tiles>) -> Bytes {
    let mut out = String::from("retry: 2000\nevent: hello\ndata: {");
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "\"version\":\"{VERSION}\",\"started\":{},\"port\":{},\"workers\":{},\"actions\":{},\"figures\":[",
        services.identity.started_unix_seconds,
        services.listeners.tcp_port(),
        services.clients.workers(),
        access::allows_actions(&services.config),
    );
    for (at, (name, unit)) in names().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, "{comma}[\"{name}\",\"{}\"]", unit.name());
    }
    out.push_str("]}\n\n");
    if let Some(tiles) = tiles {
        let _ = write!(out, "event: tiles\ndata: {}\n\n", tiles.all());
    }
    out.into()
}

/// The events of one second.
fn tick(hall: &Hall, map: &mut ChunkMap) -> String {
    let services = &hall.services;
    services.look();
    let now = uptime();
    let read = services.history.read(Step::Second, 1, now);
    let started = (unix_us() / 1_000_000).saturating_sub(now.as_secs());
    let mut out = format!(
        "event: second\ndata: {{\"t\":{},\"figures\":",
        started + u64::from(read.start)
    );
    json::list(&mut out, read.last());
    let mut changed = None;
    let mut chunks = 0;
    if let Some(tiles) = hall.live.tiles.lock().as_mut() {
        changed = tiles.go_on(&services.keyspace, map);
        chunks = tiles.chunks();
    }
    let _ = write!(
        out,
        ",\"uptime\":{},\"pages\":{},\"chunks\":{chunks},\"acting\":{},\"classes\":[",
        now.as_secs(),
        hall.live.pages(),
        hall.acting.load(Ordering::Relaxed),
    );
    let mut classes = classes(services);
    classes.sort_by_key(|class| std::cmp::Reverse(u64::from(class.free) * class.slot_bytes as u64));
    for (at, class) in classes.iter().take(CLASSES).enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        let numbers = [
            class.slot_bytes as u64,
            class.slabs.into(),
            class.live.into(),
            class.free.into(),
        ];
        json::list(&mut out, numbers.map(|number| number as i64));
    }
    out.push_str("],\"compaction\":");
    let ledger = services.keyspace_statistics().compaction;
    let numbers = [
        ledger.victims,
        ledger.victims_released,
        ledger.moved_objects,
        ledger.moved_bytes,
        ledger.freed_pages,
        ledger.slices,
        ledger.time_ns / 1000,
        ledger.longest_slice_ns / 1000,
        ledger.purged_bytes,
    ];
    json::list(&mut out, numbers.map(|number| number as i64));
    out.push_str("}\n\n");
    if let Some(changed) = changed {
        let _ = write!(out, "event: tiles\ndata: {changed}\n\n");
    }
    out
}

/// The size classes of the keyspace, locking one shard after the other.
pub(super) fn classes(services: &Services) -> Vec<ClassStats> {
    let mut sums: Vec<ClassStats> = Vec::new();
    for shard in 0..services.keyspace.shards() {
        let classes = services.keyspace.lock(ShardSet::one(shard)).size_classes();
        for class in classes {
            match sums
                .iter_mut()
                .find(|sum| sum.slot_bytes == class.slot_bytes)
            {
                Some(sum) => {
                    sum.slabs += class.slabs;
                    sum.live += class.live;
                    sum.free += class.free;
                }
                None => sums.push(class),
            }
        }
    }
    sums.retain(|class| class.slabs > 0);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_never_reads_keeps_a_few_events_and_is_let_go() {
        let live = Live::new(100);
        let (sender, mut idle) = mpsc::channel(EVENTS_AHEAD);
        let (other, mut busy) = mpsc::channel(EVENTS_AHEAD);
        live.pages.lock().extend([sender, other]);
        for n in 0..3 * EVENTS_AHEAD {
            let left = live.send(&Bytes::from(vec![n as u8; 1000]));
            assert_eq!(left, if n < EVENTS_AHEAD { 2 } else { 1 });
            assert_eq!(live.pages(), left);
            assert_eq!(busy.try_recv().map(|event| event[0]), Ok(n as u8));
        }
        // What it had not read is all that it kept; then comes the end.
        for n in 0..EVENTS_AHEAD {
            assert_eq!(idle.try_recv().map(|event| event[0]), Ok(n as u8));
        }
        assert_eq!(
            idle.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
        drop(busy);
        assert_eq!(live.send(&Bytes::new()), 0);
    }
}

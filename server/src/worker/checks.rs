//! Looking clients over: those that are silent, that do not read, or that take too much memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clients::ClientFlags;
use crate::clock::unix_ms;
use crate::config::directive::Id;
use crate::log::Level;
use crate::worker::Worker;
use crate::worker::peer::End;

impl Worker {
    /// Whether something about clients depends on time.
    pub(super) fn needs_checks(&self) -> bool {
        let config = &self.services.config;
        self.scratch.check_wanted
            || config.is_set(Id::Timeout)
            || config.is_set(Id::MaxMemoryClients)
    }

    /// How often clients are looked over while that is needed: as `hz` says, less often if they are many.
    pub(super) fn check_interval(&self) -> Duration {
        let hz = self.services.config.size(Id::Hz).clamp(1, 500);
        let by_clients = Duration::from_micros(self.peers.len() as u64 * 100);
        (Duration::from_secs(1) / hz as u32).max(by_clients)
    }

    /// Closes clients that were silent for too long, or did not read their replies for too long, and has others give
    /// up buffers that they do not use.
    pub(super) fn check_clients(&mut self) {
        if self.services.cron_paused.load(Ordering::Relaxed) {
            self.check_due = Some(Instant::now() + self.check_interval());
            return;
        }
        let now_ms = unix_ms();
        let mut again = false;
        for place in 0..self.peers.len() {
            let Some(peer) = &mut self.peers[place] else {
                continue;
            };
            match peer.check(&self.services, now_ms) {
                Ok(wanted) => again |= wanted,
                Err(end) => self.close(place, &end),
            }
        }
        self.evict_clients();
        self.scratch.check_wanted = again;
        self.check_due = self
            .needs_checks()
            .then(|| Instant::now() + self.check_interval());
    }

    /// Closes the clients with the most memory while all clients together take more than `maxmemory-clients`.
    fn evict_clients(&mut self) {
        let services = Arc::clone(&self.services);
        let limit = match services.config.number(Id::MaxMemoryClients) {
            0 => return,
            percent if percent < 0 => {
                services.config.size(Id::MaxMemory) as u64 / 100 * percent.unsigned_abs()
            }
            bytes => bytes.unsigned_abs(),
        };
        let mut excess = services.clients.memory_bytes().saturating_sub(limit);
        if limit == 0 || excess == 0 {
            return;
        }
        let mut own: Vec<(usize, u64)> = Vec::new();
        for (place, peer) in self.peers.iter().enumerate() {
            let client = peer.as_ref().map(|peer| &peer.session.client);
            if let Some(client) =
                client.filter(|client| !client.flags().contains(ClientFlags::NO_EVICT))
            {
                own.push((place, client.memory_bytes() as u64));
            }
        }
        own.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        for (place, bytes) in own {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            services
                .stats
                .worker(self.index)
                .totals
                .evicted_clients
                .add(1);
            services.log.write(
                Level::Notice,
                format_args!("Evicting client of {bytes} bytes"),
            );
            self.close(place, &End::Closed);
        }
    }
}

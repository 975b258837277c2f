//! When compaction works, and for how long. Pure: waste, time and settings are passed in.
//!
//! Two things call for it, and each has its own pace.
//!
//! *Growth pays at once.* Every byte written earns a nanosecond of moving. When the arena takes new
//! pages from the system while its slabs hold more free slots than the target allows, what was
//! earned is spent before the next command. By simulation this holds the resident size at 1.09
//! times the live bytes over all changing workloads for 2.3 % of the CPU, where a share of CPU
//! alone, be it 25 %, does not.
//!
//! *Deletes wait until they pause.* Moving what a running mass delete is about to delete costs
//! seven bytes moved per surviving byte, against 0.8 once it is over. So the background work begins
//! when hardly anything has been freed for some tens of milliseconds, and then takes a share of one
//! core until no slab is left whose survivors fit elsewhere.

use slab_allocator::stats::Waste;

use crate::settings::CompactionSettings;

/// The longest slice, in nanoseconds: what a command may have to wait for. Short enough not to be
/// told from what the network and the scheduler do, and long enough for a few hundred objects.
pub(crate) const SLICE_NS_MAX: u64 = 100_000;

/// The most that is moved at once for what writes have earned, in nanoseconds.
const GROWTH_NS_MAX: u64 = 500_000;

/// Moving that a burst of writes may have saved up, in nanoseconds.
const CREDIT_NS_MAX: u64 = 10_000_000;

/// How long hardly anything must have been freed before background work begins.
const PAUSE_MS: u64 = 20;

/// Freed bytes in the time of a pause that count as hardly anything: this part of the free slots.
const QUIET_PART: u64 = 512;

/// What one shard has earned, and what it has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pacing {
    credit_ns: u64,
    written_bytes: u64,
    written_seen: u64,
    fresh_seen: u64,
    freed_bytes: u64,
    window_start_ms: u64,
    freed_at_start: u64,
    quiet: bool,
    /// Background work has begun and has not run out of victims.
    working: bool,
    /// No victim was found, and nothing was freed since.
    exhausted_at_freed: Option<u64>,
}

/// What background compaction should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Background {
    /// Move.
    Run,
    /// Look again at this time, in milliseconds.
    Wait(u64),
    /// There is nothing to gain.
    Nothing,
}

impl Pacing {
    /// Bytes were written into new or changed entries.
    #[inline]
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.credit_ns += bytes as u64;
        self.written_bytes += bytes as u64;
    }

    /// Whether nothing was written since this was last asked.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let quiet = self.written_bytes == self.written_seen;
        self.written_seen = self.written_bytes;
        quiet
    }

    /// Slots were freed.
    #[inline]
    pub(crate) fn freed(&mut self, bytes: usize) {
        self.freed_bytes += bytes as u64;
    }

    /// Whether the arena has taken pages from the system since this was last asked.
    #[inline]
    pub(crate) fn has_grown(&mut self, waste: &Waste) -> bool {
        let grown = waste.fresh_bytes_total != self.fresh_seen;
        self.fresh_seen = waste.fresh_bytes_total;
        grown
    }

    /// After growth: for how many nanoseconds to move at once; 0 if free slots are within the target.
    pub(crate) fn after_growth(&mut self, waste: &Waste, settings: &CompactionSettings) -> u64 {
        self.credit_ns = self.credit_ns.min(CREDIT_NS_MAX);
        let over = u64::from(settings.target_percent.saturating_sub(100));
        if !settings.enabled || !exceeds(waste, over, settings) {
            return 0;
        }
        self.credit_ns.min(GROWTH_NS_MAX)
    }

    /// Moving took this long.
    pub(crate) fn spent(&mut self, ns: u64) {
        self.credit_ns = self.credit_ns.saturating_sub(ns);
    }

    /// No slab is left whose objects fit into fuller ones.
    pub(crate) fn exhausted(&mut self) {
        self.working = false;
        self.exhausted_at_freed = Some(self.freed_bytes);
    }

    /// What background compaction should do at `now_ms`.
    pub(crate) fn background(
        &mut self,
        waste: &Waste,
        now_ms: u64,
        settings: &CompactionSettings,
    ) -> Background {
        // What has begun goes on as far as it goes.
        let nothing = !settings.enabled
            || !(self.working || exceeds(waste, u64::from(settings.start_percent), settings))
            || self
                .exhausted_at_freed
                .is_some_and(|freed| freed == self.freed_bytes);
        if nothing {
            return Background::Nothing;
        }
        // A clock that was set back begins a new window.
        let elapsed_ms = now_ms.checked_sub(self.window_start_ms).unwrap_or(PAUSE_MS);
        if elapsed_ms >= PAUSE_MS {
            let freed = self.freed_bytes - self.freed_at_start;
            self.quiet =
                freed <= waste.free_bytes as u64 / QUIET_PART * (elapsed_ms / PAUSE_MS).min(50);
            self.window_start_ms = now_ms;
            self.freed_at_start = self.freed_bytes;
        }
        if self.quiet {
            self.working = true;
            Background::Run
        } else {
            Background::Wait(self.window_start_ms + PAUSE_MS)
        }
    }
}

/// Whether free slots take more than `percent` of the live bytes, and enough to be worth an effort.
fn exceeds(waste: &Waste, percent: u64, settings: &CompactionSettings) -> bool {
    let (free, live) = (waste.free_bytes as u64, waste.live_bytes as u64);
    free > settings.ignore_bytes && free * 100 > live * percent
}

/// The share of one core, in percent, that background compaction takes: it rises with the waste
/// from the least to the most that the settings allow.
pub(crate) fn cpu_percent(waste: &Waste, settings: &CompactionSettings) -> u32 {
    let (least, most) = (
        settings.cpu_percent_min.max(1),
        settings.cpu_percent_max.max(1),
    );
    let percent = (waste.resident_slab_bytes as u64 * 100)
        .checked_div(waste.live_bytes as u64)
        .unwrap_or(u64::MAX);
    let lower = 100 + u64::from(settings.start_percent);
    let upper = u64::from(settings.upper_percent).max(lower + 1);
    if percent >= upper || least >= most {
        return most.max(least).min(100);
    }
    let above = percent.saturating_sub(lower);
    (least + (u64::from(most - least) * above / (upper - lower)) as u32).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waste(live: usize, resident: usize, fresh: u64) -> Waste {
        Waste {
            resident_slab_bytes: resident,
            live_bytes: live,
            free_bytes: resident - live,
            fresh_bytes_total: fresh,
        }
    }

    #[test]
    fn growth_over_the_target_spends_what_writes_earned() {
        let (mut pacing, settings) = (Pacing::default(), CompactionSettings::default());
        let dense = waste(10 << 20, 105 << 17, 1);
        let sparse = waste(10 << 20, 12 << 20, 1);
        pacing.wrote(20_000);
        assert!(pacing.has_grown(&dense));
        assert!(!pacing.has_grown(&dense));
        assert_eq!(
            pacing.after_growth(&waste(10 << 20, 10 << 20, 1), &settings),
            0
        );
        assert_eq!(pacing.after_growth(&sparse, &settings), 20_000);
        pacing.spent(15_000);
        assert_eq!(pacing.after_growth(&sparse, &settings), 5_000);
        pacing.wrote(1 << 30);
        assert_eq!(pacing.after_growth(&sparse, &settings), GROWTH_NS_MAX);
        let off = CompactionSettings {
            enabled: false,
            ..settings
        };
        assert_eq!(pacing.after_growth(&sparse, &off), 0);
        // Less than is worth an effort, however large its share.
        assert_eq!(
            pacing.after_growth(&waste(1 << 10, 50 << 10, 1), &settings),
            0
        );
    }

    #[test]
    fn background_waits_for_a_burst_of_frees_to_pause() {
        let (mut pacing, settings) = (Pacing::default(), CompactionSettings::default());
        let sparse = waste(10 << 20, 100 << 20, 1);
        pacing.freed(10 << 20);
        assert_eq!(
            pacing.background(&sparse, 1_000, &settings),
            Background::Wait(1_020)
        );
        pacing.freed(10 << 20);
        assert_eq!(
            pacing.background(&sparse, 1_010, &settings),
            Background::Wait(1_020)
        );
        assert_eq!(
            pacing.background(&sparse, 1_020, &settings),
            Background::Wait(1_040)
        );
        // A trickle does not count.
        pacing.freed(10 << 10);
        assert_eq!(
            pacing.background(&sparse, 1_040, &settings),
            Background::Run
        );
        assert_eq!(
            pacing.background(&sparse, 1_042, &settings),
            Background::Run
        );
        pacing.exhausted();
        assert_eq!(
            pacing.background(&sparse, 1_044, &settings),
            Background::Nothing
        );
        pacing.freed(1);
        assert_eq!(
            pacing.background(&sparse, 1_046, &settings),
            Background::Run
        );
        // What has begun goes on below the percentage at which it starts.
        let denser = waste(400 << 20, 401 << 20, 1);
        assert_eq!(
            pacing.background(&denser, 1_048, &settings),
            Background::Run
        );
        pacing.exhausted();
        pacing.freed(1);
        assert_eq!(
            pacing.background(&denser, 1_050, &settings),
            Background::Nothing
        );
        // The clock was set back.
        assert_eq!(pacing.background(&sparse, 5, &settings), Background::Run);
    }

    #[test]
    fn the_share_of_cpu_follows_the_waste() {
        let settings = CompactionSettings::default();
        assert_eq!(cpu_percent(&waste(100, 100, 0), &settings), 1);
        assert_eq!(cpu_percent(&waste(1000, 1055, 0), &settings), 11);
        assert_eq!(cpu_percent(&waste(100, 1000, 0), &settings), 25);
        assert_eq!(cpu_percent(&waste(0, 1000, 0), &settings), 25);
        let odd = CompactionSettings {
            cpu_percent_min: 300,
            cpu_percent_max: 0,
            ..settings
        };
        assert_eq!(cpu_percent(&waste(100, 100, 0), &odd), 100);
    }
}

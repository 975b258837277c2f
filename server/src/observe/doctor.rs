//! MEMORY DOCTOR: advice that follows from the numbers. Each piece says what is the matter, what to do, and what that gains.

use kvstore::{ClassForecast, Forecast, PAGE_BYTES};

use crate::observe::memory::{MemoryReport, human};
use crate::process::GroupMemory;

/// Below this much memory, ratios say nothing.
const LITTLE_BYTES: u64 = 5 << 20;
/// What is not worth a word.
const TRIFLE_BYTES: u64 = 10 << 20;
/// Resident against used, in percent, from which on a server counts as fragmented.
const FRAGMENTED_PERCENT: u64 = 150;
/// What a client may hold on average.
const CLIENT_BYTES_MAX: u64 = 200 << 10;
/// Most size classes that are named.
const CLASSES_NAMED_MAX: usize = 4;

/// What the advice follows from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Where the memory is.
    pub(crate) report: MemoryReport,
    /// What compaction would gain.
    pub(crate) forecast: Forecast,
    /// Clients that are connected.
    pub(crate) clients: u64,
    /// Whether compaction works by itself.
    pub(crate) compacts: bool,
    /// Whether the kernel gives huge pages to whoever does not decline them, and this process does not.
    pub(crate) huge_pages: bool,
    /// The control group with the tightest limit.
    pub(crate) group: Option<GroupMemory>,
}

/// The advice, one piece a line.
pub(crate) fn advise(facts: &Facts) -> Vec<String> {
    let report = &facts.report;
    let (used, resident) = (report.used_bytes(), report.system.resident_bytes);
    let mut advice = Vec::new();
    if let Some(group) = facts.group
        && group.usage_bytes * 10 >= group.limit_bytes * 9
    {
        let (usage, limit) = (human(group.usage_bytes), human(group.limit_bytes));
        advice.push(format!(
            "The control group uses {usage} of its limit of {limit}, beyond which the kernel ends processes. Raise the \
             limit, or set maxmemory below it with maxmemory-measure resident and a maxmemory-policy that evicts."
        ));
    }
    if used < LITTLE_BYTES {
        advice.push(
            "So little memory is in use that its ratios say nothing. Ask again when there is data."
                .into(),
        );
        return advice;
    }
    if resident < used {
        let missing = human(used - resident);
        advice.push(format!(
            "{missing} of what is in use are not resident: the system has swapped them out, and commands wait for the \
             disk. Give the machine more memory, or set maxmemory below {}.",
            human(resident)
        ));
    }
    compaction(facts, used, resident, &mut advice);
    let dirty = report.keyspace.memory.dirty_bytes;
    if dirty > used / 4 && dirty > TRIFLE_BYTES {
        let dirty = human(dirty);
        advice.push(format!(
            "{dirty} are free pages that will be given back shortly; MEMORY PURGE gives them back now."
        ));
    }
    if report.peak_bytes > used + used / 2 {
        let (peak, used) = (human(report.peak_bytes), human(used));
        advice.push(format!(
            "The peak was {peak}, now {used} are in use: the machine needs room for the peak. CONFIG RESETSTAT forgets \
             it, so that INFO memorymap shows whether it comes again."
        ));
    }
    let mean = report.client_bytes / facts.clients.max(1);
    if mean > CLIENT_BYTES_MAX {
        let (all, mean) = (human(report.client_bytes), human(mean));
        advice.push(format!(
            "Clients hold {all}, {mean} each on average: some do not read their replies, or send large requests. CLIENT \
             LIST shows which (omem, qbuf); client-output-buffer-limit bounds it, CLIENT KILL gives it back."
        ));
    }
    let heap = &report.heap;
    let heap_free = heap.free_bytes();
    if heap_free > TRIFLE_BYTES && heap_free > heap.live_bytes {
        let free = human(heap_free);
        advice.push(format!(
            "{free} of the process's heap are free, left behind by clients' buffers; MEMORY PURGE gives back what can be."
        ));
    }
    if facts.huge_pages {
        advice.push(
            "The kernel gives huge pages to every process, also to this one: a few live bytes can keep 2M resident. Set \
             disable-thp yes and restart, or write madvise to /sys/kernel/mm/transparent_hugepage/enabled."
                .into(),
        );
    }
    let residue = report.residue_bytes();
    if residue.unsigned_abs() > TRIFLE_BYTES.max(resident / 20) {
        let bytes = human(residue.unsigned_abs());
        let sign = if residue < 0 { "fewer" } else { "more" };
        advice.push(format!(
            "{bytes} {sign} are resident than is measured part by part. INFO memorymap shows the parts; please report it."
        ));
    }
    if advice.is_empty() {
        advice.push("No problem found.".into());
    }
    advice
}

/// What compaction would gain, and where.
fn compaction(facts: &Facts, used: u64, resident: u64, advice: &mut Vec<String>) {
    let total = facts.forecast.total();
    let gain = total.freed_pages * PAGE_BYTES as u64;
    let is_fragmented =
        resident * 100 > used * FRAGMENTED_PERCENT && resident - used > TRIFLE_BYTES;
    if !is_fragmented && gain < (used / 5).max(TRIFLE_BYTES) {
        return;
    }
    if gain < TRIFLE_BYTES {
        let beyond = human(resident - used);
        advice.push(format!(
            "{beyond} are resident beyond what is in use, and compaction would gain little. INFO memorymap says in which \
             part they are."
        ));
        return;
    }
    let (bytes, ratio) = (human(gain), resident as f64 / used as f64);
    let ms = facts
        .forecast
        .time_ns(&total, &facts.report.keyspace.compaction) as f64
        / 1e6;
    let how = match facts.compacts {
        true => "Compaction waits for deletes to pause; MEMORY COMPACT has it work at once",
        false => {
            "Compaction is off: CONFIG SET activedefrag yes has it work by itself, MEMORY COMPACT at once"
        }
    };
    advice.push(format!(
        "Resident are {ratio:.2} times what is in use. {how}; it would gain {bytes} for {ms:.0} ms of moving."
    ));
    let mut classes: Vec<&ClassForecast> = facts.forecast.classes.iter().collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.freed_pages));
    let few = &classes[..classes.len().min(CLASSES_NAMED_MAX)];
    let of_few: u64 = few.iter().map(|class| class.freed_pages).sum();
    if classes.len() > 2 * CLASSES_NAMED_MAX && of_few * 10 >= total.freed_pages * 9 {
        let names: Vec<String> = few
            .iter()
            .map(|class| class.slot_bytes.to_string())
            .collect();
        advice.push(format!(
            "{} of that lie in a few size classes: MEMORY COMPACT {} works on these alone.",
            human(of_few * PAGE_BYTES as u64),
            names.join(" ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mappings::OutsideMemory;

    const MB: u64 = 1 << 20;

    /// A server that uses 100 MB and has nothing to complain about.
    fn healthy() -> Facts {
        let mut facts = Facts {
            clients: 10,
            compacts: true,
            ..Facts::default()
        };
        facts.report.keyspace.memory.value_bytes = 98 * MB;
        facts.report.heap.live_bytes = 2 * MB;
        facts.report.outside = OutsideMemory {
            code_bytes: 4 * MB,
            ..OutsideMemory::default()
        };
        facts.report.peak_bytes = 100 * MB;
        facts.report.client_bytes = MB;
        facts.report.system.resident_bytes = 104 * MB;
        facts
    }

    /// The same with some free slots, which are resident, and what compaction would gain of them.
    fn sparse(free: u64, gain: u64, classes: u32) -> Facts {
        let mut facts = healthy();
        facts.report.keyspace.memory.free_slot_bytes = free;
        facts.report.system.resident_bytes += free;
        facts.forecast.classes = (1..=classes)
            .map(|class| ClassForecast {
                slot_bytes: 8 * class,
                freed_pages: if class == 3 {
                    gain / PAGE_BYTES as u64
                } else {
                    0
                },
                ..ClassForecast::default()
            })
            .collect();
        facts
    }

    fn says(facts: &Facts, words: &[&str]) {
        let advice = advise(facts).join("\n");
        for word in words {
            assert!(advice.contains(word), "{word} is missing in: {advice}");
        }
        assert!(!advice.contains("No problem"), "{advice}");
    }

    #[test]
    fn a_healthy_server_gets_no_advice() {
        assert_eq!(advise(&healthy()), ["No problem found."]);
    }

    #[test]
    fn little_memory_is_no_problem() {
        let mut facts = healthy();
        facts.report.keyspace.memory.value_bytes = MB;
        facts.report.system.resident_bytes = 30 * MB;
        says(&facts, &["So little memory"]);
    }

    #[test]
    fn fragmentation_is_told_with_what_compaction_gains() {
        let facts = sparse(90 * MB, 80 * MB, 3);
        says(
            &facts,
            &["1.94 times", "80.00M", "deletes to pause", "MEMORY COMPACT"],
        );
        assert_eq!(advise(&facts).len(), 1);
        let off = Facts {
            compacts: false,
            ..facts
        };
        says(&off, &["activedefrag yes", "80.00M"]);
        says(&sparse(90 * MB, 80 * MB, 20), &["MEMORY COMPACT 24 "]);
        says(&sparse(90 * MB, MB, 3), &["compaction would gain little"]);
    }

    #[test]
    fn less_resident_than_used_is_swapping() {
        let mut facts = healthy();
        facts.report.system.resident_bytes = 60 * MB;
        says(&facts, &["swapped", "40.00M", "maxmemory"]);
    }

    #[test]
    fn a_peak_long_past_is_told() {
        let mut facts = healthy();
        facts.report.peak_bytes = 300 * MB;
        says(&facts, &["The peak was 300.00M"]);
    }

    #[test]
    fn clients_that_hold_much_are_told() {
        let mut facts = healthy();
        facts.report.client_bytes = 30 * MB;
        says(&facts, &["Clients hold 30.00M, 3.00M each", "CLIENT LIST"]);
    }

    #[test]
    fn free_pages_are_told() {
        let mut facts = healthy();
        facts.report.keyspace.memory.dirty_bytes = 30 * MB;
        facts.report.system.resident_bytes += 30 * MB;
        says(&facts, &["30.00M are free pages", "MEMORY PURGE"]);
        let mut facts = healthy();
        facts.report.heap.dirty_bytes = 20 * MB;
        facts.report.system.resident_bytes += 20 * MB;
        says(&facts, &["20.00M of the process's heap"]);
    }

    #[test]
    fn huge_pages_are_told() {
        let facts = Facts {
            huge_pages: true,
            ..healthy()
        };
        says(&facts, &["huge pages", "disable-thp"]);
    }

    #[test]
    fn a_limit_that_is_near_is_told() {
        let near = GroupMemory {
            usage_bytes: 95 * MB,
            limit_bytes: 100 * MB,
        };
        let mut facts = healthy();
        facts.group = Some(near);
        says(
            &facts,
            &[
                "95.00M of its limit of 100.00M",
                "maxmemory-measure resident",
            ],
        );
        facts.group = Some(GroupMemory {
            usage_bytes: 50 * MB,
            ..near
        });
        assert_eq!(advise(&facts), ["No problem found."]);
    }

    #[test]
    fn a_residue_that_is_large_is_told() {
        let mut facts = healthy();
        facts.report.system.resident_bytes += 30 * MB;
        says(&facts, &["30.00M more are resident"]);
    }
}

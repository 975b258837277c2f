//! How many free pages may stay resident: a computation on numbers, with the
//! clock passed in. The caller gives the pages back.
//!
//! Pages that became dirty within one step of time are allowed to stay in full
//! at first and not at all after [`STEPS`] steps; in between the share falls
//! along a smooth S-curve (`6x^5 - 15x^4 + 10x^3`, K. Perlin's "Improving
//! noise", SIGGRAPH 2002), so that short-lived peaks are kept for reuse and
//! nothing is given back all at once. jemalloc introduced this form of decay.

/// Steps into which the decay time is cut.
const STEPS: usize = 64;
/// The curve's value 1.
const ONE: u64 = 1 << 16;

/// `CURVE[i]`: the share of pages allowed to stay `i` steps after they became
/// dirty, as a multiple of 2^-16. Falls from 1 to 0.
const CURVE: [u32; STEPS + 1] = {
    let mut curve = [0; STEPS + 1];
    let n = STEPS as u64;
    let mut i = 0;
    while i <= STEPS {
        let x = n - i as u64;
        let value = 6 * x * x * x * x * x + 10 * n * n * x * x * x - 15 * n * x * x * x * x;
        curve[i] = (value * ONE / (n * n * n * n * n)) as u32;
        i += 1;
    }
    curve
};

/// The decay of one heap's dirty pages.
#[derive(Clone, Debug)]
pub(crate) struct Decay {
    /// Length of a step; 0 where dirty pages may not stay at all.
    step_ms: u64,
    /// Start of the present step; `None` before the first call.
    step_start_ms: Option<u64>,
    /// `added[i]`: pages that became dirty `i` steps ago.
    added: [u32; STEPS],
    /// Dirty pages that the last step has accounted for.
    known: u32,
}

impl Decay {
    /// A decay over `decay_ms` milliseconds.
    pub(crate) fn new(decay_ms: u32) -> Decay {
        Decay {
            step_ms: match decay_ms {
                0 => 0,
                _ => (u64::from(decay_ms) / STEPS as u64).max(1),
            },
            step_start_ms: None,
            added: [0; STEPS],
            known: 0,
        }
    }

    /// How many of the `dirty` pages may stay at `now_ms`. A clock that goes
    /// back counts as standing still.
    pub(crate) fn allowed(&mut self, now_ms: u64, dirty: u32) -> u32 {
        if self.step_ms == 0 {
            return 0;
        }
        let start = *self.step_start_ms.get_or_insert(now_ms);
        let steps = now_ms.saturating_sub(start) / self.step_ms;
        if steps > 0 {
            self.step_start_ms = Some(start + steps * self.step_ms);
            self.age(steps.min(STEPS as u64) as usize);
        }
        self.added[0] = self.added[0].saturating_add(dirty.saturating_sub(self.known));
        let allowed = self.allowed_after(0).min(dirty);
        // The caller goes down to `allowed`; what becomes dirty beyond that is
        // new.
        self.known = allowed;
        allowed
    }

    /// Tells that the caller has kept `dirty` pages after all, because the
    /// system refused them or because a budget was spent: they are not new.
    pub(crate) fn kept(&mut self, dirty: u32) {
        self.known = dirty;
    }

    /// When the next of the `dirty` pages are due: the first step at which at
    /// least an eighth of them, or the last of them, must go. `None` while
    /// nothing is dirty.
    pub(crate) fn next_due_ms(&self, now_ms: u64, dirty: u32) -> Option<u64> {
        if dirty == 0 {
            return None;
        }
        let start = match self.step_start_ms {
            Some(start) if self.step_ms > 0 => start,
            _ => return Some(now_ms),
        };
        let keep = u64::from(dirty - dirty.div_ceil(8));
        // The allowance falls with every step, so the first step that
        // undercuts is found by bisection.
        let (mut early, mut due) = (0, STEPS);
        while early + 1 < due {
            let middle = early + (due - early) / 2;
            if u64::from(self.allowed_after(middle)) <= keep {
                due = middle;
            } else {
                early = middle;
            }
        }
        Some((start + due as u64 * self.step_ms).max(now_ms))
    }

    /// Pages that may stay `steps` steps from now.
    fn allowed_after(&self, steps: usize) -> u32 {
        let sum: u64 = self
            .added
            .iter()
            .zip(&CURVE[steps.min(STEPS)..])
            .map(|(pages, share)| u64::from(*pages) * u64::from(*share))
            .sum();
        (sum / ONE).min(u64::from(u32::MAX)) as u32
    }

    fn age(&mut self, steps: usize) {
        self.added.copy_within(..STEPS - steps, steps);
        self.added[..steps].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_curve_falls_from_all_to_none() {
        assert_eq!((u64::from(CURVE[0]), CURVE[STEPS]), (ONE, 0));
        assert!(CURVE.windows(2).all(|pair| pair[0] >= pair[1]));
        assert_eq!(u64::from(CURVE[STEPS / 2]), ONE / 2);
    }

    #[test]
    fn one_burst_is_gone_after_the_decay_time() {
        let mut decay = Decay::new(1000);
        let mut dirty = decay.allowed(5000, 1000);
        assert_eq!(dirty, 1000);
        let mut half = None;
        for now in 5000..6000 {
            let allowed = decay.allowed(now, dirty);
            assert!(allowed <= dirty);
            dirty = allowed;
            if dirty <= 500 {
                half.get_or_insert(now);
            }
        }
        assert!((5450..5550).contains(&half.unwrap()));
        assert_eq!(decay.allowed(6001, dirty), 0);
        assert_eq!(decay.next_due_ms(6001, 0), None);
    }

    #[test]
    fn no_decay_time_keeps_nothing() {
        let mut decay = Decay::new(0);
        assert_eq!(decay.allowed(3, 1000), 0);
        assert_eq!(decay.next_due_ms(3, 1000), Some(3));
    }

    #[test]
    fn a_sleeper_that_comes_when_told_purges_all_in_few_calls() {
        let mut decay = Decay::new(1000);
        let mut now = 0;
        let mut dirty = 100_000;
        let mut calls = 0;
        loop {
            dirty = decay.allowed(now, dirty);
            calls += 1;
            match decay.next_due_ms(now, dirty) {
                Some(due) => {
                    assert!(due > now);
                    now = due;
                }
                None => break,
            }
        }
        assert_eq!(dirty, 0);
        assert!(now <= 1000 && calls <= 40, "{calls} calls until {now}");
    }

    proptest! {
        #[test]
        fn pages_stay_no_longer_than_the_decay_time(
            decay_ms in 1u32..20_000,
            steps in prop::collection::vec((0u32..5000, 0u64..500, any::<bool>()), 1..100),
        ) {
            let mut decay = Decay::new(decay_ms);
            let (mut now, mut dirty) = (0u64, 0u32);
            for (pages, elapsed, reuse) in steps {
                now += elapsed;
                dirty = if reuse { dirty.saturating_sub(pages) } else { dirty + pages };
                let allowed = decay.allowed(now, dirty);
                prop_assert!(allowed <= dirty);
                dirty = allowed;
            }
            prop_assert_eq!(decay.allowed(now + u64::from(decay_ms.max(64)) + 1, dirty), 0);
        }

        #[test]
        fn pages_that_were_kept_do_not_count_as_new(dirty in 1u32..100_000) {
            let mut decay = Decay::new(640);
            decay.allowed(0, dirty);
            for now in (0..=640).step_by(10) {
                decay.allowed(now, dirty);
                decay.kept(dirty);
            }
            prop_assert_eq!(decay.allowed(641, dirty), 0);
        }
    }
}

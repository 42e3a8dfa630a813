//! How long an actor that panicked stays down. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The figures.
#[derive(Clone, Copy, Debug)]
pub struct BackoffSettings {
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub cap: Duration,
    /// This many panics …
    pub limit: usize,
    /// … within this time are too many:
    pub window: Duration,
    /// nothing is tried for this long.
    pub quarantine: Duration,
    /// Without a panic for this long, pauses begin at `first` again.
    pub forget: Duration,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            limit: 5,
            window: Duration::from_secs(60),
            quarantine: Duration::from_secs(600),
            forget: Duration::from_secs(300),
        }
    }
}

/// What to do after a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start again after this pause.
    Pause(Duration),
    /// Refuse everything for this long.
    Quarantine(Duration),
}

/// The panics of one actor.
#[derive(Debug, Default)]
pub(super) struct Faults {
    recent: VecDeque<Instant>,
    streak: u32,
    last: Option<Instant>,
    /// Ever, for show.
    pub total: u32,
}

impl Faults {
    /// Notes a panic. `chance`: uniform in `0..=1000`, spreads the pauses by ± 20 %.
    pub fn record(&mut self, now: Instant, settings: &BackoffSettings, chance: u64) -> Verdict {
        if self.last.is_some_and(|last| now.duration_since(last) > settings.forget) {
            self.streak = 0;
        }
        self.last = Some(now);
        self.total += 1;
        self.recent.push_back(now);
        while self
            .recent
            .front()
            .is_some_and(|at| now.duration_since(*at) > settings.window)
        {
            self.recent.pop_front();
        }
        if self.recent.len() >= settings.limit {
            self.recent.clear();
            return Verdict::Quarantine(settings.quarantine);
        }
        let pause = settings
            .first
            .saturating_mul(1 << self.streak.min(20))
            .min(settings.cap);
        self.streak += 1;
        let percent = 80 + u32::try_from(chance.min(1_000) * 40 / 1_000).unwrap_or(40);
        Verdict::Pause(pause.saturating_mul(percent) / 100)
    }

    /// Whether there is nothing left worth remembering.
    pub fn is_stale(&self, now: Instant, settings: &BackoffSettings) -> bool {
        self.last
            .is_none_or(|last| now.duration_since(last) > settings.forget.max(settings.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(gap: Duration, n: usize, chance: u64) -> Vec<Verdict> {
        let (settings, start, mut faults) = (BackoffSettings::default(), Instant::now(), Faults::default());
        (0..n)
            .map(|i| faults.record(start + gap * u32::try_from(i).expect("small"), &settings, chance))
            .collect()
    }

    #[test]
    fn pauses_double_up_to_the_cap() {
        let millis: Vec<u128> = pauses(Duration::from_secs(20), 12, 500)
            .into_iter()
            .map(|v| match v {
                Verdict::Pause(d) => d.as_millis(),
                Verdict::Quarantine(_) => panic!("four panics within a minute are not too many"),
            })
            .collect();
        assert_eq!(
            millis,
            [
                100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000, 30_000
            ]
        );
    }

    #[test]
    fn five_within_a_minute_are_too_many() {
        let verdicts = pauses(Duration::from_secs(10), 6, 0);
        assert_eq!(verdicts[4], Verdict::Quarantine(Duration::from_secs(600)));
        assert!(
            matches!(verdicts[5], Verdict::Pause(_)),
            "the count starts anew after a quarantine"
        );
    }

    #[test]
    fn pauses_are_spread_by_a_fifth() {
        assert_eq!(
            pauses(Duration::ZERO, 1, 0),
            [Verdict::Pause(Duration::from_millis(80))]
        );
        assert_eq!(
            pauses(Duration::ZERO, 1, 1_000),
            [Verdict::Pause(Duration::from_millis(120))]
        );
    }

    #[test]
    fn a_quiet_time_is_forgiven() {
        let settings = BackoffSettings::default();
        let (start, mut faults) = (Instant::now(), Faults::default());
        faults.record(start, &settings, 500);
        faults.record(start, &settings, 500);
        assert!(!faults.is_stale(start + Duration::from_secs(200), &settings));
        let later = start + Duration::from_secs(301);
        assert!(faults.is_stale(later, &settings));
        assert_eq!(
            faults.record(later, &settings, 500),
            Verdict::Pause(Duration::from_millis(100))
        );
    }
}

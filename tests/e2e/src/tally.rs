//! Counts what a kill has done to acknowledged writes.

use std::{collections::HashMap, fmt, hash::Hash, time::Duration};

/// The figures of one recovery test.
#[derive(Debug, Default)]
pub struct Tally {
    pub kills: usize,
    pub acknowledged: usize,
    pub lost: usize,
    pub doubled: usize,
    /// From the start of the process to its first answer, one for each kill.
    pub recovery: Vec<Duration>,
    /// What is wrong, in words; the first few are shown.
    pub complaints: Vec<String>,
}

impl Tally {
    /// Every acknowledged write must be found exactly once, and any other one at most once.
    pub fn compare<K: Eq + Hash + fmt::Debug>(&mut self, kind: &str, acknowledged: &[K], found: &[K]) {
        let mut counts = HashMap::<&K, usize>::new();
        for key in found {
            *counts.entry(key).or_default() += 1;
        }
        self.acknowledged += acknowledged.len();
        for key in acknowledged {
            if !counts.contains_key(key) {
                self.lost += 1;
                self.complaints
                    .push(format!("{kind} {key:?} was acknowledged and is lost"));
            }
        }
        for (key, count) in counts {
            if count > 1 {
                self.doubled += count - 1;
                self.complaints.push(format!("{kind} {key:?} is there {count} times"));
            }
        }
    }

    /// A write that replaces the one before: what is found must be the last acknowledged one or a later attempt.
    pub fn at_least(&mut self, kind: &str, acknowledged: u64, found: u64, attempted: u64) {
        if !(acknowledged..=attempted).contains(&found) {
            self.lost += 1;
            let range = format!("between {acknowledged} and {attempted}");
            self.complaints.push(format!("{kind} is {found} and should be {range}"));
        }
    }

    /// Prints the figures as one line, and fails the test if anything was lost or doubled.
    pub fn report(&self, name: &str) {
        println!("{name}: {self}");
        let shown: Vec<&str> = self.complaints.iter().take(20).map(String::as_str).collect();
        assert!(self.complaints.is_empty(), "{name}: {self}\n  {}", shown.join("\n  "));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kills,
            acknowledged,
            lost,
            doubled,
            ..
        } = self;
        let mut millis: Vec<_> = self.recovery.iter().map(Duration::as_millis).collect();
        millis.sort_unstable();
        let (middle, worst) = (millis.get(millis.len() / 2), millis.last());
        let (middle, worst) = (middle.copied().unwrap_or_default(), worst.copied().unwrap_or_default());
        write!(
            f,
            "kills {kills}, acknowledged {acknowledged}, lost {lost}, doubled {doubled}, "
        )?;
        write!(f, "recovery median {middle} ms, worst {worst} ms")
    }
}

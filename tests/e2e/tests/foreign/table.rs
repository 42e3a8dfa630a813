//! What came of the scenarios, as a table of scenario, direction and room version.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// How one case ended.
pub struct Outcome {
    pub scenario: String,
    pub direction: &'static str,
    pub version: String,
    pub took: Duration,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Outcome {
    /// One line that says it.
    pub fn line(&self) -> String {
        let Self {
            scenario,
            direction,
            version,
            took,
            failure,
        } = self;
        let result = if failure.is_none() { "PASS" } else { "FAIL" };
        format!(
            "{result} [{:7.3}s] {scenario} {direction} v{version}",
            took.as_secs_f64()
        )
    }
}

#[derive(Default)]
pub struct Table(Vec<Outcome>);

impl Table {
    pub fn add(&mut self, outcome: Outcome) {
        self.0.push(outcome);
    }

    pub fn failed(&self) -> usize {
        self.0.iter().filter(|outcome| outcome.failure.is_some()).count()
    }

    /// In the form that cargo's own test runner has.
    pub fn summary(&self, took: Duration) -> String {
        let failed = self.failed();
        let result = if failed == 0 { "ok" } else { "FAILED" };
        let passed = self.0.len() - failed;
        format!(
            "test result: {result}. {passed} passed; {failed} failed; finished in {:.2}s",
            took.as_secs_f64()
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: BTreeSet<(u32, &str, &str)> = self
            .0
            .iter()
            .map(|outcome| {
                let order = outcome.version.parse().unwrap_or_default();
                (order, outcome.version.as_str(), outcome.direction)
            })
            .collect();
        let mut rows = BTreeMap::<&str, BTreeMap<(&str, &str), &Outcome>>::new();
        for outcome in &self.0 {
            let row = rows.entry(&outcome.scenario).or_default();
            row.insert((&outcome.version, outcome.direction), outcome);
        }
        let width = rows.keys().map(|name| name.len()).max().unwrap_or_default();
        write!(f, "{:width$}", "")?;
        for (_, version, direction) in &columns {
            write!(f, " | v{version} {direction}")?;
        }
        writeln!(f)?;
        for (name, row) in &rows {
            write!(f, "{name:width$}")?;
            for (_, version, direction) in &columns {
                let cell = row
                    .get(&(*version, *direction))
                    .map_or("", |outcome| if outcome.failure.is_none() { "pass" } else { "FAIL" });
                let width = version.len() + direction.len() + 2;
                write!(f, " | {cell:width$}")?;
            }
            writeln!(f)?;
        }
        for outcome in self.0.iter().filter(|outcome| outcome.failure.is_some()) {
            let failure = outcome.failure.as_deref().unwrap_or_default();
            let short: String = failure.chars().take(1_500).collect();
            writeln!(f, "\n{}\n  {short}", outcome.line())?;
        }
        Ok(())
    }
}

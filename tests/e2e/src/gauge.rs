//! What a child process has used of the machine, as Linux counts it.

use std::{fs, time::Duration};

/// Ticks of the processor times in `/proc`; Linux has no other number for programs.
const TICKS_PER_SECOND: u64 = 100;

/// Watches one process from its last [`Gauge::reset`] on.
#[derive(Debug)]
pub struct Gauge {
    process: u32,
    begin: Duration,
}

impl Gauge {
    pub fn new(process: u32) -> Self {
        let mut this = Self {
            process,
            begin: Duration::ZERO,
        };
        this.reset();
        this
    }

    /// Forgets the peak of memory and the time of the processor so far.
    pub fn reset(&mut self) {
        let path = format!("/proc/{}/clear_refs", self.process);
        fs::write(&path, "5").unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
        self.begin = self.cpu_ever();
    }

    /// The most memory that the process has held, MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
        kib.unwrap_or_else(|| panic!("no peak in {status}")) / 1024
    }

    /// The processor's time for it.
    pub fn cpu(&self) -> Duration {
        self.cpu_ever().saturating_sub(self.begin)
    }

    fn cpu_ever(&self) -> Duration {
        let stat = self.read("stat");
        // The program's name, in parentheses, may have spaces. After it: state is the third field, the times are 14 and 15.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    fn read(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.process);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }
}

//! The newest lines of the log, kept in memory for administrators.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::Context;

/// Lines that are kept.
const LINES: usize = 2_000;
/// Bytes of a line.
const MAX_LINE: usize = 2_048;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// RFC 3339, UTC.
    pub timestamp: String,
    /// `INFO` and the like.
    pub level: &'static str,
    /// The part of the program.
    pub target: String,
    /// The message and its fields.
    pub message: String,
    #[serde(skip)]
    at: Level,
}

/// See the module.
#[derive(Debug, Default)]
pub struct LogRing(Mutex<VecDeque<Line>>);

/// A level by its name, whatever its case.
#[must_use]
pub fn level(name: &str) -> Option<Level> {
    match name.to_ascii_lowercase().as_str() {
        "error" => Some(Level::ERROR),
        "warn" | "warning" => Some(Level::WARN),
        "info" => Some(Level::INFO),
        "debug" => Some(Level::DEBUG),
        "trace" => Some(Level::TRACE),
        _ => None,
    }
}

impl LogRing {
    /// At most so many lines, newest first; only those at least as important as `least`.
    #[must_use]
    pub fn newest(&self, limit: usize, least: Option<Level>) -> Vec<Line> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |line: &&Line| least.is_none_or(|least| line.at <= least);
        lines.iter().rev().filter(wanted).take(limit).cloned().collect()
    }

    fn push(&self, line: Line) {
        // Every change is a single step: a panic elsewhere leaves nothing half done.
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Puts what is logged into a ring.
pub struct RingLayer(pub Arc<LogRing>);

impl<S: Subscriber> Layer<S> for RingLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut message = text.0;
        if message.len() > MAX_LINE {
            let end = (0..=MAX_LINE)
                .rev()
                .find(|at| message.is_char_boundary(*at))
                .unwrap_or(0);
            message.truncate(end);
        }
        self.0.push(Line {
            timestamp: now(),
            level: metadata.level().as_str(),
            target: metadata.target().to_owned(),
            message,
            at: *metadata.level(),
        });
    }
}

fn now() -> String {
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.0.len() > MAX_LINE {
            return;
        }
        // Writing to memory cannot fail.
        let _ = match field.name() {
            "message" if self.0.is_empty() => write!(self.0, "{value:?}"),
            "message" => {
                let rest = std::mem::take(&mut self.0);
                write!(self.0, "{value:?} {rest}")
            }
            name if self.0.is_empty() => write!(self.0, "{name}={value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn the_newest_lines_are_kept_by_level() {
        let ring = Arc::new(LogRing::default());
        let subscriber = tracing_subscriber::registry().with(RingLayer(ring.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..LINES {
                tracing::info!(number, "counted");
            }
            tracing::warn!(user = "@a:hs", "odd");
            tracing::error!("{}", "x".repeat(2 * MAX_LINE));
        });
        let all = ring.newest(usize::MAX, None);
        assert_eq!(all.len(), LINES);
        assert_eq!(all[0].message.len(), MAX_LINE, "long lines are cut");
        assert_eq!((all[1].level, all[1].message.as_str()), ("WARN", "odd user=\"@a:hs\""));
        assert_eq!(all.last().map(|line| line.message.as_str()), Some("counted number=2"));
        assert_eq!(ring.newest(9, level("Warning")).len(), 2);
        assert!(
            all[0].timestamp.starts_with("20") && all[0].timestamp.ends_with('Z'),
            "{}",
            all[0].timestamp
        );
    }
}

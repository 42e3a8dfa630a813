//! Logs (tracing, to standard error) and metrics (Prometheus text).

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::config::{LogFormat, Logging};
use crate::log_ring::{LogRing, RingLayer};

/// Buckets of every metric that ends in `_seconds`: from a cached read to the longest deadline.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// Why telemetry could not be set up or changed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TelemetryError(String);

/// The process's logs and metrics; one a process.
#[derive(Clone)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    metrics: PrometheusHandle,
    logs: Arc<LogRing>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}

impl Telemetry {
    /// Installs both for the whole process. Fails if somebody has before.
    pub fn install(logging: &Logging) -> Result<Self, TelemetryError> {
        let (filter, handle) = reload::Layer::new(filter(&logging.level)?);
        let lines = match logging.format {
            LogFormat::Text => fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(io::stderr().is_terminal())
                .boxed(),
            LogFormat::Json => fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
        };
        let logs = Arc::new(LogRing::default());
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .with(RingLayer(logs.clone()))
            .try_init()
            .map_err(failed)?;
        let metrics = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .map_err(failed)?
            .install_recorder()
            .map_err(failed)?;
        Ok(Self {
            filter: handle,
            metrics,
            logs,
        })
    }

    /// Changes what is logged from now on.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        self.filter.reload(filter(level)?).map_err(failed)
    }

    /// The newest lines of the log.
    #[must_use]
    pub fn logs(&self) -> &Arc<LogRing> {
        &self.logs
    }

    /// Every metric in Prometheus' text format.
    pub fn render_metrics(&self) -> String {
        self.metrics.render()
    }

    /// Takes up what histograms have gathered, so that their buffers stay small. Call every few seconds.
    pub fn upkeep(&self) {
        self.metrics.run_upkeep();
    }
}

/// The authorization rules explain every event they allow: that is for those who ask for it.
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    if level.contains("ruma_state_res") {
        return level.parse().map_err(failed);
    }
    format!("ruma_state_res=warn,{level}").parse().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> TelemetryError {
    TelemetryError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_reload_and_metrics_are_rendered() {
        // One test: the process has one subscriber and one recorder.
        let telemetry = Telemetry::install(&Logging::default()).expect("nobody else installs telemetry in this binary");
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        telemetry.set_level("debug").expect("debug is a level");
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(telemetry.set_level("no such=level=at all").is_err());
        assert!(
            tracing::enabled!(tracing::Level::DEBUG),
            "a refused level changes nothing"
        );

        metrics::counter!("telemetry_test_total").increment(2);
        metrics::histogram!("telemetry_test_seconds").record(0.004);
        telemetry.upkeep();
        let text = telemetry.render_metrics();
        assert!(text.contains("telemetry_test_total 2"), "{text}");
        assert!(text.contains("telemetry_test_seconds_bucket{le=\"0.005\"} 1"), "{text}");
    }
}

//! Logs: where they go, how they look, how much of them. Standard error, so that standard output is
//! a command's result. And what is measured, for Prometheus.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use hookfleet_gateway::metrics::Exposition;
use opentelemetry::global;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};
use tracing_subscriber::EnvFilter;

/// How logs look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// What is logged.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// What to log: `info`, `debug`, `hookfleet_delivery_agent=debug,warn` …
    #[arg(long, global = true, env = "HOOKFLEET_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How logs look.
    #[arg(
        long,
        global = true,
        env = "HOOKFLEET_LOG_FORMAT",
        default_value = "pretty"
    )]
    log_format: Format,
}

impl Logs {
    /// Starts logging: services tell of their life, other commands only of what goes wrong.
    pub(crate) fn start(&self, is_service: bool) {
        let default = if is_service { "info" } else { "error" };
        let filter = EnvFilter::builder().parse_lossy(self.log.as_deref().unwrap_or(default));
        let logs = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr);
        match self.log_format {
            Format::Pretty => logs.with_target(false).init(),
            Format::Json => logs.json().init(),
        }
    }
}

/// Measures from now on: what is built before is not measured.
///
/// # Errors
/// Two things with one name.
pub(crate) fn measure() -> anyhow::Result<Exposition> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_target_info()
        .scope_info_enabled(false)
        .build()?;
    global::set_meter_provider(SdkMeterProvider::builder().with_reader(reader).build());
    Ok(Exposition::new(move || {
        let text = TextEncoder::new().encode_to_string(&registry.gather());
        text.unwrap_or_else(|error| {
            tracing::error!(%error, "what is measured cannot be told");
            String::new()
        })
    }))
}

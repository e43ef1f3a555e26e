//! Where spans of events go: to a collector, as OTLP over gRPC, many at once, and dropped if it does not take them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use hookfleet_contract::{name::AgentId, time::Timestamp, trace::Sampling};
use hookfleet_delivery_agent::spans::{Label, Sink, Span, Tracing};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchSpanProcessor, SpanData, SpanEvents, SpanExporter as Export, SpanLinks,
        SpanProcessor as _,
    },
};

use crate::config::Delivery;

/// How long the end of the process waits for the last spans.
const PATIENCE: Duration = Duration::from_secs(2);

/// Spans on their way to a collector.
struct Collector {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// Says once that spans are lost, however long the collector is away.
#[derive(Debug)]
struct Noted {
    exporter: SpanExporter,
    is_failing: AtomicBool,
}

/// What is told of events, and to whom. Must be called within a runtime.
///
/// # Errors
/// The address of the collector is none.
pub(crate) fn tracing(config: &Delivery, agent_id: &AgentId) -> anyhow::Result<Tracing> {
    if config.otlp_endpoint.is_empty() {
        return Ok(Tracing::default());
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.otlp_endpoint)
        .build()?;
    let exporter = Noted {
        exporter,
        is_failing: AtomicBool::new(false),
    };
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let resource = Resource::builder()
        .with_service_name("hookfleet")
        .with_attribute(KeyValue::new("service.instance.id", agent_id.to_string()))
        .build();
    processor.set_resource(&resource);
    let scope = InstrumentationScope::builder("hookfleet")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build();
    Ok(Tracing {
        sink: Some(Arc::new(Collector { processor, scope })),
        sampling: Sampling::of(config.trace_share),
    })
}

// === impl Collector ===

impl Sink for Collector {
    fn ended(&self, span: Span) {
        let context = SpanContext::new(
            TraceId::from_bytes(span.trace.id),
            SpanId::from_bytes(span.id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        );
        self.processor.on_end(SpanData {
            span_context: context,
            parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: !span.is_call,
            span_kind: match span.is_call {
                true => SpanKind::Client,
                false => SpanKind::Server,
            },
            name: span.name.into(),
            start_time: system_time(span.start),
            end_time: system_time(span.end),
            attributes: span.labels.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match span.failure {
                Some(failure) => Status::error(failure),
                None => Status::Unset,
            },
            instrumentation_scope: self.scope.clone(),
        });
    }

    fn close(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(PATIENCE) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

impl Export for Noted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !was_failing => tracing::warn!(%error, "spans cannot be sent"),
            Ok(()) if was_failing => tracing::info!("spans are sent again"),
            Ok(()) | Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

fn attribute((name, label): (&'static str, Label)) -> KeyValue {
    match label {
        Label::Text(text) => KeyValue::new(name, text),
        Label::Number(number) => KeyValue::new(name, number),
    }
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + at.since(Timestamp(0))
}

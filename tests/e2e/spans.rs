//! Spans of an event's way, as a collector of OpenTelemetry gets them: from the publisher's to the receiver's.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hookfleet_proto::cloudevents::{
    CloudEvent, CloudEventAttributeValue, cloud_event_attribute_value::Attr,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::harness::{
    api::{create_tenant_in_force, event, publish, retries, subscribe_in_force, to},
    eventually,
    process::{Process, hookfleet},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PUBLISHER: &str = "b7ad6b7169203331";

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|it| it.scope_spans);
        let mut spans = self.0.lock().unwrap();
        spans.extend(scopes.flat_map(|it| it.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// A collector, and where it is.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, format!("http://{address}"))
    }

    /// The spans of a trace, once there are so many, in the order of their beginnings.
    async fn spans(&self, trace: &str, n: usize) -> Vec<Span> {
        eventually("the spans", PATIENCE, || async {
            let spans = self.now(trace);
            (spans.len() >= n).then_some(spans.clone()).ok_or(spans)
        })
        .await
    }

    /// The spans of a trace that have come.
    fn now(&self, trace: &str) -> Vec<Span> {
        let mut spans = self.0.lock().unwrap().clone();
        spans.retain(|it| hex(&it.trace_id) == trace);
        spans.sort_by_key(|it| (it.start_time_unix_nano, it.kind));
        spans
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

fn number(span: &Span, name: &str) -> Option<i64> {
    let label = span.attributes.iter().find(|it| it.key == name)?;
    let Some(Value::IntValue(number)) = label.value.as_ref()?.value else {
        panic!("{label:?}");
    };
    Some(number)
}

fn traced(id: &str, flags: &str) -> CloudEvent {
    let mut event = event(id, "a.b", "{}");
    let traceparent = CloudEventAttributeValue {
        attr: Some(Attr::CeString(format!("00-{TRACE}-{PUBLISHER}-{flags}"))),
    };
    event
        .attributes
        .insert("traceparent".to_owned(), traceparent);
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_has_spans_from_its_publisher_to_its_receiver() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, endpoint) = Collector::start().await;
    let server = standalone(dir.path(), &endpoint);
    let channel = server.channel();
    let receiver = Receiver::start().await;
    receiver.answer_with("hook", |_, n_before| {
        let status: u16 = if n_before == 0 { 500 } else { 204 };
        (status.try_into().unwrap(), Vec::new(), Duration::ZERO)
    });
    create_tenant_in_force(&channel, "acme").await;
    let mut subscription = to(receiver.url("hook"));
    subscription.retry_policy = retries(&[1, 1]);
    subscribe_in_force(&channel, "acme", "hook", subscription).await;

    publish(&channel, "acme", vec![traced("1", "01")])
        .await
        .unwrap();
    let spans = collector.spans(TRACE, 3).await;
    let [accepted, failed, delivered] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(hex(&accepted.parent_span_id), PUBLISHER);
    assert_eq!(accepted.kind(), SpanKind::Server);
    let received = receiver.received_at("hook");
    for (span, received) in [(failed, &received[0]), (delivered, &received[1])] {
        assert_eq!(span.kind(), SpanKind::Client);
        assert_eq!(span.parent_span_id, accepted.span_id);
        let said = received.headers["traceparent"].to_str().unwrap();
        assert_eq!(said, format!("00-{TRACE}-{}-01", hex(&span.span_id)));
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        let status = number(span, "http.response.status_code");
        assert_eq!(status, Some(received.status.as_u16().into()));
    }
    assert_eq!(failed.status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(number(failed, "hookfleet.attempt"), Some(1));
    assert_eq!(number(delivered, "hookfleet.attempt"), Some(2));

    // Its publisher does not want this one recorded, and nobody has decided about the next.
    let silent = traced("2", "00");
    publish(&channel, "acme", vec![silent, event("3", "a.b", "{}")])
        .await
        .unwrap();
    let received = eventually("both", PATIENCE, || async {
        let received = receiver.received_at("hook");
        (received.len() == 4)
            .then_some(received.clone())
            .ok_or(received.len())
    })
    .await;
    let of_own = received.iter().find(|it| it.json()["id"] == "3").unwrap();
    let own_trace = of_own.headers["traceparent"].to_str().unwrap()[3..35].to_owned();
    let spans = collector.spans(&own_trace, 2).await;
    assert!(spans[0].parent_span_id.is_empty());
    assert_eq!(spans[1].parent_span_id, spans[0].span_id);
    assert_eq!(collector.spans(TRACE, 3).await.len(), 3);
    // What is on its way is sent before the end.
    publish(&channel, "acme", vec![event("4", "a.b", "{}")])
        .await
        .unwrap();
    let last = eventually("the last", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let last = received.into_iter().find(|it| it.json()["id"] == "4");
        last.ok_or(())
    })
    .await;
    let last_trace = &last.headers["traceparent"].to_str().unwrap()[3..35];
    assert!(server.terminate().await.success());
    assert_eq!(collector.now(last_trace).len(), 2);
}

/// A server of which every event is recorded.
fn standalone(data_dir: &Path, collector: &str) -> Process {
    let mut command = hookfleet();
    command.arg("standalone").arg("--data-dir").arg(data_dir);
    command.env("HOOKFLEET_OTLP_ENDPOINT", collector);
    command.env("HOOKFLEET_TRACE_SHARE", "1");
    Process::start(command, "127.0.0.1:0")
}

/// More events than there is room for spans are delivered, whatever the collector does.
async fn floods(server: &Process) {
    let channel = server.channel();
    let receiver = Receiver::start().await;
    create_tenant_in_force(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;
    for number in 0..10 {
        let events = (0..1000).map(|it| event(&format!("{number}-{it}"), "a.b", "{}"));
        publish(&channel, "acme", events.collect()).await.unwrap();
    }
    eventually("everything", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n == 10_000).then_some(()).ok_or(n)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_delays_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let server = standalone(dir.path(), "http://127.0.0.77:1");
    floods(&server).await;
    assert_eq!(
        server.n_logged("spans cannot be sent"),
        1,
        "and says so once"
    );
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_delays_nothing_and_no_end() {
    let dir = tempfile::tempdir().unwrap();
    // It is connected to, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = format!("http://{}", silent.local_addr().unwrap());
    let server = standalone(dir.path(), &collector);
    floods(&server).await;
    assert!(server.terminate().await.success());
    silent.accept().await.expect("it was called");
}

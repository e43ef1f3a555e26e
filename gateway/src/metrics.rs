//! How many calls of each method there are, how they end and how long they take, in whatever dialect they come; and what
//! is answered to all requests, with those that come to no method because they are refused before.
//!
//! No label names a tenant or who calls: there may be a million of them.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
    routing::get,
};
use opentelemetry::{
    KeyValue, Value, global,
    metrics::{Counter, Histogram, Meter},
};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    auth::{
        layer::{is_grpc, refusal, with_caller},
        methods::Methods,
        principal::{Principal, Reach},
    },
    status::ApiError,
    transcode::failure::name,
};

/// All that is measured in this process, as Prometheus reads it.
#[derive(Clone)]
pub struct Exposition(Arc<dyn Fn() -> String + Send + Sync>);

/// The content type of an [`Exposition`].
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Health, reflection, and what is no method: whoever invents some makes no new series.
const OTHER: &str = "other";
/// In seconds: from an answer out of memory to a sync of a slow disk, and to a publish that waits for another agent.
const BOUNDARIES: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0,
];

/// Where everything in this process is measured.
#[must_use]
pub fn meter() -> Meter {
    global::meter("hookfleet")
}

/// Tells of what is there, whenever somebody looks.
pub fn gauge(
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    get: impl Fn() -> u64 + Send + Sync + 'static,
) {
    let _kept_by_the_meter = meter()
        .u64_observable_gauge(name)
        .with_unit(unit)
        .with_description(description)
        .with_callback(move |it| it.observe(get(), &[]))
        .build();
}

/// A call that goes on. One that its caller gives up is over, too.
struct Call<'a> {
    calls: &'a Calls,
    method: Value,
    begin: Instant,
    code: Code,
}

/// Counts answers.
#[derive(Clone, Debug)]
pub(crate) struct Answers(Counter<u64>);

/// Measures calls.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    methods: Arc<Methods>,
    duration: Histogram<f64>,
}

// === impl Exposition ===

impl Exposition {
    /// What `text` says whenever somebody asks.
    pub fn new(text: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(text))
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

// === impl Answers ===

impl Answers {
    pub(crate) fn new() -> Self {
        let answers = meter()
            .u64_counter("hookfleet.answers")
            .with_description("Answers to all requests, by the code of gRPC or the status of HTTP.")
            .build();
        Self(answers)
    }
}

// === impl Call ===

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let labels = [
            KeyValue::new("method", self.method.clone()),
            KeyValue::new("code", name(self.code)),
        ];
        let duration = self.begin.elapsed().as_secs_f64();
        self.calls.duration.record(duration, &labels);
    }
}

// === impl Calls ===

impl Calls {
    pub(crate) fn new(methods: Arc<Methods>) -> Self {
        let duration = meter()
            .f64_histogram("hookfleet.request.duration")
            .with_unit("s")
            .with_description(
                "Calls that come to a method, until their answers begin, in all dialects.",
            )
            .with_boundaries(BOUNDARIES.to_vec())
            .build();
        Self { methods, duration }
    }
}

/// Tells who may see the fleet: how much there is of everything is no tenant's business.
pub(crate) fn router(exposition: Exposition, is_guarded: bool) -> Router {
    let tell = async move |headers: HeaderMap| {
        let is_of_fleet = |it: Option<&Principal>| it.is_some_and(|it| *it.reach() == Reach::Fleet);
        if is_guarded && !with_caller(is_of_fleet) {
            return refusal(&headers, ApiError::permission_denied());
        }
        let text = (exposition.0)();
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
    };
    Router::new().route("/metrics", get(tell))
}

/// Measures a call of a gRPC method.
pub(crate) async fn measure(State(calls): State<Calls>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let method: Value = match calls.methods.get(path) {
        Some(_) => path.trim_start_matches('/').to_owned().into(),
        None => OTHER.into(),
    };
    let mut call = Call {
        calls: &calls,
        method,
        begin: Instant::now(),
        code: Code::Cancelled,
    };
    let response = next.run(request).await;
    call.code = code(&response);
    response
}

/// Counts an answer, whoever gives it.
pub(crate) async fn count(
    State(answers): State<Answers>,
    request: Request,
    next: Next,
) -> Response {
    let is_grpc = is_grpc(request.headers());
    let response = next.run(request).await;
    let code: Value = match is_grpc {
        true => name(code(&response)).into(),
        false => i64::from(response.status().as_u16()).into(),
    };
    answers.0.add(1, &[KeyValue::new("code", code)]);
    response
}

/// A response that has begun well says later how it ended.
fn code(response: &Response) -> Code {
    let status = response.headers().get("grpc-status");
    status.map_or(Code::Ok, |it| Code::from_bytes(it.as_bytes()))
}

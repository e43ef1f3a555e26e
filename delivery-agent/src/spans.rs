//! What is told of an event's way: a span for its acceptance and one for each attempt, in the trace that its publisher began
//! or in one of its own. Where spans go is not known here.

use std::{fmt, sync::Arc, time::Duration};

use hookfleet_contract::{
    event::Event,
    id::DeliveryId,
    time::Timestamp,
    trace::{Sampling, SpanId, Trace, proper},
};
use hookfleet_proto::v1;
use tokio::task::spawn_blocking;

use crate::{
    clock::Clock,
    journal::{Origin, StoredEvent},
};

/// What happened between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace it is in.
    pub trace: Trace,
    /// Names it.
    pub id: SpanId,
    /// What it is a part of.
    pub parent: Option<SpanId>,
    /// What happened.
    pub name: &'static str,
    /// Whether it went out to another process.
    pub is_call: bool,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What more is known. Nothing of the event's content.
    pub labels: Vec<(&'static str, Label)>,
    /// Why it failed, if it did.
    pub failure: Option<&'static str>,
}

/// The value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Where spans go. Telling never blocks.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Something is over.
    fn ended(&self, span: Span);

    /// Sends what is on its way; nothing is taken any more. Blocks for a moment.
    fn close(&self);
}

/// What is told, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Tracing {
    /// Nothing is told if absent.
    pub sink: Option<Arc<dyn Sink>>,
    /// Which traces are told of that no publisher has decided about.
    pub sampling: Sampling,
}

/// What an attempt is to its receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    /// Its event's trace.
    pub(crate) trace: Trace,
    /// Names it there.
    pub(crate) span_id: SpanId,
}

// === impl Tracing ===

impl Tracing {
    /// Sends what is on its way.
    pub(crate) async fn close(self) {
        if let Some(sink) = self.sink {
            let closed = spawn_blocking(move || sink.close()).await;
            if let Err(panic) = closed {
                tracing::error!(%panic, "the last spans were not sent");
            }
        }
    }

    /// The trace of an event.
    pub(crate) fn of(&self, event: &Event, stored: &StoredEvent) -> Trace {
        Trace::of(event, stored.webhook_id, self.sampling)
    }

    /// An event was published, is durable, and its deliveries begin.
    pub(crate) fn accepted(&self, stored: &StoredEvent, clock: Clock) {
        let Some(sink) = self
            .sink
            .as_ref()
            .filter(|_| stored.origin == Origin::Published)
        else {
            return;
        };
        let Ok(event) = Event::decode(&stored.event) else {
            return;
        };
        let trace = self.of(&event, stored);
        if trace.is_sampled() {
            sink.ended(Span {
                trace,
                id: Trace::accepted(stored.webhook_id),
                parent: trace.parent,
                name: "accept",
                is_call: false,
                start: stored.accept_time,
                end: clock.now(),
                labels: vec![
                    ("hookfleet.tenant", Label::Text(stored.tenant.to_string())),
                    (
                        "cloudevents.event_type",
                        Label::Text(event.event_type().to_owned()),
                    ),
                    (
                        "hookfleet.deliveries",
                        Label::Number(stored.n_targets().into()),
                    ),
                ],
                failure: None,
            });
        }
    }

    /// An attempt is over that took so long.
    pub(crate) fn attempted(
        &self,
        said: Said,
        stored: &StoredEvent,
        delivery: DeliveryId,
        subscription: &str,
        attempt: &v1::Attempt,
        duration: Duration,
    ) {
        let Said { trace, span_id } = said;
        let Some(sink) = self.sink.as_ref().filter(|_| trace.is_sampled()) else {
            return;
        };
        let is_delivered = attempt.outcome() == v1::Outcome::Delivered;
        let mut labels = vec![
            ("hookfleet.tenant", Label::Text(stored.tenant.to_string())),
            (
                "hookfleet.subscription",
                Label::Text(subscription.to_owned()),
            ),
            ("hookfleet.delivery", Label::Text(delivery.to_string())),
            ("hookfleet.attempt", Label::Number(attempt.number.into())),
        ];
        if attempt.status_code != 0 {
            let status = Label::Number(attempt.status_code.into());
            labels.push(("http.response.status_code", status));
        }
        let start = attempt.start_time.map_or(Timestamp(0), Timestamp::from);
        sink.ended(Span {
            trace,
            id: proper(span_id),
            parent: Some(Trace::accepted(stored.webhook_id)),
            name: "callback",
            is_call: true,
            start,
            end: start + duration,
            labels,
            failure: (!is_delivered).then(|| attempt.failure().as_str_name()),
        });
    }
}

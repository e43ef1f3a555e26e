//! What is told of an event's way: a span for its acceptance and one for each attempt, in the trace that its publisher began
//! or in one of its own. Where spans go is not known here.

use std::{fmt, sync::Arc};

use hookfleet_contract::{
    event::Event,
    id::DeliveryId,
    time::Timestamp,
    trace::{Sampling, SpanId, Trace, proper},
};
use hookfleet_proto::v1;

use crate::journal::{Origin, StoredEvent};

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
}

/// What is told, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Tracing {
    /// Nothing is told if absent.
    pub sink: Option<Arc<dyn Sink>>,
    /// Which traces are told of that no publisher has decided about.
    pub sampling: Sampling,
}

// === impl Tracing ===

impl Tracing {
    /// The trace of an event.
    pub(crate) fn of(&self, event: &Event, stored: &StoredEvent) -> Trace {
        Trace::of(event, stored.webhook_id, self.sampling)
    }

    /// An event was published and is durable now.
    pub(crate) fn accepted(&self, stored: &StoredEvent, now: Timestamp) {
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
                end: now,
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

    /// An attempt is over that was said to the receiver to be this span.
    pub(crate) fn attempted(
        &self,
        (trace, span_id): (Trace, SpanId),
        stored: &StoredEvent,
        delivery: DeliveryId,
        subscription: &str,
        attempt: &v1::Attempt,
        (start, end): (Timestamp, Timestamp),
    ) {
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
        sink.ended(Span {
            trace,
            id: proper(span_id),
            parent: Some(Trace::accepted(stored.webhook_id)),
            name: "callback",
            is_call: true,
            start,
            end,
            labels,
            failure: (!is_delivered).then(|| attempt.failure().as_str_name()),
        });
    }
}

//! What operators watch of an agent: what comes in, what becomes of attempts and deliveries and how long that takes, and
//! how much waits where.
//!
//! No label names a tenant, a subscription or an endpoint: there may be a million of them.

use std::time::Duration;

use hookfleet_gateway::metrics::{gauge, meter};
use hookfleet_proto::v1::{self, FailureKind};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};

use crate::{
    core::Counts,
    driver::Handle,
    history::History,
    journal::{self, Journal, Origin, Standing, StoredEvent},
};

/// In seconds: from receivers next door to the longest timeout.
const ATTEMPT_BOUNDARIES: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];
/// In seconds: from an idle system to the last attempt of the default schedule.
const LATENCY_BOUNDARIES: [f64; 14] = [
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3600.0, 36_000.0, 345_600.0,
];

/// The label of what has no reason.
const NONE: &str = "NONE";

/// What is counted as it happens.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    events: Counter<u64>,
    attempts: Histogram<f64>,
    deliveries: Counter<u64>,
    latency: Histogram<f64>,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = meter();
        Self {
            events: meter
                .u64_counter("hookfleet.events")
                .with_description("Events that were published and are durable here.")
                .build(),
            attempts: meter
                .f64_histogram("hookfleet.attempt.duration")
                .with_unit("s")
                .with_description("Attempts, with the time to read what is kept of the answer.")
                .with_boundaries(ATTEMPT_BOUNDARIES.to_vec())
                .build(),
            deliveries: meter
                .u64_counter("hookfleet.deliveries")
                .with_description("Deliveries that are over.")
                .build(),
            latency: meter
                .f64_histogram("hookfleet.delivery.latency")
                .with_unit("s")
                .with_description(
                    "From when the event was accepted until its receiver has taken it.",
                )
                .with_boundaries(LATENCY_BOUNDARIES.to_vec())
                .build(),
        }
    }

    /// An event is durable.
    pub(crate) fn accepted(&self, event: &StoredEvent) {
        if event.origin == Origin::Published {
            self.events.add(1, &[]);
        }
    }

    /// An attempt was made.
    pub(crate) fn attempted(&self, attempt: &v1::Attempt) {
        let failure = Some(attempt.failure()).filter(|it| *it != FailureKind::Unspecified);
        let labels = [
            KeyValue::new("outcome", attempt.outcome().as_str_name()),
            KeyValue::new("failure", failure.map_or(NONE, |it| it.as_str_name())),
        ];
        let millis = u64::try_from(attempt.duration_millis).unwrap_or(0);
        let duration = Duration::from_millis(millis);
        self.attempts.record(duration.as_secs_f64(), &labels);
    }

    /// A delivery is over, so long after its event was accepted.
    pub(crate) fn settled(&self, standing: Standing, age: Option<Duration>) {
        let (state, reason) = match standing {
            // The next agent counts it when it is over.
            Standing::Deferred { .. } | Standing::HandedOver => return,
            Standing::Succeeded => ("SUCCEEDED", NONE),
            Standing::DeadLettered(reason) => ("DEAD_LETTERED", reason.as_str_name()),
        };
        let labels = [
            KeyValue::new("state", state),
            KeyValue::new("reason", reason),
        ];
        self.deliveries.add(1, &labels);
        if let Some(age) = age.filter(|_| matches!(standing, Standing::Succeeded)) {
            self.latency.record(age.as_secs_f64(), &[]);
        }
    }
}

/// Tells of what is there now, whenever somebody looks.
pub(crate) fn observe(driver: &Handle, journal: &Journal, history: &History) {
    let of_core = |name, unit, description, get: fn(Counts) -> u64| {
        let driver = driver.clone();
        gauge(name, unit, description, move || get(driver.counts()));
    };
    of_core(
        "hookfleet.deliveries.waiting",
        "",
        "Deliveries that wait for an attempt, in memory and on disk.",
        |it| it.n_waiting,
    );
    of_core(
        "hookfleet.attempts.in_flight",
        "",
        "Attempts that are being made.",
        |it| it.n_in_flight,
    );
    of_core(
        "hookfleet.attempts.in_flight.size",
        "By",
        "The events of these attempts.",
        |it| it.bytes_in_flight,
    );
    of_core(
        "hookfleet.egress.braking",
        "",
        "1 while our own network seems broken, and attempts are few.",
        |it| u64::from(it.braking),
    );
    let of_journal = |name, unit, description, get: fn(journal::Stats) -> u64| {
        let journal = journal.clone();
        gauge(name, unit, description, move || get(journal.stats()));
    };
    of_journal(
        "hookfleet.journal.segments.live",
        "",
        "Segments of the journal that a start would read.",
        |it| it.n_live_segments,
    );
    of_journal(
        "hookfleet.journal.size",
        "By",
        "The journal on disk, with what is kept for redelivery.",
        |it| it.segment_bytes,
    );
    of_journal(
        "hookfleet.journal.waiting.size",
        "By",
        "Events that wait for the disk.",
        |it| it.waiting_bytes,
    );
    of_journal(
        "hookfleet.deliveries.lingering",
        "",
        "Deliveries of old events that are not over.",
        |it| it.n_lingering,
    );
    of_journal(
        "hookfleet.disk.free",
        "By",
        "What the disk of the journal has left.",
        |it| it.free_bytes,
    );
    of_journal(
        "hookfleet.disk.free.bound",
        "By",
        "With less left, no event is taken.",
        |it| it.min_free_bytes,
    );
    let (backlog, healthy) = (history.clone(), history.clone());
    gauge(
        "hookfleet.history.backlog",
        "",
        "Outcomes that the history has not written yet.",
        move || backlog.backlog() as u64,
    );
    gauge(
        "hookfleet.history.healthy",
        "",
        "0 while the history cannot be written and has a gap.",
        move || u64::from(healthy.is_healthy()),
    );
}

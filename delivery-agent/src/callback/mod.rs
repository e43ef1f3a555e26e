//! One attempt, from the journal's event to what it meant: read, render, sign, send, classify.
//! It keeps no state and decides nothing that the contract decides.
//!
//! **Invariant:** whatever the event or the receiver does, an attempt ends, within its timeout, with
//! a verdict.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use hookfleet_contract::{
    event::Event,
    format,
    id::DeliveryId,
    request,
    response::{TransportError, Verdict, classify},
    retry::{Jitter, Retry},
    subscription::Subscription,
    time::Timestamp,
};
use hookfleet_egress::{Egress, Exchange, Request};
use hookfleet_proto::v1::{self, DeadLetterReason, FailureKind, Outcome};

use crate::{
    clock::Clock,
    core::{Attempt, Finished},
    journal::{Journal, StoredEvent},
    spans::{Said, Tracing},
};

/// Makes attempts.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where events are read.
    pub journal: Journal,
    /// The way out.
    pub egress: Egress,
    /// The time.
    pub clock: Clock,
    /// Who is told of attempts.
    pub tracing: Tracing,
}

/// An attempt that is over.
#[derive(Debug)]
pub struct Completed {
    /// For the core.
    pub finished: Finished,
    /// For the history; absent if no request was made.
    pub record: Option<v1::Attempt>,
    /// The event, if it could be read.
    pub event: Option<Arc<StoredEvent>>,
    /// Nobody was called: the event was to be sent on.
    pub is_parked: bool,
}

/// An attempt that ends before a request is made.
struct Unsent {
    verdict: Verdict,
    failure: FailureKind,
    expiry: Option<Timestamp>,
    event: Option<Arc<StoredEvent>>,
}

// === impl Caller ===

impl Caller {
    /// Makes one attempt. A panic on the way fails this attempt alone.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request; whether the receiver got it is unknown.
    pub async fn call(&self, attempt: Attempt, subscription: Arc<Subscription>) -> Completed {
        let called = AssertUnwindSafe(self.attempt(attempt, &subscription));
        called.catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(delivery = %attempt.delivery, "an attempt panicked");
            let unsent = Unsent {
                verdict: ours(),
                failure: FailureKind::Internal,
                expiry: None,
                event: None,
            };
            self.unsent(attempt, unsent)
        })
    }

    async fn attempt(&self, attempt: Attempt, subscription: &Subscription) -> Completed {
        let (stored, event) = match self.read(attempt.delivery, subscription) {
            Ok(read) => read,
            Err(unsent) => return self.unsent(attempt, unsent),
        };
        let expiry = event.expiry_time();
        let body = match format::render(&event, subscription.mode, stored.accept_time) {
            Ok(body) => body,
            Err(unsendable) => {
                let unsent = Unsent {
                    verdict: Verdict::Reject(unsendable.reason()),
                    failure: FailureKind::Unsendable,
                    expiry,
                    event: Some(stored),
                };
                return self.unsent(attempt, unsent);
            }
        };
        let number = attempt.progress.attempts + 1;
        let started = self.clock.now();
        let said = Said {
            trace: self.tracing.of(&event, &stored),
            span_id: rand::random(),
        };
        let headers = request::headers(
            subscription,
            &body,
            &request::Attempt {
                webhook_id: stored.webhook_id,
                delivery: attempt.delivery,
                number,
                trace: said.trace,
                span_id: said.span_id,
                now: self.clock.signing_time(),
            },
        );
        let exchange = self
            .egress
            .post(Request {
                tenant: stored.tenant.clone(),
                target: Arc::clone(&subscription.target),
                headers,
                body: body.bytes,
                timeout: subscription.timeout,
            })
            .await;
        let verdict = judge(&exchange, subscription, started);
        let record = record(number, started, &exchange, &verdict);
        let name = subscription.name.subscription.as_str();
        let duration = exchange.duration;
        self.tracing
            .attempted(said, &stored, attempt.delivery, name, &record, duration);
        Completed {
            finished: Finished {
                status: exchange.result.as_ref().ok().map(|it| it.status),
                duration: exchange.duration,
                destination: exchange.destination,
                ..finished(attempt, verdict, true, stored.accept_time, expiry)
            },
            record: Some(record),
            event: Some(stored),
            is_parked: false,
        }
    }

    /// Reads the event back and checks that it is not too late for it.
    fn read(
        &self,
        delivery: DeliveryId,
        subscription: &Subscription,
    ) -> Result<(Arc<StoredEvent>, Event), Unsent> {
        let unsent = |verdict, failure, event, expiry| Unsent {
            verdict,
            failure,
            expiry,
            event,
        };
        let lost = Verdict::Reject(DeadLetterReason::EventLost);
        let stored = match self.journal.read(delivery.seq) {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                tracing::error!(%delivery, "the event is not in the journal");
                return Err(unsent(lost, FailureKind::Internal, None, None));
            }
            Err(error) => {
                tracing::error!(%delivery, %error, "cannot read the event");
                return Err(unsent(ours(), FailureKind::Internal, None, None));
            }
        };
        let Ok(event) = Event::decode(&stored.event) else {
            tracing::error!(%delivery, "the event cannot be decoded");
            return Err(unsent(lost, FailureKind::Internal, Some(stored), None));
        };
        let (now, expiry) = (self.clock.now(), event.expiry_time());
        let late = |reason| Verdict::Reject(reason);
        if expiry.is_some_and(|at| at < now) {
            let verdict = late(DeadLetterReason::Expired);
            return Err(unsent(
                verdict,
                FailureKind::Unspecified,
                Some(stored),
                expiry,
            ));
        }
        if stored.accept_time + subscription.policy.ttl < now {
            let verdict = late(DeadLetterReason::Ttl);
            return Err(unsent(
                verdict,
                FailureKind::Unspecified,
                Some(stored),
                expiry,
            ));
        }
        Ok((stored, event))
    }

    /// Why a delivery that cannot be attempted now is over, if it is. Blocks on the disk.
    #[must_use]
    pub fn review(
        &self,
        delivery: DeliveryId,
        subscription: &Subscription,
    ) -> Option<DeadLetterReason> {
        let read = self.read(delivery, subscription);
        let verdict = read.err().map(|unsent| unsent.verdict);
        match verdict {
            Some(Verdict::Reject(reason)) => Some(reason),
            Some(Verdict::Delivered | Verdict::Retry(_) | Verdict::Suspend(_)) | None => None,
        }
    }

    fn unsent(&self, attempt: Attempt, unsent: Unsent) -> Completed {
        let accept_time = unsent
            .event
            .as_ref()
            .map_or(self.clock.now(), |it| it.accept_time);
        let record = (unsent.failure != FailureKind::Unspecified).then(|| v1::Attempt {
            number: i32::try_from(attempt.progress.attempts + 1).unwrap_or(i32::MAX),
            start_time: Some(self.clock.now().into()),
            outcome: outcome(&unsent.verdict).into(),
            failure: unsent.failure.into(),
            ..v1::Attempt::default()
        });
        let attempted = record.is_some();
        Completed {
            finished: finished(
                attempt,
                unsent.verdict,
                attempted,
                accept_time,
                unsent.expiry,
            ),
            record,
            event: unsent.event,
            is_parked: false,
        }
    }
}

fn finished(
    attempt: Attempt,
    verdict: Verdict,
    attempted: bool,
    accept_time: Timestamp,
    expiry: Option<Timestamp>,
) -> Finished {
    Finished {
        delivery: attempt.delivery,
        verdict,
        status: None,
        attempted,
        duration: Duration::ZERO,
        destination: None,
        accept_time,
        expiry,
        jitter: Jitter {
            delay: rand::random(),
            retry_after: rand::random(),
        },
        spread: rand::random(),
    }
}

/// The fault is on our side and costs the receiver no attempt.
fn ours() -> Verdict {
    Verdict::Retry(Retry {
        failure: FailureKind::Internal,
        minimum: Duration::from_secs(1),
        retry_after: None,
        throttled: true,
        pause_endpoint: false,
    })
}

fn judge(exchange: &Exchange, subscription: &Subscription, started: Timestamp) -> Verdict {
    let answer = match &exchange.result {
        Ok(response) => Ok(response.answer(started + exchange.duration)),
        Err(failure) => {
            tracing::debug!(subscription = %subscription.name, detail = failure.detail, "attempt failed");
            Err(failure.error)
        }
    };
    classify(&answer, &subscription.policy)
}

fn record(number: u32, started: Timestamp, exchange: &Exchange, verdict: &Verdict) -> v1::Attempt {
    let mut record = v1::Attempt {
        number: i32::try_from(number).unwrap_or(i32::MAX),
        start_time: Some(started.into()),
        duration_millis: i64::try_from(exchange.duration.as_millis()).unwrap_or(i64::MAX),
        outcome: outcome(verdict).into(),
        ..v1::Attempt::default()
    };
    match &exchange.result {
        Ok(response) => {
            record.status_code = i32::from(response.status);
            if !matches!(verdict, Verdict::Delivered) {
                record.failure = FailureKind::Status.into();
                record.response_body = response.body.to_vec();
                record.location = response.location.clone().unwrap_or_default();
            }
        }
        Err(failure) => record.failure = failure_kind(failure.error).into(),
    }
    record
}

fn failure_kind(error: TransportError) -> FailureKind {
    error.into()
}

fn outcome(verdict: &Verdict) -> Outcome {
    match verdict {
        Verdict::Delivered => Outcome::Delivered,
        Verdict::Retry(_) => Outcome::Retry,
        Verdict::Reject(_) => Outcome::Rejected,
        Verdict::Suspend(_) => Outcome::Suspend,
    }
}

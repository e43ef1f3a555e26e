//! Asks receivers whether they want callbacks, for subscriptions whose slots this agent owns, and reports what they answer.
//! Which receiver is asked when is the [`agenda`]'s to say; what is asked and what it means is the contract's.
//!
//! It keeps nothing on disk: how far a verification is stands in the store, and comes back by the sync stream. Whoever owns
//! the slot goes on from there, after a crash as after a move.

mod agenda;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use hookfleet_contract::{
    shard::Shard,
    subscription::Subscription,
    time::Timestamp,
    verification::{
        Pending, TIMEOUT,
        answer::{Answer, Asked, Verdict, judge},
        request::{self, Attempt, Outgoing},
    },
};
use hookfleet_egress::{Egress, Request};
use hookfleet_proto::{fleet::VerificationReport, v1::verification_status::Failure};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::{
    clock::Clock,
    directory::{Directory, Effect},
    slots::{Slots, is_owner},
};
use agenda::{Agenda, Command, Ticket};

/// Changes of subscriptions that wait; the sync client waits with the next.
const CAPACITY: usize = 16;
/// Reports that wait for a control plane. What does not fit is reported again.
const REPORTS: usize = 64;

/// What the verifier works with.
#[derive(Clone, Debug)]
pub struct Config {
    /// This agent.
    pub agent_id: String,
    /// Who owns which slots.
    pub slots: Slots,
    /// Which tenants are suspended.
    pub directory: Directory,
    /// The way out.
    pub egress: Egress,
    /// The time.
    pub clock: Clock,
}

/// A cheap handle for those who tell of subscriptions.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Vec<Effect>>);

/// Verifies callback URLs.
#[derive(Debug)]
pub struct Verifier {
    config: Config,
    agenda: Agenda,
    effects: mpsc::Receiver<Vec<Effect>>,
    reports: mpsc::Sender<VerificationReport>,
    asking: JoinSet<(Ticket, VerificationReport)>,
}

// === impl Handle ===

impl Handle {
    /// Tells of subscriptions that are new, changed or gone.
    pub async fn effects(&self, effects: Vec<Effect>) {
        if !effects.is_empty() && self.0.send(effects).await.is_err() {
            tracing::debug!("the verifier has ended");
        }
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier that knows of subscriptions from a snapshot; its reports come out of the receiver.
    #[must_use]
    pub fn new(
        config: Config,
        known: &[Effect],
    ) -> (Self, Handle, mpsc::Receiver<VerificationReport>) {
        let (sender, effects) = mpsc::channel(CAPACITY);
        let (reports, reported) = mpsc::channel(REPORTS);
        let mut agenda = Agenda::default();
        agenda.handle_effects(known);
        let verifier = Self {
            config,
            agenda,
            effects,
            reports,
            asking: JoinSet::new(),
        };
        (verifier, Handle(sender), reported)
    }

    /// Asks for as long as it is polled.
    ///
    /// # Cancel safety
    /// Dropping the future abandons requests on their way; they are made again.
    pub async fn run(mut self) {
        loop {
            let now = self.perform();
            let wake = self.agenda.poll_timeout();
            let wake = wake.map_or(Duration::MAX, |at| at.since(now));
            tokio::select! {
                effects = self.effects.recv() => match effects {
                    Some(effects) => self.agenda.handle_effects(&effects),
                    None => return,
                },
                Some(Ok((ticket, report))) = self.asking.join_next() => {
                    self.agenda.handle_answered(ticket, report, self.config.clock.now());
                }
                () = sleep(wake) => {}
            }
        }
    }

    /// Does what is to be done now; returns the time it is left at.
    fn perform(&mut self) -> Timestamp {
        let config = self.config.clone();
        let table = config.slots.table();
        let may_ask = |subscription: &Subscription| {
            let tenant = &subscription.name.tenant;
            let known = config.directory.tenant(tenant);
            // One agent asks, whatever slots the tenant has besides.
            let is_owner = is_owner(&table, &Shard::first(tenant), &config.agent_id);
            is_owner && known.is_some_and(|it| !it.is_suspended())
        };
        let now = config.clock.now();
        while let Some(command) = self.agenda.poll_command(now, may_ask) {
            match command {
                Command::Ask(ticket, subscription) => {
                    let (egress, clock) = (config.egress.clone(), config.clock);
                    self.asking.spawn(async move {
                        let report = ask(&egress, clock, &subscription).await;
                        (ticket, report)
                    });
                }
                Command::Report(report) => {
                    if let Err(error) = self.reports.try_send(report) {
                        tracing::debug!(%error, "a report has to wait");
                    }
                }
            }
        }
        now
    }
}

/// Asks the receiver of a subscription whose verification goes on. A panic on the way is no consent.
async fn ask(egress: &Egress, clock: Clock, subscription: &Subscription) -> VerificationReport {
    let pending = subscription.verification.as_deref();
    let asking = async {
        match pending {
            Some(pending) => converse(egress, clock, subscription, pending).await,
            None => (Verdict::Denied(Failure::Unspecified), 0),
        }
    };
    let answered = AssertUnwindSafe(asking).catch_unwind().await;
    let (verdict, status) = answered.unwrap_or_else(|_| {
        tracing::error!(subscription = %subscription.name, "a verification panicked");
        (Verdict::Denied(Failure::Unreachable), 0)
    });
    let (outcome, failure) = verdict.outcome();
    VerificationReport {
        outcome: outcome.into(),
        failure: failure.into(),
        status_code: status.into(),
        max_requests_per_minute: verdict.requests_per_minute(),
        ..agenda::report(subscription)
    }
}

/// What the receiver means, and the status of its answer.
async fn converse(
    egress: &Egress,
    clock: Clock,
    subscription: &Subscription,
    pending: &Pending,
) -> (Verdict, u16) {
    let attempt = Attempt {
        challenge: request::challenge(rand::random()),
        span_id: rand::random(),
        now: clock.signing_time(),
    };
    let Outgoing {
        method,
        target,
        headers,
        body,
    } = request::request(subscription, pending, &attempt);
    let request = Request {
        tenant: subscription.name.tenant.clone(),
        target,
        headers,
        body,
        timeout: TIMEOUT,
    };
    let exchange = egress.ask(method, request).await;
    let answer = match &exchange.result {
        Ok(response) => Some(Answer {
            status: response.status,
            headers: &response.headers,
            body: &response.body,
        }),
        Err(failure) => {
            let (name, detail) = (&subscription.name, &failure.detail);
            tracing::debug!(subscription = %name, detail, "a receiver could not be asked");
            None
        }
    };
    let asked = Asked {
        method: pending.method,
        origin: &pending.origin,
        challenge: &attempt.challenge,
        is_confirmable: pending.confirm_url.is_some(),
    };
    let status = answer.map_or(0, |it| it.status);
    (judge(&asked, answer.as_ref()), status)
}

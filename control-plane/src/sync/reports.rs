//! Puts into the store what agents report of receivers: that they want no more, and what they answered when their URL was
//! verified. A suspension is reported once, so the store is waited for.

use std::{sync::Arc, time::Duration};

use hookfleet_proto::fleet::{SuspendReport, VerificationReport};
use tokio::{sync::mpsc, time::sleep};
use tonic::Code;

use crate::api::{Api, subscription::Subscriptions};

/// Reports that wait. A verification is reported until that shows, so it may be dropped; half of the room is for suspensions.
const CAPACITY: usize = 1024;
/// How often a suspension is tried, and the pause between.
const ATTEMPTS: usize = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What an agent has learnt of a receiver.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    Suspend(SuspendReport),
    Verification(VerificationReport),
}

/// Takes reports.
#[derive(Clone, Debug)]
pub(crate) struct Reports(mpsc::Sender<Report>);

impl Reports {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Report>) {
        let (sender, reports) = mpsc::channel(CAPACITY);
        (Self(sender), reports)
    }

    /// Takes a report, or drops it when too many wait.
    pub(crate) fn report(&self, report: Report) {
        if matches!(report, Report::Verification(_)) && self.0.capacity() < CAPACITY / 2 {
            return;
        }
        if let Err(error) = self.0.try_send(report) {
            tracing::warn!(%error, "dropped a report about a receiver");
        }
    }
}

/// Works off the reports for as long as it is polled.
pub(crate) async fn run(api: Arc<Api>, mut reports: mpsc::Receiver<Report>) {
    let subscriptions = Subscriptions(api);
    while let Some(report) = reports.recv().await {
        match report {
            Report::Suspend(report) => suspend(&subscriptions, &report).await,
            Report::Verification(report) => verify(&subscriptions, &report).await,
        }
    }
}

async fn suspend(subscriptions: &Subscriptions, report: &SuspendReport) {
    let subscription = report.subscription.as_str();
    for _ in 0..ATTEMPTS {
        match subscriptions.suspend_as_reported(report).await {
            Ok(()) => {
                tracing::info!(subscription, reason = ?report.reason(), "suspended as its receiver asked");
                return;
            }
            Err(error) if matches!(error.code(), Code::Unavailable | Code::Aborted) => {
                sleep(PAUSE).await
            }
            Err(error) => {
                tracing::warn!(
                    subscription,
                    reason = error.reason(),
                    "cannot suspend as its receiver asked"
                );
                return;
            }
        }
    }
    tracing::warn!(subscription, "gave up suspending as its receiver asked");
}

async fn verify(subscriptions: &Subscriptions, report: &VerificationReport) {
    let (subscription, outcome) = (report.subscription.as_str(), report.outcome());
    match subscriptions.verified_as_reported(report).await {
        Ok(()) => tracing::debug!(subscription, ?outcome, "a receiver was asked for consent"),
        Err(error) => {
            let reason = error.reason();
            tracing::warn!(subscription, reason, "cannot note what a receiver answered");
        }
    }
}

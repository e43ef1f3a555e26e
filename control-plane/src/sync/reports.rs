//! Suspends subscriptions whose receivers want no more. Agents report it once, so the store is waited for.

use std::{sync::Arc, time::Duration};

use hookfleet_proto::fleet::SuspendReport;
use tokio::{sync::mpsc, time::sleep};
use tonic::Code;

use crate::api::{Api, subscription::Subscriptions};

/// Reports that wait. A receiver that says it again is reported again, so what does not fit may be dropped.
const CAPACITY: usize = 1024;
/// How often a report is tried, and the pause between.
const ATTEMPTS: usize = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// Takes reports.
#[derive(Clone, Debug)]
pub(crate) struct Suspensions(mpsc::Sender<SuspendReport>);

impl Suspensions {
    pub(crate) fn new() -> (Self, mpsc::Receiver<SuspendReport>) {
        let (sender, reports) = mpsc::channel(CAPACITY);
        (Self(sender), reports)
    }

    /// Takes a report, or drops it when too many wait.
    pub(crate) fn report(&self, report: SuspendReport) {
        if let Err(error) = self.0.try_send(report) {
            tracing::warn!(%error, "dropped a report that a receiver wants no more");
        }
    }
}

/// Works off the reports for as long as it is polled.
pub(crate) async fn run(api: Arc<Api>, mut reports: mpsc::Receiver<SuspendReport>) {
    let subscriptions = Subscriptions(api);
    while let Some(report) = reports.recv().await {
        suspend(&subscriptions, &report).await;
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

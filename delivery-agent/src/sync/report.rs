//! What a control plane is told of a receiver that wants no more.

use hookfleet_contract::subscription::Subscription;
use hookfleet_proto::{fleet::SuspendReport, v1::subscription::SuspendReason};

/// The subscription is to be suspended.
pub(super) fn report(subscription: &Subscription, reason: SuspendReason) -> SuspendReport {
    SuspendReport {
        subscription: subscription.name.to_string(),
        uid: uuid::Uuid::from_bytes(subscription.uid).to_string(),
        reason: reason.into(),
    }
}

//! Verifying callback URLs: what callers, agents and receivers say of it, put into the store.
//!
//! **Invariant:** the key of a confirmation is in the store before an agent hears of it, and leads nowhere once it was used
//! or another took its place.

use hookfleet_contract::{
    name::SubscriptionName,
    time::Timestamp,
    verification::{
        answer,
        key::{Key, NotAKey},
    },
};
use hookfleet_gateway::{status::ApiError, verification::Confirm};
use hookfleet_proto::{
    fleet::{StoredConfirmation, VerificationReport},
    v1::{self, VerifySubscriptionRequest},
};
use http::HeaderValue;
use prost::Message as _;

use super::{change, parse, subscription::Subscriptions};
use crate::{
    keys,
    model::subscription::{Fresh, NotVerified, Subscription, Verification},
    random,
    store::{LeaseId, Write},
};

// === impl Subscriptions ===

impl Subscriptions {
    /// Asks the receiver anew.
    pub(super) async fn verify(
        &self,
        request: VerifySubscriptionRequest,
    ) -> Result<v1::Subscription, ApiError> {
        let name: SubscriptionName = parse("name", &request.name)?;
        let (subject, fresh) = (self.subject(&name, request.etag), self.fresh());
        self.change(&name, &subject, |subscription, now| {
            subscription.verify(&fresh, now).map_err(not_verified)?;
            Ok(true)
        })
        .await
    }

    /// An agent has asked a receiver. It says so until it sees that, so what is over by now is left alone.
    pub(crate) async fn verified_as_reported(
        &self,
        report: &VerificationReport,
    ) -> Result<(), ApiError> {
        let name: SubscriptionName = parse("subscription", &report.subscription)?;
        let subject = self.subject(&name, String::new());
        let change = |it: &mut Subscription, now| Ok(it.handle_report(report, now));
        match self.change(&name, &subject, change).await {
            Err(error) if error.code() == tonic::Code::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// What a new verification would be made of.
    pub(super) fn fresh(&self) -> Fresh<'_> {
        Fresh {
            settings: &self.0.verification,
            id: random::uuid(),
            key: random::confirmation(),
        }
    }

    /// What the key of a new verification would hang on, where there are keys.
    pub(super) async fn lease(&self, now: Timestamp) -> Result<Option<LeaseId>, ApiError> {
        let api = &*self.0;
        if api.verification.public_url.is_none() {
            return Ok(None);
        }
        api.confirmations.share(&*api.store, now).await.map(Some)
    }

    async fn confirm(
        &self,
        key: &str,
        allowed_rate: Option<&HeaderValue>,
    ) -> Result<String, ApiError> {
        let unknown = || ApiError::not_found("verifications/-");
        let key: Key = key.parse().map_err(|NotAKey| unknown())?;
        let rate = answer::rate(allowed_rate)
            .map_err(|error| ApiError::invalid_field("WebHook-Allowed-Rate", error.to_string()))?;
        let place = keys::confirmation(&key.digest());
        let found = change::read::<StoredConfirmation>(&*self.0.store, &place).await?;
        let found = found.ok_or_else(unknown)?.value;
        let name: SubscriptionName = parse("name", &found.subscription)?;
        let subject = self.subject(&name, String::new());
        let mut is_confirmed = false;
        let changed = self.change(&name, &subject, |subscription, now| {
            is_confirmed = subscription.confirm(&key, rate, now);
            Ok(is_confirmed)
        });
        match changed.await {
            Err(error) if error.code() == tonic::Code::NotFound => Err(unknown()),
            Ok(_) if !is_confirmed => Err(unknown()),
            other => other.map(|_| found.subscription),
        }
    }
}

impl Confirm for Subscriptions {
    async fn confirm(
        &self,
        key: &str,
        allowed_rate: Option<&HeaderValue>,
    ) -> Result<String, ApiError> {
        Self::confirm(self, key, allowed_rate).await
    }
}

/// Callbacks of a receiver that has not agreed can neither be stopped nor go on.
pub(super) fn must_have_agreed(subscription: &Subscription) -> Result<(), ApiError> {
    match subscription.has_agreed() {
        true => Ok(()),
        false => Err(not_verified(NotVerified::Yet)),
    }
}

fn not_verified(error: NotVerified) -> ApiError {
    let reason = match error {
        NotVerified::Yet => "NOT_VERIFIED",
        NotVerified::None => "VERIFICATION_NONE",
    };
    ApiError::precondition(reason, error.to_string())
}

/// What is written of confirmations when the verification of a subscription changes.
pub(super) fn confirmations(
    name: &SubscriptionName,
    before: Option<&Verification>,
    after: Option<&Verification>,
    lease: Option<LeaseId>,
) -> Vec<Write> {
    let place = |it: &Verification| {
        let confirmation = it.confirmation.as_ref()?;
        Some(keys::confirmation(&confirmation.key.digest()))
    };
    let (before, after) = (before.and_then(place), after.and_then(place));
    if before == after {
        return Vec::new();
    }
    let record = StoredConfirmation {
        subscription: name.to_string(),
    };
    let put = after.map(|key| Write::Put {
        key,
        value: record.encode_to_vec().into(),
        lease,
    });
    put.into_iter().chain(before.map(Write::Delete)).collect()
}

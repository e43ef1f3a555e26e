//! How a receiver shows, before its first callback, that it wants callbacks: what it is asked, which answer is consent,
//! and when it is asked again. Keeping count and asking are the business of others.
//!
//! It protects those who never asked for callbacks from being called by whoever names them. It does not say who they are.
//!
//! - [`request`]: what a receiver is asked.
//! - [`answer`]: what it means.
//! - [`key`]: what a confirmation shows.

pub mod answer;
pub mod key;
pub mod request;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use hookfleet_proto::{
    fleet::{VerificationSpec, verification_report::Outcome},
    v1::{self, subscription::Verification as Method, verification_status::State},
};

use crate::{
    target::{Error, Rules, Target},
    time::Timestamp,
};

/// A receiver is asked at once, and after 1 minute, 10 minutes and 1 hour.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(60),
    Duration::from_secs(9 * 60),
    Duration::from_secs(50 * 60),
];
/// A verification ends after this at the latest. Until then its key confirms it.
pub const VALIDITY: Duration = Duration::from_secs(72 * 3600);
/// How long a receiver may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A verification that goes on, as an agent performs it. Its `Debug` does not tell what confirms it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pending {
    /// Names it.
    pub id: String,
    /// What the receiver is asked.
    pub method: Method,
    /// Who is asked.
    pub target: Arc<Target>,
    /// For `WebHook-Request-Origin`.
    pub origin: String,
    /// Whoever calls it confirms, if anybody can.
    pub confirm_url: Option<String>,
    /// How many attempts would start in a minute, if that is known.
    pub requests_per_minute: Option<u32>,
    /// How many attempts were made.
    pub n_attempts: u32,
    /// When the receiver is asked next; never, if its confirmation is waited for.
    pub next_attempt: Option<Timestamp>,
    /// When it has failed.
    pub expiry: Timestamp,
}

/// What is to be done after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The receiver may be called.
    Granted,
    /// It is asked again, after so long.
    Again(Duration),
    /// Its confirmation is waited for.
    Awaited,
    /// It is not asked again.
    Failed,
}

/// How the receiver of a subscription shows that it wants callbacks.
#[must_use]
pub fn method(subscription: &v1::Subscription) -> Method {
    Some(subscription.verification())
        .filter(|it| *it != Method::Unspecified)
        .unwrap_or(Method::None)
}

/// What is to be done after the `n_attempts`-th attempt has come to this.
#[must_use]
pub fn next(outcome: Outcome, n_attempts: u32) -> Next {
    let place = usize::try_from(n_attempts).map(|it| it.saturating_sub(1));
    match outcome {
        Outcome::Granted => Next::Granted,
        Outcome::Awaited => Next::Awaited,
        Outcome::Refused | Outcome::Expired => Next::Failed,
        // What is not said is not consent.
        Outcome::Denied | Outcome::Unspecified => match place.map(|place| PAUSES.get(place)) {
            Ok(Some(pause)) => Next::Again(*pause),
            Ok(None) | Err(_) => Next::Failed,
        },
    }
}

/// How many attempts would start in a minute, as a receiver is told: a positive integer.
#[must_use]
pub fn requests_per_minute(per_second: f64) -> Option<u32> {
    let per_minute = (per_second * 60.0).floor().max(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to 600,000, and a cast saturates"
    )]
    let per_minute = per_minute as u32;
    (per_second > 0.0).then_some(per_minute)
}

// === impl Pending ===

impl Pending {
    /// Compiles what the control plane sends of a subscription whose verification goes on.
    ///
    /// # Errors
    /// Why the URL is not accepted.
    pub(crate) fn try_new(
        spec: &VerificationSpec,
        subscription: &v1::Subscription,
        rules: &Rules,
    ) -> Result<Option<Self>, Error> {
        let status = subscription.verification_status.as_ref();
        let Some(status) = status.filter(|it| it.state() == State::Pending) else {
            return Ok(None);
        };
        Ok(Some(Self {
            id: spec.id.clone(),
            method: status.method(),
            target: Arc::new(Target::parse(&status.callback_url, rules)?),
            origin: spec.origin.clone(),
            confirm_url: Some(spec.confirm_url.clone()).filter(|it| !it.is_empty()),
            requests_per_minute: requests_per_minute(subscription.max_requests_per_second),
            n_attempts: u32::try_from(status.attempt_count).unwrap_or(u32::MAX),
            next_attempt: status.next_attempt_time.map(Timestamp::from),
            expiry: status.expire_time.map(Timestamp::from).unwrap_or_default(),
        }))
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let confirm_url = self.confirm_url.as_ref().map(|_| "***");
        f.debug_struct("Pending")
            .field("id", &self.id)
            .field("method", &self.method)
            .field("target", &self.target)
            .field("confirm_url", &confirm_url)
            .field("n_attempts", &self.n_attempts)
            .field("next_attempt", &self.next_attempt)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

//! How a subscription comes to call a URL that has to agree first. What the receiver is asked, and what its answer means,
//! is the contract's to say.
//!
//! **Invariants:** a verification goes on if and only if the status says that it is PENDING; a URL that callbacks go to
//! stays in force until another one has agreed.

use hookfleet_contract::{
    time::Timestamp,
    verification::{self, Next, VALIDITY, answer::Rate, key::Key, method},
    violation::Violations,
};
use hookfleet_proto::{
    fleet::{VerificationReport, VerificationSpec, verification_report::Outcome},
    v1::{
        self, VerificationGrant, VerificationStatus,
        subscription::{State, Verification as Method},
        verification_status::{Failure, State as Stage},
    },
};
use uuid::Uuid;

use super::Subscription;
use crate::config;

/// Where confirmations come in, behind the public URL.
const PATH: &str = "/v1/verifications/";

/// A verification that goes on, but for what the status says of it.
#[derive(Clone, Debug)]
pub(crate) struct Verification {
    pub(crate) id: String,
    pub(crate) origin: String,
    /// How it can be confirmed, if it can.
    pub(crate) confirmation: Option<Confirmation>,
}

/// What confirms a verification.
#[derive(Clone, Debug)]
pub(crate) struct Confirmation {
    pub(crate) key: Key,
    pub(crate) public_url: String,
}

/// What a new verification is made of, should there be one.
#[derive(Clone, Debug)]
pub(crate) struct Fresh<'a> {
    pub(crate) settings: &'a config::Verification,
    pub(crate) id: Uuid,
    pub(crate) key: Key,
}

/// What was, before a change.
#[derive(Debug)]
pub(super) struct Before {
    callback_url: String,
    method: Method,
    /// The change says where callbacks go, perhaps as before.
    says_url: bool,
}

/// The receiver has not agreed yet, or is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotVerified {
    #[error("the receiver has not agreed to callbacks yet")]
    Yet,
    #[error("verification is NONE: there is nothing that the receiver could be asked")]
    None,
}

// === impl Fresh ===

impl Fresh<'_> {
    /// What is wrong with how a subscription wants to be verified, here.
    pub(super) fn check(&self, resource: &v1::Subscription, violations: &mut Violations) {
        let settings = self.settings;
        let problem = match resource.verification() {
            Method::None if settings.is_required => {
                "must not be NONE: this server calls nobody who has not agreed"
            }
            Method::ConfirmUrl if settings.public_url.is_none() => {
                "cannot be CONFIRM_URL: this server has no public_url that could be called"
            }
            Method::CeOptions if settings.origin.is_none() => {
                "cannot be CE_OPTIONS: this server has no origin to introduce itself by"
            }
            Method::Unspecified if settings.is_required && settings.origin.is_none() => {
                "is required: this server has no origin for CE_OPTIONS, its default"
            }
            Method::Unspecified
            | Method::None
            | Method::CeOptions
            | Method::ChallengeEcho
            | Method::ChallengeGet
            | Method::ConfirmUrl => return,
        };
        violations.push("subscription.verification", problem);
    }

    /// Where nobody is called who has not agreed, receivers are asked as CloudEvents says.
    pub(super) fn default_method(&self, resource: &mut v1::Subscription) {
        if self.settings.is_required && resource.verification() == Method::Unspecified {
            resource.set_verification(Method::CeOptions);
        }
    }

    fn verification(&self, method: Method) -> Verification {
        let is_confirmable = matches!(method, Method::CeOptions | Method::ConfirmUrl);
        let public_url = self.settings.public_url.clone();
        let confirmation = public_url.map(|public_url| Confirmation {
            key: self.key.clone(),
            public_url,
        });
        Verification {
            id: self.id.to_string(),
            origin: self.settings.origin.clone().unwrap_or_default(),
            confirmation: confirmation.filter(|_| is_confirmable),
        }
    }
}

// === impl Before ===

impl Before {
    pub(super) fn of(resource: &v1::Subscription, says_url: bool) -> Self {
        Self {
            callback_url: resource.callback_url.clone(),
            method: method(resource),
            says_url,
        }
    }
}

// === impl Subscription ===

impl Subscription {
    /// A new subscription waits for its receiver, if that is asked.
    pub(super) fn verify_first(&mut self, fresh: &Fresh<'_>, now: Timestamp) {
        if method(&self.resource) != Method::None {
            let url = self.resource.callback_url.clone();
            self.begin(url, fresh, now);
            self.resource.set_state(State::Pending);
        }
    }

    /// After the fields have changed: a new URL waits for its receiver, and the one that is in force stays until then.
    pub(super) fn verify_changed(&mut self, before: &Before, fresh: &Fresh<'_>, now: Timestamp) {
        let asked = self.resource.callback_url.clone();
        let is_same = asked == before.callback_url;
        if method(&self.resource) == Method::None {
            self.need_not_agree(is_same);
        } else if !self.has_agreed() {
            let is_same = is_same && method(&self.resource) == before.method;
            // Whoever says again where callbacks go after that has failed wants it tried again.
            let is_wanted_again = self.resource.state() == State::Failed && before.says_url;
            if !is_same || is_wanted_again {
                self.begin(asked, fresh, now);
                self.resource.set_state(State::Pending);
            }
        } else {
            self.resource.callback_url.clone_from(&before.callback_url);
            if is_same && before.says_url {
                self.take_back_change();
            } else if !is_same && !self.is_verifying(&asked) {
                self.begin(asked, fresh, now);
            }
        }
    }

    /// Asks the receiver anew: that of the URL that is to come, or the present one. What is in force stays.
    pub(crate) fn verify(&mut self, fresh: &Fresh<'_>, now: Timestamp) -> Result<(), NotVerified> {
        if method(&self.resource) == Method::None {
            return Err(NotVerified::None);
        }
        let status = self.resource.verification_status.as_ref();
        let coming = status.filter(|it| it.state() != Stage::Succeeded);
        let url = coming.map_or(&self.resource.callback_url, |it| &it.callback_url);
        self.begin(url.clone(), fresh, now);
        if !self.has_agreed() {
            self.resource.set_state(State::Pending);
        }
        Ok(())
    }

    /// Whoever has the key confirms the verification that it is of, in time and once. `false` if it is of none.
    pub(crate) fn confirm(&mut self, key: &Key, rate: Rate, now: Timestamp) -> bool {
        let verification = self.verification.as_ref();
        let confirmation = verification.and_then(|it| it.confirmation.as_ref());
        let is_meant = confirmation.is_some_and(|it| it.key.matches(key));
        let is_in_time = self.expiry().is_some_and(|expiry| now < expiry);
        if is_meant && is_in_time {
            self.grant(rate.into(), now);
        }
        is_meant && is_in_time
    }

    /// What an attempt came to. `false` if it is of a verification that is over, or was counted already.
    pub(crate) fn handle_report(&mut self, report: &VerificationReport, now: Timestamp) -> bool {
        let is_meant = self.verification.as_ref().map(|it| it.id.as_str())
            == Some(report.verification_id.as_str());
        let expiry = self.expiry();
        let Some(status) = &mut self.resource.verification_status else {
            return false;
        };
        if !is_meant || status.attempt_count != report.attempt_count {
            return false;
        }
        let outcome = report.outcome();
        if outcome == Outcome::Expired {
            let is_over = expiry.is_none_or(|expiry| now >= expiry);
            if is_over {
                self.fail(Failure::NotConfirmed, now);
            }
            return is_over;
        }
        status.attempt_count = status.attempt_count.saturating_add(1);
        status.status_code = report.status_code;
        status.failure = report.failure;
        status.next_attempt_time = None;
        let n_attempts = u32::try_from(status.attempt_count).unwrap_or(u32::MAX);
        match verification::next(outcome, n_attempts) {
            Next::Granted => self.grant(report.max_requests_per_minute, now),
            Next::Again(pause) => status.next_attempt_time = Some((now + pause).into()),
            Next::Awaited => {}
            Next::Failed => self.fail(report.failure(), now),
        }
        true
    }

    /// Whether callbacks may be made, to the callback URL as it is.
    pub(crate) fn has_agreed(&self) -> bool {
        !matches!(self.resource.state(), State::Pending | State::Failed)
    }

    fn begin(&mut self, callback_url: String, fresh: &Fresh<'_>, now: Timestamp) {
        let method = method(&self.resource);
        self.verification = Some(fresh.verification(method));
        self.resource.verification_status = Some(VerificationStatus {
            state: Stage::Pending.into(),
            callback_url,
            method: method.into(),
            start_time: Some(now.into()),
            next_attempt_time: Some(now.into()),
            expire_time: Some((now + VALIDITY).into()),
            ..VerificationStatus::default()
        });
    }

    /// The receiver is not asked any more, and what it has agreed to is of this URL only.
    fn need_not_agree(&mut self, is_same_url: bool) {
        let had_agreed = self.has_agreed();
        if self.verification.take().is_some() || !had_agreed || !is_same_url {
            self.resource.verification_status = None;
        }
        if !is_same_url {
            self.resource.grant = None;
        }
        if !had_agreed {
            self.resource.set_state(State::Active);
        }
    }

    /// Forgets a change of the URL that has not come to be.
    fn take_back_change(&mut self) {
        let status = self.resource.verification_status.as_ref();
        if status.is_some_and(|it| it.callback_url != self.resource.callback_url) {
            self.resource.verification_status = None;
            self.verification = None;
        }
    }

    fn is_verifying(&self, url: &str) -> bool {
        let status = self.resource.verification_status.as_ref();
        self.verification.is_some()
            && status
                .is_some_and(|it| it.callback_url == url && it.method() == method(&self.resource))
    }

    fn expiry(&self) -> Option<Timestamp> {
        let status = self.resource.verification_status.as_ref()?;
        status.expire_time.map(Timestamp::from)
    }

    fn grant(&mut self, max_requests_per_minute: i32, now: Timestamp) {
        let verification = self.verification.take();
        let Some(status) = &mut self.resource.verification_status else {
            return;
        };
        let is_introduced = status.method() == Method::CeOptions;
        let origin = verification.filter(|_| is_introduced).map(|it| it.origin);
        self.resource.grant = Some(VerificationGrant {
            origin: origin.unwrap_or_default(),
            max_requests_per_minute,
            grant_time: Some(now.into()),
        });
        self.resource.callback_url.clone_from(&status.callback_url);
        end(status, Stage::Succeeded, Failure::Unspecified, now);
        if !self.has_agreed() {
            self.resource.set_state(State::Active);
        }
    }

    fn fail(&mut self, failure: Failure, now: Timestamp) {
        self.verification = None;
        if let Some(status) = &mut self.resource.verification_status {
            end(status, Stage::Failed, failure, now);
        }
        if !self.has_agreed() {
            self.resource.set_state(State::Failed);
        }
    }
}

fn end(status: &mut VerificationStatus, stage: Stage, failure: Failure, now: Timestamp) {
    status.set_state(stage);
    status.set_failure(failure);
    status.next_attempt_time = None;
    status.end_time = Some(now.into());
}

// === impl Verification ===

impl From<Verification> for VerificationSpec {
    fn from(verification: Verification) -> Self {
        let confirmation = verification.confirmation;
        let url = confirmation.map(|it| format!("{}{PATH}{}", it.public_url, it.key.reveal()));
        Self {
            id: verification.id,
            origin: verification.origin,
            confirm_url: url.unwrap_or_default(),
        }
    }
}

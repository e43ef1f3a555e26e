//! A subscription with its secrets in clear: what its fields may be, how it changes, which keys sign. Sealing is not its
//! business, and neither is how far agents are.
//!
//! **Invariants:** each algorithm has one current key and it is the newest; the callback URL is canonical; the reason of
//! a suspension agrees with the state; the state is PENDING or FAILED until the receiver has agreed, if it is asked at all.

mod fields;
#[cfg(test)]
mod tests;
mod verification;

use std::time::Duration;

use hookfleet_contract::{
    header,
    name::SubscriptionName,
    signature::{Key, Secret},
    subscription::{MAX_KEYS, validate},
    target::{Host, Rules, Target},
    time::Timestamp,
    violation::Violations,
};
use hookfleet_egress::address::{Policy, Refused};
use hookfleet_proto::{
    fleet::{SecretKey, SubscriptionSpec},
    v1::{
        self, SignatureAlgorithm,
        subscription::{State, SuspendReason},
    },
};
use prost_types::FieldMask;
use uuid::Uuid;

use super::mask;
use verification::Before;
pub(crate) use verification::{Confirmation, Fresh, NotVerified, Verification};

/// A subscription.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// Without etag, secret and keys.
    pub(crate) resource: v1::Subscription,
    /// Newest first.
    pub(crate) keys: Vec<Key>,
    /// The one that goes on; how far it is stands in the resource.
    pub(crate) verification: Option<Verification>,
}

/// More keys would sign than verifiers can be expected to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_KEYS} keys sign already; an overlap of 0 revokes them")]
pub(crate) struct TooManyKeys;

/// What signs, if the subscription does not say otherwise: a shared secret.
pub(crate) fn algorithms(resource: &v1::Subscription) -> Vec<SignatureAlgorithm> {
    match resource.signature_algorithms.as_slice() {
        [] => vec![SignatureAlgorithm::HmacSha256],
        _ => resource.signature_algorithms().collect(),
    }
}

/// A key for each algorithm: the secret that was asked for, or new ones.
pub(crate) fn fresh_keys(
    algorithms: &[SignatureAlgorithm],
    asked: Option<&Secret>,
    now: Timestamp,
    mut random: impl FnMut(SignatureAlgorithm) -> (String, Secret),
) -> Vec<Key> {
    let keys = algorithms.iter().map(|algorithm| {
        let (id, generated) = random(*algorithm);
        let asked = asked.filter(|asked| asked.algorithm() == *algorithm);
        Key {
            id,
            secret: asked.cloned().unwrap_or(generated),
            create_time: now,
            expire_time: None,
        }
    });
    keys.collect()
}

// === impl Subscription ===

impl Subscription {
    /// A new subscription, of what was asked for.
    ///
    /// # Errors
    /// Everything that is wrong with it, by the paths of its fields.
    pub(crate) fn create(
        asked: v1::Subscription,
        name: &SubscriptionName,
        uid: Uuid,
        rules: &Rules,
        fresh: &Fresh<'_>,
        now: Timestamp,
        random: impl FnMut(SignatureAlgorithm) -> (String, Secret),
    ) -> Result<Self, Violations> {
        check(&asked, rules, fresh)?;
        let algorithms = algorithms(&asked);
        let keys = fresh_keys(
            &algorithms,
            asked.signing_secret.parse().ok().as_ref(),
            now,
            random,
        );
        let mut resource = v1::Subscription {
            name: name.to_string(),
            uid: uid.to_string(),
            signing_secret: String::new(),
            signing_keys: Vec::new(),
            state: State::Active.into(),
            suspend_reason: SuspendReason::Unspecified.into(),
            verification_status: None,
            grant: None,
            create_time: Some(now.into()),
            update_time: Some(now.into()),
            etag: String::new(),
            ..asked
        };
        canonicalize(&mut resource, rules, fresh);
        let mut subscription = Self {
            resource,
            keys,
            verification: None,
        };
        subscription.verify_first(fresh, now);
        Ok(subscription)
    }

    /// Changes the fields that the mask names. An algorithm that is new gets a key, one that is gone loses its keys. A
    /// callback URL that is new is verified first.
    ///
    /// # Errors
    /// Everything that is wrong with the mask, or with the subscription as it would be.
    pub(crate) fn update(
        &mut self,
        mut patch: v1::Subscription,
        mask: Option<&FieldMask>,
        rules: &Rules,
        fresh: &Fresh<'_>,
        now: Timestamp,
        random: impl FnMut(SignatureAlgorithm) -> (String, Secret),
    ) -> Result<(), Violations> {
        let names_secret =
            mask.is_some_and(|it| it.paths.iter().any(|path| path == "signing_secret"));
        // Whoever says the whole subscription again says the secret that it has.
        let is_other = !patch.signing_secret.is_empty() && !self.has_secret(&patch.signing_secret);
        if names_secret || is_other {
            let mut violations = Violations::default();
            violations.push(
                "subscription.signing_secret",
                "is changed by RotateSecret only",
            );
            return Err(violations);
        }
        self.keep_hidden_values(&mut patch);
        let before = Before::of(&self.resource, mask::names(mask, "callback_url", &patch));
        mask::apply(&mut self.resource, &mut patch, mask)?;
        check(&self.resource, rules, fresh)?;
        canonicalize(&mut self.resource, rules, fresh);
        self.verify_changed(&before, fresh, now);

        let algorithms = algorithms(&self.resource);
        self.keys
            .retain(|key| algorithms.contains(&key.secret.algorithm()));
        let is_new = |algorithm: &SignatureAlgorithm| {
            !self
                .keys
                .iter()
                .any(|key| key.secret.algorithm() == *algorithm)
        };
        let new: Vec<_> = algorithms.into_iter().filter(is_new).collect();
        self.keys.splice(0..0, fresh_keys(&new, None, now, random));
        Ok(())
    }

    /// Stops callbacks; `false` if they were stopped already.
    pub(crate) fn suspend(&mut self, reason: SuspendReason) -> bool {
        let was_active = self.resource.state() == State::Active;
        if was_active {
            self.resource.set_state(State::Suspended);
            self.resource.set_suspend_reason(reason);
        }
        was_active
    }

    /// Lets callbacks go on; `false` if they do already.
    pub(crate) fn resume(&mut self) -> bool {
        let was_suspended = self.resource.state() == State::Suspended;
        if was_suspended {
            self.resource.set_state(State::Active);
            self.resource.set_suspend_reason(SuspendReason::Unspecified);
        }
        was_suspended
    }

    /// Puts fresh keys in force. The others go on signing for the overlap at most.
    ///
    /// # Errors
    /// [`TooManyKeys`]; nothing is changed.
    pub(crate) fn rotate(
        &mut self,
        fresh: Vec<Key>,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<(), TooManyKeys> {
        let end = now + overlap;
        let old = self.keys.iter().cloned().map(|key| Key {
            expire_time: Some(key.expire_time.map_or(end, |expire| expire.min(end))),
            ..key
        });
        let still_sign = old.filter(|key| key.expire_time.is_none_or(|expire| expire > now));
        let keys: Vec<_> = fresh.into_iter().chain(still_sign).collect();
        if keys.len() > MAX_KEYS {
            return Err(TooManyKeys);
        }
        self.keys = keys;
        Ok(())
    }

    /// Forgets the keys that no longer sign.
    pub(crate) fn forget_expired_keys(&mut self, now: Timestamp) {
        self.keys
            .retain(|key| key.expire_time.is_none_or(|expire| expire > now));
    }

    /// The current shared secret, to be shown once; empty if there is none.
    pub(crate) fn reveal(&self) -> String {
        let mut keys = self.keys.iter();
        let shared = keys.find(|key| key.secret.algorithm() == SignatureAlgorithm::HmacSha256);
        shared.map(|key| key.secret.reveal()).unwrap_or_default()
    }

    /// Whether this is the current shared secret.
    fn has_secret(&self, text: &str) -> bool {
        let secret = text.parse::<Secret>();
        secret.is_ok_and(|secret| secret.reveal() == self.reveal())
    }

    /// What agents deliver by. It holds secrets.
    pub(crate) fn into_spec(self) -> SubscriptionSpec {
        let keys = self.keys.into_iter().map(|key| SecretKey {
            key_id: key.id,
            secret: key.secret.reveal(),
            create_time: Some(key.create_time.into()),
            expire_time: key.expire_time.map(Into::into),
        });
        SubscriptionSpec {
            secret_keys: keys.collect(),
            verification: self.verification.map(Into::into),
            subscription: Some(self.resource),
        }
    }

    /// A secret header without a value, as callers read it, means the value that it has.
    fn keep_hidden_values(&self, patch: &mut v1::Subscription) {
        for header in &mut patch.headers {
            let is_hidden = header.value.is_empty() && is_secret(header);
            let held = self.resource.headers.iter();
            let mut held = held.filter(|held| held.name.eq_ignore_ascii_case(&header.name));
            if is_hidden && let Some(held) = held.next() {
                header.value.clone_from(&held.value);
            }
        }
    }
}

/// Whether the value of a header must not be shown.
fn is_secret(header: &v1::Header) -> bool {
    header.secret || header::is_secret(&header.name)
}

/// The violations that are the caller's have the caller's paths.
fn check(resource: &v1::Subscription, rules: &Rules, fresh: &Fresh<'_>) -> Result<(), Violations> {
    let mut violations = Violations::default();
    if let Err(found) = validate(resource, rules) {
        violations = found;
        for violation in &mut violations.0 {
            violation.field.insert_str(0, "subscription.");
        }
    }
    if let Ok(target) = Target::parse(&resource.callback_url, rules)
        && let Err(refused) = check_address(&target, rules)
    {
        violations.push("subscription.callback_url", refused.to_string());
    }
    let is_shared = algorithms(resource).contains(&SignatureAlgorithm::HmacSha256);
    if !resource.signing_secret.is_empty() && !is_shared {
        violations.push(
            "subscription.signing_secret",
            "needs HMAC_SHA256 in signature_algorithms",
        );
    }
    fresh.check(resource, &mut violations);
    violations.into_result(())
}

/// A courtesy: an address in the URL is judged now, those of a name at every attempt.
fn check_address(target: &Target, rules: &Rules) -> Result<(), Refused> {
    let policy = Policy {
        allow_loopback: rules.allow_loopback,
        ..Policy::default()
    };
    match target.host() {
        Host::Domain(_) => Ok(()),
        Host::Ipv4(address) => policy.check((*address).into()),
        Host::Ipv6(address) => policy.check((*address).into()),
    }
}

/// One spelling for what has several.
fn canonicalize(resource: &mut v1::Subscription, rules: &Rules, fresh: &Fresh<'_>) {
    fresh.default_method(resource);
    if let Ok(target) = Target::parse(&resource.callback_url, rules) {
        target.url().clone_into(&mut resource.callback_url);
    }
    for header in &mut resource.headers {
        header.secret = is_secret(header);
    }
}

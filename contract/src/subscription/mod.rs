//! A subscription: the fields that its owner sets, checked, and the form that an agent delivers by.

mod validate;

use std::{sync::Arc, time::Duration};

use hookfleet_proto::{
    fleet::{SecretKey, SubscriptionSpec},
    v1::{self, BodyMode, Ordering, subscription::State},
};
use http::{HeaderName, HeaderValue};

use crate::{
    name::SubscriptionName,
    pattern::Pattern,
    retry::{Policy, Preset, Schedule},
    signature::Key,
    target::{Rules, Target},
    time::Timestamp,
    verification,
    violation::Violations,
};

pub use validate::{annotations, display_name, validate};

/// How long an attempt may wait for the response's headers, if the subscription does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// How many attempts may be in flight at once, if the subscription does not say.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 64;
/// How many keys may sign at once.
pub const MAX_KEYS: usize = 5;

/// A subscription as an agent delivers by it. An agent may have a million of them.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its name.
    pub name: SubscriptionName,
    /// Never used again, even if the name is.
    pub uid: [u8; 16],
    /// Where callbacks go.
    pub target: Arc<Target>,
    /// What is wanted.
    pub patterns: Box<[Pattern]>,
    /// How the body is made.
    pub mode: BodyMode,
    /// Further headers, with what the receiver was told of us when it agreed.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// When a failed delivery is tried again.
    pub policy: Arc<Policy>,
    /// How long an attempt may wait for the response's headers.
    pub timeout: Duration,
    /// How many attempts may be in flight at once.
    pub max_in_flight: u32,
    /// How many attempts may start in a second, if that is limited: by its owner, by its receiver, or by both.
    pub max_requests_per_second: Option<f64>,
    /// Events with the same partition key are attempted one after the other.
    pub is_ordered: bool,
    /// What signs, newest first.
    pub keys: Box<[Key]>,
    /// Deliveries wait.
    pub suspended: bool,
    /// Events match. Else nothing is sent but what verifies the callback URL.
    pub is_in_force: bool,
    /// The verification that goes on.
    pub verification: Option<Box<verification::Pending>>,
}

impl Subscription {
    /// Compiles what the control plane sends.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn try_new(spec: &SubscriptionSpec, rules: &Rules) -> Result<Self, Violations> {
        let mut violations = Violations::default();
        let none = v1::Subscription::default();
        let subscription = spec.subscription.as_ref().unwrap_or(&none);
        validate(subscription, rules)?;
        let mut field =
            |field: &str, error: &dyn std::fmt::Display| violations.push(field, error.to_string());
        let name = subscription
            .name
            .parse()
            .map_err(|error| field("name", &error));
        let uid = parse_uid(&subscription.uid).ok_or_else(|| field("uid", &"must be a UUID"));
        let target = Target::parse(&subscription.callback_url, rules);
        let target = target.map_err(|error| field("callback_url", &error));
        let patterns: Result<Box<[Pattern]>, _> = subscription
            .event_types
            .iter()
            .map(|it| it.parse())
            .collect();
        let patterns = patterns.map_err(|error| field("event_types", &error));
        let headers = subscription
            .headers
            .iter()
            .map(compile_header)
            .chain(granted_origin(subscription).map(Some))
            .collect::<Option<Box<[_]>>>();
        let headers = headers.ok_or_else(|| field("headers", &"must be headers"));
        let verification = match &spec.verification {
            Some(spec) => verification::Pending::try_new(spec, subscription, rules),
            None => Ok(None),
        };
        let verification =
            verification.map_err(|error| field("verification_status.callback_url", &error));
        let keys: Result<Box<[Key]>, _> = spec.secret_keys.iter().map(compile_key).collect();
        let keys = keys.map_err(|error| field("secret_keys", &error));
        let (Ok(name), Ok(uid), Ok(target), Ok(patterns), Ok(headers), Ok(keys)) =
            (name, uid, target, patterns, headers, keys)
        else {
            return Err(violations);
        };
        let Ok(verification) = verification else {
            return Err(violations);
        };
        Ok(Self {
            name,
            uid,
            target: Arc::new(target),
            patterns,
            mode: subscription.body_mode(),
            headers,
            policy: Arc::new(policy(subscription.retry_policy.as_ref())),
            timeout: subscription.timeout.map_or(DEFAULT_TIMEOUT, duration),
            max_in_flight: match u32::try_from(subscription.max_in_flight) {
                Ok(0) | Err(_) => DEFAULT_MAX_IN_FLIGHT,
                Ok(max) => max,
            },
            max_requests_per_second: rate(subscription),
            is_ordered: subscription.ordering() == Ordering::ByPartitionKey,
            keys,
            suspended: subscription.state() == State::Suspended,
            is_in_force: !matches!(subscription.state(), State::Pending | State::Failed),
            verification: verification.map(Box::new),
        })
    }
}

/// The lower of what its owner and its receiver allow in a second.
fn rate(subscription: &v1::Subscription) -> Option<f64> {
    let granted = subscription.grant.as_ref();
    let granted = granted.map_or(0, |it| it.max_requests_per_minute);
    let limits = [
        subscription.max_requests_per_second,
        f64::from(granted) / 60.0,
    ];
    limits.into_iter().filter(|it| *it > 0.0).reduce(f64::min)
}

/// What the receiver agreed to be called by is said at every call.
fn granted_origin(subscription: &v1::Subscription) -> Option<(HeaderName, HeaderValue)> {
    let grant = subscription.grant.as_ref();
    let origin = grant.filter(|it| !it.origin.is_empty())?.origin.parse();
    Some((
        HeaderName::from_static("webhook-request-origin"),
        origin.ok()?,
    ))
}

/// A UUID in its text form, as 16 bytes.
fn parse_uid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let is_uuid = groups.iter().map(|it| it.len()).eq([8, 4, 4, 4, 12])
        && groups.concat().bytes().all(|it| it.is_ascii_hexdigit());
    let value = u128::from_str_radix(&groups.concat(), 16).ok()?;
    is_uuid.then(|| value.to_be_bytes())
}

fn compile_header(header: &v1::Header) -> Option<(HeaderName, HeaderValue)> {
    let mut value: HeaderValue = header.value.parse().ok()?;
    value.set_sensitive(header.secret || crate::header::is_secret(&header.name));
    Some((header.name.parse().ok()?, value))
}

fn compile_key(key: &SecretKey) -> Result<Key, crate::signature::Error> {
    Ok(Key {
        id: key.key_id.clone(),
        secret: key.secret.parse()?,
        create_time: key.create_time.map(Timestamp::from).unwrap_or_default(),
        expire_time: key.expire_time.map(Timestamp::from),
    })
}

/// The policy of a valid subscription.
fn policy(policy: Option<&v1::RetryPolicy>) -> Policy {
    let Some(policy) = policy else {
        return Policy::default();
    };
    let default = Policy::default();
    let schedule = match &policy.schedule {
        None => default.schedule,
        Some(v1::retry_policy::Schedule::Delays(it)) => {
            Schedule::Delays(it.delays.iter().copied().map(duration).collect())
        }
        Some(v1::retry_policy::Schedule::Exponential(it)) => Schedule::Exponential {
            initial: it.initial_delay.map(duration).unwrap_or_default(),
            multiplier: it.multiplier,
            max: it.max_delay.map(duration).unwrap_or_default(),
            max_attempts: u32::try_from(it.max_attempts).unwrap_or(1),
        },
    };
    let status = |code: &i32| u16::try_from(*code).ok();
    Policy {
        schedule,
        ttl: policy.ttl.map_or(default.ttl, duration),
        preset: match policy.preset() {
            v1::RetryPreset::Unspecified | v1::RetryPreset::Standard => Preset::Standard,
            v1::RetryPreset::Knative => Preset::Knative,
            v1::RetryPreset::Eventbridge => Preset::EventBridge,
            v1::RetryPreset::EventGrid => Preset::EventGrid,
        },
        non_retryable: policy
            .non_retryable_status_codes
            .iter()
            .filter_map(status)
            .collect(),
    }
}

/// A duration of a message; a negative one is none.
fn duration(duration: prost_types::Duration) -> Duration {
    duration.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_a_uuid_in_its_text_form() {
        let uid = parse_uid("00112233-4455-6677-8899-aABBccddeeff").unwrap();
        assert_eq!(uid[..2], [0x00, 0x11]);
        assert_eq!(uid[10..], [0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF]);
        for text in [
            "",
            "00112233445566778899aabbccddeeff",
            "+0112233-4455-6677-8899-aabbccddeeff",
            "001122334-455-6677-8899-aabbccddeeff",
            "0011223\u{661}-445-6677-8899-aabbccddeeff",
            "0011223g-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeeff-",
        ] {
            assert_eq!(parse_uid(text), None, "{text}");
        }
    }
}

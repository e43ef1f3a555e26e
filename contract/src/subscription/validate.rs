//! What is wrong with the fields that a subscription's owner sets, all of it.

use std::{ops::RangeInclusive, time::Duration};

use hookfleet_proto::v1::{
    self, BodyMode, Ordering, RetryPreset, SignatureAlgorithm, subscription::Verification,
};

use super::duration;
use crate::{
    header,
    pattern::Pattern,
    signature::Secret,
    target::{Rules, Target},
    violation::Violations,
};

const MAX_EVENT_TYPES: usize = 64;
const DAY: Duration = Duration::from_secs(86_400);
const DELAY: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY;
const TTL: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(7 * 86_400);
const RATE: RangeInclusive<f64> = 0.01..=10_000.0;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// Checks the fields that a subscription's owner sets.
///
/// # Errors
/// Everything that is wrong, by the paths of the fields.
pub fn validate(subscription: &v1::Subscription, rules: &Rules) -> Result<(), Violations> {
    let mut violations = Violations::default();
    let violation = &mut violations;
    labels(subscription, violation);
    if let Err(error) = Target::parse(&subscription.callback_url, rules) {
        violation.push("callback_url", error.to_string());
    }
    event_types(&subscription.event_types, violation);
    if BodyMode::try_from(subscription.body_mode).is_err() {
        violation.push("body_mode", "must be one of the body modes");
    }
    headers(&subscription.headers, violation);
    if let Some(policy) = &subscription.retry_policy {
        retry_policy(policy, violation);
    }
    if let Some(timeout) = subscription.timeout {
        range("timeout", timeout, &TIMEOUT, violation);
    }
    if !(0..=1000).contains(&subscription.max_in_flight) {
        violation.push("max_in_flight", "must be 1 to 1000");
    }
    let rate = subscription.max_requests_per_second;
    if rate != 0.0 && !RATE.contains(&rate) {
        let (from, to) = (RATE.start(), RATE.end());
        violation.push(
            "max_requests_per_second",
            format!("must be {from} to {to}, or 0 for no limit"),
        );
    }
    if Ordering::try_from(subscription.ordering).is_err() {
        violation.push("ordering", "must be UNORDERED or BY_PARTITION_KEY");
    }
    if Verification::try_from(subscription.verification).is_err() {
        violation.push("verification", "must be one of the ways to verify");
    }
    signing(subscription, violation);
    violations.into_result(())
}

fn labels(subscription: &v1::Subscription, violations: &mut Violations) {
    display_name(&subscription.display_name, violations);
    annotations(subscription.annotations.iter(), violations);
}

/// Checks a name for people.
pub fn display_name(display_name: &str, violations: &mut Violations) {
    if display_name.chars().count() > 63 || display_name.chars().any(char::is_control) {
        violations.push(
            "display_name",
            "must have at most 63 characters and no control characters",
        );
    }
}

/// Checks the free key-value pairs of a resource.
pub fn annotations<'a>(
    annotations: impl ExactSizeIterator<Item = (&'a String, &'a String)>,
    violations: &mut Violations,
) {
    if annotations.len() > 32 {
        let n_annotations = annotations.len();
        violations.push(
            "annotations",
            format!("has {n_annotations} entries, may have 32"),
        );
    }
    for (key, value) in annotations {
        if key.is_empty() || key.len() > 63 || value.len() > 1024 {
            let description = "must have a key of 1 to 63 bytes and a value of at most 1024";
            violations.push(format!("annotations[{key}]"), description);
        }
    }
}

fn event_types(event_types: &[String], violations: &mut Violations) {
    if event_types.is_empty() || event_types.len() > MAX_EVENT_TYPES {
        let n_types = event_types.len();
        violations.push(
            "event_types",
            format!("has {n_types} entries, must have 1 to {MAX_EVENT_TYPES}"),
        );
    }
    for (index, text) in event_types.iter().enumerate() {
        if let Err(error) = text.parse::<Pattern>() {
            violations.push(format!("event_types[{index}]"), error.to_string());
        }
    }
}

fn headers(headers: &[v1::Header], violations: &mut Violations) {
    if headers.len() > header::MAX_HEADERS {
        let (n_headers, max) = (headers.len(), header::MAX_HEADERS);
        violations.push(
            "headers",
            format!("has {n_headers} entries, may have {max}"),
        );
    }
    let n_bytes: usize = headers
        .iter()
        .map(|it| it.name.len() + it.value.len() + 4)
        .sum();
    if n_bytes > header::MAX_TOTAL_BYTES {
        let max = header::MAX_TOTAL_BYTES;
        violations.push("headers", format!("has {n_bytes} bytes, may have {max}"));
    }
    for (index, it) in headers.iter().enumerate() {
        if let Err(description) = header::check_name(&it.name) {
            violations.push(format!("headers[{index}].name"), description);
        }
        if let Err(description) = header::check_value(&it.value) {
            violations.push(format!("headers[{index}].value"), description);
        }
        if headers[..index]
            .iter()
            .any(|other| other.name.eq_ignore_ascii_case(&it.name))
        {
            violations.push(format!("headers[{index}].name"), "is there twice");
        }
    }
}

fn retry_policy(policy: &v1::RetryPolicy, violations: &mut Violations) {
    match &policy.schedule {
        None => {}
        Some(v1::retry_policy::Schedule::Delays(it)) => {
            if !(1..=50).contains(&it.delays.len()) {
                let n_delays = it.delays.len();
                let description = format!("has {n_delays} entries, must have 1 to 50");
                violations.push("retry_policy.delays.delays", description);
            }
            for (index, delay) in it.delays.iter().enumerate() {
                let field = format!("retry_policy.delays.delays[{index}]");
                range(&field, *delay, &DELAY, violations);
            }
        }
        Some(v1::retry_policy::Schedule::Exponential(it)) => exponential(it, violations),
    }
    if let Some(ttl) = policy.ttl {
        range("retry_policy.ttl", ttl, &TTL, violations);
    }
    if RetryPreset::try_from(policy.preset).is_err() {
        violations.push("retry_policy.preset", "must be one of the presets");
    }
    let codes = &policy.non_retryable_status_codes;
    if codes.len() > 32 || !codes.iter().all(|it| (300..=599).contains(it)) {
        let field = "retry_policy.non_retryable_status_codes";
        violations.push(field, "must be at most 32 codes of 300 to 599");
    }
}

fn exponential(schedule: &v1::retry_policy::Exponential, violations: &mut Violations) {
    const FIELD: &str = "retry_policy.exponential";
    let delays = [
        ("initial_delay", schedule.initial_delay),
        ("max_delay", schedule.max_delay),
    ];
    for (name, delay) in delays {
        range(
            &format!("{FIELD}.{name}"),
            delay.unwrap_or_default(),
            &DELAY,
            violations,
        );
    }
    if !(1.0..=10.0).contains(&schedule.multiplier) {
        violations.push(format!("{FIELD}.multiplier"), "must be 1.0 to 10.0");
    }
    if !(1..=185).contains(&schedule.max_attempts) {
        violations.push(format!("{FIELD}.max_attempts"), "must be 1 to 185");
    }
}

fn signing(subscription: &v1::Subscription, violations: &mut Violations) {
    for (index, algorithm) in subscription.signature_algorithms.iter().enumerate() {
        let is_known = SignatureAlgorithm::try_from(*algorithm)
            .is_ok_and(|it| it != SignatureAlgorithm::Unspecified);
        if !is_known || subscription.signature_algorithms[..index].contains(algorithm) {
            let field = format!("signature_algorithms[{index}]");
            violations.push(field, "must be HMAC_SHA256 or ED25519, each once");
        }
    }
    let secret = &subscription.signing_secret;
    let is_shared = || {
        let parsed = secret.parse::<Secret>();
        parsed.is_ok_and(|it| it.algorithm() == SignatureAlgorithm::HmacSha256)
    };
    if !secret.is_empty() && !is_shared() {
        violations.push(
            "signing_secret",
            "must be `whsec_` and base64 of 24 to 64 bytes",
        );
    }
}

fn range(
    field: &str,
    value: prost_types::Duration,
    allowed: &RangeInclusive<Duration>,
    violations: &mut Violations,
) {
    let is_normal = value.seconds >= 0 && (0..1_000_000_000).contains(&value.nanos);
    if !is_normal || !allowed.contains(&duration(value)) {
        let (from, to) = (allowed.start().as_secs(), allowed.end().as_secs());
        violations.push(field, format!("must be {from} to {to} seconds"));
    }
}

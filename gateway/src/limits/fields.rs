//! What clients of HTTP are told of quotas: `RateLimit-Policy` and `RateLimit` of the HTTPAPI draft (2025-09), and
//! `Retry-After`.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::limiter::Standing;
use crate::status::quota;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Tells what is left of a quota.
pub(super) fn tell(headers: &mut HeaderMap, standing: &Standing) {
    let Standing { name, quota, left } = standing;
    set(
        headers,
        name,
        (quota.burst(), quota.window_seconds()),
        (left.units, left.full_in.as_secs_f64().ceil()),
    );
}

/// Tells of a failed call when to come back, and which quota was used up, if it was that.
pub(crate) fn advise(headers: &mut HeaderMap, status: &Status) {
    let details = status.get_error_details();
    let delay = details.retry_info().and_then(|it| it.retry_delay);
    let Some(delay) = delay else {
        return;
    };
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    headers.insert(header::RETRY_AFTER, seconds.into());
    let told = |key: &str| details.error_info()?.metadata.get(key);
    if let (Some(name), Some(units), Some(window)) =
        (told(quota::NAME), told(quota::UNITS), told(quota::WINDOW))
    {
        set(headers, name, (units, window), (0, seconds));
    }
}

/// Units and seconds of the policy, and of what is left.
fn set(
    headers: &mut HeaderMap,
    name: &str,
    (units, window): (impl std::fmt::Display, impl std::fmt::Display),
    (left, seconds): (u64, impl std::fmt::Display),
) {
    let policy = format!("\"{name}\";q={units};w={window}");
    let limit = format!("\"{name}\";r={left};t={seconds}");
    for (field, value) in [(POLICY, policy), (LIMIT, limit)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(field, value);
        }
    }
}

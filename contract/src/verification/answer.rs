//! What a receiver's answer to a verification means.
//!
//! **Invariant:** nothing is consent but what was asked for as consent. A server that answers OPTIONS for browsers, says
//! yes to everything or sends back what it gets has not consented.

use hookfleet_proto::{
    fleet::verification_report::Outcome,
    v1::{subscription::Verification as Method, verification_status::Failure},
};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

/// What the receiver was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// How.
    pub method: Method,
    /// `WebHook-Request-Origin`.
    pub origin: &'a str,
    /// What is to come back.
    pub challenge: &'a str,
    /// Whether it may confirm later.
    pub is_confirmable: bool,
}

/// What it answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body, if it ended.
    pub body: &'a [u8],
}

/// What that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver wants callbacks.
    Granted(Rate),
    /// It took the request and may confirm it later.
    Awaited,
    /// It has not agreed; it may be asked again.
    Denied(Failure),
    /// It has not agreed, and will not.
    Refused(Failure),
}

/// How many requests a receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As many as it is sent, or as it was asked to take.
    Any,
    /// So many in a minute, one at least.
    PerMinute(u32),
}

/// The rate is neither a positive integer nor `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a positive integer or *")]
pub struct InvalidRate;

/// What an answer means; `None` is none.
#[must_use]
pub fn judge(asked: &Asked<'_>, answer: Option<&Answer<'_>>) -> Verdict {
    let Some(answer) = answer else {
        return Verdict::Denied(Failure::Unreachable);
    };
    match asked.method {
        Method::CeOptions => options(asked, answer),
        Method::ChallengeEcho => challenged(answer, has_echo(answer.body, asked.challenge)),
        Method::ChallengeGet if answer.status == 404 => Verdict::Refused(Failure::Refused),
        Method::ChallengeGet => challenged(answer, answer.body == asked.challenge.as_bytes()),
        Method::ConfirmUrl if is_success(answer) => Verdict::Awaited,
        Method::ConfirmUrl => denied(answer),
        // Nobody is asked nothing.
        Method::Unspecified | Method::None => Verdict::Refused(Failure::NotSupported),
    }
}

/// Reads `WebHook-Allowed-Rate`; absent is any.
///
/// # Errors
/// [`InvalidRate`].
pub fn rate(value: Option<&HeaderValue>) -> Result<Rate, InvalidRate> {
    let Some(value) = value else {
        return Ok(Rate::Any);
    };
    let text = value.to_str().map_err(|_| InvalidRate)?.trim();
    if text == "*" {
        return Ok(Rate::Any);
    }
    let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    // More than can be counted is more than can be sent.
    let per_minute = text.parse().unwrap_or(u32::MAX);
    match is_number && per_minute > 0 {
        true => Ok(Rate::PerMinute(per_minute)),
        false => Err(InvalidRate),
    }
}

/// The header is consent, whatever the status is.
fn options(asked: &Asked<'_>, answer: &Answer<'_>) -> Verdict {
    let allowed = answer.headers.get_all("webhook-allowed-origin").iter();
    let mut allowed = allowed.filter_map(|it| it.to_str().ok().map(str::trim));
    if allowed.any(|it| it == "*" || it.eq_ignore_ascii_case(asked.origin)) {
        return match rate(answer.headers.get("webhook-allowed-rate")) {
            Ok(rate) => Verdict::Granted(rate),
            Err(InvalidRate) => Verdict::Denied(Failure::InvalidRate),
        };
    }
    match answer.status {
        405 | 501 => Verdict::Refused(Failure::NotSupported),
        _ if asked.is_confirmable && is_success(answer) => Verdict::Awaited,
        _ => denied(answer),
    }
}

fn challenged(answer: &Answer<'_>, has_challenge: bool) -> Verdict {
    match is_success(answer) && has_challenge {
        true => Verdict::Granted(Rate::Any),
        false => denied(answer),
    }
}

/// The challenge alone, as text or as JSON. A body that has more to say is what was sent, sent back.
fn has_echo(body: &[u8], challenge: &str) -> bool {
    let is_json = || match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => {
            members.len() == 1 && members.get("challenge").is_some_and(|it| *it == challenge)
        }
        Ok(_) | Err(_) => false,
    };
    body == challenge.as_bytes() || is_json()
}

fn denied(answer: &Answer<'_>) -> Verdict {
    match answer.status {
        410 => Verdict::Refused(Failure::Refused),
        _ => Verdict::Denied(Failure::NoConsent),
    }
}

fn is_success(answer: &Answer<'_>) -> bool {
    (200..=299).contains(&answer.status)
}

// === impl Verdict ===

impl Verdict {
    /// As it is reported.
    #[must_use]
    pub fn outcome(self) -> (Outcome, Failure) {
        match self {
            Self::Granted(_) => (Outcome::Granted, Failure::Unspecified),
            Self::Awaited => (Outcome::Awaited, Failure::Unspecified),
            Self::Denied(failure) => (Outcome::Denied, failure),
            Self::Refused(failure) => (Outcome::Refused, failure),
        }
    }

    /// How many requests in a minute were granted, as it is reported: 0 is any number.
    #[must_use]
    pub fn requests_per_minute(self) -> i32 {
        match self {
            Self::Granted(rate) => rate.into(),
            Self::Awaited | Self::Denied(_) | Self::Refused(_) => 0,
        }
    }
}

impl From<Rate> for i32 {
    /// As it is kept: 0 is any number.
    fn from(rate: Rate) -> Self {
        match rate {
            Rate::Any => 0,
            Rate::PerMinute(n) => Self::try_from(n).unwrap_or(Self::MAX),
        }
    }
}

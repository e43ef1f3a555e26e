//! What a receiver's answer means: one pure function over status, headers and transport errors.
//! When the next attempt is due is the retry policy's to say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hookfleet_proto::v1::{DeadLetterReason, FailureKind, subscription::SuspendReason};

use crate::{
    retry::{Policy, Preset, Retry},
    time::Timestamp,
};

/// No `Retry-After` counts for more: 24 hours.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);
/// None counts for less, and who asks for a pause without saying how long gets this: a receiver that
/// answers 429 and 0 is not asked in a loop.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Answers that a person has to mend are not asked for again sooner.
const SLOW: Duration = Duration::from_secs(300);
/// Faults of ours are tried again this soon.
const OURS: Duration = Duration::from_secs(1);

/// The parts of an HTTP response that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `retry-after`, if it could be read.
    pub retry_after: Option<Duration>,
    /// `webhook-delivery`, if it said something known.
    pub control: Option<Control>,
}

/// What a receiver says in `webhook-delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Stop trying this event.
    AbortMessage,
    /// Stop calling this endpoint.
    Disable,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The name does not resolve, or the address or port may not be called. Tenants are not told which.
    TargetUnreachable,
    /// No connection.
    Connect,
    /// No TLS.
    Tls,
    /// Too slow.
    Timeout,
    /// The connection broke.
    Reset,
    /// Not HTTP.
    Protocol,
    /// Too much.
    ResponseTooLarge,
    /// Our fault.
    Internal,
}

/// What an attempt meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver took the event.
    Delivered,
    /// Try again.
    Retry(Retry),
    /// Give up.
    Reject(DeadLetterReason),
    /// Stop calling; what waits is kept.
    Suspend(SuspendReason),
}

/// What an attempt meant.
#[must_use]
pub fn classify(answer: &Result<Answer, TransportError>, policy: &Policy) -> Verdict {
    match answer {
        Ok(answer) if is_success(answer.status, policy.preset) => Verdict::Delivered,
        Ok(answer) if (200..=599).contains(&answer.status) => failed(answer, policy),
        // An interim status is no answer: nobody asked to switch protocols.
        Ok(_) => unanswered(TransportError::Protocol),
        Err(error) => unanswered(*error),
    }
}

fn unanswered(error: TransportError) -> Verdict {
    let is_ours = error == TransportError::Internal;
    Verdict::Retry(Retry {
        failure: error.into(),
        minimum: if is_ours { OURS } else { Duration::ZERO },
        retry_after: None,
        throttled: is_ours,
        pause_endpoint: false,
    })
}

fn is_success(status: u16, preset: Preset) -> bool {
    match preset {
        Preset::EventGrid => (200..=204).contains(&status),
        Preset::Standard | Preset::Knative | Preset::EventBridge => (200..=299).contains(&status),
    }
}

fn failed(answer: &Answer, policy: &Policy) -> Verdict {
    let Answer {
        status,
        retry_after,
        control,
    } = *answer;
    if !(200..=299).contains(&status) {
        match control {
            Some(Control::AbortMessage) => return Verdict::Reject(DeadLetterReason::Aborted),
            Some(Control::Disable) => {
                return Verdict::Suspend(SuspendReason::RequestedByEndpoint);
            }
            None => {}
        }
    }
    if is_final(status, policy) {
        return Verdict::Reject(DeadLetterReason::NonRetryable);
    }
    if status == 410 {
        return Verdict::Suspend(SuspendReason::EndpointGone);
    }
    if status == 413 && retry_after.is_none() {
        return Verdict::Reject(DeadLetterReason::PayloadTooLarge);
    }
    let asks_for_a_pause = status == 429 || (status == 503 && retry_after.is_some());
    let asked = retry_after.or(asks_for_a_pause.then_some(MIN_RETRY_AFTER));
    Verdict::Retry(Retry {
        failure: FailureKind::Status,
        minimum: minimum(status),
        retry_after: asked.map(|it| it.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER)),
        throttled: asks_for_a_pause,
        pause_endpoint: asks_for_a_pause,
    })
}

fn is_final(status: u16, policy: &Policy) -> bool {
    let is_refusal = (300..=499).contains(&status);
    policy.non_retryable.contains(&status)
        || match policy.preset {
            Preset::Standard => false,
            Preset::Knative => is_refusal && ![404, 408, 409, 429].contains(&status),
            Preset::EventBridge => is_refusal && ![401, 407, 409, 429].contains(&status),
            Preset::EventGrid => [400, 401, 403, 413].contains(&status),
        }
}

fn minimum(status: u16) -> Duration {
    match status {
        408 | 409 | 413 | 421 | 425 | 429 => Duration::ZERO,
        400..=499 => SLOW,
        _ => Duration::ZERO,
    }
}

/// Reads `Retry-After`: whole seconds or an HTTP date in any of its three forms, at most 24 hours.
/// What cannot be read is as if it were absent.
#[must_use]
pub fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim_matches([' ', '\t']);
    let asked = if !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let at: SystemTime = httpdate::parse_http_date(text).ok()?;
        let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        (Timestamp(0) + since_epoch).since(Timestamp(now.unix_seconds() * 1000))
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

impl Control {
    /// Reads `webhook-delivery`; unknown values mean nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim_matches([' ', '\t']).to_ascii_lowercase().as_str() {
            "abort-message" => Some(Self::AbortMessage),
            "disable" => Some(Self::Disable),
            _ => None,
        }
    }
}

impl From<TransportError> for FailureKind {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::TargetUnreachable => Self::TargetUnreachable,
            TransportError::Connect => Self::Connect,
            TransportError::Tls => Self::Tls,
            TransportError::Timeout => Self::Timeout,
            TransportError::Reset => Self::ConnectionReset,
            TransportError::Protocol => Self::Protocol,
            TransportError::ResponseTooLarge => Self::ResponseTooLarge,
            TransportError::Internal => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_the_contract_says() {
        for (status, expected) in [
            (200, "delivered"),
            (202, "delivered"),
            (299, "delivered"),
            (300, "retry"),
            (301, "retry"),
            (304, "retry"),
            (307, "retry"),
            (400, "slow"),
            (401, "slow"),
            (403, "slow"),
            (404, "slow"),
            (407, "slow"),
            (415, "slow"),
            (418, "slow"),
            (408, "retry"),
            (409, "retry"),
            (421, "retry"),
            (425, "retry"),
            (429, "throttled"),
            (410, "suspend"),
            (413, "reject"),
            (422, "slow"),
            (500, "retry"),
            (502, "retry"),
            (503, "retry"),
            (504, "retry"),
            (599, "retry"),
        ] {
            assert_eq!(
                kind(&meaning(status, Preset::Standard)),
                expected,
                "{status}"
            );
        }
    }

    #[test]
    fn presets_are_stricter() {
        for status in [302, 400, 401, 403, 410, 413, 422] {
            assert_eq!(
                kind(&meaning(status, Preset::Knative)),
                "reject",
                "{status}"
            );
        }
        for status in [404, 408, 409, 429, 500] {
            assert_ne!(
                kind(&meaning(status, Preset::Knative)),
                "reject",
                "{status}"
            );
        }
        for status in [401, 407, 409, 429, 500] {
            assert_ne!(
                kind(&meaning(status, Preset::EventBridge)),
                "reject",
                "{status}"
            );
        }
        assert_eq!(kind(&meaning(404, Preset::EventBridge)), "reject");
        assert_eq!(kind(&meaning(205, Preset::EventGrid)), "retry");
        assert_eq!(kind(&meaning(403, Preset::EventGrid)), "reject");
        assert_eq!(kind(&meaning(404, Preset::EventGrid)), "slow");
    }

    #[test]
    fn a_receiver_may_stop_a_delivery_or_all_of_them_but_not_with_a_success() {
        let told = |status, text| {
            let control = Control::parse(text);
            let answer = Answer {
                status,
                retry_after: None,
                control,
            };
            classify(&Ok(answer), &Policy::default())
        };
        let aborted = Verdict::Reject(DeadLetterReason::Aborted);
        let disabled = Verdict::Suspend(SuspendReason::RequestedByEndpoint);
        assert_eq!(told(500, " Abort-Message "), aborted);
        assert_eq!(told(302, "disable"), disabled);
        assert_eq!(told(200, "disable"), Verdict::Delivered);
        assert_eq!(kind(&told(500, "other")), "retry");
    }

    #[test]
    fn who_asks_for_a_pause_is_left_alone_for_a_second_to_a_day() {
        let second = Duration::from_secs(1);
        let rows = [
            (429, None, Some(second), true),
            (429, Some(0), Some(second), true),
            (429, Some(7), Some(7 * second), true),
            (429, Some(u64::MAX), Some(MAX_RETRY_AFTER), true),
            (503, None, None, false),
            (503, Some(0), Some(second), true),
            (503, Some(7), Some(7 * second), true),
            (500, Some(7), Some(7 * second), false),
            (404, Some(7), Some(7 * second), false),
            (302, Some(7), Some(7 * second), false),
        ];
        for (status, asked, expected, pauses) in rows {
            let retry = retried(status, asked);
            assert_eq!(retry.retry_after, expected, "{status} {asked:?}");
            assert_eq!(retry.pause_endpoint, pauses, "{status} {asked:?}");
            assert_eq!(retry.throttled, pauses, "{status} {asked:?}");
        }
    }

    #[test]
    fn a_payload_that_is_too_large_only_now_is_sent_again_when_asked() {
        let retry = retried(413, Some(7));
        assert_eq!(retry.minimum, Duration::ZERO);
        assert_eq!(retry.retry_after, Some(Duration::from_secs(7)));
        assert!(!retry.throttled && !retry.pause_endpoint);
    }

    #[test]
    fn an_interim_status_is_no_answer() {
        for status in [0, 100, 101, 103, 199, 600, 999] {
            let Verdict::Retry(retry) = meaning(status, Preset::Standard) else {
                panic!("{status} is retried");
            };
            assert_eq!(retry.failure, FailureKind::Protocol, "{status}");
        }
    }

    #[test]
    fn our_faults_do_not_cost_the_receiver_an_attempt() {
        let verdict = |error| classify(&Err(error), &Policy::default());
        assert_eq!(kind(&verdict(TransportError::Internal)), "throttled");
        assert_eq!(kind(&verdict(TransportError::Timeout)), "retry");
    }

    #[test]
    fn a_subscription_may_call_statuses_final() {
        let policy = Policy {
            non_retryable: vec![500],
            ..Policy::default()
        };
        let answer = Answer {
            status: 500,
            retry_after: None,
            control: None,
        };
        assert_eq!(
            classify(&Ok(answer), &policy),
            Verdict::Reject(DeadLetterReason::NonRetryable)
        );
    }

    fn retried(status: u16, retry_after: Option<u64>) -> Retry {
        let answer = Answer {
            status,
            retry_after: retry_after.map(Duration::from_secs),
            control: None,
        };
        let Verdict::Retry(retry) = classify(&Ok(answer), &Policy::default()) else {
            panic!("{status} is retried");
        };
        retry
    }

    fn meaning(status: u16, preset: Preset) -> Verdict {
        let policy = Policy {
            preset,
            ..Policy::default()
        };
        classify(
            &Ok(Answer {
                status,
                retry_after: None,
                control: None,
            }),
            &policy,
        )
    }

    fn kind(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Retry(retry) if retry.throttled => "throttled",
            Verdict::Retry(retry) if retry.minimum == SLOW => "slow",
            Verdict::Retry(_) => "retry",
            Verdict::Reject(_) => "reject",
            Verdict::Suspend(_) => "suspend",
        }
    }
}

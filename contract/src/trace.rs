//! Traces, as W3C Trace Context has them: which one an event belongs to, and how its spans hang together. Pure.
//!
//! ```text
//! the publisher's span ─▶ accepted ─▶ an attempt ─▶ the receiver's span
//! ```
//!
//! **Invariant:** whatever agent asks, an event has the same trace, the same span of its acceptance and, with the same
//! sampling, the same word on whether it is recorded, without anything being stored or sent for that.

use crate::{event::Event, id::WebhookId};

/// Names a span within its trace.
pub type SpanId = [u8; 8];

/// The bit that says that a trace is recorded.
const SAMPLED: u8 = 1;

/// Which traces are recorded that no publisher has decided about.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Of the trace's last 56 bits, as far as they are random.
    below: u64,
}

/// The trace that an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Names it.
    pub id: [u8; 16],
    /// The span of the publisher that the event is of, if it says.
    pub parent: Option<SpanId>,
    flags: u8,
}

// === impl Sampling ===

impl Sampling {
    /// So many of all, from 0 to 1.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of 2^56, which a double has to the last bit"
    )]
    pub fn of(share: f64) -> Self {
        let all = (1_u64 << 56) as f64;
        Self {
            below: (share.clamp(0.0, 1.0) * all) as u64,
        }
    }

    fn takes(self, id: [u8; 16]) -> bool {
        (u128::from_be_bytes(id) & ((1 << 56) - 1)) < u128::from(self.below)
    }
}

// === impl Trace ===

impl Trace {
    /// The trace that the event's publisher began, or one of its own.
    #[must_use]
    pub fn of(event: &Event, webhook_id: WebhookId, sampling: Sampling) -> Self {
        let published = event.text("traceparent").and_then(Self::parse);
        published.unwrap_or_else(|| {
            let id = u128::from_be_bytes(webhook_id.0).max(1).to_be_bytes();
            Self {
                id,
                parent: None,
                flags: if sampling.takes(id) { SAMPLED } else { 0 },
            }
        })
    }

    /// Whether its spans are recorded.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The span of an event's acceptance.
    #[must_use]
    pub fn accepted(webhook_id: WebhookId) -> SpanId {
        let [_, _, _, _, _, _, _, _, last @ ..] = webhook_id.0;
        proper(last)
    }

    /// The value of `traceparent` for whatever happens in a span.
    #[must_use]
    pub fn header(self, span_id: SpanId) -> String {
        let id = u128::from_be_bytes(self.id);
        let span = u64::from_be_bytes(proper(span_id));
        format!("00-{id:032x}-{span:016x}-{:02x}", self.flags)
    }

    /// Reads a `traceparent` of version 00, or of a later one as far as it is like it.
    fn parse(text: &str) -> Option<Self> {
        let is_lower_hex = |it: &str| {
            it.bytes()
                .all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it))
        };
        let mut parts = text.splitn(5, '-');
        let (version, id) = (parts.next()?, parts.next()?);
        let (parent, flags) = (parts.next()?, parts.next()?);
        let lengths = [version, id, parent, flags].map(str::len) == [2, 32, 16, 2];
        let has_rest = parts.next().is_some();
        if !lengths || ![version, id, parent, flags].into_iter().all(is_lower_hex) {
            return None;
        }
        if version == "ff" || (version == "00" && has_rest) {
            return None;
        }
        let trace_id = u128::from_str_radix(id, 16).ok()?;
        let parent_id = u64::from_str_radix(parent, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()? & 0b11;
        (trace_id != 0 && parent_id != 0).then(|| Self {
            id: trace_id.to_be_bytes(),
            parent: Some(parent_id.to_be_bytes()),
            flags,
        })
    }
}

/// All zeros are no span.
#[must_use]
pub fn proper(span_id: SpanId) -> SpanId {
    u64::from_be_bytes(span_id).max(1).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_only_if_it_is_one() {
        const ID: &str = "0af7651916cd43dd8448eb211c80319c";
        const PARENT: &str = "b7ad6b7169203331";
        let trace = Trace::parse(&format!("00-{ID}-{PARENT}-03")).unwrap();
        assert_eq!(trace.header([1; 8]), format!("00-{ID}-0101010101010101-03"));
        assert_eq!(trace.parent, Some(0xb7ad_6b71_6920_3331_u64.to_be_bytes()));
        assert!(trace.is_sampled());
        assert!(Trace::parse(&format!("01-{ID}-{PARENT}-01-more")).is_some());
        let (upper, sign) = (ID.to_uppercase(), ID.replace("0a", "+a"));
        let (zero, no_parent) = ("0".repeat(32), "0".repeat(16));
        for text in [
            String::new(),
            format!("00-{ID}-{PARENT}-01-more"),
            format!("ff-{ID}-{PARENT}-01"),
            format!("00-{upper}-{PARENT}-01"),
            format!("00-{sign}-{PARENT}-01"),
            format!("00-{ID}-+7ad6b7169203331-01"),
            format!("00-{ID}-{PARENT}-+1"),
            format!("00-{zero}-{PARENT}-01"),
            format!("00-{ID}-{no_parent}-01"),
            format!("00-{ID}-{PARENT}"),
        ] {
            assert_eq!(Trace::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_share_of_all_traces_is_recorded_and_the_same_for_everybody() {
        let (none, half, all) = (Sampling::of(0.0), Sampling::of(0.5), Sampling::of(1.0));
        let ids = (0..10_000_u128).map(|it| {
            it.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                .to_be_bytes()
        });
        let taken = |sampling: Sampling| ids.clone().filter(|it| sampling.takes(*it)).count();
        assert_eq!((taken(none), taken(all)), (0, 10_000));
        assert!((4_500..5_500).contains(&taken(half)), "{}", taken(half));
        assert_eq!(Sampling::default(), none);
    }
}

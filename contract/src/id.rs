//! Identifiers that receivers see. They are derived, never chosen by a publisher.

use std::{fmt, str::FromStr};

use base64::{Engine as _, display::Base64Display, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::name::TenantId;

/// Identifies an event to receivers, the same on every attempt: `msg_` and 22 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId(pub [u8; 16]);

/// Identifies one delivery: the event's number in its agent's journal and the place of the
/// subscription among those it matched. `dlv_` and hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The event's number in the journal.
    pub seq: u64,
    /// The place among the event's targets, from 0.
    pub target: u32,
}

/// The text is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not an identifier of the form {0}")]
pub struct Error(&'static str);

const WEBHOOK_PREFIX: &str = "msg_";
const DELIVERY_PREFIX: &str = "dlv_";

impl WebhookId {
    /// The id of the event that `tenant`'s `source` calls `id`. CloudEvents strings have no NUL, so
    /// different events have different inputs.
    #[must_use]
    pub fn of(tenant: &TenantId, source: &str, id: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [tenant.as_str(), "\0", source, "\0", id] {
            hash.update(part.as_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(first)
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Base64Display::new(&self.0, &URL_SAFE_NO_PAD);
        write!(f, "{WEBHOOK_PREFIX}{text}")
    }
}

impl FromStr for WebhookId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.strip_prefix(WEBHOOK_PREFIX)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(Error("msg_ and 22 characters of base64url"))
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{DELIVERY_PREFIX}{:016x}-{:x}", self.seq, self.target)
    }
}

impl FromStr for DeliveryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (seq, target) = text.strip_prefix(DELIVERY_PREFIX)?.split_once('-')?;
            let id = Self {
                seq: u64::from_str_radix(seq, 16).ok()?,
                target: u32::from_str_radix(target, 16).ok()?,
            };
            // One spelling only: signs, upper case and other paddings are refused.
            (id.to_string() == text).then_some(id)
        };
        parse().ok_or(Error(
            "dlv_, 16 hexadecimal digits, - and hexadecimal digits",
        ))
    }
}

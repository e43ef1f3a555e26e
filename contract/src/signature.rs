//! Standard Webhooks signatures: `v1` with a shared secret, `v1a` with a key pair.
//!
//! **Invariant:** a secret never shows in `Debug` and is wiped from memory when it is dropped.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use ed25519_dalek::{Signer as _, SigningKey, Verifier as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookfleet_proto::v1::SignatureAlgorithm;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::time::Timestamp;

/// Shared secrets have this many bytes.
const HMAC_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Secrets come with and without padding; they are handed out with it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What signs.
#[derive(Clone)]
pub struct Secret(Kind);

#[derive(Clone)]
enum Kind {
    Hmac(Zeroizing<Vec<u8>>),
    Ed25519(Box<SigningKey>),
}

/// A secret and the time in which it signs.
#[derive(Clone, Debug)]
pub struct Key {
    /// Names the key within its subscription.
    pub id: String,
    /// What signs.
    pub secret: Secret,
    /// When it began to sign.
    pub create_time: Timestamp,
    /// When it stops; never if absent.
    pub expire_time: Option<Timestamp>,
}

/// The text is not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `whsec_` and base64 of 24 to 64 bytes, or `whsk_` and base64 of 32 or 64 bytes")]
pub struct Error;

/// The value of `webhook-signature` over the webhook id, the seconds since the epoch and the body: `v1a` entries, then `v1`
/// from the newest key to the oldest, with one space between. A verifier that reads only the last entry so goes on with the
/// old secret for as long as it signs. `keys` are newest first; those that have expired at `now` do not sign.
#[must_use]
pub fn sign(keys: &[Key], id: &str, timestamp: u64, body: &[u8], now: Timestamp) -> Option<String> {
    let active = || {
        let is_active = |key: &&Key| key.expire_time.is_none_or(|at| at > now);
        keys.iter().filter(is_active).map(|key| &key.secret)
    };
    let asymmetric = active().filter(|it| matches!(it.0, Kind::Ed25519(_)));
    let symmetric = active().filter(|it| matches!(it.0, Kind::Hmac(_)));
    let timestamp = timestamp.to_string();
    let mut entries = String::new();
    for secret in asymmetric.chain(symmetric) {
        if !entries.is_empty() {
            entries.push(' ');
        }
        secret.sign(id, &timestamp, body, &mut entries);
    }
    (!entries.is_empty()).then_some(entries)
}

// === impl Secret ===

impl Secret {
    /// A shared secret.
    #[must_use]
    pub fn generate_hmac(random: [u8; 32]) -> Self {
        Self(Kind::Hmac(Zeroizing::new(random.to_vec())))
    }

    /// A key pair.
    #[must_use]
    pub fn generate_ed25519(seed: [u8; 32]) -> Self {
        Self(Kind::Ed25519(Box::new(SigningKey::from_bytes(&seed))))
    }

    /// The secret as text: `whsec_…` or `whsk_…`. To be shown once or sealed.
    #[must_use]
    pub fn reveal(&self) -> String {
        match &self.0 {
            Kind::Hmac(bytes) => format!("whsec_{}", STANDARD.encode(bytes)),
            Kind::Ed25519(key) => format!("whsk_{}", STANDARD.encode(key.to_bytes())),
        }
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        match &self.0 {
            Kind::Hmac(_) => SignatureAlgorithm::HmacSha256,
            Kind::Ed25519(_) => SignatureAlgorithm::Ed25519,
        }
    }

    /// `whpk_…`, which receivers verify with; a shared secret has none.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        match &self.0 {
            Kind::Hmac(_) => None,
            Kind::Ed25519(key) => Some(format!("whpk_{}", STANDARD.encode(key.verifying_key()))),
        }
    }

    /// Whether an entry of `webhook-signature` is of this secret, over `id.timestamp.body`. In
    /// constant time.
    #[must_use]
    pub fn verify(&self, entry: &str, id: &str, timestamp: &str, body: &[u8]) -> bool {
        let signature = |prefix| STANDARD.decode(entry.strip_prefix(prefix)?).ok();
        match &self.0 {
            Kind::Hmac(secret) => signature("v1,")
                .is_some_and(|it| mac(secret, id, timestamp, body).verify_slice(&it).is_ok()),
            Kind::Ed25519(key) => signature("v1a,")
                .and_then(|it| ed25519_dalek::Signature::from_slice(&it).ok())
                .is_some_and(|it| {
                    let signed = signed_content(id, timestamp, body);
                    key.verifying_key().verify(&signed, &it).is_ok()
                }),
        }
    }

    /// Adds an entry to a value of `webhook-signature`.
    fn sign(&self, id: &str, timestamp: &str, body: &[u8], entries: &mut String) {
        match &self.0 {
            Kind::Hmac(secret) => {
                let signature = mac(secret, id, timestamp, body).finalize().into_bytes();
                entries.push_str("v1,");
                STANDARD.encode_string(signature, entries);
            }
            Kind::Ed25519(key) => {
                let signature = key.sign(&signed_content(id, timestamp, body));
                entries.push_str("v1a,");
                STANDARD.encode_string(signature.to_bytes(), entries);
            }
        }
    }
}

fn mac(secret: &[u8], id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        unreachable!("HMAC takes keys of every length")
    };
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac
}

/// Ed25519 reads its message twice, so it has to be in one piece.
fn signed_content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

impl FromStr for Secret {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let decode = |text: &str| LENIENT.decode(text).map(Zeroizing::new).map_err(|_| Error);
        if let Some(text) = text.strip_prefix("whsec_") {
            let bytes = decode(text)?;
            return if HMAC_BYTES.contains(&bytes.len()) {
                Ok(Self(Kind::Hmac(bytes)))
            } else {
                Err(Error)
            };
        }
        // Some write the seed alone, some the public key behind it.
        let bytes = decode(text.strip_prefix("whsk_").ok_or(Error)?)?;
        let seed = bytes.first_chunk::<32>().ok_or(Error)?;
        let secret = Self::generate_ed25519(*seed);
        let is_whole = match (&secret.0, &bytes[32..]) {
            (_, []) => true,
            (Kind::Ed25519(key), public) => public == key.verifying_key().as_bytes(),
            (Kind::Hmac(_), _) => false,
        };
        if is_whole { Ok(secret) } else { Err(Error) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

//! A token taken apart: what it says of itself before anybody has verified a thing. `jku`, `jwk`, `x5u` and `x5c` are not
//! looked at: where the keys are is for the issuer's configuration to say, not for the token.
//!
//! **Invariant:** there is one way to read a token, or none.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Refusal, algorithm::Algorithm, object::Object};

/// A longer one is no token.
const MAX_BYTES: usize = 8 << 10;
/// A longer name is no key's.
const MAX_KEY_ID_BYTES: usize = 256;
/// What asks for more than a signed set of claims: extensions, encryption, compression, a token in the token.
const REFUSED: [&str; 5] = ["crit", "b64", "enc", "zip", "cty"];

/// A signed set of claims.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: String,
    pub(super) typ: Option<String>,
    pub(super) claims: Object,
    /// What is signed.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

// === impl Jws ===

impl<'a> Jws<'a> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > MAX_BYTES {
            return Err(Refusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        let header: Object = json(header)?;
        if REFUSED.iter().any(|it| header.has(it)) {
            return Err(Refusal::Malformed);
        }
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::Malformed),
        };
        let algorithm = text("alg")?.ok_or(Refusal::Malformed)?;
        let key_id = text("kid")?.ok_or(Refusal::Malformed)?;
        if !(1..=MAX_KEY_ID_BYTES).contains(&key_id.len()) {
            return Err(Refusal::Malformed);
        }
        Ok(Self {
            algorithm: algorithm.parse().map_err(|_| Refusal::Algorithm)?,
            key_id,
            typ: text("typ")?,
            claims: json(claims)?,
            signed: signed.as_bytes(),
            signature: bytes(signature)?,
        })
    }

    /// Who it says has issued it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    serde_json::from_slice(&bytes(part)?).map_err(|_| Refusal::Malformed)
}

/// Strictly: no padding, and no bits that are not part of a byte.
fn bytes(part: &str) -> Result<Vec<u8>, Refusal> {
    let decoded = URL_SAFE_NO_PAD.decode(part);
    decoded.map_err(|_| Refusal::Malformed)
}

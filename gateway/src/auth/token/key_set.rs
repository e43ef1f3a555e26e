//! The public keys of an issuer, as it publishes them (RFC 7517). A key that cannot be used here, or is of no use for
//! signatures, is left out; the others stay.
//!
//! **Invariant:** a key verifies with algorithms of its own kind only.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Refusal, algorithm::Algorithm};

/// The most keys of an issuer.
const MAX_KEYS: usize = 100;
/// The smallest modulus, in bits.
const MIN_RSA_BITS: usize = 2048;

/// The keys of an issuer.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

/// The document is not a set of keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is something else.
    #[error("not a JSON Web Key Set")]
    Json(#[from] serde_json::Error),
    /// There are too many.
    #[error("{0} keys, more than {MAX_KEYS}")]
    TooMany(usize),
}

#[derive(Clone, Debug)]
struct Key {
    id: String,
    /// The only algorithm that it may be used with, if it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Ed25519(Vec<u8>),
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    /// Modulus and exponent without leading zeros.
    Rsa(Vec<u8>, Vec<u8>),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// A key on the wire.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

// === impl KeySet ===

impl KeySet {
    /// Reads what an issuer publishes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(document: &[u8]) -> Result<Self, Error> {
        let Document { keys } = serde_json::from_slice(document)?;
        if keys.len() > MAX_KEYS {
            return Err(Error::TooMany(keys.len()));
        }
        let keys = keys.into_iter().filter_map(|it| {
            let key: Jwk = serde_json::from_value(it).ok()?;
            key.into_key()
        });
        Ok(Self(keys.collect()))
    }

    /// How many can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a key of this name.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|it| it.id == id)
    }

    /// Whether the key of this name has signed a message.
    pub(super) fn verify(
        &self,
        id: &str,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refusal> {
        if !self.has(id) {
            return Err(Refusal::UnknownKey);
        }
        let fitting = |it: &&Key| it.id == id && it.fits(algorithm);
        let key = self.0.iter().find(fitting).ok_or(Refusal::Algorithm)?;
        key.verify(algorithm, message, signature)
    }
}

// === impl Key ===

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        let is_kind = match algorithm {
            Algorithm::EdDsa => matches!(self.material, Material::Ed25519(_)),
            Algorithm::Es256 => matches!(self.material, Material::P256(_)),
            Algorithm::Es384 => matches!(self.material, Material::P384(_)),
            Algorithm::Ps256 | Algorithm::Rs256 => matches!(self.material, Material::Rsa(..)),
        };
        is_kind && self.algorithm.is_none_or(|it| it == algorithm)
    }

    fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refusal> {
        let plain = |scheme: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(scheme, key).verify(message, signature)
        };
        let rsa = |scheme: &'static RsaParameters, n: &[u8], e: &[u8]| {
            RsaPublicKeyComponents { n, e }.verify(scheme, message, signature)
        };
        let verified = match (algorithm, &self.material) {
            (Algorithm::EdDsa, Material::Ed25519(key)) => plain(&ED25519, key),
            (Algorithm::Es256, Material::P256(key)) => plain(&ECDSA_P256_SHA256_FIXED, key),
            (Algorithm::Es384, Material::P384(key)) => plain(&ECDSA_P384_SHA384_FIXED, key),
            (Algorithm::Ps256, Material::Rsa(n, e)) => rsa(&RSA_PSS_2048_8192_SHA256, n, e),
            (Algorithm::Rs256, Material::Rsa(n, e)) => rsa(&RSA_PKCS1_2048_8192_SHA256, n, e),
            (
                _,
                Material::Ed25519(_) | Material::P256(_) | Material::P384(_) | Material::Rsa(..),
            ) => {
                return Err(Refusal::Algorithm);
            }
        };
        verified.map_err(|_| Refusal::Signature)
    }
}

// === impl Jwk ===

impl Jwk {
    fn into_key(self) -> Option<Key> {
        let is_for_signatures = self.purpose.as_deref().is_none_or(|it| it == "sig");
        let verifies = |ops: &Vec<String>| ops.iter().any(|it| it == "verify");
        if !is_for_signatures || !self.key_ops.as_ref().is_none_or(verifies) {
            return None;
        }
        let algorithm = self.alg.as_deref().map(str::parse).transpose().ok()?;
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => Material::Ed25519(number(&self.x, 32)?),
            ("EC", Some("P-256")) => Material::P256(self.point(32)?),
            ("EC", Some("P-384")) => Material::P384(self.point(48)?),
            ("RSA", None) => {
                let (n, e) = (integer(&self.n)?, integer(&self.e)?);
                (n.len() >= MIN_RSA_BITS / 8).then_some(Material::Rsa(n, e))?
            }
            _ => return None,
        };
        Some(Key {
            id: self.kid,
            algorithm,
            material,
        })
    }

    /// The point as SEC 1 writes it.
    fn point(&self, size: usize) -> Option<Vec<u8>> {
        let (x, y) = (number(&self.x, size)?, number(&self.y, size)?);
        Some([&[4], x.as_slice(), &y].concat())
    }
}

/// A number that is written with as many bytes as it may have.
fn number(text: &Option<String>, size: usize) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()?;
    (bytes.len() == size).then_some(bytes)
}

/// A number without the zeros that some write before it.
fn integer(text: &Option<String>) -> Option<Vec<u8>> {
    let mut bytes = URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()?;
    let n_zeros = bytes.iter().take_while(|it| **it == 0).count();
    bytes.drain(..n_zeros);
    Some(bytes)
}

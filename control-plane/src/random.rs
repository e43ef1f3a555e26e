//! The only file of the control plane that draws random numbers for what it makes: ids, nonces, secrets.

use hookfleet_contract::{signature::Secret, verification::key::Key};
use hookfleet_gateway::auth::key::ApiKey;
use hookfleet_proto::v1::SignatureAlgorithm;
use uuid::Uuid;

/// Ten characters of five bits: among a million ids of one tenant two are alike once in two thousand
/// cases, and then creation says so.
const ID_CHARACTERS: usize = 10;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A UUID of version 4.
pub(crate) fn uuid() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

/// A nonce for the sealer.
pub(crate) fn nonce() -> [u8; 24] {
    rand::random()
}

/// An id that is a legal RFC 1123 label: the prefix, `-`, and ten characters.
pub(crate) fn id(prefix: char) -> String {
    let mut bits: u64 = rand::random();
    let mut id = format!("{prefix}-");
    for _ in 0..ID_CHARACTERS {
        id.push(char::from(ALPHABET[usize::from((bits % 32) as u8)]));
        bits /= 32;
    }
    id
}

/// A new secret for an algorithm.
pub(crate) fn secret(algorithm: SignatureAlgorithm) -> Secret {
    match algorithm {
        SignatureAlgorithm::Ed25519 => Secret::generate_ed25519(rand::random()),
        SignatureAlgorithm::HmacSha256 | SignatureAlgorithm::Unspecified => {
            Secret::generate_hmac(rand::random())
        }
    }
}

/// A new key for whoever confirms that callbacks are wanted.
pub(crate) fn confirmation() -> Key {
    Key::new(rand::random())
}

/// A new key for a caller.
pub(crate) fn api_key() -> ApiKey {
    ApiKey::generate(rand::random)
}

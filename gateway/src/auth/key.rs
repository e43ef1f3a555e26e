//! API keys as callers hold them: `whk_<environment>_<id>_<secret>_<checksum>`. The prefix lets scanners find keys that
//! leaked, the checksum refuses a mistyped key without a look at anything. Who a key belongs to is for the
//! [keyring](super::keyring) to say.
//!
//! **Invariant:** the secret is printed by [`ApiKey::reveal`] alone, and is gone from memory with the key.

use std::{fmt, str::FromStr};

use hookfleet_contract::name::KeyId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What every key begins with.
pub const PREFIX: &str = "whk_";
/// The environment of the keys that are made here.
const ENVIRONMENT: &str = "live";
/// 12 characters of five bits: a million keys have two ids alike once in two million cases, and then creation says so.
const ID_CHARACTERS: usize = 12;
/// 43 characters of 62 are 256 bits.
const SECRET_CHARACTERS: usize = 43;
/// 6 characters of 62 are a CRC of 32 bits.
const CHECKSUM_CHARACTERS: usize = 6;
/// The longest environment, and with it the longest key.
const MAX_ENVIRONMENT: usize = 16;

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key with its secret.
#[derive(Clone)]
pub struct ApiKey {
    id: KeyId,
    environment: Box<str>,
    secret: Zeroizing<String>,
}

/// What is kept of a secret. Nobody finds 256 random bits from it, so it needs no slow hash.
#[derive(Clone, Copy, Eq)]
pub struct Digest([u8; 32]);

/// The text is not a key: no need to ask whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct NotAKey;

// === impl ApiKey ===

impl ApiKey {
    /// A new key with a new id. `random` gives 256 random values at each call.
    #[must_use]
    pub fn generate(mut random: impl FnMut() -> u8) -> Self {
        // A label begins with a letter.
        let mut pick = |alphabet: &[u8], n: usize| -> String {
            let pick = || loop {
                // Values beyond the last whole round would favour the first characters.
                let round = 256 / alphabet.len() * alphabet.len();
                let value = usize::from(random());
                if value < round {
                    return char::from(alphabet[value % alphabet.len()]);
                }
            };
            std::iter::repeat_with(pick).take(n).collect()
        };
        let id = pick(&BASE32[..26], 1) + &pick(BASE32, ID_CHARACTERS - 1);
        let secret = Zeroizing::new(pick(BASE62, SECRET_CHARACTERS));
        let id = id.parse();
        Self {
            id: id
                .unwrap_or_else(|_| unreachable!("letters and digits after a letter are a label")),
            environment: ENVIRONMENT.into(),
            secret,
        }
    }

    /// The same secret for the key of this id.
    #[must_use]
    pub fn with_id(self, id: KeyId) -> Self {
        Self { id, ..self }
    }

    /// Which key it claims to be.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// What is kept of the secret.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.secret.as_bytes()).into())
    }

    /// The whole key, to be shown once to whom it belongs.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let Self {
            id,
            environment,
            secret,
        } = self;
        let body = format!("{PREFIX}{environment}_{id}_{}", secret.as_str());
        let checksum = checksum(&body);
        Zeroizing::new(format!("{body}_{checksum}"))
    }
}

impl FromStr for ApiKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let (body, given) = text.rsplit_once('_').ok_or(NotAKey)?;
        if given != checksum(body) {
            return Err(NotAKey);
        }
        let mut parts = body.strip_prefix(PREFIX).ok_or(NotAKey)?.split('_');
        let (environment, id, secret) = (parts.next(), parts.next(), parts.next());
        let (Some(environment), Some(id), Some(secret), None) =
            (environment, id, secret, parts.next())
        else {
            return Err(NotAKey);
        };
        let is_environment = (1..=MAX_ENVIRONMENT).contains(&environment.len())
            && environment
                .bytes()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit());
        let is_id = id.len() == ID_CHARACTERS && id.bytes().all(|it| BASE32.contains(&it));
        let is_secret =
            secret.len() == SECRET_CHARACTERS && secret.bytes().all(|it| BASE62.contains(&it));
        if !(is_environment && is_id && is_secret) {
            return Err(NotAKey);
        }
        Ok(Self {
            id: id.parse().map_err(|_| NotAKey)?,
            environment: environment.into(),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("secret", &"***")
            .finish_non_exhaustive()
    }
}

/// CRC-32C of everything before it.
fn checksum(body: &str) -> String {
    let mut rest = crc32c::crc32c(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|it| char::from(*it)).collect()
}

// === impl Digest ===

impl Digest {
    /// The bytes, to be kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

/// In the same time whatever differs.
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> ApiKey {
        let mut next = seed;
        ApiKey::generate(move || {
            next = next.wrapping_mul(5).wrapping_add(1);
            next
        })
    }

    #[test]
    fn a_key_is_read_back_as_it_was_shown() {
        let made = key(1);
        let shown = made.reveal();
        assert_eq!(shown.len(), "whk_live_".len() + 12 + 1 + 43 + 1 + 6);
        let read: ApiKey = shown.parse().unwrap();
        assert_eq!((read.id(), read.digest()), (made.id(), made.digest()));
        let renewed = key(2).with_id(made.id().clone());
        assert_eq!(renewed.id(), made.id());
        assert_ne!(renewed.digest(), made.digest());
    }

    #[test]
    fn any_typo_is_found_without_a_look_at_anything() {
        let shown = key(1).reveal();
        for at in 0..shown.len() {
            for replacement in ["x", "Y", "0", "_", ""] {
                let mut typo = shown.to_string();
                typo.replace_range(at..=at, replacement);
                assert!(typo == *shown || typo.parse::<ApiKey>().is_err(), "{typo}");
            }
            assert!(shown[..at].parse::<ApiKey>().is_err());
        }
        for other in ["", "_", "whk_", "whk____", "whk_live___000000"] {
            assert!(other.parse::<ApiKey>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_right_checksum_does_not_make_a_key() {
        for body in [
            "whk_live_aaaaaaaaaaaa_",
            "whk_live_aaaaaaaaaaa_0000000000000000000000000000000000000000000",
            "whk_LIVE_aaaaaaaaaaaa_0000000000000000000000000000000000000000000",
            "whk_live_2aaaaaaaaaaa_0000000000000000000000000000000000000000000",
            "whk_live_aaaaaaaaaaaa_000000000000000000000000000000000000000000é",
            "whk_live_aaaaaaaaaaaa_0000000000000000000000000000000000000000000_x",
        ] {
            let text = format!("{body}_{}", checksum(body));
            assert_eq!(text.parse::<ApiKey>().unwrap_err(), NotAKey, "{text}");
        }
    }

    #[test]
    fn nothing_prints_the_secret() {
        let key = key(3);
        let printed = format!("{key:?} {:?}", key.digest());
        assert!(!printed.contains(key.secret.as_str()), "{printed}");
    }
}

//! What shows that somebody was sent a confirmation: 256 random bits. Where it is kept is not its business.
//!
//! **Invariant:** it does not show in `Debug`, and is compared in constant time.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A key. Its text is 43 characters of base64url.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

/// The text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the key of a confirmation")]
pub struct NotAKey;

// === impl Key ===

impl Key {
    /// The key of these bits.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// The key in its text form, for the one who is sent it.
    #[must_use]
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(*self.0)
    }

    /// The key as bytes, to be sealed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What names it without telling it, in hexadecimal digits: nobody finds 256 random bits from that.
    #[must_use]
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(*self.0);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether both are the same.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotAKey)?;
        bytes.try_into().map(Self::new).map_err(|_| NotAKey)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

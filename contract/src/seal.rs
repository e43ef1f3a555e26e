//! How a secret is kept at rest and a token is kept honest: XChaCha20-Poly1305, bound to its place by
//! a context. The key and the nonce come from the caller.
//!
//! Layout: version byte 1, nonce of 24 bytes, ciphertext with its tag of 16 bytes.

use std::fmt;

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305,
    aead::{Aead as _, Payload},
};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

/// Seals and opens with one key.
#[derive(Clone)]
pub struct Sealer(XChaCha20Poly1305);

/// The bytes were not sealed with this key for this context, or were altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not belong here")]
pub struct Error;

impl Sealer {
    /// Seals with `key`.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(&key.into()))
    }

    /// Seals `plain` for `context`. A nonce must never be used twice; 24 random bytes never are.
    #[must_use]
    pub fn seal(&self, context: &[u8], plain: &[u8], nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let payload = Payload {
            msg: plain,
            aad: context,
        };
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&nonce);
        match self.0.encrypt(&nonce.into(), payload) {
            Ok(ciphertext) => sealed.extend_from_slice(&ciphertext),
            Err(_) => unreachable!("only messages of more than 256 GiB cannot be sealed"),
        }
        sealed
    }

    /// Opens what was sealed for `context`.
    ///
    /// # Errors
    /// [`Error`] if it was not.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (&version, rest) = sealed.split_first().ok_or(Error)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Error)?;
        if version != VERSION {
            return Err(Error);
        }
        let payload = Payload {
            msg: ciphertext,
            aad: context,
        };
        self.0.decrypt(&(*nonce).into(), payload).map_err(|_| Error)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_was_sealed_here_and_left_alone() {
        let sealer = Sealer::new([7; 32]);
        let sealed = sealer.seal(b"place", b"secret", [9; 24]);
        assert_eq!(sealer.open(b"place", &sealed), Ok(b"secret".to_vec()));
        assert_eq!(sealer.open(b"elsewhere", &sealed), Err(Error));
        assert_eq!(Sealer::new([8; 32]).open(b"place", &sealed), Err(Error));
        for byte in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[byte] ^= 1;
            assert_eq!(sealer.open(b"place", &altered), Err(Error));
            assert_eq!(sealer.open(b"place", &sealed[..byte]), Err(Error));
        }
    }
}

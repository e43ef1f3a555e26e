//! What a request brings to show who sent it. Whether it is any good is not decided here.
//!
//! **Invariant:** a request brings one credential or none: of two, nobody could say which was meant.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use zeroize::Zeroizing;

use super::key::{self, ApiKey};

/// The header for keys alone.
pub(super) const API_KEY: &str = "x-api-key";
/// A longer one is no credential.
const MAX_BYTES: usize = 8 << 10;

/// What somebody shows.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A key.
    Key(ApiKey),
    /// A token of an identity provider.
    Token(Token),
}

/// A token that is not shown in logs.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

/// There is a credential, and it is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the credential is malformed")]
pub struct Malformed;

// === impl Credential ===

impl Credential {
    /// Reads `authorization: Bearer …`, `authorization: Basic …` with a key as its password, or as its user if there is
    /// no password, or `x-api-key: …`.
    ///
    /// # Errors
    /// [`Malformed`], also if there is more than one.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Malformed> {
        let authorizations = headers.get_all(AUTHORIZATION).iter().map(|it| (true, it));
        let keys = headers.get_all(API_KEY).iter().map(|it| (false, it));
        let mut all = authorizations.chain(keys);
        let Some((is_authorization, value)) = all.next() else {
            return Ok(None);
        };
        let value = value.to_str().map_err(|_| Malformed)?;
        if all.next().is_some() || value.len() > MAX_BYTES {
            return Err(Malformed);
        }
        match is_authorization {
            true => Self::authorization(value).map(Some),
            false => key(value).map(Some),
        }
    }

    fn authorization(value: &str) -> Result<Self, Malformed> {
        let (scheme, text) = value.split_once(' ').ok_or(Malformed)?;
        if scheme.eq_ignore_ascii_case("basic") {
            let text = STANDARD.decode(text).map_err(|_| Malformed)?;
            let text = String::from_utf8(text).map_err(|_| Malformed)?;
            let text = Zeroizing::new(text);
            let (user, password) = text.split_once(':').ok_or(Malformed)?;
            return key(if password.is_empty() { user } else { password });
        }
        if !scheme.eq_ignore_ascii_case("bearer") || text.is_empty() {
            return Err(Malformed);
        }
        if text.starts_with(key::PREFIX) {
            return key(text);
        }
        Ok(Self::Token(Token(Zeroizing::new(text.to_owned()))))
    }
}

/// The key that a request says to have, whether or not it has. Of no use to decide anything.
pub(super) fn claimed(headers: &HeaderMap) -> Option<String> {
    match Credential::read(headers).ok()?? {
        Credential::Key(key) => Some(format!("keys/{}", key.id())),
        Credential::Token(_) => None,
    }
}

fn key(text: &str) -> Result<Credential, Malformed> {
    text.parse().map(Credential::Key).map_err(|_| Malformed)
}

// === impl Token ===

impl Token {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Result<Option<Credential>, Malformed> {
        let pairs = headers.iter();
        let pairs = pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Credential::read(&pairs.collect())
    }

    #[test]
    fn a_key_is_read_from_each_of_its_places() {
        let key = ApiKey::generate(|| 7);
        let text = key.reveal();
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (name, value) in [
            ("x-api-key", text.to_string()),
            ("authorization", format!("Bearer {}", *text)),
            ("authorization", format!("bearer {}", *text)),
            ("authorization", basic(&format!("anyone:{}", *text))),
            ("authorization", basic(&format!("{}:", *text))),
        ] {
            match read(&[(name, &value)]) {
                Ok(Some(Credential::Key(it))) => assert_eq!(it.digest(), key.digest()),
                other => panic!("{value}: {other:?}"),
            }
        }
        assert!(matches!(
            read(&[("authorization", "Bearer a.b.c")]),
            Ok(Some(Credential::Token(_)))
        ));
        assert!(matches!(read(&[("accept", "*/*")]), Ok(None)));
    }

    #[test]
    fn an_empty_or_doubtful_credential_is_none_at_all() {
        let key = ApiKey::generate(|| 7).reveal();
        let bearer = format!("Bearer {}", *key);
        for headers in [
            vec![("authorization", "")],
            vec![("authorization", "Bearer")],
            vec![("authorization", "Bearer ")],
            vec![("authorization", "Basic ")],
            vec![("authorization", "Basic Og==")],
            vec![("authorization", "Basic !")],
            vec![("authorization", "Digest x")],
            vec![("authorization", key.as_str())],
            vec![("authorization", "Bearer whk_live_x")],
            vec![("x-api-key", "")],
            vec![("x-api-key", "a.b.c")],
            vec![
                ("x-api-key", key.as_str()),
                ("authorization", bearer.as_str()),
            ],
            vec![("x-api-key", key.as_str()), ("x-api-key", key.as_str())],
        ] {
            assert_eq!(read(&headers).unwrap_err(), Malformed, "{headers:?}");
        }
        assert!(
            read(&[(
                "authorization",
                &format!("Bearer {}", "x".repeat(MAX_BYTES))
            )])
            .is_err()
        );
    }
}

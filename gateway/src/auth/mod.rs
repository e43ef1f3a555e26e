//! Who may call what.
//!
//! - [`scope`], [`methods`]: what there is to allow, and what each method asks.
//! - [`key`], [`keyring`]: what callers hold, and what it opens. [`token`]: what identity providers say of them.
//! - [`credential`]: what a request shows. [`principal`]: who calls, once that is known.
//! - [`decision`]: whether they may. `layer`: where requests are stopped. `ownership`: whether what they send is about their own.

pub mod credential;
pub mod decision;
pub mod key;
pub mod keyring;
pub(crate) mod layer;
pub mod methods;
mod ownership;
pub mod principal;
pub mod scope;
pub mod token;

use std::{sync::Arc, time::Duration};

use http::HeaderMap;

use self::{
    credential::Credential,
    key::{ApiKey, Digest},
    keyring::{Keyring, Refusal},
    principal::Principal,
    token::Tokens,
};
use crate::{
    clock::Clock,
    status::ApiError,
    tls::identity::{ClientCertificate, Identity},
};

/// When to ask again a server that does not know the keys yet.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Finds out who calls; cheap to clone.
#[derive(Clone, Debug)]
pub struct Auth(Option<Arc<On>>);

#[derive(Clone, Debug)]
struct On {
    keyring: Keyring,
    tokens: Tokens,
    /// The key of this process, by which its own parts call each other.
    own: Option<(Digest, Principal)>,
    clock: Clock,
}

// === impl Auth ===

impl Auth {
    /// Asks nobody: whoever reaches the listener may do everything.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Asks everybody.
    #[must_use]
    pub fn on(keyring: Keyring, clock: Clock) -> Self {
        Self(Some(Arc::new(On {
            keyring,
            tokens: Tokens::default(),
            own: None,
            clock,
        })))
    }

    /// Lets a part of this process in with a key that lives no longer than the process does.
    #[must_use]
    pub fn with_own_key(self, key: &ApiKey, principal: Principal) -> Self {
        let own = Some((key.digest(), principal));
        self.map(|on| On { own, ..on })
    }

    /// Takes the tokens of identity providers too.
    #[must_use]
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        self.map(|on| On { tokens, ..on })
    }

    fn map(self, change: impl FnOnce(On) -> On) -> Self {
        Self(self.0.map(|on| Arc::new(change(Arc::unwrap_or_clone(on)))))
    }

    /// Whether anybody is asked.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Who sends a request; `None` if it does not say, or nobody is asked. What the request says comes before what its
    /// connection does, which may be that of a proxy.
    async fn principal(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Option<Principal>, ApiError> {
        let Some(on) = &self.0 else {
            return Ok(None);
        };
        match Credential::read(headers).map_err(|_| invalid())? {
            Some(Credential::Key(key)) => on.open(&key).map(Some),
            Some(Credential::Token(token)) => on.open_token(token.as_str()).await.map(Some),
            None => on.named_by(certificate),
        }
    }
}

// === impl On ===

impl On {
    /// The part of the fleet that a certificate names.
    fn named_by(
        &self,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Option<Principal>, ApiError> {
        match certificate {
            Some(certificate) if certificate.not_after <= self.clock.now() => Err(expired()),
            Some(certificate) => Ok(certificate.identity.as_ref().map(Identity::principal)),
            None => Ok(None),
        }
    }

    fn open(&self, key: &ApiKey) -> Result<Principal, ApiError> {
        if let Some((digest, principal)) = &self.own
            && *digest == key.digest()
        {
            return Ok(principal.clone());
        }
        let opened = self.keyring.open(key, self.clock.now());
        opened.map_err(|refusal| match refusal {
            Refusal::Unknown => invalid(),
            Refusal::Expired => expired(),
            Refusal::NotReady => not_ready(),
        })
    }

    async fn open_token(&self, token: &str) -> Result<Principal, ApiError> {
        let opened = self.tokens.open(token, &self.clock).await;
        opened.map_err(|refusal| {
            // Callers are told less: who operates this wants to know what an issuer does wrong.
            tracing::debug!(%refusal, "a token is refused");
            if refusal == token::Refusal::Expired {
                expired()
            } else if refusal == token::Refusal::NotReady {
                not_ready()
            } else {
                invalid()
            }
        })
    }
}

/// Says no more than that: whoever guesses learns nothing.
fn invalid() -> ApiError {
    ApiError::unauthenticated("CREDENTIAL_INVALID", "the credential is not valid")
}

fn expired() -> ApiError {
    ApiError::unauthenticated("CREDENTIAL_EXPIRED", "the credential has expired")
}

fn not_ready() -> ApiError {
    let message = "this server does not know the keys yet";
    ApiError::unavailable("NOT_READY", message, RETRY_AFTER)
}

/// Who calls.
///
/// # Errors
/// `PERMISSION_DENIED` if nobody has found out, which is a fault of ours.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Principal, ApiError> {
    let caller = request.extensions().get::<Principal>();
    caller.cloned().ok_or_else(ApiError::permission_denied)
}

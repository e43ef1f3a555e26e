//! Tokens of identity providers: signed claims (RFC 7519) that are verified with the keys that the provider publishes.
//!
//! - [`issuer`]: which providers are trusted, with what, and what their claims mean here.
//! - `jws`, `object`, [`algorithm`]: a token taken apart, without a second way to read it.
//! - [`key_set`]: the keys of a provider. `upkeep`, [`keeper`]: when they are fetched, and by whom.
//!
//! Signatures are ring's business, which this process has for TLS anyway. The readers of tokens that exist are more than is
//! wanted: they take what is refused here (names that stand twice, claims of the wrong type), and bring other implementations
//! of cryptography with them.
//!
//! **Invariant:** no token makes a request go anywhere.

pub mod algorithm;
pub mod issuer;
mod jws;
pub mod keeper;
pub mod key_set;
mod object;
mod upkeep;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::task::JoinSet;

use self::{
    issuer::Issuer,
    jws::Jws,
    keeper::{Fetch, Keeper},
};
use super::principal::Principal;
use crate::clock::Clock;

/// The providers whose tokens are taken; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    issuers: Vec<(Issuer, Arc<Keeper>)>,
    /// End with the last handle.
    _keepers: JoinSet<()>,
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no token, or more than one.
    #[error("the token is malformed")]
    Malformed,
    /// It is signed in a way that its issuer may not use, or its key cannot.
    #[error("the algorithm is not allowed")]
    Algorithm,
    /// Its type is another.
    #[error("the token is of another type")]
    Type,
    /// Its issuer is not trusted.
    #[error("the issuer is not known")]
    Issuer,
    /// Its key is not one of its issuer.
    #[error("the key is not known")]
    UnknownKey,
    /// Somebody else has signed it.
    #[error("the signature is wrong")]
    Signature,
    /// It is for somebody else.
    #[error("the audience is another")]
    Audience,
    /// A time is missing or is not one.
    #[error("a time is missing or is not one")]
    Time,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// It will be good.
    #[error("the token is not good yet")]
    NotYet,
    /// It is good for longer than a token may be.
    #[error("the lifetime is not allowed")]
    Lifetime,
    /// It says not who it is about.
    #[error("the subject is missing or is not one")]
    Subject,
    /// It belongs to nobody here.
    #[error("the token belongs to no tenant")]
    NoTenant,
    /// What it allows cannot be read.
    #[error("the scopes cannot be read")]
    Scopes,
    /// The keys of its issuer are not known yet.
    #[error("the keys of the issuer are not known yet")]
    NotReady,
}

// === impl Tokens ===

impl Tokens {
    /// Trusts these providers, and fetches their keys from now on. Must be called within a runtime.
    #[must_use]
    pub fn start(issuers: Vec<(Issuer, Box<dyn Fetch>)>, clock: &Clock) -> Self {
        let mut keepers = JoinSet::new();
        let issuers = issuers.into_iter().map(|(issuer, fetch)| {
            let keeper = Arc::new(Keeper::new(clock.clone()));
            keepers.spawn(Arc::clone(&keeper).run(issuer.clone(), fetch));
            (issuer, keeper)
        });
        Self(Arc::new(Inner {
            issuers: issuers.collect(),
            _keepers: keepers,
        }))
    }

    /// Who has sent a token.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) async fn open(&self, token: &str, clock: &Clock) -> Result<Principal, Refusal> {
        let token = Jws::parse(token)?;
        let named = token.issuer().ok_or(Refusal::Issuer)?;
        let mut issuers = self.0.issuers.iter();
        let found = issuers.find(|(issuer, _)| issuer.issuer == named);
        let (issuer, keeper) = found.ok_or(Refusal::Issuer)?;
        let keys = keeper.keys_with(&token.key_id).await?;
        issuer.verify(&token, &keys, clock.now())
    }
}

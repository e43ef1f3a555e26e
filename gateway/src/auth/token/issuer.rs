//! What one identity provider may say here, and what becomes of its claims. Pure: verification is a function of the
//! token, the keys, the issuer and the time.
//!
//! **Invariant:** a claim that is missing, or of another type than it must be, is never as good as one that is right.

use std::{collections::HashMap, time::Duration};

use hookfleet_contract::time::Timestamp;
use serde_json::Value;

use super::{Refusal, algorithm::Algorithm, jws::Jws, key_set::KeySet, object::Object};
use crate::auth::{
    principal::{Principal, Reach},
    scope::Scopes,
};

/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(60);
/// The longest that a token may be good for.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest subject.
const MAX_SUBJECT_BYTES: usize = 255;
/// The types of tokens that say nothing else than that they are tokens, or access tokens (RFC 9068).
const ACCESS: [&str; 2] = ["jwt", "at+jwt"];

/// An identity provider that is trusted.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// `iss`, to the letter.
    pub issuer: String,
    /// What `aud` must contain.
    pub audience: String,
    /// How tokens may be signed.
    pub algorithms: Vec<Algorithm>,
    /// The `typ` that tokens must have. Without, it is `JWT`, `at+jwt`, or absent.
    pub typ: Option<String>,
    /// The claim that says whose things the token is about.
    pub tenant_claim: String,
    /// What its values mean. Others mean nothing.
    pub reaches: HashMap<String, Reach>,
    /// What every token allows.
    pub scopes: Scopes,
    /// The claim that allows more.
    pub scopes_claim: Option<String>,
    /// Where the keys are; found by OpenID Connect discovery if it is not said.
    pub jwks_url: Option<String>,
}

// === impl Issuer ===

impl Issuer {
    /// Who has sent a token.
    pub(super) fn verify(
        &self,
        token: &Jws<'_>,
        keys: &KeySet,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Algorithm);
        }
        if !self.takes(token.typ.as_deref()) {
            return Err(Refusal::Type);
        }
        let (id, algorithm) = (&token.key_id, token.algorithm);
        keys.verify(id, algorithm, token.signed, &token.signature)?;
        self.check(&token.claims, now)?;
        self.principal(&token.claims)
    }

    /// A token of another purpose may have the same claims and the same signer.
    fn takes(&self, typ: Option<&str>) -> bool {
        let typ = typ.map(|it| it.to_ascii_lowercase());
        let typ = typ
            .as_deref()
            .map(|it| it.strip_prefix("application/").unwrap_or(it));
        match (&self.typ, typ) {
            (Some(wanted), Some(typ)) => wanted.eq_ignore_ascii_case(typ),
            (Some(_), None) => false,
            (None, Some(typ)) => ACCESS.contains(&typ),
            (None, None) => true,
        }
    }

    fn check(&self, claims: &Object, now: Timestamp) -> Result<(), Refusal> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(Refusal::Issuer);
        }
        let audiences = texts(claims.get("aud").ok_or(Refusal::Audience)?);
        if !audiences
            .ok_or(Refusal::Audience)?
            .contains(&self.audience.as_str())
        {
            return Err(Refusal::Audience);
        }
        let time = |name| claims.get(name).map(time).transpose();
        let expire = time("exp")?.ok_or(Refusal::Time)?;
        let issued = time("iat")?.ok_or(Refusal::Time)?;
        if expire <= issued || expire.since(issued) > MAX_LIFETIME {
            return Err(Refusal::Lifetime);
        }
        if expire + SKEW <= now {
            return Err(Refusal::Expired);
        }
        let begins = time("nbf")?.unwrap_or(issued).max(issued);
        if begins > now + SKEW {
            return Err(Refusal::NotYet);
        }
        Ok(())
    }

    fn principal(&self, claims: &Object) -> Result<Principal, Refusal> {
        let subject = claims.get("sub").and_then(Value::as_str);
        let is_subject = |it: &&str| {
            (1..=MAX_SUBJECT_BYTES).contains(&it.len()) && !it.contains(char::is_control)
        };
        let subject = subject.filter(is_subject).ok_or(Refusal::Subject)?;
        let tenant = claims.get(&self.tenant_claim).and_then(Value::as_str);
        let reach = tenant.and_then(|it| self.reaches.get(it));
        let reach = reach.ok_or(Refusal::NoTenant)?.clone();
        let claimed = self.scopes_claim.as_ref().and_then(|it| claims.get(it));
        let claimed = claimed.map(|it| texts(it).ok_or(Refusal::Scopes));
        let claimed = claimed.transpose()?.unwrap_or_default();
        // Providers have scopes of their own, which allow nothing here.
        let claimed = claimed.iter().flat_map(|it| it.split(' '));
        let scopes = claimed.filter_map(|it| it.parse().ok());
        let scopes = scopes.chain(self.scopes.iter()).collect();
        let name = format!("{} {subject}", self.issuer);
        Ok(Principal::new(name, reach, scopes))
    }
}

/// A text, or a list of nothing but texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(values) => values.iter().map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// A number of seconds since the epoch.
fn time(value: &Value) -> Result<Timestamp, Refusal> {
    let seconds = value.as_f64().ok_or(Refusal::Time)?;
    let duration = Duration::try_from_secs_f64(seconds);
    Ok(Timestamp(0) + duration.map_err(|_| Refusal::Time)?)
}

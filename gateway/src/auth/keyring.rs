//! The keys that are in force on this node. Where they come from is the business of whoever feeds it: the control plane
//! from its cache, an agent from its sync stream.
//!
//! **Invariant:** a secret opens nothing once its key is gone or its time is over.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use hookfleet_contract::{
    name::{KeyId, KeyName, TenantName},
    time::Timestamp,
};
use hookfleet_proto::fleet::KeySpec;

use super::{
    key::{ApiKey, Digest},
    principal::{Principal, Reach},
    scope::{Scope, Scopes},
};

/// A cheap handle to the keys.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    keys: RwLock<HashMap<KeyId, Record>>,
    is_complete: AtomicBool,
}

/// A key as it is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Which.
    pub id: KeyId,
    secrets: Vec<(Digest, Option<Timestamp>)>,
    expire: Option<Timestamp>,
    principal: Principal,
}

/// One thing that is different now.
#[derive(Clone, Debug)]
pub enum Change {
    /// A key is new or has changed.
    Put(Record),
    /// A key is gone.
    Gone(KeyId),
}

/// Why a key opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such key, or its secret is another.
    #[error("no key has this secret")]
    Unknown,
    /// It was right once.
    #[error("the key has expired")]
    Expired,
    /// The keys are not known yet.
    #[error("the keys are not known yet")]
    NotReady,
}

// === impl Keyring ===

impl Keyring {
    /// Puts changes in force.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let mut changes = changes.into_iter().peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            change.apply(&mut keys);
        }
    }

    /// Puts these keys in force and no others.
    pub fn replace(&self, changes: impl IntoIterator<Item = Change>) {
        let mut all = HashMap::new();
        for change in changes {
            change.apply(&mut all);
        }
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = all;
        self.set_complete();
    }

    /// Everything that there is was put in force.
    pub fn set_complete(&self) {
        self.0.is_complete.store(true, Ordering::Release);
    }

    /// Whose key it is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn open(&self, key: &ApiKey, now: Timestamp) -> Result<Principal, Refusal> {
        let given = key.digest();
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        match keys.get(key.id()) {
            Some(record) => record.open(given, now),
            None if self.0.is_complete.load(Ordering::Acquire) => Err(Refusal::Unknown),
            None => Err(Refusal::NotReady),
        }
    }
}

// === impl Change ===

impl Change {
    fn apply(self, keys: &mut HashMap<KeyId, Record>) {
        match self {
            Self::Put(record) => drop(keys.insert(record.id.clone(), record)),
            Self::Gone(id) => drop(keys.remove(&id)),
        }
    }
}

// === impl Record ===

impl Record {
    fn open(&self, given: Digest, now: Timestamp) -> Result<Principal, Refusal> {
        // All are compared, so that time does not tell which was nearly right.
        let matching = self.secrets.iter().filter(|(digest, _)| *digest == given);
        let matching: Vec<_> = matching.map(|(_, expire)| *expire).collect();
        let is_over = |expire: Option<Timestamp>| expire.is_some_and(|it| it <= now);
        match matching.first() {
            None => Err(Refusal::Unknown),
            Some(expire) if is_over(*expire) || is_over(self.expire) => Err(Refusal::Expired),
            Some(_) => Ok(self.principal.clone()),
        }
    }
}

impl TryFrom<&KeySpec> for Record {
    type Error = String;

    fn try_from(spec: &KeySpec) -> Result<Self, String> {
        let key = spec.key.as_ref().ok_or("it is empty")?;
        let name: KeyName = key.name.parse().map_err(|error| format!("name: {error}"))?;
        let reach = match key.tenant.as_str() {
            "" => Reach::Fleet,
            tenant => {
                let name: Result<TenantName, _> = tenant.parse();
                let TenantName { tenant } = name.map_err(|error| format!("tenant: {error}"))?;
                Reach::Tenant(tenant)
            }
        };
        // A scope of a later version allows nothing here.
        let scopes: Scopes = key
            .scopes
            .iter()
            .filter_map(|it| it.parse::<Scope>().ok())
            .collect();
        let secrets = spec.secrets.iter().map(|it| {
            let digest = Digest::try_from(it.digest.as_slice());
            let digest = digest.map_err(|_| "a digest has 32 bytes".to_owned())?;
            Ok((digest, it.expire_time.map(Timestamp::from)))
        });
        Ok(Self {
            principal: Principal::new(name.to_string(), reach, scopes),
            id: name.key,
            secrets: secrets.collect::<Result<_, String>>()?,
            expire: key.expire_time.map(Timestamp::from),
        })
    }
}

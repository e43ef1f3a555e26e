//! Creating one thing, once: the result of a request that names itself is kept with what it made, in one transaction,
//! and answered again for 24 hours.
//!
//! **Invariant:** nothing is created in a tenant that does not exist or is being deleted.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hookfleet_contract::{
    name::{TenantId, TenantName},
    time::Timestamp,
};
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::fleet::{StoredRequest, StoredTenant, stored_request};
use prost::Message;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    Api,
    change::{self, ATTEMPTS, Version},
    status,
};
use crate::{
    keys,
    store::{Error, LeaseId, Outcome, Revision, Store, Txn, Write},
    vault::Place,
};

/// How long a result is kept. A lease is shared, so it lives for as long as it is shared besides.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);
const SHARED: Duration = Duration::from_secs(3600);
/// Results per lease; many leases, and many keys of one lease, both weigh on etcd.
const SHARES: usize = 1000;

/// What is to be created.
#[derive(Debug)]
pub(crate) struct Creation {
    pub(crate) key: String,
    /// As the caller knows it.
    pub(crate) name: String,
    pub(crate) value: Bytes,
    /// What is written with it.
    pub(crate) besides: Vec<Write>,
    /// The tenant that it is created in.
    pub(crate) parent: Option<TenantId>,
    /// The request, if it names itself.
    pub(crate) request: Option<Named>,
    /// What a repeated request is answered.
    pub(crate) result: stored_request::Result,
    /// Check, but create nothing.
    pub(crate) validate_only: bool,
}

/// A request that names itself, and what it asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    id: Uuid,
    digest: [u8; 32],
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Created {
    /// It was made now, or would be (at revision 0).
    New(Revision),
    /// It was made by the same request before.
    Before(Box<Version<stored_request::Result>>),
}

/// The leases that things hang on which are kept for a while.
#[derive(Debug)]
pub(crate) struct Leases {
    kept: Duration,
    shared: Mutex<Option<Shared>>,
}

#[derive(Debug)]
struct Shared {
    lease: LeaseId,
    since: Timestamp,
    n_results: usize,
}

/// A request that names itself; `None` if it does not. Annotations have no order of their own, so they come apart
/// from the rest of the request.
pub(crate) fn named<'a>(
    request_id: &str,
    request: &impl Message,
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<Option<Named>, ApiError> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let is_uuid = request_id.len() == 36;
    let id = request_id.parse().ok().filter(|_| is_uuid);
    let id = id.ok_or_else(|| ApiError::invalid_field("request_id", "must be a UUID"))?;
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(&request.encode_to_vec());
    for (key, value) in annotations.collect::<BTreeMap<_, _>>() {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    let digest = hash.finalize().into();
    Ok(Some(Named { id, digest }))
}

/// The result of the same request before this one, if there is one. Looked for before anything is checked that may have
/// changed since.
pub(crate) async fn replay(
    api: &Api,
    request: Option<Named>,
) -> Result<Option<Version<stored_request::Result>>, ApiError> {
    let Some(request) = request else {
        return Ok(None);
    };
    let record = change::read::<StoredRequest>(&*api.store, &keys::request(request.id)).await?;
    let Some(record) = record else {
        return Ok(None);
    };
    let digest = api
        .vault
        .open(Place::Request(request.id), &record.value.sealed_digest);
    match record.value.result {
        Some(value) if digest.is_ok_and(|digest| digest == request.digest) => Ok(Some(Version {
            value,
            revision: record.revision,
        })),
        Some(_) | None => {
            let message = "request_id was used by another request within 24 hours";
            let error = ApiError::precondition("REQUEST_ID_REUSED", message);
            Err(error.with("request_id", request.id.to_string()))
        }
    }
}

/// Creates it.
pub(crate) async fn create(api: &Api, creation: Creation) -> Result<Created, ApiError> {
    let mut txn = Txn::new()
        .absent(&creation.key)
        .put(&creation.key, creation.value.clone());
    txn.writes.extend(creation.besides);
    if let Some(request) = creation.request.filter(|_| !creation.validate_only) {
        let record = StoredRequest {
            sealed_digest: api.vault.seal(Place::Request(request.id), &request.digest),
            result: Some(creation.result),
        };
        let key = keys::request(request.id);
        let lease = api.leases.share(&*api.store, api.clock.now()).await?;
        txn = txn
            .absent(&key)
            .put_leased(key, record.encode_to_vec(), lease);
    }
    for _ in 0..ATTEMPTS {
        if let Some(before) = replay(api, creation.request).await? {
            return Ok(Created::Before(Box::new(before)));
        }
        let mut txn = txn.clone();
        if let Some(parent) = &creation.parent {
            let revision = parent_revision(&*api.store, parent).await?;
            txn = txn.unchanged(keys::tenant(parent), revision);
        }
        let (held, _) = api
            .store
            .get(&creation.key)
            .await
            .map_err(status::of_store)?;
        if held.is_some() {
            return Err(ApiError::already_exists(&creation.name));
        }
        if creation.validate_only {
            return Ok(Created::New(0));
        }
        let committed = change::commit(&*api.store, txn, &creation.key, &creation.value).await;
        if committed.is_err() {
            // Perhaps the lease is what was lost.
            api.leases.forget().await;
            api.confirmations.forget().await;
        }
        match committed? {
            Outcome::Committed(revision) => return Ok(Created::New(revision)),
            Outcome::Conflict => {}
        }
    }
    Err(status::contended(&creation.name))
}

/// The revision of a tenant in which something may be created.
pub(crate) async fn parent_revision(
    store: &dyn Store,
    tenant: &TenantId,
) -> Result<Revision, ApiError> {
    let name = TenantName {
        tenant: tenant.clone(),
    };
    let name = name.to_string();
    let parent = change::get::<StoredTenant>(store, &keys::tenant(tenant), &name).await?;
    if parent.value.deleting {
        let message = format!("{name} is being deleted");
        return Err(ApiError::precondition("TENANT_BEING_DELETED", message).with("resource", name));
    }
    Ok(parent.revision)
}

// === impl Leases ===

impl Leases {
    /// Leases that live for so long at least.
    pub(crate) fn new(kept: Duration) -> Self {
        Self {
            kept,
            shared: Mutex::default(),
        }
    }

    /// A lease for one thing more.
    pub(crate) async fn share(
        &self,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<LeaseId, ApiError> {
        let mut shared = self.shared.lock().await;
        let usable = |it: &&mut Shared| now.since(it.since) < SHARED && it.n_results < SHARES;
        if let Some(shared) = shared.as_mut().filter(usable) {
            shared.n_results += 1;
            return Ok(shared.lease);
        }
        let granted = store.grant(self.kept + SHARED).await;
        let lease = granted.map_err(|error: Error| status::of_store(error))?;
        *shared = Some(Shared {
            lease,
            since: now,
            n_results: 1,
        });
        Ok(lease)
    }

    /// Shares none of them any more.
    pub(crate) async fn forget(&self) {
        *self.shared.lock().await = None;
    }
}

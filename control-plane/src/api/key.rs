//! `KeyService`.
//!
//! **Invariants:** a key leaves in the answer of the call that made its secret, and in no other; nobody gets a key that
//! opens more than their own.

use std::sync::Arc;

use bytes::Bytes;
use hookfleet_contract::name::{KeyName, TenantId, TenantName};
use hookfleet_gateway::{
    auth::{self, key::ApiKey, principal::Principal},
    filter::Filter,
    status::ApiError,
};
use hookfleet_proto::{
    fleet::StoredApiKey,
    v1::{
        CreateKeyRequest, DeleteKeyRequest, GetKeyRequest, Key, ListKeysRequest, ListKeysResponse,
        RotateKeyRequest, key_service_server::KeyService,
    },
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Api,
    change::{self, ATTEMPTS, Subject},
    creation,
    list::{self, Ask},
    overlap, parse, required, respond, status,
};
use crate::{
    keys, model, random,
    store::{MAX_OPERATIONS, Outcome, Revision, Txn},
    stored,
};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Keys(pub(crate) Arc<Api>);

// === impl Keys ===

impl Keys {
    async fn create(&self, request: CreateKeyRequest, caller: &Principal) -> Result<Key, ApiError> {
        let asked = required("key", request.key)?;
        let made = random::api_key();
        let name = KeyName {
            key: made.id().clone(),
        };
        let now = self.0.clock.now();
        let (key, tenant) = model::key::create(asked, &name, now).map_err(ApiError::invalid)?;
        check(&key, caller)?;
        let stored = stored::new_key(&self.0.vault, key, &made);
        let revision = self.commit(&name, &stored, tenant.as_ref()).await?;
        Ok(revealed(stored, revision, &made))
    }

    async fn get(&self, request: GetKeyRequest) -> Result<Key, ApiError> {
        let name: KeyName = parse("name", &request.name)?;
        let key = keys::key(&name.key);
        let found = change::get::<StoredApiKey>(&*self.0.store, &key, &request.name).await?;
        Ok(stored::view_key(found.value, found.revision))
    }

    async fn list(&self, request: ListKeysRequest) -> Result<ListKeysResponse, ApiError> {
        let filter = Filter::parse(&request.filter, &["tenant"])?;
        let tenant = filter.get("tenant");
        let ask = Ask {
            list: "keys",
            scope: &[&request.filter],
            prefix: keys::KEYS.to_owned(),
            page_size: request.page_size,
            page_token: &request.page_token,
            is_filtered: tenant.is_some(),
        };
        let (keys, next_page_token) = list::page(&self.0, ask, |entry| {
            let stored = StoredApiKey::decode(entry.value);
            let stored = stored.map_err(|error| status::undecodable(&entry.key, &error))?;
            let key = stored::view_key(stored, entry.mod_revision);
            Ok(Some(key).filter(|key| tenant.is_none_or(|it| it == key.tenant)))
        })
        .await?;
        Ok(ListKeysResponse {
            keys,
            next_page_token,
        })
    }

    async fn rotate(&self, request: RotateKeyRequest, caller: &Principal) -> Result<Key, ApiError> {
        let name: KeyName = parse("name", &request.name)?;
        let overlap = overlap(request.overlap)?;
        let now = self.0.clock.now();
        let made = random::api_key().with_id(name.key.clone());
        let digest = stored::seal_digest(&self.0.vault, &name.key, made.digest());
        let rotated = change::update(&*self.0.store, &subject(&name, request.etag), |before| {
            let mut after = StoredApiKey::clone(before);
            check(after.key.get_or_insert_default(), caller)?;
            model::key::rotate(&mut after, digest.clone(), overlap, now)
                .map_err(|error| ApiError::precondition("TOO_MANY_SECRETS", error.to_string()))?;
            Ok(Some(after))
        })
        .await?;
        Ok(revealed(rotated.value, rotated.revision, &made))
    }

    async fn delete(&self, request: DeleteKeyRequest, caller: &Principal) -> Result<(), ApiError> {
        let name: KeyName = parse("name", &request.name)?;
        let subject = subject(&name, request.etag);
        let held = change::get::<StoredApiKey>(&*self.0.store, &subject.key, &subject.name).await?;
        check(&held.value.key.unwrap_or_default(), caller)?;
        // What a key opens never changes, so it may be deleted whatever it became meanwhile.
        change::delete::<StoredApiKey>(&*self.0.store, &subject).await
    }

    async fn commit(
        &self,
        name: &KeyName,
        stored: &StoredApiKey,
        tenant: Option<&TenantName>,
    ) -> Result<Revision, ApiError> {
        let store = &*self.0.store;
        let (key, value) = (keys::key(&name.key), Bytes::from(stored.encode_to_vec()));
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new().absent(&key).put(&key, value.clone());
            if let Some(TenantName { tenant }) = tenant {
                let revision = creation::parent_revision(store, tenant).await?;
                txn = txn.unchanged(keys::tenant(tenant), revision);
            }
            if let Outcome::Committed(it) = change::commit(store, txn, &key, &value).await? {
                return Ok(it);
            }
        }
        Err(status::contended(&name.to_string()))
    }
}

/// Deletes the keys of a tenant that is closed to new ones. There are few keys, so all are looked at.
pub(crate) async fn delete_of_tenant(api: &Api, tenant: &TenantId) -> Result<(), ApiError> {
    let tenant = TenantName {
        tenant: tenant.clone(),
    };
    let tenant = tenant.to_string();
    let mut after: Option<String> = None;
    loop {
        let range = api
            .store
            .range(keys::KEYS, after.as_deref(), MAX_OPERATIONS, None);
        let page = range.await.map_err(status::of_store)?;
        after = page.entries.last().map(|entry| entry.key.clone());
        let is_of_tenant = |value: &[u8]| {
            let stored = StoredApiKey::decode(value).unwrap_or_default();
            stored.key.is_some_and(|it| it.tenant == tenant)
        };
        let gone = page
            .entries
            .iter()
            .filter(|entry| is_of_tenant(&entry.value));
        let gone: Vec<_> = gone.map(|entry| entry.key.clone()).collect();
        if !gone.is_empty() {
            let txn = gone.into_iter().fold(Txn::new(), Txn::delete);
            api.store.commit(txn).await.map_err(status::of_store)?;
        }
        if !page.more {
            return Ok(());
        }
    }
}

/// Whether the caller may give or take this key.
fn check(key: &Key, caller: &Principal) -> Result<(), ApiError> {
    match model::key::is_theirs(key, caller) {
        true => Ok(()),
        false => Err(ApiError::permission_denied()),
    }
}

fn revealed(stored: StoredApiKey, revision: Revision, made: &ApiKey) -> Key {
    Key {
        secret: made.reveal().to_string(),
        ..stored::view_key(stored, revision)
    }
}

fn subject(name: &KeyName, etag: String) -> Subject {
    Subject {
        key: keys::key(&name.key),
        name: name.to_string(),
        etag,
        validate_only: false,
    }
}

#[tonic::async_trait]
impl KeyService for Keys {
    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<Key>, Status> {
        let caller = auth::caller(&request)?;
        respond(self.create(request.into_inner(), &caller).await)
    }

    async fn get_key(&self, request: Request<GetKeyRequest>) -> Result<Response<Key>, Status> {
        respond(self.get(request.into_inner()).await)
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        respond(self.list(request.into_inner()).await)
    }

    async fn rotate_key(
        &self,
        request: Request<RotateKeyRequest>,
    ) -> Result<Response<Key>, Status> {
        let caller = auth::caller(&request)?;
        respond(self.rotate(request.into_inner(), &caller).await)
    }

    async fn delete_key(&self, request: Request<DeleteKeyRequest>) -> Result<Response<()>, Status> {
        let caller = auth::caller(&request)?;
        respond(self.delete(request.into_inner(), &caller).await)
    }
}

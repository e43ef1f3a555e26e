//! `TenantService`.
//!
//! **Invariant:** a tenant that is gone leaves no subscription and no key behind: its deletion first closes it to new ones.

use std::sync::Arc;

use hookfleet_contract::name::{TenantId, TenantName};
use hookfleet_gateway::{filter::Filter, status::ApiError};
use hookfleet_proto::{
    fleet::{StoredTenant, stored_request},
    v1::{
        CreateTenantRequest, DeleteTenantRequest, GetTenantRequest, ListTenantsRequest,
        ListTenantsResponse, ResumeTenantRequest, SuspendTenantRequest, Tenant,
        UpdateTenantRequest, tenant::State, tenant_service_server::TenantService,
    },
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Api,
    change::{self, Subject},
    creation::{self, Created, Creation},
    key,
    list::{self, Ask},
    parse, required, respond, status,
};
use crate::{cache, keys, model, random, store::Txn, stored};

/// Agents keep what is not yet a tenant's under such ids.
const RESERVED: &str = "hookfleet-";

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Tenants(pub(crate) Arc<Api>);

// === impl Tenants ===

impl Tenants {
    async fn create(&self, mut request: CreateTenantRequest) -> Result<Tenant, ApiError> {
        let api = &*self.0;
        let mut asked = required("tenant", request.tenant.take())?;
        let annotations = std::mem::take(&mut asked.annotations);
        request.tenant = Some(asked.clone());
        let named = creation::named(&request.request_id, &request, annotations.iter())?;
        asked.annotations = annotations;

        let tenant: TenantId = match request.tenant_id.as_str() {
            "" => parse("tenant_id", &random::id('t'))?,
            id if id.starts_with(RESERVED) => {
                let description = format!("must not begin with {RESERVED}, as Hookfleet's own do");
                return Err(ApiError::invalid_field("tenant_id", description));
            }
            id => parse("tenant_id", id)?,
        };
        let name = TenantName { tenant };
        let (uid, now) = (random::uuid(), api.clock.now());
        let tenant = model::tenant::create(asked, &name, uid, now, api.slot_count)
            .map_err(ApiError::invalid)?;
        let mut stored = StoredTenant {
            tenant: Some(tenant.clone()),
            ..StoredTenant::default()
        };
        stored.shards = stored::shards(&stored).into();
        let creation = Creation {
            key: keys::tenant(&name.tenant),
            name: name.to_string(),
            value: stored.encode_to_vec().into(),
            besides: Vec::new(),
            parent: None,
            request: named,
            result: stored_request::Result::Tenant(tenant),
            validate_only: request.validate_only,
        };
        match creation::create(api, creation).await? {
            Created::New(revision) => Ok(stored::view_tenant(stored, revision)),
            Created::Before(before) => match before.value {
                stored_request::Result::Tenant(tenant) => Ok(Tenant {
                    etag: stored::etag(before.revision),
                    ..tenant
                }),
                stored_request::Result::Subscription(_) => Err(ApiError::internal("another kind")),
            },
        }
    }

    async fn get(&self, request: GetTenantRequest) -> Result<Tenant, ApiError> {
        let name: TenantName = parse("name", &request.name)?;
        let key = keys::tenant(&name.tenant);
        let found = change::get::<StoredTenant>(&*self.0.store, &key, &request.name).await?;
        Ok(stored::view_tenant(found.value, found.revision))
    }

    async fn list(&self, request: ListTenantsRequest) -> Result<ListTenantsResponse, ApiError> {
        let filter = Filter::parse(&request.filter, &["state"])?;
        let state = filter.get("state").map(|text| {
            let state = State::from_str_name(text);
            state.ok_or_else(|| {
                ApiError::invalid_field("filter", "state must be ACTIVE or SUSPENDED")
            })
        });
        let state = state.transpose()?;
        let ask = Ask {
            list: "tenants",
            scope: &[&request.filter],
            prefix: keys::TENANTS.to_owned(),
            page_size: request.page_size,
            page_token: &request.page_token,
            is_filtered: state.is_some(),
        };
        let (tenants, next_page_token) = list::page(&self.0, ask, |entry| {
            let stored = StoredTenant::decode(entry.value);
            let stored = stored.map_err(|error| status::undecodable(&entry.key, &error))?;
            let tenant = stored::view_tenant(stored, entry.mod_revision);
            Ok(Some(tenant).filter(|tenant| state.is_none_or(|state| state == tenant.state())))
        })
        .await?;
        Ok(ListTenantsResponse {
            tenants,
            next_page_token,
        })
    }

    async fn update(&self, request: UpdateTenantRequest) -> Result<Tenant, ApiError> {
        let patch = required("tenant", request.tenant)?;
        let name: TenantName = parse("tenant.name", &patch.name)?;
        let mut subject = subject(&name, patch.etag.clone());
        subject.validate_only = request.validate_only;
        let (mask, slot_count) = (request.update_mask, self.0.slot_count);
        self.change(&subject, |tenant| {
            let updated = model::tenant::update(tenant, patch.clone(), mask.as_ref(), slot_count);
            updated.map_err(ApiError::invalid)
        })
        .await
    }

    async fn set_state(&self, name: &str, etag: String, state: State) -> Result<Tenant, ApiError> {
        let name: TenantName = parse("name", name)?;
        self.change(&subject(&name, etag), |tenant| {
            tenant.set_state(state);
            Ok(())
        })
        .await
    }

    /// Changes a tenant, unless it is as it should be already.
    async fn change(
        &self,
        subject: &Subject,
        mut change: impl FnMut(&mut Tenant) -> Result<(), ApiError>,
    ) -> Result<Tenant, ApiError> {
        let now = self.0.clock.now();
        let changed = change::update::<StoredTenant>(&*self.0.store, subject, |before| {
            let mut after = before.clone();
            let tenant = after.tenant.get_or_insert_default();
            change(tenant)?;
            if after == *before {
                return Ok(None);
            }
            after.tenant.get_or_insert_default().update_time = Some(now.into());
            // Deliveries stay where they are when events go elsewhere.
            after.shards = stored::shards(&after).into();
            Ok(Some(after))
        })
        .await?;
        Ok(stored::view_tenant(changed.value, changed.revision))
    }

    async fn delete(&self, request: DeleteTenantRequest) -> Result<(), ApiError> {
        let name: TenantName = parse("name", &request.name)?;
        let mut subject = subject(&name, request.etag);
        if request.validate_only {
            subject.validate_only = true;
            self.mark(&subject, true).await?;
            return self.check_empty(&name, request.force).await;
        }
        // Without force, a tenant with subscriptions is only looked at.
        if !request.force {
            let held =
                change::get::<StoredTenant>(&*self.0.store, &subject.key, &subject.name).await?;
            if subject.etag.is_empty() || subject.etag == stored::etag(held.revision) {
                self.check_empty(&name, false).await?;
            }
        }
        self.mark(&subject, true).await?;
        // From here on nothing is created in it, so that what is found empty stays so.
        subject.etag.clear();
        if let Err(error) = self.check_empty(&name, request.force).await {
            self.mark(&subject, false).await?;
            return Err(error);
        }
        self.delete_subscriptions(&name.tenant).await?;
        key::delete_of_tenant(&self.0, &name.tenant).await?;
        change::delete::<StoredTenant>(&*self.0.store, &subject).await
    }

    /// Closes a tenant to new subscriptions, or opens it again.
    async fn mark(&self, subject: &Subject, deleting: bool) -> Result<(), ApiError> {
        let mark = |before: &StoredTenant| {
            let after = StoredTenant {
                deleting,
                ..before.clone()
            };
            // One more write although it is marked already does no harm, and fences creations that began before.
            Ok(Some(after))
        };
        change::update(&*self.0.store, subject, mark)
            .await
            .map(drop)
    }

    async fn check_empty(&self, name: &TenantName, force: bool) -> Result<(), ApiError> {
        let prefix = keys::subscriptions_of(&name.tenant, self.0.slot_count);
        let page = self
            .0
            .store
            .range(&prefix, None, 1, None)
            .await
            .map_err(status::of_store)?;
        if page.entries.is_empty() || force {
            return Ok(());
        }
        let message = format!("{name} has subscriptions; force deletes them too");
        let error = ApiError::precondition("TENANT_NOT_EMPTY", message);
        Err(error.with("resource", name.to_string()))
    }

    /// Deletes what is left in a tenant, no more per transaction than the cache believes. An interrupted deletion goes on
    /// with the rest when it is asked for again.
    async fn delete_subscriptions(&self, tenant: &TenantId) -> Result<(), ApiError> {
        let prefix = keys::subscriptions_of(tenant, self.0.slot_count);
        loop {
            let page = self.0.store.range(&prefix, None, cache::FEW, None).await;
            let page = page.map_err(status::of_store)?;
            if page.entries.is_empty() {
                return Ok(());
            }
            let txn = page
                .entries
                .into_iter()
                .fold(Txn::new(), |txn, entry| txn.delete(entry.key));
            self.0.store.commit(txn).await.map_err(status::of_store)?;
        }
    }
}

fn subject(name: &TenantName, etag: String) -> Subject {
    Subject {
        key: keys::tenant(&name.tenant),
        name: name.to_string(),
        etag,
        validate_only: false,
    }
}

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        respond(self.create(request.into_inner()).await)
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        respond(self.get(request.into_inner()).await)
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        respond(self.list(request.into_inner()).await)
    }

    async fn update_tenant(
        &self,
        request: Request<UpdateTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        respond(self.update(request.into_inner()).await)
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<()>, Status> {
        respond(self.delete(request.into_inner()).await)
    }

    async fn suspend_tenant(
        &self,
        request: Request<SuspendTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let SuspendTenantRequest { name, etag } = request.into_inner();
        respond(self.set_state(&name, etag, State::Suspended).await)
    }

    async fn resume_tenant(
        &self,
        request: Request<ResumeTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let ResumeTenantRequest { name, etag } = request.into_inner();
        respond(self.set_state(&name, etag, State::Active).await)
    }
}

//! A tenant service that remembers, for tests.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use hookfleet_proto::v1::{
    CreateTenantRequest, DeleteTenantRequest, GetTenantRequest, ListTenantsRequest,
    ListTenantsResponse, ResumeTenantRequest, SuspendTenantRequest, Tenant, UpdateTenantRequest,
    tenant::State,
    tenant_service_server::{TenantService, TenantServiceServer},
};
use tonic::{Request, Response, Status};

use crate::status::ApiError;

#[derive(Default)]
pub(super) struct Tenants(Mutex<BTreeMap<String, Tenant>>);

pub(super) fn service() -> TenantServiceServer<Tenants> {
    TenantServiceServer::new(Tenants::default())
}

impl Tenants {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Tenant>> {
        self.0.lock().unwrap()
    }

    fn with(
        &self,
        name: &str,
        change: impl FnOnce(&mut Tenant),
    ) -> Result<Response<Tenant>, Status> {
        let mut tenants = self.lock();
        let tenant = tenants
            .get_mut(name)
            .ok_or_else(|| ApiError::not_found(name))?;
        change(tenant);
        Ok(Response::new(tenant.clone()))
    }
}

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let request = request.into_inner();
        if request.tenant_id == "full" {
            let pause = Duration::from_millis(1500);
            return Err(ApiError::exhausted("OVERLOADED", "too much", pause).into());
        }
        let tenant = Tenant {
            name: format!("tenants/{}", request.tenant_id),
            state: State::Active.into(),
            ..request.tenant.unwrap_or_default()
        };
        if self
            .lock()
            .insert(tenant.name.clone(), tenant.clone())
            .is_some()
        {
            return Err(ApiError::already_exists(tenant.name).into());
        }
        Ok(Response::new(tenant))
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        self.with(&request.into_inner().name, |_| {})
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let request = request.into_inner();
        let limit = crate::page::page_size(request.page_size)?;
        let tenants = self.lock().values().take(limit).cloned().collect();
        let next_page_token = request.filter;
        Ok(Response::new(ListTenantsResponse {
            tenants,
            next_page_token,
        }))
    }

    async fn update_tenant(
        &self,
        request: Request<UpdateTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let request = request.into_inner();
        let new = request.tenant.unwrap_or_default();
        let paths = request.update_mask.unwrap_or_default().paths;
        if new.etag == "old" {
            return Err(ApiError::etag_mismatch(new.name).into());
        }
        self.with(&new.name.clone(), |tenant| {
            if paths.iter().any(|it| it == "display_name") {
                tenant.display_name = new.display_name;
            }
        })
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        if !request.force {
            return Err(ApiError::precondition("NOT_EMPTY", "has subscriptions").into());
        }
        self.lock().remove(&request.name);
        Ok(Response::new(()))
    }

    async fn suspend_tenant(
        &self,
        request: Request<SuspendTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        self.with(&request.into_inner().name, |it| {
            it.set_state(State::Suspended)
        })
    }

    async fn resume_tenant(
        &self,
        request: Request<ResumeTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        self.with(&request.into_inner().name, |it| it.set_state(State::Active))
    }
}

//! Where requests are stopped: [`authenticate`] asks everybody who they are, before anything of a body is read, and
//! [`authorize`] stands before every gRPC method, whichever dialect a call came in.
//!
//! **Invariant:** a method is called with a [`Principal`] in its extensions that may call it, or not at all.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use hookfleet_contract::name::TenantId;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::Limited;
use tonic::{Code, Status};

use super::{
    Auth,
    decision::{Access, Decision},
    methods::Methods,
    ownership::Owned,
    principal::{Principal, Reach},
};
use crate::{status::ApiError, tls::identity::ClientCertificate, transcode};

/// Those that need not say who they are ask short questions.
const MAX_OPEN_BYTES: usize = 4 << 10;
const GRPC: &str = "application/grpc";

tokio::task_local! {
    /// Who sent the request that this task answers. A call that is made of another, as JSON is made into gRPC, is made
    /// within the same task, and by the same caller.
    static CALLER: Principal;
}

/// What [`authorize`] goes by; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) auth: Auth,
    pub(crate) methods: Arc<Methods>,
}

/// Whose the request is that this task answers, if its credential is a tenant's.
pub(crate) fn tenant_of_caller() -> Option<TenantId> {
    let reach = CALLER.try_with(|caller| caller.reach().clone()).ok()?;
    match reach {
        Reach::Tenant(tenant) => Some(tenant),
        Reach::Fleet => None,
    }
}

/// Finds out who sends a request, and refuses those that do not say.
pub(crate) async fn authenticate(
    State(Guard { auth, methods }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    if !auth.is_on() {
        return next.run(request).await;
    }
    let is_open = Access::of(&methods, request.uri().path()) == Access::Open;
    let certificate = request.extensions().get::<ClientCertificate>();
    let found = auth.principal(request.headers(), certificate).await;
    // Nobody needs them from here on.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.headers_mut().remove(super::credential::API_KEY);
    match found {
        Ok(Some(caller)) => CALLER.scope(caller, next.run(request)).await,
        Ok(None) if is_open => next.run(request).await,
        Ok(None) => {
            let message = "the request says not who sent it";
            let error = ApiError::unauthenticated("CREDENTIAL_MISSING", message);
            refusal(request.headers(), error)
        }
        Err(error) => refusal(request.headers(), error),
    }
}

/// Lets through what the caller may call, with messages that are about what is theirs.
pub(crate) async fn authorize(
    State(Guard { auth, methods }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    if !auth.is_on() {
        request.extensions_mut().insert(Principal::anyone());
        return next.run(request).await;
    }
    let caller = CALLER.try_with(Clone::clone).ok();
    let access = Access::of(&methods, request.uri().path());
    let is_open = access == Access::Open;
    let is_stream = matches!(access, Access::Method(method) if method.is_stream);
    request = match access.decide(caller.as_ref()) {
        Decision::Denied => return refusal(request.headers(), ApiError::permission_denied()),
        Decision::Allowed if is_open => {
            request.map(|body| Body::new(Limited::new(body, MAX_OPEN_BYTES)))
        }
        Decision::Allowed => request,
        Decision::AllowedFor(tenant, places) => {
            request.map(|body| Body::new(Owned::new(body, tenant, places, is_stream)))
        }
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

/// A refusal in the dialect of the request.
pub(crate) fn refusal(headers: &HeaderMap, error: ApiError) -> Response {
    let status = Status::from(error);
    let content_type = headers.get(header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|it| it.as_bytes().starts_with(GRPC.as_bytes()));
    if let Some(content_type) = content_type.filter(|_| is_grpc) {
        // The head says all, which gRPC-Web reads too.
        let mut response = status.into_http();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type.clone());
        return response;
    }
    let mut response = transcode::refusal(&status);
    if status.code() == Code::Unauthenticated {
        let scheme = HeaderValue::from_static("Bearer realm=\"hookfleet\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

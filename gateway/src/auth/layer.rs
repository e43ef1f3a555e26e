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
    Auth, credential,
    decision::{Access, Decision},
    methods::Methods,
    ownership::Owned,
    principal::{Principal, Reach},
};
use crate::{
    audit::{self, Audit},
    facade::Facade,
    limits::{connections::Source, limiter::Limiter},
    status::ApiError,
    tls::identity::ClientCertificate,
    transcode,
};

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
    pub(crate) audit: Audit,
    pub(crate) limiter: Limiter,
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

/// Who sent the request that this task answers, if that is known.
pub(crate) fn caller_of_task() -> Option<Principal> {
    CALLER.try_with(Clone::clone).ok()
}

/// Does something on behalf of somebody, in whatever task.
pub(crate) async fn as_caller<F: Future>(caller: Option<Principal>, call: F) -> F::Output {
    match caller {
        Some(caller) => CALLER.scope(caller, call).await,
        None => call.await,
    }
}

/// Does something with who sent the request that this task answers, if that is known.
pub(crate) fn with_caller<T>(ask: impl Fn(Option<&Principal>) -> T) -> T {
    let asked = CALLER.try_with(|caller| ask(Some(caller)));
    asked.unwrap_or_else(|_| ask(None))
}

/// Finds out who sends a request, and refuses those that do not say.
pub(crate) async fn authenticate(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    let Guard {
        auth,
        audit,
        limiter,
        methods,
    } = guard;
    if !auth.is_on() {
        return next.run(request).await;
    }
    let source = request.extensions().get::<Source>().copied();
    let is_open = Access::of(&methods, request.uri().path()) == Access::Open;
    let certificate = request.extensions().get::<ClientCertificate>();
    let found = auth.principal(request.headers(), certificate).await;
    let claimed = match &found {
        Err(_) => credential::claimed(request.headers()),
        Ok(_) => None,
    };
    // Nobody needs them from here on.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.headers_mut().remove(credential::API_KEY);
    match found {
        Ok(Some(caller)) => CALLER.scope(caller, next.run(request)).await,
        Ok(None) if is_open => next.run(request).await,
        Ok(None) => {
            let message = "the request says not who sent it";
            let error = ApiError::unauthenticated("CREDENTIAL_MISSING", message);
            let error = limiter.not_let_in(source, error);
            unknown(&audit, &request, claimed, error)
        }
        Err(error) => unknown(&audit, &request, claimed, limiter.not_let_in(source, error)),
    }
}

/// Lets through what the caller may call, with messages that are about what is theirs.
pub(crate) async fn authorize(
    State(Guard { auth, methods, .. }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    if !auth.is_on() {
        request.extensions_mut().insert(Principal::anyone());
        return next.run(request).await;
    }
    let caller = caller_of_task();
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

/// Whether a request speaks gRPC, or gRPC-Web.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|it| it.as_bytes().starts_with(GRPC.as_bytes()))
}

/// A refusal in the dialect of the request.
pub(crate) fn refusal(headers: &HeaderMap, error: ApiError) -> Response {
    let status = Status::from(error);
    let content_type = headers.get(header::CONTENT_TYPE);
    if let Some(content_type) = content_type.filter(|_| is_grpc(headers)) {
        // The head says all, which gRPC-Web reads too.
        let mut response = status.into_http();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type.clone());
        return response;
    }
    transcode::refusal(&status)
}

/// A refusal of somebody who has not shown who they are.
fn unknown(audit: &Audit, request: &Request, claimed: Option<String>, error: ApiError) -> Response {
    audit::layer::not_let_in(audit, request, claimed, &error);
    let is_unauthenticated = error.code() == Code::Unauthenticated;
    let is_grpc = is_grpc(request.headers());
    let mut response = match !is_grpc && Facade::has(request.uri().path()) {
        true => Facade::refusal(error.into()),
        false => refusal(request.headers(), error),
    };
    if is_unauthenticated && !is_grpc {
        let scheme = HeaderValue::from_static("Bearer realm=\"hookfleet\"");
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

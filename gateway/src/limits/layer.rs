//! Where requests that are too many are stopped: behind the door, as it is known who calls, and before their bodies are read.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{Method, header};

use super::{
    connections::Source,
    fields,
    limiter::{Limiter, Purpose, Standing},
};
use crate::{
    auth::{
        layer,
        methods::Methods,
        principal::{Principal, Reach},
        scope::Scope,
    },
    facade::Facade,
    status::ApiError,
};

/// What [`limit`] goes by; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) limiter: Limiter,
    pub(crate) methods: Arc<Methods>,
    /// Whether there is a facade, which has errors of its own.
    pub(crate) has_facade: bool,
}

/// Lets through what is within the caller's quotas.
pub(crate) async fn limit(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let is_grpc = layer::is_grpc(request.headers());
    match layer::with_caller(|caller| gate.admit(&request, caller)) {
        Ok(None) => next.run(request).await,
        Ok(Some(standing)) => {
            let mut response = next.run(request).await;
            if !is_grpc {
                fields::tell(response.headers_mut(), &standing);
            }
            response
        }
        Err(error) => {
            if gate.has_facade && Facade::has(request.uri().path()) {
                return Facade::refusal(error.into());
            }
            layer::refusal(request.headers(), error)
        }
    }
}

// === impl Gate ===

impl Gate {
    fn admit(
        &self,
        request: &Request,
        caller: Option<&Principal>,
    ) -> Result<Option<Standing>, ApiError> {
        match self.purpose(request) {
            None => Ok(None),
            // Whose events they are is known for sure once they are read; here is who says it before.
            Some(Purpose::Ingest) => match caller.map(Principal::reach) {
                Some(Reach::Tenant(tenant)) => {
                    let n_bytes = content_length(request);
                    self.limiter.might_publish(tenant.as_str(), n_bytes)?;
                    Ok(None)
                }
                Some(Reach::Fleet) | None => Ok(None),
            },
            // What the processes of the fleet ask each other was counted where it came in.
            Some(Purpose::Control) if caller.is_some_and(is_of_the_fleet) => Ok(None),
            Some(Purpose::Control) => {
                let source = request.extensions().get::<Source>().copied();
                self.limiter.request(caller.map(Principal::subject), source)
            }
        }
    }

    /// What a request is counted for; nothing if it is of the fleet itself, or asks whether we are well.
    fn purpose(&self, request: &Request) -> Option<Purpose> {
        let path = request.uri().path();
        let method = self.methods.get(path);
        match method.map(|it| (it.scope, it.is_stream)) {
            // It is read no faster than it may be.
            Some((Scope::EventsPublish, true)) => None,
            Some((Scope::EventsPublish, false)) => Some(Purpose::Ingest),
            Some(_) => Some(Purpose::Control),
            None if path.starts_with("/grpc.health.") => None,
            None if request.method() == Method::POST && is_of_events(path) => Some(Purpose::Ingest),
            None => Some(Purpose::Control),
        }
    }
}

fn is_of_events(path: &str) -> bool {
    path.starts_with("/v1/tenants/") && path.ends_with("/events")
}

fn is_of_the_fleet(caller: &Principal) -> bool {
    caller.scopes().iter().any(|it| it == Scope::AgentsRegister)
}

/// What a request says of its size; one that says nothing has one byte.
fn content_length(request: &Request) -> usize {
    let value = request.headers().get(header::CONTENT_LENGTH);
    let said = value.and_then(|it| it.to_str().ok()?.parse().ok());
    said.unwrap_or(1)
}

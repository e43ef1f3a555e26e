//! The services of a process behind one listener: gRPC with reflection and health, the same methods
//! as HTTP/JSON, and probes.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state, map_request},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use hookfleet_proto::DESCRIPTORS;
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer as _, Service, ServiceExt as _};

use crate::{
    audit::{self, Audit, layer::Notary, subject::Subjects},
    auth::{
        Auth,
        layer::{self, Guard},
        methods::{self, Methods},
    },
    descriptors,
    events::Events,
    facade::Facade,
    intake::Intake,
    limits::{self, layer::Gate, limiter::Limiter, memory::Memory},
    metrics::{self, Answers, Calls, Exposition},
    openapi,
    readiness::Readiness,
    status::ApiError,
    transcode::{self, Transcoder},
    verification::{self, Confirm},
};

/// What a process serves.
#[derive(Debug)]
pub struct Services {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
    readiness: Readiness,
    auth: Auth,
    audit: Audit,
    limiter: Limiter,
    memory: Memory,
    exposition: Option<Exposition>,
    /// Where receivers confirm that they want callbacks.
    verifications: Router<Audit>,
}

/// The descriptors of the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reflection refuses them.
    #[error("the descriptors cannot be reflected")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// They do not say who may call what.
    #[error("the scopes of the API cannot be used")]
    Methods(#[from] methods::Error),
    /// Their HTTP rules cannot be used.
    #[error("the HTTP rules of the API cannot be used")]
    Transcode(#[from] transcode::Error),
}

// === impl Services ===

impl Services {
    /// No services yet; `readiness` is what health and `/readyz` tell. Nobody is asked who they are.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        Self {
            routes: Routes::builder(),
            names: Vec::new(),
            readiness,
            auth: Auth::off(),
            audit: Audit::off(),
            limiter: Limiter::off(),
            memory: Memory::default(),
            exposition: None,
            verifications: Router::new(),
        }
    }

    /// Takes confirmations of receivers, who need no credential for that: they have a key.
    #[must_use]
    pub fn confirmed_to(mut self, confirm: impl Confirm) -> Self {
        self.verifications = verification::router(confirm);
        self
    }

    /// Asks who calls, and whether they may.
    #[must_use]
    pub fn guarded(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Writes down who changes what, and who is denied what.
    #[must_use]
    pub fn audited(mut self, audit: Audit) -> Self {
        self.audit = audit;
        self
    }

    /// Counts what callers use.
    #[must_use]
    pub fn limited(mut self, limiter: Limiter) -> Self {
        self.limiter = limiter;
        self
    }

    /// Takes no more requests at once than there is memory for.
    #[must_use]
    pub fn within(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Tells Prometheus at `/metrics` what is measured.
    #[must_use]
    pub fn measured(mut self, exposition: Exposition) -> Self {
        self.exposition = Some(exposition);
        self
    }

    /// Adds a gRPC service.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Error = Infallible> + NamedService,
        S: Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// Everything behind one router. Must be called within a runtime, which keeps health up to date.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn into_router(mut self) -> Result<Router, Error> {
        let guard = Guard {
            methods: Arc::new(Methods::read(DESCRIPTORS)?),
            auth: self.auth,
            audit: self.audit.clone(),
            limiter: self.limiter,
        };
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut reflected = self.names.clone();
        reflected.push("grpc.health.v1.Health");
        let named = |builder: tonic_reflection::server::Builder<'static>| {
            reflected
                .iter()
                .fold(builder, |it, name| it.with_service_name(*name))
        };
        self.routes.add_service(named(reflection()).build_v1()?);
        self.routes
            .add_service(named(reflection()).build_v1alpha()?);
        let (reporter, health) = tonic_health::server::health_reporter();
        self.routes.add_service(health);
        tokio::spawn(report(reporter, self.names.clone(), self.readiness.clone()));

        let (methods, is_guarded) = (Arc::clone(&guard.methods), guard.auth.is_on());
        let openapi =
            openapi::document(descriptors::pool(), &methods, &self.names, is_guarded)?.to_string();
        let openapi = Bytes::from(openapi);
        let notary = Notary {
            subjects: Arc::new(Subjects::new(descriptors::pool(), &methods)),
            audit: self.audit.clone(),
        };
        let note = from_fn_with_state(notary, audit::layer::note);
        let authorize = from_fn_with_state(guard.clone(), layer::authorize);
        let measure = from_fn_with_state(Calls::new(Arc::clone(&methods)), metrics::measure);
        let grpc = self
            .routes
            .routes()
            .into_axum_router()
            .layer(authorize)
            .layer(note)
            .layer(measure);
        let grpc = Routes::from(grpc).prepare();
        let json = transcode::Transcoder::new(grpc.clone(), &self.names)?;
        let surfaces = Surfaces::new(&self.names, &grpc, json);
        let gate = Gate {
            limiter: guard.limiter.clone(),
            methods: Arc::clone(&guard.methods),
            has_facade: surfaces.facade.is_some(),
        };
        let limit = from_fn_with_state(gate, limits::layer::limit);
        let intake = Intake::new(descriptors::pool(), self.memory);
        let meter = map_request(move |request| {
            let metered = intake.meter(request);
            async move { metered }
        });
        let web = GrpcWebLayer::new().layer(grpc.clone());
        let web = from_fn(move |request, next| dialect(web.clone(), request, next));
        let probes = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route(
                openapi::PATH,
                get(async || ([(header::CONTENT_TYPE, "application/json")], openapi)),
            )
            .with_state(self.readiness);
        let api = grpc
            .into_axum_router()
            .reset_fallback()
            .fallback(move |request: Request| surfaces.clone().answer(request));
        let authenticate = from_fn_with_state(guard, layer::authenticate);
        let origin = from_fn(audit::layer::origin);
        // Whoever guesses keys has no more tries than an address has requests.
        let verifications = self.verifications.with_state(self.audit);
        let verifications = verifications.layer(limit.clone()).layer(origin.clone());
        let measured = match self.exposition {
            Some(exposition) => metrics::router(exposition, is_guarded),
            None => Router::new(),
        };
        let measured = measured.layer(limit.clone()).layer(authenticate.clone());
        let api = api.layer(web).layer(meter).layer(limit).layer(authenticate);
        let count = from_fn_with_state(Answers::new(), metrics::count);
        let api = measured.merge(api.layer(count)).layer(origin);
        Ok(probes.merge(verifications).merge(api))
    }
}

/// What HTTP says without gRPC: the surfaces of their own, and the API as JSON.
#[derive(Clone, Debug)]
struct Surfaces {
    facade: Option<Facade>,
    events: Option<Events>,
    json: Transcoder,
}

impl Surfaces {
    /// What the named services make possible.
    fn new(names: &[&str], routes: &Routes, json: Transcoder) -> Self {
        let has = |name| names.contains(&name).then(|| routes.clone());
        Self {
            facade: has("hookfleet.v1.SubscriptionService").map(Facade::new),
            events: has("hookfleet.v1.PublisherService").map(Events::new),
            json,
        }
    }

    async fn answer(self, request: Request) -> Response {
        if has_type(&request, "application/grpc") {
            let status = Status::from(ApiError::unimplemented("METHOD_UNKNOWN", "no such method"));
            return status.into_http();
        }
        let path = request.uri().path();
        if let Some(events) = self.events
            && let Some(parent) = events.parent(path)
        {
            return events.answer(parent, request).await;
        }
        match self.facade.filter(|_| Facade::has(path)) {
            Some(facade) => facade.answer(request).await,
            None => self.json.answer(request).await,
        }
    }
}

/// Unwraps gRPC-Web, which goes to the same services. Browsers of other origins get no leave to read the answers.
async fn dialect(web: GrpcWebService<Routes>, request: Request, next: Next) -> Response {
    if !has_type(&request, "application/grpc-web") {
        return next.run(request).await;
    }
    let answered = web.oneshot(request).await;
    answered
        .unwrap_or_else(|never| match never {})
        .map(axum::body::Body::new)
}

/// Whether a request's content type begins like this.
fn has_type(request: &Request, prefix: &str) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|it| it.as_bytes().starts_with(prefix.as_bytes()))
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.unmet().as_slice() {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        unmet => {
            let text = format!("not ready: {}\n", unmet.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

/// Tells health what readiness says, for the server as a whole and for each service.
async fn report(reporter: HealthReporter, names: Vec<&'static str>, readiness: Readiness) {
    let mut watch = readiness.watch();
    loop {
        let status = match *watch.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in std::iter::once(&"").chain(&names) {
            reporter.set_service_status(*name, status).await;
        }
        if watch.changed().await.is_err() {
            break;
        }
    }
}

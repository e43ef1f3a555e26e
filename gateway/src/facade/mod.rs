//! The facade for API consumers: `POST /{resource}/subscribe`, `POST /{resource}/unsubscribe`,
//! `GET /{resource}/subscriptions`. It says the same as calls of `SubscriptionService` in the same process, and keeps
//! nothing itself.
//!
//! **Invariant:** what it answers is what the service answered; a subscription is found again by its resource and
//! callback URL alone.

pub(crate) mod form;
mod identity;
mod problem;
mod resource;

use std::time::Duration;

use axum::{body::Body, response::Response};
use hookfleet_proto::v1::{
    self, CreateSubscriptionRequest, DeleteSubscriptionRequest, GetSubscriptionRequest,
    ListSubscriptionsRequest, UpdateSubscriptionRequest, subscription::State,
    subscription_service_client::SubscriptionServiceClient,
};
use http::{Extensions, HeaderValue, Request, StatusCode, header, request::Parts};
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, service::Routes};

use crate::{body, descriptors, idempotency, status::ApiError, tenant, transcode::json};
use form::Form;
use problem::Problem;
use resource::{Action, Resource};

/// How long a new subscription may take to become active before it is answered as pending.
const PATIENCE: Duration = Duration::from_secs(5);
/// When to look first whether it has; then after twice as long, up to the last.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(320));
/// How often to decide anew between create and update when others do the opposite.
const ATTEMPTS: usize = 5;
/// Pages of the tenant's subscriptions that one answer looks through.
const MAX_PAGES: usize = 10;

/// Answers the requests of the facade; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Facade {
    service: SubscriptionServiceClient<Routes>,
    form: Form,
}

/// A request on its way.
struct Call {
    facade: Facade,
    head: Parts,
    resource: Resource,
    /// `tenants/{tenant}`.
    tenant: String,
}

// === impl Facade ===

impl Facade {
    /// A facade of the subscription service that `routes` serves.
    pub(crate) fn new(routes: Routes) -> Self {
        let service = SubscriptionServiceClient::new(routes).max_decoding_message_size(usize::MAX);
        let form = Form::new(descriptors::pool());
        Self { service, form }
    }

    /// Whether a path is one of the facade's.
    pub(crate) fn has(path: &str) -> bool {
        resource::route(path).is_some()
    }

    /// The answer to a request for a path that it has, which is refused before it is looked at.
    pub(crate) fn refusal(status: Status) -> Response {
        Problem::from(status).into_response()
    }

    /// Answers a request for a path that it has.
    pub(crate) async fn answer(self, request: Request<Body>) -> Response {
        let answered = self.perform(request).await;
        answered.unwrap_or_else(Problem::into_response)
    }

    async fn perform(self, request: Request<Body>) -> Result<Response, Problem> {
        let (head, body) = request.into_parts();
        let (action, resource) = match resource::route(head.uri.path()) {
            Some((action, resource)) => (action, Resource::parse(resource)),
            None => return Err(ApiError::not_found(head.uri.path()).into()),
        };
        if head.method != action.method() {
            return Ok(method_not_allowed(action));
        }
        let description = "must be parts of letters, digits, _ and -, joined by slashes or dots";
        let resource = resource.ok_or_else(|| Problem::invalid_place("?resource", description))?;
        let tenant = tenant::of(&head)?;
        let call = Call {
            facade: self,
            head,
            resource,
            tenant,
        };
        match action {
            Action::Subscribe => call.subscribe(body).await,
            Action::Unsubscribe => call.unsubscribe(body).await,
            Action::List => call.list(body).await,
        }
    }
}

// === impl Call ===

impl Call {
    async fn subscribe(self, body: Body) -> Result<Response, Problem> {
        self.no_query()?;
        let key = idempotency::key(&self.head.headers).map_err(Problem::invalid)?;
        let body = body::read(&self.head.headers, body).await?;
        let form = &self.facade.form;
        let asked = form.read(&body, &self.resource).map_err(Problem::invalid)?;
        let id = identity::subscription_id(&self.resource, &asked.callback_url);
        let etag = self.if_match();
        for _ in 0..ATTEMPTS {
            let mut refused = None;
            if etag.is_none() {
                match self.create(&id, asked.clone(), key.as_deref()).await {
                    Ok(created) => {
                        let found = self.decided(created).await;
                        let status = match found.state() == State::Active {
                            true => StatusCode::CREATED,
                            false => StatusCode::ACCEPTED,
                        };
                        return Ok(self.found(status, &found));
                    }
                    // One that exists may be changed where no other may be made.
                    Err(problem) if problem.may_exist() => refused = Some(problem),
                    Err(problem) => return Err(problem),
                }
            }
            let tag = etag.as_deref().unwrap_or_default();
            match (self.update(&id, asked.clone(), tag).await, refused) {
                (Ok(found), _) => return Ok(self.found(StatusCode::OK, &found)),
                (Err(problem), None) if problem.code() == Code::NotFound => {
                    return Err(ApiError::etag_mismatch(self.name(&id)).into());
                }
                (Err(problem), Some(refused)) if problem.code() == Code::NotFound => {
                    if refused.code() != Code::AlreadyExists {
                        return Err(refused);
                    }
                }
                (Err(problem), _) => return Err(problem),
            }
        }
        let message = "others subscribe and unsubscribe at the same time";
        Err(ApiError::aborted("CONTENDED", message).into())
    }

    async fn create(
        &self,
        id: &str,
        asked: v1::Subscription,
        key: Option<&str>,
    ) -> Result<v1::Subscription, Problem> {
        let request_id = key.map(|key| identity::request_id(&self.tenant, &self.resource, key));
        let request = CreateSubscriptionRequest {
            parent: self.tenant.clone(),
            subscription: Some(asked),
            subscription_id: id.to_owned(),
            request_id: request_id.map_or_else(String::new, |it| it.to_string()),
            validate_only: false,
        };
        let created = self.service().create_subscription(self.call(request)).await;
        created
            .map(tonic::Response::into_inner)
            .map_err(|it| self.problem(it))
    }

    async fn update(
        &self,
        id: &str,
        asked: v1::Subscription,
        etag: &str,
    ) -> Result<v1::Subscription, Problem> {
        let request = UpdateSubscriptionRequest {
            subscription: Some(v1::Subscription {
                name: self.name(id),
                etag: etag.to_owned(),
                ..asked
            }),
            // The body says all of it: what it leaves out is as it would be in a new one.
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["*".to_owned()],
            }),
            validate_only: false,
        };
        let updated = self.service().update_subscription(self.call(request)).await;
        updated
            .map(tonic::Response::into_inner)
            .map_err(|it| self.problem(it))
    }

    /// A new subscription once it is known whether it is active, or when patience is over. Its secret stays with it.
    async fn decided(&self, created: v1::Subscription) -> v1::Subscription {
        let mut latest = created.clone();
        let (mut pause, longest) = LOOKS;
        let deciding = async {
            while latest.state() == State::Pending {
                sleep(pause).await;
                pause = longest.min(pause * 2);
                let name = created.name.clone();
                let request = self.call(GetSubscriptionRequest { name });
                match self.service().get_subscription(request).await {
                    Ok(found) => latest = found.into_inner(),
                    // It was made; that is what is answered.
                    Err(_) => break,
                }
            }
        };
        if timeout(PATIENCE, deciding).await.is_err() {
            tracing::debug!(
                name = created.name,
                "a new subscription is not in force yet"
            );
        }
        v1::Subscription {
            signing_secret: created.signing_secret,
            ..latest
        }
    }

    async fn unsubscribe(self, body: Body) -> Result<Response, Problem> {
        self.no_query()?;
        let body = body::read(&self.head.headers, body).await?;
        let mut members = form::object(&body).map_err(Problem::invalid)?;
        let Some(Value::String(callback_url)) = members.remove("callbackUrl") else {
            return Err(Problem::invalid_place("#/callbackUrl", "must be a text"));
        };
        if let Some(name) = members.keys().next() {
            let place = form::pointer([name.as_str()]);
            return Err(Problem::invalid_place(
                &place,
                "is not a member of this request",
            ));
        }
        let id = identity::subscription_id(&self.resource, &callback_url);
        let request = DeleteSubscriptionRequest {
            name: self.name(&id),
            etag: self.if_match().unwrap_or_default(),
            validate_only: false,
        };
        let deleted = self.service().delete_subscription(self.call(request)).await;
        deleted.map_err(|it| self.problem(it))?;
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    async fn list(self, body: Body) -> Result<Response, Problem> {
        if !body::read(&self.head.headers, body).await?.is_empty() {
            return Err(Problem::invalid_place("#", "must not be there"));
        }
        let mut request = self.page()?;
        let prefix = format!(
            "{}/subscriptions/{}",
            self.tenant,
            identity::prefix(&self.resource)
        );
        let mut found = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self
                .service()
                .list_subscriptions(self.call(request.clone()))
                .await;
            let page = page.map_err(|it| Problem::new(it, parameter))?.into_inner();
            let of_resource = page.subscriptions.iter();
            let of_resource = of_resource.filter(|it| it.name.starts_with(&prefix));
            found.extend(of_resource.map(|it| self.facade.form.write(it, &self.resource)));
            request.page_token = page.next_page_token;
            if !found.is_empty() || request.page_token.is_empty() {
                break;
            }
        }
        let page = serde_json::json!({"subscriptions": found, "nextPageToken": request.page_token});
        Ok(json(StatusCode::OK, &page.to_string()))
    }

    /// The first page that is asked for.
    fn page(&self) -> Result<ListSubscriptionsRequest, Problem> {
        let mut request = ListSubscriptionsRequest {
            parent: self.tenant.clone(),
            ..ListSubscriptionsRequest::default()
        };
        let query = self.head.uri.query().unwrap_or_default();
        let mut names = std::collections::HashSet::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = format!("?{name}");
            if !names.insert(name.clone()) {
                return Err(Problem::invalid_place(&place, "is there twice"));
            }
            match &*name {
                "pageToken" => request.page_token = value.into_owned(),
                "pageSize" => {
                    let size = value.parse();
                    let description = "must be a number";
                    let wrong = |_| Problem::invalid_place(&place, description);
                    request.page_size = size.map_err(wrong)?;
                }
                _ => return Err(Problem::invalid_place(&place, "is not a parameter")),
            }
        }
        Ok(request)
    }

    fn no_query(&self) -> Result<(), Problem> {
        let query = self.head.uri.query().unwrap_or_default();
        match form_urlencoded::parse(query.as_bytes()).next() {
            Some((name, _)) => {
                let place = format!("?{name}");
                Err(Problem::invalid_place(&place, "is not a parameter"))
            }
            None => Ok(()),
        }
    }

    /// The version that must be there; any, if it is empty.
    fn if_match(&self) -> Option<String> {
        let value = self.head.headers.get(header::IF_MATCH)?;
        // What is not text matches no version.
        let text = value.to_str().unwrap_or("?");
        Some(text.strip_prefix('*').unwrap_or(text).to_owned())
    }

    fn name(&self, id: &str) -> String {
        format!("{}/subscriptions/{id}", self.tenant)
    }

    fn service(&self) -> SubscriptionServiceClient<Routes> {
        self.facade.service.clone()
    }

    /// A call on behalf of whoever made this request.
    fn call<T>(&self, message: T) -> tonic::Request<T> {
        let extensions: Extensions = self.head.extensions.clone();
        tonic::Request::from_parts(tonic::metadata::MetadataMap::new(), extensions, message)
    }

    fn problem(&self, status: tonic::Status) -> Problem {
        Problem::new(status, |field| self.facade.form.locate(field))
    }

    fn found(&self, status: StatusCode, subscription: &v1::Subscription) -> Response {
        let members = self.facade.form.write(subscription, &self.resource);
        let mut response = json(status, &members.to_string());
        let headers = response.headers_mut();
        let mut insert = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        insert(header::LOCATION, &format!("/v1/{}", subscription.name));
        insert(header::ETAG, &subscription.etag);
        // It may have a secret.
        insert(header::CACHE_CONTROL, "no-store");
        response
    }
}

impl Problem {
    /// Whether the subscription that could not be made may be there.
    fn may_exist(&self) -> bool {
        self.code() == Code::AlreadyExists || self.reason() == "TOO_MANY_SUBSCRIPTIONS"
    }
}

/// The parameter that a field of a list's request came from.
fn parameter(field: &str) -> String {
    match field {
        "page_size" => "?pageSize".to_owned(),
        "page_token" => "?pageToken".to_owned(),
        other => format!("?{other}"),
    }
}

fn method_not_allowed(action: Action) -> Response {
    let mut response = Problem::method_not_allowed().into_response();
    if let Ok(method) = HeaderValue::from_str(action.method().as_str()) {
        response.headers_mut().insert(header::ALLOW, method);
    }
    response
}

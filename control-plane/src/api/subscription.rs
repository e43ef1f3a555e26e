//! `SubscriptionService`.
//!
//! **Invariant:** a secret leaves in the answer of the call that made it, and in no other.

use std::{sync::Arc, time::Duration};

use hookfleet_contract::{
    name::{SubscriptionId, SubscriptionName, TenantName},
    signature::Secret,
    target::Target,
    time::Timestamp,
};
use hookfleet_gateway::{filter::Filter, status::ApiError};
use hookfleet_proto::{
    fleet::{StoredSubscription, StoredTenant, SuspendReport, stored_request},
    v1::{
        self, CreateSubscriptionRequest, DeleteSubscriptionRequest, GetSubscriptionRequest,
        ListSubscriptionsRequest, ListSubscriptionsResponse, ResumeSubscriptionRequest,
        RotateSecretRequest, SignatureAlgorithm, SuspendSubscriptionRequest,
        UpdateSubscriptionRequest, VerifySubscriptionRequest,
        subscription::{State, SuspendReason},
        subscription_service_server::SubscriptionService,
    },
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Api,
    change::{self, Subject, Version},
    creation::{self, Created, Creation},
    list::{self, Ask},
    parse, required, respond, status,
    verification::{confirmations, must_have_agreed},
};
use crate::{keys, model::subscription::Subscription, random, stored};

/// When to ask again for more room than there is: somebody has to delete something first.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Subscriptions(pub(crate) Arc<Api>);

// === impl Subscriptions ===

impl Subscriptions {
    async fn create(
        &self,
        mut request: CreateSubscriptionRequest,
    ) -> Result<v1::Subscription, ApiError> {
        let api = &*self.0;
        let parent: TenantName = parse("parent", &request.parent)?;
        let mut asked = required("subscription", request.subscription.take())?;
        let annotations = std::mem::take(&mut asked.annotations);
        request.subscription = Some(asked.clone());
        let named = creation::named(&request.request_id, &request, annotations.iter())?;
        asked.annotations = annotations;

        let subscription: SubscriptionId = match request.subscription_id.as_str() {
            "" => parse("subscription_id", &random::id('s'))?,
            id => parse("subscription_id", id)?,
        };
        let tenant = parent.tenant;
        let name = SubscriptionName {
            tenant,
            subscription,
        };
        let (uid, now) = (random::uuid(), api.clock.now());
        let (fresh, lease) = (self.fresh(), self.lease(now).await?);
        let subscription =
            Subscription::create(asked, &name, uid, &api.rules, &fresh, now, new_secret)
                .map_err(ApiError::invalid)?;
        let secret = subscription.reveal();
        let besides = confirmations(&name, None, subscription.verification.as_ref(), lease);
        let stored = stored::seal(&api.vault, &name, subscription);
        let result = stored::view(stored.clone(), 0, false, now);
        let creation = Creation {
            key: keys::subscription(&name, api.slot_count),
            name: name.to_string(),
            value: stored.encode_to_vec().into(),
            besides,
            parent: Some(name.tenant.clone()),
            request: named,
            result: stored_request::Result::Subscription(result),
            validate_only: request.validate_only,
        };
        if creation::replay(api, named).await?.is_none() {
            self.check_room(&name)?;
        }
        match creation::create(api, creation).await? {
            Created::New(revision) => Ok(v1::Subscription {
                signing_secret: secret,
                ..stored::view(stored, revision, false, now)
            }),
            Created::Before(before) => match before.value {
                stored_request::Result::Subscription(subscription) => Ok(v1::Subscription {
                    etag: stored::etag(before.revision),
                    ..subscription
                }),
                stored_request::Result::Tenant(_) => Err(ApiError::internal("another kind")),
            },
        }
    }

    /// The limit is soft: what was created in the last moments may not be counted yet.
    fn check_room(&self, name: &SubscriptionName) -> Result<(), ApiError> {
        let prefix = keys::subscriptions_of(&name.tenant, self.0.slot_count);
        let max = self.0.max_subscriptions;
        if self.0.cache.read(|contents| contents.count(&prefix)) < max {
            return Ok(());
        }
        let message = format!(
            "tenants/{} has {max} subscriptions, the most that it may have",
            name.tenant
        );
        let error = ApiError::exhausted("TOO_MANY_SUBSCRIPTIONS", message, RETRY_AFTER);
        let error = error.with("resource", format!("tenants/{}", name.tenant));
        Err(error.with("max_subscriptions", max.to_string()))
    }

    async fn get(&self, request: GetSubscriptionRequest) -> Result<v1::Subscription, ApiError> {
        let name: SubscriptionName = parse("name", &request.name)?;
        let key = keys::subscription(&name, self.0.slot_count);
        let found = change::get(&*self.0.store, &key, &request.name).await?;
        Ok(self.view(&name, found))
    }

    async fn list(
        &self,
        request: ListSubscriptionsRequest,
    ) -> Result<ListSubscriptionsResponse, ApiError> {
        let api = &*self.0;
        let parent: TenantName = parse("parent", &request.parent)?;
        let filter = Filter::parse(&request.filter, &["state", "callback_url"])?;
        let state = filter.get("state").map(|text| {
            let state = State::from_str_name(text);
            let description = "state must be PENDING, ACTIVE, SUSPENDED or FAILED";
            state.ok_or_else(|| ApiError::invalid_field("filter", description))
        });
        let state = state.transpose()?;
        // Callers may spell the URL as they did when they created the subscription.
        let callback_url = filter.get("callback_url").map(|text| {
            let target = Target::parse(text, &api.rules);
            target.map_or_else(|_| text.to_owned(), |target| target.url().to_owned())
        });
        if request.page_token.is_empty() {
            let key = keys::tenant(&parent.tenant);
            change::get::<StoredTenant>(&*api.store, &key, &request.parent).await?;
        }
        let ask = Ask {
            list: "subscriptions",
            scope: &[&request.parent, &request.filter],
            prefix: keys::subscriptions_of(&parent.tenant, api.slot_count),
            page_size: request.page_size,
            page_token: &request.page_token,
            is_filtered: state.is_some() || callback_url.is_some(),
        };
        let (subscriptions, next_page_token) = list::page(api, ask, |entry| {
            let stored = StoredSubscription::decode(entry.value);
            let value = stored.map_err(|error| status::undecodable(&entry.key, &error))?;
            let resource = value.subscription.as_ref();
            let url = resource.map_or("", |resource| resource.callback_url.as_str());
            if callback_url.as_ref().is_some_and(|wanted| wanted != url) {
                return Ok(None);
            }
            let name = parse(
                "name",
                resource.map_or("", |resource| resource.name.as_str()),
            )?;
            let revision = entry.mod_revision;
            let found = self.view(&name, Version { value, revision });
            Ok(Some(found).filter(|it| state.is_none_or(|state| state == it.state())))
        })
        .await?;
        Ok(ListSubscriptionsResponse {
            subscriptions,
            next_page_token,
        })
    }

    async fn update(
        &self,
        request: UpdateSubscriptionRequest,
    ) -> Result<v1::Subscription, ApiError> {
        let patch = required("subscription", request.subscription)?;
        let name: SubscriptionName = parse("subscription.name", &patch.name)?;
        let mut subject = self.subject(&name, patch.etag.clone());
        subject.validate_only = request.validate_only;
        let (mask, rules, fresh) = (request.update_mask, &self.0.rules, self.fresh());
        self.change(&name, &subject, |subscription, now| {
            let before = subscription.resource.clone();
            subscription
                .update(patch.clone(), mask.as_ref(), rules, &fresh, now, new_secret)
                .map_err(ApiError::invalid)?;
            Ok(subscription.resource != before)
        })
        .await
    }

    async fn delete(&self, request: DeleteSubscriptionRequest) -> Result<(), ApiError> {
        let name: SubscriptionName = parse("name", &request.name)?;
        let mut subject = self.subject(&name, request.etag);
        subject.validate_only = request.validate_only;
        change::delete::<StoredSubscription>(&*self.0.store, &subject).await
    }

    async fn suspend(
        &self,
        request: SuspendSubscriptionRequest,
    ) -> Result<v1::Subscription, ApiError> {
        let name: SubscriptionName = parse("name", &request.name)?;
        let subject = self.subject(&name, request.etag);
        self.change(&name, &subject, |it, _| {
            must_have_agreed(it)?;
            Ok(it.suspend(SuspendReason::UserRequest))
        })
        .await
    }

    async fn resume(
        &self,
        request: ResumeSubscriptionRequest,
    ) -> Result<v1::Subscription, ApiError> {
        let name: SubscriptionName = parse("name", &request.name)?;
        let subject = self.subject(&name, request.etag);
        self.change(&name, &subject, |it, _| {
            must_have_agreed(it)?;
            Ok(it.resume())
        })
        .await
    }

    /// Changes a subscription; `change` says whether it did.
    pub(super) async fn change(
        &self,
        name: &SubscriptionName,
        subject: &Subject,
        mut change: impl FnMut(&mut Subscription, Timestamp) -> Result<bool, ApiError>,
    ) -> Result<v1::Subscription, ApiError> {
        let api = &*self.0;
        let now = api.clock.now();
        let (lease, mut is_leased) = (self.lease(now).await?, false);
        let decide = |before: &StoredSubscription| {
            let opened = stored::open(&api.vault, name, before.clone());
            let mut subscription = opened.map_err(status::unreadable)?;
            let verifying = subscription.verification.clone();
            if !change(&mut subscription, now)? {
                return Ok(None);
            }
            subscription.forget_expired_keys(now);
            subscription.resource.update_time = Some(now.into());
            let (before, after) = (verifying.as_ref(), subscription.verification.as_ref());
            let besides = confirmations(name, before, after, lease);
            is_leased |= !besides.is_empty();
            let stored = stored::seal(&api.vault, name, subscription);
            Ok(Some((stored, besides)))
        };
        let changed = change::update_besides(&*api.store, subject, decide).await;
        if is_leased && changed.is_err() {
            // Perhaps the lease is what was lost.
            api.confirmations.forget().await;
        }
        Ok(self.view(name, changed?))
    }

    /// A receiver wants no more. A subscription that is gone, or another one by now, is left alone.
    pub(crate) async fn suspend_as_reported(&self, report: &SuspendReport) -> Result<(), ApiError> {
        let name: SubscriptionName = parse("subscription", &report.subscription)?;
        let subject = self.subject(&name, String::new());
        let suspended = self.change(&name, &subject, |subscription, _| {
            let is_meant = subscription.resource.uid == report.uid;
            Ok(is_meant && subscription.suspend(report.reason()))
        });
        match suspended.await {
            Err(error) if error.code() == tonic::Code::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    fn view(
        &self,
        name: &SubscriptionName,
        found: Version<StoredSubscription>,
    ) -> v1::Subscription {
        let is_applied = self.0.is_applied(name, found.revision);
        stored::view(found.value, found.revision, is_applied, self.0.clock.now())
    }

    pub(super) fn subject(&self, name: &SubscriptionName, etag: String) -> Subject {
        Subject {
            key: keys::subscription(name, self.0.slot_count),
            name: name.to_string(),
            etag,
            validate_only: false,
        }
    }
}

pub(super) fn new_secret(algorithm: SignatureAlgorithm) -> (String, Secret) {
    (random::id('k'), random::secret(algorithm))
}

#[tonic::async_trait]
impl SubscriptionService for Subscriptions {
    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<v1::Subscription>, Status> {
        respond(self.create(request.into_inner()).await)
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<v1::Subscription>, Status> {
        respond(self.get(request.into_inner()).await)
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        respond(self.list(request.into_inner()).await)
    }

    async fn update_subscription(
        &self,
        request: Request<UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::Subscription>, Status> {
        respond(self.update(request.into_inner()).await)
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<()>, Status> {
        respond(self.delete(request.into_inner()).await)
    }

    async fn suspend_subscription(
        &self,
        request: Request<SuspendSubscriptionRequest>,
    ) -> Result<Response<v1::Subscription>, Status> {
        respond(self.suspend(request.into_inner()).await)
    }

    async fn resume_subscription(
        &self,
        request: Request<ResumeSubscriptionRequest>,
    ) -> Result<Response<v1::Subscription>, Status> {
        respond(self.resume(request.into_inner()).await)
    }

    async fn verify_subscription(
        &self,
        request: Request<VerifySubscriptionRequest>,
    ) -> Result<Response<v1::Subscription>, Status> {
        respond(self.verify(request.into_inner()).await)
    }

    async fn rotate_secret(
        &self,
        request: Request<RotateSecretRequest>,
    ) -> Result<Response<v1::Subscription>, Status> {
        respond(self.rotate(request.into_inner()).await)
    }
}

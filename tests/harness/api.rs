//! Short forms of the calls that most tests make.

use hookfleet_proto::{
    cloudevents::{
        CloudEvent, CloudEventAttributeValue, cloud_event, cloud_event_attribute_value::Attr,
    },
    v1::{
        CreateSubscriptionRequest, CreateTenantRequest, Delivery, GetSubscriptionRequest,
        ListDeliveriesRequest, Ordering, PublishRequest, Receipt, RetryPolicy, Subscription,
        Tenant, UpdateTenantRequest, delivery_service_client::DeliveryServiceClient,
        publish_result, publisher_service_client::PublisherServiceClient, retry_policy,
        subscription, subscription_service_client::SubscriptionServiceClient,
        tenant_service_client::TenantServiceClient,
    },
};
use std::time::Duration;

use tonic::{Status, transport::Channel};

use super::eventually;

/// All that a tenant's key may allow.
pub const SCOPES_OF_TENANTS: [&str; 7] = [
    "events.publish",
    "subscriptions.read",
    "subscriptions.write",
    "secrets.rotate",
    "attempts.read",
    "attempts.read_payload",
    "deliveries.replay",
];

/// Creates a tenant.
pub async fn create_tenant(channel: &Channel, id: &str) -> Tenant {
    let request = CreateTenantRequest {
        tenant: Some(Tenant::default()),
        tenant_id: id.to_owned(),
        ..CreateTenantRequest::default()
    };
    let created = TenantServiceClient::new(channel.clone())
        .create_tenant(request)
        .await;
    created.expect("the tenant is created").into_inner()
}

/// Spreads a tenant over so many slots.
pub async fn spread(channel: &Channel, id: &str, spread: i32) -> Result<Tenant, Status> {
    let request = UpdateTenantRequest {
        tenant: Some(Tenant {
            name: format!("tenants/{id}"),
            spread,
            ..Tenant::default()
        }),
        ..UpdateTenantRequest::default()
    };
    let mut tenants = TenantServiceClient::new(channel.clone());
    Ok(tenants.update_tenant(request).await?.into_inner())
}

/// Creates a tenant and waits until its events are taken; one was.
pub async fn create_tenant_in_force(channel: &Channel, id: &str) {
    create_tenant(channel, id).await;
    let published = || publish(channel, id, vec![event("first", "a.b", "{}")]);
    eventually("the tenant is known", Duration::from_secs(60), published).await;
}

/// Creates a subscription.
pub async fn subscribe(
    channel: &Channel,
    tenant: &str,
    id: &str,
    subscription: Subscription,
) -> Result<Subscription, Status> {
    let request = CreateSubscriptionRequest {
        parent: format!("tenants/{tenant}"),
        subscription: Some(subscription),
        subscription_id: id.to_owned(),
        ..CreateSubscriptionRequest::default()
    };
    let mut client = SubscriptionServiceClient::new(channel.clone());
    client
        .create_subscription(request)
        .await
        .map(tonic::Response::into_inner)
}

/// The state of a subscription, or why it cannot be told.
pub async fn subscription_state(
    channel: &Channel,
    name: &str,
) -> Result<subscription::State, String> {
    let request = GetSubscriptionRequest {
        name: name.to_owned(),
    };
    let mut client = SubscriptionServiceClient::new(channel.clone());
    let found = client
        .get_subscription(request)
        .await
        .map_err(|status| status.to_string())?;
    Ok(found.into_inner().state())
}

/// Creates a subscription and waits until it is in force.
pub async fn subscribe_in_force(
    channel: &Channel,
    tenant: &str,
    id: &str,
    subscription: Subscription,
) -> Subscription {
    let created = subscribe(channel, tenant, id, subscription)
        .await
        .expect("created");
    in_force(channel, &created.name).await;
    created
}

/// Waits until a subscription is in force.
pub async fn in_force(channel: &Channel, name: &str) {
    eventually(
        "the subscription is in force",
        Duration::from_secs(60),
        || async {
            let state = subscription_state(channel, name).await?;
            let is_in_force = state == subscription::State::Active;
            is_in_force.then_some(()).ok_or(format!("{state:?}"))
        },
    )
    .await;
}

/// A subscription of everything.
pub fn to(callback_url: String) -> Subscription {
    Subscription {
        callback_url,
        event_types: vec!["*".to_owned()],
        ..Subscription::default()
    }
}

/// The subscription, with events of a key in order, and failures tried again each second.
pub fn ordered(subscription: Subscription) -> Subscription {
    Subscription {
        ordering: Ordering::ByPartitionKey.into(),
        retry_policy: retries(&[1; 30]),
        ..subscription
    }
}

/// Retries after these many seconds.
pub fn retries(seconds: &[i64]) -> Option<RetryPolicy> {
    let delays = seconds
        .iter()
        .map(|&seconds| prost_types::Duration { seconds, nanos: 0 });
    Some(RetryPolicy {
        schedule: Some(retry_policy::Schedule::Delays(retry_policy::Delays {
            delays: delays.collect(),
        })),
        ..RetryPolicy::default()
    })
}

/// An event with JSON data.
pub fn event(id: &str, event_type: &str, data: &str) -> CloudEvent {
    let text = |text: &str| CloudEventAttributeValue {
        attr: Some(Attr::CeString(text.to_owned())),
    };
    CloudEvent {
        id: id.to_owned(),
        source: "urn:example:tests".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: event_type.to_owned(),
        attributes: [("datacontenttype".to_owned(), text("application/json"))].into(),
        data: Some(cloud_event::Data::TextData(data.to_owned())),
    }
}

/// The event with a partition key.
pub fn keyed(mut event: CloudEvent, key: &str) -> CloudEvent {
    let key = CloudEventAttributeValue {
        attr: Some(Attr::CeString(key.to_owned())),
    };
    event.attributes.insert("partitionkey".to_owned(), key);
    event
}

/// Publishes events.
pub async fn publish(
    channel: &Channel,
    tenant: &str,
    events: Vec<CloudEvent>,
) -> Result<Vec<publish_result::Result>, Status> {
    let request = PublishRequest {
        parent: format!("tenants/{tenant}"),
        events,
    };
    let mut client = PublisherServiceClient::new(channel.clone());
    let response = client.publish(request).await?.into_inner();
    Ok(response
        .results
        .into_iter()
        .filter_map(|it| it.result)
        .collect())
}

/// Publishes one event that must be accepted.
pub async fn publish_one(channel: &Channel, tenant: &str, event: CloudEvent) -> Receipt {
    let mut results = publish(channel, tenant, vec![event])
        .await
        .expect("published");
    match results.pop() {
        Some(publish_result::Result::Receipt(receipt)) => receipt,
        other => panic!("not accepted: {other:?}"),
    }
}

/// Every delivery of a tenant that the filter lets through.
pub async fn deliveries(channel: &Channel, tenant: &str, filter: &str) -> Vec<Delivery> {
    let mut client = DeliveryServiceClient::new(channel.clone());
    let mut request = ListDeliveriesRequest {
        parent: format!("tenants/{tenant}/subscriptions/-"),
        page_size: 1000,
        filter: filter.to_owned(),
        ..ListDeliveriesRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page = client
            .list_deliveries(request.clone())
            .await
            .expect("listed")
            .into_inner();
        found.extend(page.deliveries);
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

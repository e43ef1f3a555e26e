//! Requests that name themselves, and requests that only ask whether they would do.

use super::*;

const REQUEST: &str = "5f8fe8bb-2fd5-4a3a-a0c3-0b7f1e6a2a11";

fn named(id: &str, request_id: &str) -> CreateSubscriptionRequest {
    let annotations = ["a", "b", "c", "d", "e"].map(|key| (key.to_owned(), "1".to_owned()));
    let asked = v1::Subscription {
        annotations: annotations.into(),
        ..orders()
    };
    CreateSubscriptionRequest {
        request_id: request_id.to_owned(),
        ..asking("a", id, asked)
    }
}

#[tokio::test]
async fn a_repeated_request_is_answered_as_the_first_but_for_the_secret() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let first = plane.create(named("", REQUEST)).await.unwrap();
    assert_ne!(first.signing_secret, "");
    plane.clock.set(NOW + Duration::from_secs(3600));
    for _ in 0..5 {
        let again = plane.create(named("", REQUEST)).await.unwrap();
        assert_eq!(
            again,
            v1::Subscription {
                signing_secret: String::new(),
                ..first.clone()
            }
        );
    }
    let subscriptions = plane
        .dump()
        .await
        .into_iter()
        .filter(|(key, _)| key.starts_with("subscription/"));
    assert_eq!(subscriptions.count(), 1);
}

#[tokio::test]
async fn a_request_id_is_good_for_one_request() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    plane.create(named("s", REQUEST)).await.unwrap();
    let reused = (Code::FailedPrecondition, "REQUEST_ID_REUSED".to_owned());
    assert_eq!(refused(plane.create(named("t", REQUEST)).await), reused);
    let mut other = named("s", REQUEST);
    other
        .subscription
        .as_mut()
        .unwrap()
        .annotations
        .insert("a".to_owned(), "2".to_owned());
    assert_eq!(refused(plane.create(other).await), reused);
    let request = CreateTenantRequest {
        tenant: Some(Tenant::default()),
        request_id: REQUEST.to_owned(),
        ..CreateTenantRequest::default()
    };
    assert_eq!(
        refused(plane.tenants.create_tenant(Request::new(request)).await),
        reused
    );
    let unnamed = plane.create(named("s", "")).await;
    assert_eq!(refused(unnamed).0, Code::AlreadyExists);
}

#[tokio::test]
async fn a_repeated_request_for_a_tenant_is_answered_as_the_first() {
    let plane = Plane::start().await;
    let request = CreateTenantRequest {
        tenant: Some(Tenant::default()),
        request_id: REQUEST.to_owned(),
        ..CreateTenantRequest::default()
    };
    let first = ok(plane
        .tenants
        .create_tenant(Request::new(request.clone()))
        .await);
    let again = ok(plane.tenants.create_tenant(Request::new(request)).await);
    assert_eq!(first, again);
}

#[tokio::test]
async fn requests_at_the_same_time_with_one_id_create_one_thing() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let both = tokio::join!(
        plane.create(named("", REQUEST)),
        plane.create(named("", REQUEST))
    );
    let (one, other) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!(one.name, other.name);
    assert!(one.signing_secret.is_empty() != other.signing_secret.is_empty());
}

#[tokio::test]
async fn validation_checks_everything_and_leaves_nothing() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let before = plane.dump().await;
    let only = |id: &str, tenant: &str| CreateSubscriptionRequest {
        validate_only: true,
        ..CreateSubscriptionRequest {
            parent: format!("tenants/{tenant}"),
            ..named(id, REQUEST)
        }
    };
    assert_eq!(
        plane.create(only("s", "a")).await.unwrap().name,
        "tenants/a/subscriptions/s"
    );
    assert_eq!(
        refused(plane.create(only("s", "b")).await).0,
        Code::NotFound
    );
    assert_eq!(
        violations(plane.create(only("S", "a")).await),
        ["subscription_id"]
    );
    let request = CreateTenantRequest {
        tenant: Some(Tenant::default()),
        tenant_id: "a".to_owned(),
        validate_only: true,
        ..CreateTenantRequest::default()
    };
    assert_eq!(
        refused(plane.tenants.create_tenant(Request::new(request)).await).0,
        Code::AlreadyExists
    );
    assert_eq!(plane.dump().await, before);
}

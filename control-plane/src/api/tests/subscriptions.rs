//! `SubscriptionService`, but for its secrets.

use hookfleet_proto::{
    fleet::SuspendReport,
    v1::{
        DeleteSubscriptionRequest, Header, ListSubscriptionsRequest, ListSubscriptionsResponse,
        ResumeSubscriptionRequest, SuspendSubscriptionRequest, UpdateSubscriptionRequest,
        subscription::{State, SuspendReason},
    },
};
use prost_types::FieldMask;

use super::*;

const NAME: &str = "tenants/a/subscriptions/s";

async fn plane() -> (Plane, v1::Subscription) {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let created = plane.subscribe("a", "s", orders()).await;
    (plane, created)
}

async fn update(
    plane: &Plane,
    patch: v1::Subscription,
    paths: &[&str],
) -> Result<v1::Subscription, Status> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request = UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            name: NAME.to_owned(),
            ..patch
        }),
        update_mask: Some(FieldMask { paths }),
        validate_only: false,
    };
    plane
        .subscriptions
        .update_subscription(Request::new(request))
        .await
        .map(Response::into_inner)
}

async fn list(plane: &Plane, request: ListSubscriptionsRequest) -> ListSubscriptionsResponse {
    ok(plane
        .subscriptions
        .list_subscriptions(Request::new(request))
        .await)
}

async fn suspend(plane: &Plane) -> v1::Subscription {
    let request = SuspendSubscriptionRequest {
        name: NAME.to_owned(),
        etag: String::new(),
    };
    ok(plane
        .subscriptions
        .suspend_subscription(Request::new(request))
        .await)
}

#[tokio::test]
async fn a_subscription_is_pending_and_canonical_when_created() {
    let (plane, created) = plane().await;
    assert_eq!(created.name, NAME);
    assert_eq!(
        (created.state(), created.create_time),
        (State::Pending, Some(NOW.into()))
    );
    let mut read = plane.get(NAME).await.unwrap();
    assert_eq!(read.signing_secret, "");
    read.signing_secret.clone_from(&created.signing_secret);
    assert_eq!(read, created);
    let url = "https://Receiver.ACME.com:443/hooks".to_owned();
    let other = plane
        .subscribe(
            "a",
            "",
            v1::Subscription {
                callback_url: url.clone(),
                ..orders()
            },
        )
        .await;
    assert_eq!(other.callback_url, "https://receiver.acme.com/hooks");
    assert!(
        other.name.starts_with("tenants/a/subscriptions/s-"),
        "{}",
        other.name
    );
    let filter = format!("callback_url = \"{url}\"");
    let found = list(
        &plane,
        ListSubscriptionsRequest {
            parent: "tenants/a".to_owned(),
            filter,
            ..Default::default()
        },
    );
    assert_eq!(found.await.subscriptions.len(), 2);
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_new_one_is_named() {
    let (plane, _) = plane().await;
    let asked = v1::Subscription {
        callback_url: "http://10.0.0.1/".to_owned(),
        signing_secret: "secret".to_owned(),
        max_in_flight: 1001,
        max_requests_per_second: f64::NAN,
        ordering: 7,
        headers: vec![Header {
            name: "Host".to_owned(),
            value: "x".to_owned(),
            secret: false,
        }],
        ..v1::Subscription::default()
    };
    let fields = violations(plane.create(asking("a", "t", asked)).await);
    for field in [
        "callback_url",
        "event_types",
        "headers[0].name",
        "max_in_flight",
        "max_requests_per_second",
        "ordering",
        "signing_secret",
    ] {
        assert!(
            fields.contains(&format!("subscription.{field}")),
            "{field} is not in {fields:?}"
        );
    }
    assert_eq!(
        violations(plane.create(asking("A", "t", orders())).await),
        ["parent"]
    );
    assert_eq!(
        violations(plane.create(asking("a", "T", orders())).await),
        ["subscription_id"]
    );
    let mut request = asking("a", "t", orders());
    request.request_id = "no".to_owned();
    assert_eq!(
        violations(plane.create(request.clone()).await),
        ["request_id"]
    );
    request.subscription = None;
    assert_eq!(violations(plane.create(request).await), ["subscription"]);
}

#[tokio::test]
async fn a_parent_must_exist_and_a_name_be_free() {
    let (plane, _) = plane().await;
    assert_eq!(
        refused(plane.create(asking("b", "s", orders())).await).0,
        Code::NotFound
    );
    assert_eq!(
        refused(plane.create(asking("a", "s", orders())).await).0,
        Code::AlreadyExists
    );
    assert_eq!(
        refused(plane.get("tenants/a/subscriptions/t").await).0,
        Code::NotFound
    );
    assert_eq!(
        violations(plane.get("tenants/a/subscriptions/-").await),
        ["name"]
    );
    let request = ListSubscriptionsRequest {
        parent: "tenants/b".to_owned(),
        ..Default::default()
    };
    let answer = plane
        .subscriptions
        .list_subscriptions(Request::new(request))
        .await;
    assert_eq!(refused(answer).0, Code::NotFound);
}

#[tokio::test]
async fn a_tenant_has_no_more_than_it_may() {
    let plane = Plane::start_with(|config| config.max_subscriptions_per_tenant = 1).await;
    plane.tenant("a").await;
    plane.tenant("b").await;
    plane.subscribe("a", "s", orders()).await;
    let refusal = eventually("counted", || async {
        let created = plane.create(asking("a", "t", orders())).await;
        if let Ok(created) = &created {
            delete(&plane, &created.name, "").await.unwrap();
        }
        created.is_err().then_some(created)
    });
    assert_eq!(
        refused(refusal.await),
        (Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS".to_owned())
    );
    plane.subscribe("b", "s", orders()).await;
}

async fn delete(plane: &Plane, name: &str, etag: &str) -> Result<(), Status> {
    let request = DeleteSubscriptionRequest {
        name: name.to_owned(),
        etag: etag.to_owned(),
        validate_only: false,
    };
    plane
        .subscriptions
        .delete_subscription(Request::new(request))
        .await
        .map(Response::into_inner)
}

#[tokio::test]
async fn lists_are_ordered_paged_and_filtered() {
    let (plane, _) = plane().await;
    for id in ["x", "q", "r"] {
        plane.subscribe("a", id, orders()).await;
    }
    suspend(&plane).await;
    let mut request = ListSubscriptionsRequest {
        parent: "tenants/a".to_owned(),
        page_size: 1,
        filter: "state = PENDING AND callback_url = \"https://receiver.acme.com/hooks\"".to_owned(),
        ..Default::default()
    };
    let mut names = Vec::new();
    loop {
        let page = list(&plane, request.clone()).await;
        assert!(page.subscriptions.len() <= 1);
        names.extend(page.subscriptions.into_iter().map(|it| it.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(
        names,
        ["q", "r", "x"].map(|id| format!("tenants/a/subscriptions/{id}"))
    );
    request.page_token = String::new();
    for filter in ["state = NONSENSE", "name = x"] {
        request.filter = filter.to_owned();
        let answer = plane
            .subscriptions
            .list_subscriptions(Request::new(request.clone()))
            .await;
        assert_eq!(violations(answer), ["filter"]);
    }
}

#[tokio::test]
async fn an_update_is_checked_as_a_whole_and_changes_nothing_else() {
    let (plane, created) = plane().await;
    let patch = v1::Subscription {
        callback_url: "https://other.acme.com/".to_owned(),
        event_types: vec!["invoices".to_owned()],
        ..v1::Subscription::default()
    };
    let updated = update(&plane, patch.clone(), &["callback_url"])
        .await
        .unwrap();
    assert_eq!(updated.callback_url, "https://other.acme.com/");
    assert_eq!(
        (&updated.event_types, &updated.signing_keys),
        (&created.event_types, &created.signing_keys)
    );
    assert_eq!(updated.signing_secret, "");
    let same = update(&plane, patch.clone(), &["callback_url", "state"])
        .await
        .unwrap();
    assert_eq!(same.etag, updated.etag, "what is the same is not written");
    let stale = v1::Subscription {
        etag: created.etag,
        ..patch.clone()
    };
    assert_eq!(
        refused(update(&plane, stale, &["event_types"]).await).1,
        "ETAG_MISMATCH"
    );
    let fields = violations(update(&plane, v1::Subscription::default(), &["*"]).await);
    assert_eq!(
        fields,
        ["subscription.callback_url", "subscription.event_types"]
    );
    let fields = violations(update(&plane, patch.clone(), &["callback_url", "secret"]).await);
    assert_eq!(fields, ["update_mask.paths[1]"]);
    let replaced = update(&plane, patch, &["*"]).await.unwrap();
    assert_eq!(replaced.event_types, ["invoices"]);
}

#[tokio::test]
async fn a_deleted_one_is_gone_and_its_name_free_for_another() {
    let (plane, created) = plane().await;
    let request = DeleteSubscriptionRequest {
        name: NAME.to_owned(),
        validate_only: true,
        ..DeleteSubscriptionRequest::default()
    };
    ok(plane
        .subscriptions
        .delete_subscription(Request::new(request))
        .await);
    assert_eq!(
        refused(delete(&plane, NAME, "\"0\"").await),
        (Code::Aborted, "ETAG_MISMATCH".to_owned())
    );
    delete(&plane, NAME, &created.etag).await.unwrap();
    assert_eq!(refused(delete(&plane, NAME, "").await).0, Code::NotFound);
    let other = plane.subscribe("a", "s", orders()).await;
    assert_ne!(other.uid, created.uid);
}

#[tokio::test]
async fn suspension_says_why_and_is_idempotent() {
    let (plane, created) = plane().await;
    let suspended = suspend(&plane).await;
    assert_eq!(
        (suspended.state(), suspended.suspend_reason()),
        (State::Suspended, SuspendReason::UserRequest)
    );
    assert_eq!(suspend(&plane).await, suspended);
    let report = |uid: &str| SuspendReport {
        subscription: NAME.to_owned(),
        uid: uid.to_owned(),
        reason: SuspendReason::EndpointGone.into(),
    };
    let suspended_as_reported = async |uid: &str| {
        let done = plane.subscriptions.suspend_as_reported(&report(uid)).await;
        done.map_err(Status::from).unwrap();
        plane.get(NAME).await.unwrap()
    };
    assert_eq!(
        suspended_as_reported(&created.uid).await.suspend_reason(),
        SuspendReason::UserRequest
    );
    let request = ResumeSubscriptionRequest {
        name: NAME.to_owned(),
        etag: suspended.etag,
    };
    let resumed = ok(plane
        .subscriptions
        .resume_subscription(Request::new(request.clone()))
        .await);
    assert_eq!(
        (resumed.state(), resumed.suspend_reason()),
        (State::Pending, SuspendReason::Unspecified)
    );
    let stale = plane
        .subscriptions
        .resume_subscription(Request::new(request))
        .await;
    assert_eq!(refused(stale).1, "ETAG_MISMATCH");
    assert_eq!(
        suspended_as_reported("another").await.state(),
        State::Pending
    );
    assert_eq!(
        suspended_as_reported(&created.uid).await.suspend_reason(),
        SuspendReason::EndpointGone
    );
    delete(&plane, NAME, "").await.unwrap();
    let gone = plane
        .subscriptions
        .suspend_as_reported(&report(&created.uid))
        .await;
    assert!(gone.is_ok());
}

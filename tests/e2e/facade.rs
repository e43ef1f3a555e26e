//! The facade as a consumer of an API meets it: subscribing by resource, over plain HTTP.

use std::time::Duration;

use hookfleet_control_plane::test_support::TestEtcd;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{
    api::{create_tenant, event, publish_one},
    eventually,
    http::{Answer, Http},
    process::{Process, control_plane, standalone},
    receiver::Receiver,
    verifier,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn who_subscribes_to_a_resource_gets_its_events() {
    let world = World::start().await;
    let body = json!({"callbackUrl": world.receiver.url("hook")});
    let subscribed = world.subscribe("orders/items", &body).await;
    assert_eq!(subscribed.status, StatusCode::CREATED, "{subscribed:?}");
    let subscription = subscribed.json();
    assert_eq!(subscription["state"], "ACTIVE");
    assert_eq!(subscription["resource"], "orders.items");
    assert_eq!(subscription["types"], json!(["orders.items"]));
    let name = subscription["name"].as_str().unwrap();
    assert_eq!(subscribed.header("location"), format!("/v1/{name}"));
    assert_eq!(subscribed.header("etag"), subscription["etag"]);

    // What is not of the resource is not delivered.
    let channel = world.server.channel();
    for (id, event_type, n_deliveries) in [
        ("1", "orders.items.added", 1),
        ("2", "orders.items", 1),
        ("3", "orders.created", 0),
    ] {
        let receipt = publish_one(&channel, "default", event(id, event_type, "{}")).await;
        assert_eq!(receipt.delivery_count, n_deliveries, "{event_type}");
    }
    let received = eventually("two callbacks", PATIENCE, || async {
        let received = world.receiver.received_at("hook");
        if received.len() == 2 {
            Ok(received)
        } else {
            Err(received)
        }
    })
    .await;
    let secret = subscription["secret"].as_str().unwrap().to_owned();
    let signed: Vec<_> = received
        .into_iter()
        .map(|it| (secret.clone(), it))
        .collect();
    verifier::verify(&signed);

    let found = world.http.get(&format!("/v1/{name}")).await;
    assert_eq!(found.json()["callbackUrl"], body["callbackUrl"]);
    let unsubscribed = world.post("/orders/items/unsubscribe", &body).await;
    assert_eq!(
        unsubscribed.status,
        StatusCode::NO_CONTENT,
        "{unsubscribed:?}"
    );
    assert_eq!(world.http.get(&format!("/v1/{name}")).await.status, 404);
    let again = world.post("/orders/items/unsubscribe", &body).await;
    problem(&again, 404, "not-found", "RESOURCE_NOT_FOUND");
}

#[tokio::test]
async fn the_same_resource_and_callback_url_are_one_subscription() {
    let world = World::start().await;
    let body = json!({"callbackUrl": "http://localhost:9000/hook", "maxInFlight": 3});
    let first = world.subscribe("orders", &body).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert!(
        first.json()["secret"]
            .as_str()
            .unwrap()
            .starts_with("whsec_")
    );

    let again = world.subscribe("orders", &body).await;
    assert_eq!(again.status, StatusCode::OK, "{again:?}");
    assert_eq!(again.json()["name"], first.json()["name"]);
    assert_eq!(
        again.json()["etag"],
        first.json()["etag"],
        "nothing has changed"
    );
    assert_eq!(again.json().get("secret"), None, "a secret is shown once");
    assert_eq!(again.header("location"), first.header("location"));

    // Another spelling of the URL is the same; what the body leaves out is as in a new one.
    let other = json!({"callbackUrl": "http://LOCALHOST:9000/hook", "types": ["orders.paid"]});
    let changed = world.subscribe("orders", &other).await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_eq!(changed.json()["name"], first.json()["name"]);
    assert_eq!(changed.json()["types"], json!(["orders.paid"]));
    assert_eq!(changed.json()["maxInFlight"], 0);

    // Another resource, or tenant, is another one.
    create_tenant(&world.server.channel(), "acme").await;
    let elsewhere = world.subscribe("orders/items", &body).await;
    assert_eq!(elsewhere.status, StatusCode::CREATED);
    let of_acme = [("hookfleet-tenant", "acme")];
    let of_acme = world
        .http
        .post("/orders/subscribe", &of_acme, body.to_string())
        .await;
    assert_eq!(of_acme.status, StatusCode::CREATED);
    assert!(of_acme.header("location").starts_with("/v1/tenants/acme/"));

    let listed = world.http.get("/orders/subscriptions").await.json();
    let names: Vec<&Value> = listed["subscriptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert_eq!(names, [&first.json()["name"]]);
    assert_eq!(listed["nextPageToken"], "");
    let paged = world
        .http
        .get("/orders/subscriptions?pageSize=1")
        .await
        .json();
    assert_eq!(paged["subscriptions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn two_who_subscribe_at_once_meet_at_one_subscription() {
    let world = World::start().await;
    let body = json!({"callbackUrl": "http://localhost:9000/hook"});
    let all = futures::future::join_all((0..8).map(|_| world.subscribe("orders", &body))).await;
    let statuses = |status: u16| all.iter().filter(|it| it.status == status).count();
    assert_eq!((statuses(201), statuses(200)), (1, 7), "{all:?}");
    let names: Vec<Value> = all.iter().map(|it| it.json()["name"].clone()).collect();
    assert!(names.iter().all(|it| *it == names[0]), "{names:?}");
}

#[tokio::test]
async fn an_idempotency_key_is_one_request() {
    let world = World::start().await;
    let subscribe = async |key: &str, body: &Value| {
        let headers = [("idempotency-key", key)];
        world
            .http
            .post("/orders/subscribe", &headers, body.to_string())
            .await
    };
    let body = json!({"callbackUrl": "http://localhost:9000/hook", "displayName": "a"});
    let first = subscribe("\"key-1\"", &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    // The same answer, but for the secret, whatever has become of the subscription since.
    world
        .subscribe(
            "orders",
            &json!({"callbackUrl": "http://localhost:9000/hook"}),
        )
        .await;
    let again = subscribe("key-1", &body).await;
    assert_eq!(again.status, StatusCode::CREATED, "{again:?}");
    assert_eq!(again.json()["name"], first.json()["name"]);
    assert_eq!(again.json().get("secret"), None);
    for other in [
        json!({"callbackUrl": "http://localhost:9000/hook", "displayName": "b"}),
        json!({"callbackUrl": "http://localhost:9000/other", "displayName": "a"}),
    ] {
        let reused = subscribe("key-1", &other).await;
        problem(&reused, 422, "idempotency-mismatch", "REQUEST_ID_REUSED");
    }
    let wrong = subscribe("\"\"", &body).await;
    let wrong = problem(&wrong, 400, "invalid-request", "INVALID_REQUEST");
    assert_eq!(wrong["errors"][0]["header"], "idempotency-key");
}

#[tokio::test]
async fn requests_at_once_with_one_idempotency_key_are_one_request() {
    let world = World::start().await;
    let body = json!({"callbackUrl": "http://localhost:9000/hook"}).to_string();
    let subscribe = || {
        let headers = [("idempotency-key", "\"key-1\"")];
        let body = body.clone();
        let http = &world.http;
        async move { http.post("/orders/subscribe", &headers, body).await }
    };
    let all = futures::future::join_all((0..8).map(|_| subscribe())).await;
    let shown = all.iter().filter(|it| it.json().get("secret").is_some());
    assert_eq!(shown.count(), 1, "{all:?}");
    for answer in &all {
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        assert_eq!(answer.header("location"), all[0].header("location"));
    }
}

#[tokio::test]
async fn a_subscription_that_no_agent_has_yet_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    create_tenant(&plane.channel(), "default").await;
    let body = json!({"callbackUrl": "http://localhost:9000/hook"}).to_string();
    let http = Http::to(plane.address);
    let accepted = http.post("/a/b.c/d/subscribe", &[], body).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:?}");
    let subscription = accepted.json();
    assert_eq!(subscription["state"], "PENDING");
    assert_eq!(subscription["resource"], "a.b.c.d");
    assert!(subscription["secret"].is_string());
    let found = http.get(accepted.header("location")).await;
    assert_eq!(found.json()["name"], subscription["name"]);
}

#[tokio::test]
async fn problems_point_at_what_is_wrong() {
    let world = World::start().await;
    let url = "http://localhost:9000/hook";
    for (body, pointers) in [
        ("", vec!["#"]),
        ("[]", vec!["#"]),
        ("{}", vec!["#/callbackUrl"]),
        (r#"{"callbackUrl": 7}"#, vec!["#/callbackUrl"]),
        (r#"{"callbackUrl": "nowhere"}"#, vec!["#/callbackUrl"]),
        (
            r#"{"callbackUrl": "http://10.0.0.1/"}"#,
            vec!["#/callbackUrl"],
        ),
        (r#"{"callbackUrl": "URL", "colour": 1}"#, vec!["#/colour"]),
        (
            r#"{"callbackUrl": "URL", "a/b~c d": 1}"#,
            vec!["#/a~1b~0c%20d"],
        ),
        (
            r#"{"callbackUrl": "URL", "state": "ACTIVE"}"#,
            vec!["#/state"],
        ),
        (
            r#"{"callbackUrl": "URL", "types": ["orders.x", "carts"]}"#,
            vec!["#/types/1"],
        ),
        (r#"{"callbackUrl": "URL", "mode": "LOUD"}"#, vec!["#/mode"]),
        (
            r#"{"callbackUrl": "URL", "secret": "short"}"#,
            vec!["#/secret"],
        ),
        (
            r#"{"callbackUrl": "URL", "headers": [{"name": "host", "value": "\u0001"}]}"#,
            vec!["#/headers/0/name", "#/headers/0/value"],
        ),
        (
            r#"{"callbackUrl": "URL", "retry": {"delays": {"delays": ["0s"]}}, "maxInFlight": -1}"#,
            vec!["#/retry/delays/delays/0", "#/maxInFlight"],
        ),
    ] {
        let body = body.replace("URL", url);
        let answer = world
            .http
            .post("/orders/subscribe", &[], body.clone())
            .await;
        let problem = problem(&answer, 400, "invalid-request", "INVALID_REQUEST");
        let errors = problem["errors"].as_array().unwrap().iter();
        let found: Vec<_> = errors.map(|it| it["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{body}: {problem}");
    }
    for (path, place, name) in [
        ("/orders%20/subscribe", "parameter", "resource"),
        ("/*/subscribe", "parameter", "resource"),
        (
            "/orders/subscribe?callbackUrl=x",
            "parameter",
            "callbackUrl",
        ),
    ] {
        let answer = world
            .http
            .post(path, &[], json!({"callbackUrl": url}).to_string())
            .await;
        let problem = problem(&answer, 400, "invalid-request", "INVALID_REQUEST");
        assert_eq!(problem["errors"][0][place], name);
    }
    for query in [
        "pageSize=x",
        "pageSize=-1",
        "pageToken=x",
        "size=1",
        "pageSize=1&pageSize=2",
    ] {
        let answer = world
            .http
            .get(&format!("/orders/subscriptions?{query}"))
            .await;
        let problem = problem(&answer, 400, "invalid-request", "INVALID_REQUEST");
        assert!(query.starts_with(problem["errors"][0]["parameter"].as_str().unwrap()));
    }
    let headers = [("hookfleet-tenant", "nobody")];
    let body = json!({"callbackUrl": url}).to_string();
    let nobody = world.http.post("/orders/subscribe", &headers, body).await;
    problem(&nobody, 404, "not-found", "RESOURCE_NOT_FOUND");
    let wrong = world.http.get("/orders/subscribe").await;
    problem(&wrong, 405, "method-not-allowed", "METHOD_NOT_ALLOWED");
    assert_eq!(wrong.header("allow"), "POST");
}

#[tokio::test]
async fn a_version_can_be_asked_for_and_a_secret_is_kept() {
    let world = World::start().await;
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let body = json!({"callbackUrl": "http://localhost:9000/hook", "secret": secret});
    let first = world.subscribe("orders", &body).await;
    assert_eq!(first.json()["secret"], secret);
    let again = world.subscribe("orders", &body).await;
    assert_eq!(
        again.status,
        StatusCode::OK,
        "the same secret changes nothing: {again:?}"
    );
    let other = json!({"callbackUrl": body["callbackUrl"], "secret": secret.replace("MD", "ME")});
    let other = problem(
        &world.subscribe("orders", &other).await,
        400,
        "invalid-request",
        "INVALID_REQUEST",
    );
    assert_eq!(other["errors"][0]["pointer"], "#/secret");

    let url = json!({"callbackUrl": body["callbackUrl"]}).to_string();
    let etag = again.header("etag").to_owned();
    for path in ["/orders/subscribe", "/orders/unsubscribe"] {
        let stale = world
            .http
            .post(path, &[("if-match", "\"1\"")], url.clone())
            .await;
        problem(&stale, 412, "etag-mismatch", "ETAG_MISMATCH");
    }
    for (path, status) in [("/orders/subscribe", 200), ("/orders/unsubscribe", 204)] {
        let answer = world
            .http
            .post(path, &[("if-match", &etag)], url.clone())
            .await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let gone = world
        .http
        .post("/orders/subscribe", &[("if-match", "*")], url)
        .await;
    problem(&gone, 412, "etag-mismatch", "ETAG_MISMATCH");
}

/// A standalone server with the default tenant.
struct World {
    server: Process,
    http: Http,
    receiver: Receiver,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = standalone(dir.path());
        create_tenant(&server.channel(), "default").await;
        Self {
            http: Http::to(server.address),
            server,
            receiver: Receiver::start().await,
            _dir: dir,
        }
    }

    async fn subscribe(&self, resource: &str, body: &Value) -> Answer {
        self.post(&format!("/{resource}/subscribe"), body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.http.post(path, &[], body.to_string()).await
    }
}

/// The problem details of an answer.
fn problem(answer: &Answer, status: u16, kind: &str, reason: &str) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert_eq!(
        problem["type"],
        format!("https://hookfleet.dev/problems/{kind}")
    );
    assert_eq!(problem["reason"], reason);
    assert!(problem["title"].is_string() && problem["detail"].is_string());
    problem
}

//! One API in three dialects: every unary method of the descriptor set gives the same results and the same errors by gRPC,
//! by gRPC-Web and as HTTP/JSON. A method without a good call here fails the test.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    dialect::{Answer, Body, Caller, DIALECTS, Dialect, Method, methods, same},
    eventually,
    http::Http,
    process::standalone,
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// The store of this fleet is not in doubt, so there is nothing to accept.
const REFUSED: &str = "FleetService/AcceptStore";

/// Calls that succeed, in an order in which they do. `DIALECT` is another text in each dialect; `KEY`, `EVENT` and
/// `DELIVERY` are what was made before.
fn good(callback_url: &str) -> Vec<(&'static str, Value)> {
    let tenant = "tenants/t-DIALECT";
    let hook = "tenants/t-DIALECT/subscriptions/hook";
    let named = |name: &str| json!({"name": name});
    let attributes = json!({
        "time": {"ceTimestamp": "2026-01-02T03:04:05.600Z"},
        "whole": {"ceInteger": -7},
        "flag": {"ceBoolean": true},
        "bytes": {"ceBytes": "AP/+"},
    });
    let event = json!({
        "id": "größer & 5 %", "source": "urn:x", "specVersion": "1.0", "type": "orders.created",
        "attributes": attributes, "binaryData": "AP/+",
    });
    let subscription = json!({
        "callbackUrl": callback_url,
        "eventTypes": ["orders", "carts.paid"],
        "displayName": "grün",
        "annotations": {"a/b": "c d"},
        "timeout": "2.500s",
        "maxRequestsPerSecond": 0.5,
        "headers": [{"name": "x-a", "value": "1", "secret": true}],
        "signatureAlgorithms": ["ED25519", "HMAC_SHA256"],
        "retryPolicy": {
            "delays": {"delays": ["3600s"]}, "ttl": "7200s", "preset": "KNATIVE", "nonRetryableStatusCodes": [422, 423],
        },
    });
    let asked = json!({
        "callbackUrl": format!("{callback_url}-asked"), "eventTypes": ["*"], "verification": "CHALLENGE_ECHO",
    });
    vec![
        (
            "TenantService/CreateTenant",
            json!({"tenant": {"displayName": "grün 5 %", "annotations": {"a/b": "c d"}}, "tenantId": "t-DIALECT"}),
        ),
        ("TenantService/GetTenant", named(tenant)),
        (
            "TenantService/ListTenants",
            json!({"pageSize": 1, "filter": "state = SUSPENDED"}),
        ),
        (
            "TenantService/UpdateTenant",
            json!({"tenant": {"name": tenant, "displayName": "b", "annotations": {}}, "updateMask": "displayName,annotations"}),
        ),
        ("TenantService/SuspendTenant", named(tenant)),
        ("TenantService/ResumeTenant", named(tenant)),
        (
            "SubscriptionService/CreateSubscription",
            json!({"parent": tenant, "subscriptionId": "hook", "subscription": subscription}),
        ),
        ("SubscriptionService/GetSubscription", named(hook)),
        (
            "SubscriptionService/ListSubscriptions",
            json!({"parent": tenant, "pageSize": 7, "filter": format!("callback_url = \"{callback_url}\"")}),
        ),
        (
            "SubscriptionService/UpdateSubscription",
            json!({"subscription": {"name": hook, "timeout": "3s"}, "updateMask": "timeout,maxInFlight", "validateOnly": true}),
        ),
        ("SubscriptionService/SuspendSubscription", named(hook)),
        ("SubscriptionService/ResumeSubscription", named(hook)),
        (
            "SubscriptionService/CreateSubscription",
            json!({"parent": tenant, "subscriptionId": "asked", "subscription": asked}),
        ),
        (
            "SubscriptionService/VerifySubscription",
            named(&format!("{tenant}/subscriptions/asked")),
        ),
        (
            "SubscriptionService/RotateSecret",
            json!({"name": hook, "overlap": "3600s"}),
        ),
        (
            "PublisherService/Publish",
            json!({"parent": tenant, "events": [event, {"id": "", "source": "urn:x", "specVersion": "1.0", "type": "t"}]}),
        ),
        (
            "DeliveryService/ListDeliveries",
            json!({"parent": hook, "pageSize": 5}),
        ),
        ("DeliveryService/GetDelivery", named("DELIVERY")),
        (
            "DeliveryService/ListAttempts",
            json!({"parent": "DELIVERY", "filter": "status_code = 500"}),
        ),
        ("DeliveryService/GetEvent", named("EVENT")),
        ("DeliveryService/RedeliverDelivery", named("DELIVERY")),
        ("FleetService/ListAgents", json!({"pageSize": 3})),
        ("FleetService/GetPlacement", json!({})),
        ("FleetService/GetFleetPolicy", json!({})),
        (
            "FleetService/UpdateFleetPolicy",
            json!({"fleetPolicy": {"frozen": true, "pins": [{"slot": 3, "agent": "agents/standalone"}]}}),
        ),
        ("FleetService/GetStoreStatus", json!({})),
        (REFUSED, json!({"era": "its"})),
        (
            "KeyService/CreateKey",
            json!({"key": {"displayName": "k", "scopes": ["events.publish", "attempts.read"], "tenant": tenant}}),
        ),
        ("KeyService/GetKey", named("KEY")),
        (
            "KeyService/ListKeys",
            json!({"filter": format!("tenant = \"{tenant}\"")}),
        ),
        (
            "KeyService/RotateKey",
            json!({"name": "KEY", "overlap": "0s"}),
        ),
        ("KeyService/DeleteKey", named("KEY")),
        ("SubscriptionService/DeleteSubscription", named(hook)),
        (
            "TenantService/DeleteTenant",
            json!({"name": tenant, "force": true}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_answers_alike_in_every_dialect() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let receiver = Receiver::start().await;
    receiver.answer("hook", 500);
    let caller = Caller::new(server.channel(), Http::to(server.address));
    let methods = methods();
    let find = |path: &str| {
        let found = methods.iter().find(|it| it.path.ends_with(path));
        found.unwrap_or_else(|| panic!("there is no {path}"))
    };
    let good = good(&receiver.url("hook"));
    let with_a_good_call: BTreeSet<_> = good
        .iter()
        .map(|(path, _)| find(path).path.clone())
        .collect();
    for method in &methods {
        assert!(
            with_a_good_call.contains(&method.path),
            "{} has no good call",
            method.path
        );
    }

    // What was made, in each dialect.
    let mut made: Vec<Vec<(&str, String)>> = DIALECTS
        .iter()
        .map(|it| vec![("DIALECT", it.name().to_owned())])
        .collect();
    for (path, request) in &good {
        let method = find(path);
        if *path == "DeliveryService/ListDeliveries" {
            has_attempts(&caller, method, request).await;
        }
        // What is not there, or not legal, or has changed, is refused alike.
        for (what, bad, codes) in bad(method, request) {
            let answers = ask(&caller, method, &bad, &made).await;
            let code = answers[0].as_ref().err().map_or(Code::Ok, |it| it.code);
            assert!(codes.contains(&code), "{path} {what}: {:?}", answers[0]);
            same(&format!("{path} {what}"), &answers);
        }
        only_json(&caller, method, &substituted(request, &made[2])).await;
        let answers = ask(&caller, method, request, &made).await;
        if *path == REFUSED {
            let code = answers[0].as_ref().unwrap_err().code;
            assert_eq!(code, Code::FailedPrecondition);
            same(path, &answers);
            continue;
        }
        for (answer, made) in answers.iter().zip(&mut made) {
            let answer = answer
                .as_ref()
                .unwrap_or_else(|error| panic!("{path}: {error:?}"));
            let text = |pointer: &str| {
                answer
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            };
            let found = match *path {
                "KeyService/CreateKey" => text("/name").map(|it| ("KEY", it)),
                "PublisherService/Publish" => {
                    text("/results/0/receipt/event").map(|it| ("EVENT", it))
                }
                "DeliveryService/ListDeliveries" => {
                    text("/deliveries/0/name").map(|it| ("DELIVERY", it))
                }
                _ => None,
            };
            made.extend(found);
        }
        same(path, &answers);
    }
}

/// Waits until every dialect's delivery was attempted once.
async fn has_attempts(caller: &Caller, method: &Method, request: &Value) {
    for dialect in DIALECTS {
        let request = substituted(request, &[("DIALECT", dialect.name().to_owned())]);
        eventually("an attempt", PATIENCE, || async {
            let answer = caller.call(Dialect::Grpc, method, &request).await.unwrap();
            let attempt = &answer["deliveries"][0]["lastAttempt"]["statusCode"];
            (*attempt == 500).then_some(()).ok_or(answer)
        })
        .await;
    }
}

async fn ask(
    caller: &Caller,
    method: &Method,
    request: &Value,
    made: &[Vec<(&str, String)>],
) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (dialect, made) in DIALECTS.into_iter().zip(made) {
        answers.push(
            caller
                .call(dialect, method, &substituted(request, made))
                .await,
        );
    }
    answers
}

/// The request with what was made in a dialect.
fn substituted(request: &Value, made: &[(&str, String)]) -> Value {
    let mut text = request.to_string();
    for (place, value) in made {
        text = text.replace(place, value);
    }
    serde_json::from_str(&text).unwrap()
}

/// What may not be asked of a method, made of what may, and how it ends.
fn bad(method: &Method, good: &Value) -> Vec<(&'static str, Value, Vec<Code>)> {
    let mut bad = Vec::new();
    let mut with = |what, pointer: &str, value: &str, codes: &[Code]| {
        let mut request = good.clone();
        let members = pointer.trim_start_matches('/').split('/');
        let place = members.fold(&mut request, |it, member| &mut it[member]);
        *place = value.into();
        bad.push((what, request, codes.to_vec()));
    };
    if let Some((field, pattern)) = &method.variable {
        let pointer = format!("/{}", field.replace('.', "/"));
        let id = |id: &str| {
            pattern
                .replace("tenants/*", "tenants/nobody")
                .replace('*', id)
        };
        let illegal = id("NO ID ü").replace("nobody", "Nobody");
        with(
            "of an illegal name",
            &pointer,
            &illegal,
            &[Code::InvalidArgument],
        );
        let absent = id("nothing")
            .replace("events/nothing", "events/msg_AAAAAAAAAAAAAAAAAAAAAA")
            .replace("deliveries/nothing", "deliveries/dlv_0000000000000001-0");
        // A list of nothing is a list.
        with(
            "of what is not there",
            &pointer,
            &absent,
            &[Code::NotFound, Code::Ok],
        );
    }
    if let Some(pointer) = &method.etag {
        let codes = [Code::Aborted, Code::FailedPrecondition];
        with("of another version", pointer, "\"0\"", &codes);
    }
    if method.has("page_token") {
        with(
            "after another page",
            "/pageToken",
            "x",
            &[Code::InvalidArgument],
        );
    }
    if method.has("filter") {
        with(
            "of another filter",
            "/filter",
            "colour = 1",
            &[Code::InvalidArgument],
        );
    }
    if method.has("update_mask") {
        let codes = [Code::InvalidArgument];
        with("with another mask", "/updateMask", "colour", &codes);
    }
    bad
}

/// What JSON alone can say, and must not.
async fn only_json(caller: &Caller, method: &Method, request: &Value) {
    let (verb, path, body) = method.rest(request);
    let refused = async |what: &str, path: &str, body: String| {
        let answer = caller.rest(&verb, path, body).await;
        let error = answer.expect_err(what);
        let reason = error.details[0]["reason"].as_str();
        let found = (error.code, reason);
        assert_eq!(
            found,
            (Code::InvalidArgument, Some("INVALID_REQUEST")),
            "{what} {verb} {path}"
        );
    };
    let separator = if path.contains('?') { '&' } else { '?' };
    refused(
        "an unknown parameter",
        &format!("{path}{separator}colour=blue"),
        body.clone(),
    )
    .await;
    if method.body == Body::None {
        refused("a body", &path, "{}".to_owned()).await;
        return;
    }
    let mut unknown: Value = serde_json::from_str(&body).unwrap();
    unknown["colour"] = "blue".into();
    refused("an unknown member", &path, unknown.to_string()).await;
    refused("half of a body", &path, "{".to_owned()).await;
    refused("another body", &path, "[]".to_owned()).await;
    if let Some((field, _)) = &method.variable {
        let is_in_body = method.body == Body::All || field.contains('.');
        if is_in_body {
            let mut other: Value = serde_json::from_str(&body).unwrap();
            let field = field.rsplit('.').next().unwrap();
            other[field] = "tenants/other".into();
            refused("a body that contradicts the path", &path, other.to_string()).await;
        }
    }
}

#[tokio::test]
async fn json_is_read_in_all_its_forms() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let http = Http::to(server.address);
    let post = async |path: &str, body: &str| {
        let answer = http.post(path, &[], body.to_owned()).await;
        (answer.status.as_u16(), answer.json())
    };
    // Names as JSON has them, and as the protos do; texts that are escaped.
    let (status, made) = post(
        "/v1/tenants?tenant_id=acme",
        r#"{"display_name": "\u00fc"}"#,
    )
    .await;
    assert_eq!((status, &made["displayName"]), (200, &"ü".into()));
    let path = "/v1/tenants/acme/subscriptions?subscriptionId=hook";
    let body = r#"{"callback_url": "http://localhost:9000/", "eventTypes": ["*"], "maxInFlight": "7", "timeout": "1.000000000s",
        "bodyMode": 0, "displayName": null, "maxRequestsPerSecond": "2.5"}"#;
    let (status, made) = post(path, body).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["maxInFlight"], 7);
    assert_eq!(
        (&made["timeout"], &made["maxRequestsPerSecond"]),
        (&"1s".into(), &2.5.into())
    );
    assert_eq!(made["bodyMode"], "BODY_MODE_UNSPECIFIED");
    // An escaped slash is no slash, whether in a name of one part or of several.
    for path in [
        "/v1/tenants%2Facme",
        "/v1/tenants/acme%2Fsubscriptions%2Fhook",
        "/v1/tenants/%2F",
    ] {
        let answer = http.get(path).await;
        assert!(
            [400, 404].contains(&answer.status.as_u16()),
            "{path}: {answer:?}"
        );
    }
    let spelled = http.get("/v1/tenants/%61cm%65").await;
    assert_eq!(spelled.json()["name"], "tenants/acme");
    let illegal = http.get("/v1/tenants/%C3%BCn%C3%AF").await;
    assert_eq!(illegal.status, 400, "{illegal:?}");
    for query in [
        "pageSize=1&pageSize=2",
        "pageSize=1.5",
        "pageSize=%20",
        "=1",
        "pageSize.x=1",
    ] {
        let answer = http.get(&format!("/v1/tenants?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
    }
}

//! Tokens of an identity provider, through the real binary: in every dialect, beside keys, and with a provider that is gone.

use std::{path::Path, time::Duration};

use hookfleet_proto::v1::{
    ListSubscriptionsRequest, PublishRequest, publisher_service_client::PublisherServiceClient,
    subscription_service_client::SubscriptionServiceClient,
};
use http::StatusCode;
use prost::Message as _;
use serde_json::json;
use tonic::{Code, Request, Status};

use crate::harness::{
    api::event,
    eventually,
    http::{Answer, Http},
    process::{Process, hookfleet},
    provider::Provider,
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
const OF_A_TENANT: &str = "openid events.publish subscriptions.read subscriptions.write";

/// A server that trusts a provider.
fn server(dir: &Path, provider: &Provider) -> Process {
    let file = dir.join("hookfleet.toml");
    let config = format!(
        "authentication = true
[[issuers]]
issuer = '{}'
audience = 'hookfleet'
algorithms = ['EdDSA']
tenant_claim = 'org'
tenants = {{ org_1 = 'acme', org_2 = 'globex' }}
operators = ['ops']
scopes_claim = 'scope'
allow_loopback_http = true
",
        provider.issuer
    );
    std::fs::write(&file, config).unwrap();
    let mut command = hookfleet();
    command.args(["standalone", "--data-dir"]);
    command.arg(dir.join("data")).arg("--config").arg(file);
    Process::start(command, "127.0.0.1:0")
}

async fn get(http: &Http, token: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    http.call(http::Method::GET, path, &headers, "".into())
        .await
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

async fn publish(server: &Process, token: &str, tenant: &str) -> Result<(), Status> {
    let request = PublishRequest {
        parent: format!("tenants/{tenant}"),
        events: vec![event("1", "orders.created", "{}")],
    };
    let mut client = PublisherServiceClient::new(server.channel());
    client.publish(with_token(token, request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_in_every_dialect_what_its_claims_say() {
    let (dir, provider) = (tempfile::tempdir().unwrap(), Provider::start().await);
    let server = server(dir.path(), &provider);
    let http = Http::to(server.address);
    let operator = provider.token(&provider.claims("ops", "system.admin"));
    let bearer = format!("Bearer {operator}");
    for tenant in ["acme", "globex"] {
        let path = format!("/v1/tenants?tenantId={tenant}");
        let headers = [("authorization", bearer.as_str())];
        let made = http.post(&path, &headers, "{}").await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
    }

    // The facade, JSON, gRPC, gRPC-Web, CloudEvents.
    let acme = provider.token(&provider.claims("org_1", OF_A_TENANT));
    let bearer = format!("Bearer {acme}");
    let as_acme = |content_type: &'static str| {
        [
            ("authorization", bearer.clone()),
            ("content-type", content_type.to_owned()),
        ]
    };
    let post = async |path: &str, content_type: &'static str, body: Vec<u8>| {
        let headers = as_acme(content_type);
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        http.post(path, &headers, body).await
    };
    let receiver = Receiver::start().await;
    let body = json!({"callbackUrl": receiver.url("hook")}).to_string();
    let subscribed = post("/orders/subscribe", "application/json", body.into()).await;
    assert_eq!(subscribed.status, StatusCode::CREATED, "{subscribed:?}");
    assert!(subscribed.header("location").contains("/tenants/acme/"));
    let listed = get(&http, &acme, "/v1/tenants/acme/subscriptions").await;
    assert_eq!(listed.json()["subscriptions"].as_array().unwrap().len(), 1);
    let parent = |tenant: &str| ListSubscriptionsRequest {
        parent: format!("tenants/{tenant}"),
        ..ListSubscriptionsRequest::default()
    };
    let frame = |tenant: &str| {
        let message = parent(tenant).encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], &message].concat()
    };
    let list = "/hookfleet.v1.SubscriptionService/ListSubscriptions";
    let web = post(list, "application/grpc-web+proto", frame("acme")).await;
    assert!(
        web.body.windows(14).any(|it| it == b"grpc-status:0\r"),
        "{web:?}"
    );
    let foreign = post(list, "application/grpc-web+proto", frame("globex")).await;
    let text = String::from_utf8_lossy(&foreign.body).into_owned();
    let is_denied = foreign.header("grpc-status") == "7" || text.contains("grpc-status:7\r");
    assert!(is_denied, "{foreign:?}");
    let cloud_event = json!({
        "specversion": "1.0", "id": "2", "source": "/t", "type": "orders.created", "data": {},
    });
    let cloud_event = cloud_event.to_string().into_bytes();
    for (tenant, expected) in [("acme", true), ("globex", false)] {
        let path = format!("/v1/tenants/{tenant}/events");
        let taken = post(&path, "application/cloudevents+json", cloud_event.clone()).await;
        assert_eq!(taken.status.is_success(), expected, "{taken:?}");
        let published = publish(&server, &acme, tenant).await;
        assert_eq!(published.is_ok(), expected, "{published:?}");
    }
    eventually("both events are received", PATIENCE, || async {
        let n_received = receiver.received_at("hook").len();
        (n_received == 2).then_some(()).ok_or(n_received)
    })
    .await;

    // What the scopes do not say, and what is not of the tenant.
    let reader = provider.token(&provider.claims("org_1", "subscriptions.read"));
    let denied = publish(&server, &reader, "acme").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let climber = provider.token(&provider.claims("org_1", "system.admin tenants.admin"));
    for path in ["/v1/tenants", "/v1/tenants/acme/subscriptions", "/v1/keys"] {
        let denied = get(&http, &climber, path).await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN, "{path}: {denied:?}");
    }

    // Keys open as they did.
    let key = std::fs::read_to_string(dir.path().join("data/first.key")).unwrap();
    let listed = get(&http, key.trim(), "/v1/tenants").await;
    assert_eq!(listed.status, StatusCode::OK, "{listed:?}");
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_token_opens_nothing_and_asks_nobody() {
    let (dir, provider) = (tempfile::tempdir().unwrap(), Provider::start().await);
    let sink = Provider::start().await;
    let server = server(dir.path(), &provider);
    let http = Http::to(server.address);
    let claims = provider.claims("ops", "system.admin");
    let good = provider.token(&claims);
    let listed = get(&http, &good, "/v1/tenants").await;
    assert_eq!(listed.status, StatusCode::OK, "{listed:?}");

    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        provider.token(&claims)
    };
    let now = claims["iat"].as_u64().unwrap();
    let elsewhere = format!("{}/keys", sink.issuer);
    let pointing = json!({
        "alg": "EdDSA", "kid": "second", "jku": elsewhere, "x5u": elsewhere, "typ": "JWT",
        "jwk": {"kty": "OKP", "crv": "Ed25519", "kid": "second"},
    });
    let mut bad = vec![
        with("aud", json!("another")),
        with("iss", json!(sink.issuer)),
        with("exp", json!((now + 600).to_string())),
        with("org", json!("acme")),
        with("sub", json!("")),
        provider.token_with(&json!({"alg": "none", "kid": "first"}), &claims),
        provider.token_with(&pointing, &claims),
        sink.token(&sink.claims("ops", "system.admin")),
        format!("{good}A"),
        good[..good.len() - 8].to_owned(),
        "a.b.c".to_owned(),
    ];
    let mut expired = claims.clone();
    expired["iat"] = json!(now - 7200);
    expired["exp"] = json!(now - 3600);
    bad.push(provider.token(&expired));
    // Invented keys.
    bad.extend((0..50).map(|it| {
        let header = json!({"alg": "EdDSA", "kid": format!("invented{it}")});
        provider.token_with(&header, &claims)
    }));
    for token in &bad {
        let refused = get(&http, token, "/v1/tenants").await;
        assert_eq!(
            refused.status,
            StatusCode::UNAUTHORIZED,
            "{token}: {refused:?}"
        );
        let scheme = refused.header("www-authenticate");
        assert_eq!(scheme, "Bearer realm=\"hookfleet\"");
        let refused = publish(&server, token, "acme").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
    }
    assert_eq!(
        sink.asked(),
        [""; 0],
        "no token makes a request go anywhere"
    );
    // Once at the start, and once in thirty seconds for what was invented.
    let n_fetches = provider.asked().iter().filter(|it| *it == "/keys").count();
    assert!((1..=4).contains(&n_fetches), "{:?}", provider.asked());

    // Without its provider the server knows its keys as before.
    provider.stop();
    let listed = get(&http, &good, "/v1/tenants").await;
    assert_eq!(listed.status, StatusCode::OK, "{listed:?}");
    let mut client = SubscriptionServiceClient::new(server.channel());
    let request = ListSubscriptionsRequest {
        parent: "tenants/acme".to_owned(),
        ..ListSubscriptionsRequest::default()
    };
    let answer = client.list_subscriptions(with_token(&good, request)).await;
    assert_ne!(
        answer.map(drop).map_err(|it| it.code()),
        Err(Code::Unauthenticated)
    );
}

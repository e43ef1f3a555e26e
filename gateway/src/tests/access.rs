//! Who may call what, at the listener: no credential, a wrong one, somebody else's.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookfleet_contract::time::Timestamp;
use hookfleet_proto::{
    fleet::{KeyDigest, KeySpec},
    v1::{GetTenantRequest, Key, ListTenantsRequest, tenant_service_client::TenantServiceClient},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
};
use tonic_types::StatusExt as _;

use super::{LIFETIME, World};
use crate::{
    auth::{
        Auth,
        key::ApiKey,
        keyring::{Change, Keyring, Record},
    },
    clock::Clock,
};

const NOW: Timestamp = Timestamp(1_767_323_045_000);

/// A listener that asks, and the keys of its callers.
struct Door {
    world: World,
    keyring: Keyring,
    clock: Clock,
    operator: ApiKey,
    acme: ApiKey,
}

impl Door {
    async fn start() -> Self {
        let (keyring, clock) = (Keyring::default(), Clock::fixed(NOW));
        let world = World::start_with(Auth::on(keyring.clone(), clock.clone()), LIFETIME).await;
        let (operator, acme) = (key(1), key(2));
        keyring.apply([
            record(&operator, "", &["system.admin"]),
            record(
                &acme,
                "tenants/acme",
                &["subscriptions.read", "tenants.admin"],
            ),
        ]);
        keyring.set_complete();
        let door = Self {
            world,
            keyring,
            clock,
            operator,
            acme,
        };
        for tenant in ["acme", "globex"] {
            let path = format!("/v1/tenants?tenantId={tenant}");
            let bearer = bearer(&door.operator);
            let headers = [("authorization", bearer.as_str())];
            let made = door.world.call_with(&headers, "POST", &path, "{}").await;
            assert_eq!(made.status, 200, "{made:?}");
        }
        door
    }

    async fn get(&self, key: &ApiKey, path: &str) -> super::Answer {
        let bearer = bearer(key);
        let headers = [("authorization", bearer.as_str())];
        self.world.call_with(&headers, "GET", path, "").await
    }

    async fn get_tenant(&self, key: &ApiKey, name: &str) -> Result<(), Status> {
        let mut client = TenantServiceClient::new(self.world.channel().await);
        let request = GetTenantRequest {
            name: name.to_owned(),
        };
        client.get_tenant(as_(key, request)).await.map(drop)
    }
}

fn key(seed: u8) -> ApiKey {
    let mut next = seed;
    ApiKey::generate(move || {
        next = next.wrapping_mul(5).wrapping_add(seed);
        next
    })
}

fn record(key: &ApiKey, tenant: &str, scopes: &[&str]) -> Change {
    let spec = KeySpec {
        key: Some(Key {
            name: format!("keys/{}", key.id()),
            tenant: tenant.to_owned(),
            scopes: scopes.iter().map(|it| (*it).to_owned()).collect(),
            expire_time: Some((NOW + Duration::from_secs(60)).into()),
            ..Key::default()
        }),
        secrets: vec![KeyDigest {
            digest: key.digest().as_bytes().to_vec(),
            expire_time: None,
        }],
    };
    Change::Put(Record::try_from(&spec).unwrap())
}

fn bearer(key: &ApiKey) -> String {
    format!("Bearer {}", *key.reveal())
}

fn as_<T>(key: &ApiKey, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = bearer(key).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn nobody_is_let_in_by_any_dialect_or_path() {
    let door = Door::start().await;
    for (method, path) in [
        ("GET", "/v1/tenants"),
        ("POST", "/v1/tenants"),
        ("GET", "/v1/nonsense"),
        ("GET", "/"),
        ("OPTIONS", "/v1/tenants"),
        ("POST", "/hookfleet.v1.TenantService/ListTenants"),
        ("GET", "/v1/tenants?x-api-key=whk_live"),
    ] {
        let answer = door.world.call(method, path, "").await;
        assert_eq!(answer.refusal(), (401, "CREDENTIAL_MISSING"), "{path}");
        assert!(
            answer.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
    }
    let mut client = TenantServiceClient::new(door.world.channel().await);
    let status = client
        .list_tenants(ListTenantsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "CREDENTIAL_MISSING")
    );
    let headers = [("content-type", "application/grpc-web+proto")];
    let path = "/hookfleet.v1.TenantService/ListTenants";
    let web = door.world.call_with(&headers, "POST", path, "").await;
    assert_eq!(web.headers["content-type"], "application/grpc-web+proto");
    assert_eq!(
        (
            web.status.as_u16(),
            web.headers["grpc-status"].to_str().unwrap()
        ),
        (200, "16")
    );
}

#[tokio::test]
async fn probes_and_health_ask_nobody_and_the_schema_does() {
    let door = Door::start().await;
    for path in ["/livez", "/readyz"] {
        assert_ne!(door.world.call("GET", path, "").await.status, 401, "{path}");
    }
    let channel = door.world.channel().await;
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    let service = "x".repeat(5000);
    let long = health.check(HealthCheckRequest { service }).await;
    assert_ne!(long.unwrap_err().code(), Code::NotFound, "it was read");
    let mut reflection = ServerReflectionClient::new(channel);
    let asking = || tokio_stream::once(ServerReflectionRequest::default());
    let refused = reflection
        .server_reflection_info(asking())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    reflection
        .server_reflection_info(as_(&door.acme, asking()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_key_is_taken_from_each_of_its_places() {
    let door = Door::start().await;
    let shown = door.acme.reveal().to_string();
    let basic = format!("Basic {}", STANDARD.encode(format!("acme:{shown}")));
    let bearer = format!("Bearer {shown}");
    for header in [
        ("authorization", &bearer),
        ("authorization", &basic),
        ("x-api-key", &shown),
    ] {
        let headers = [(header.0, header.1.as_str())];
        let answer = door
            .world
            .call_with(&headers, "GET", "/v1/tenants/acme", "")
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    door.get_tenant(&door.acme, "tenants/acme").await.unwrap();
}

#[tokio::test]
async fn a_credential_that_is_not_right_opens_nothing() {
    let door = Door::start().await;
    let other = key(9);
    let forged = other.clone().with_id(door.acme.id().clone());
    for text in [&other, &forged]
        .map(|it| it.reveal().to_string())
        .iter()
        .chain(["", "whk_", "x", "a.b.c"].map(str::to_owned).iter())
    {
        let value = format!("Bearer {text}");
        let headers = [("authorization", value.as_str())];
        let answer = door
            .world
            .call_with(&headers, "GET", "/v1/tenants/acme", "")
            .await;
        assert_eq!(answer.refusal(), (401, "CREDENTIAL_INVALID"), "{text}");
        assert_eq!(
            answer.body["error"]["message"],
            "the credential is not valid"
        );
    }
    door.clock.set(NOW + Duration::from_secs(60));
    let late = door.get(&door.acme, "/v1/tenants/acme").await;
    assert_eq!(late.refusal(), (401, "CREDENTIAL_EXPIRED"));
    door.clock.set(NOW);
    door.keyring.apply([Change::Gone(door.acme.id().clone())]);
    let revoked = door
        .get_tenant(&door.acme, "tenants/acme")
        .await
        .unwrap_err();
    assert_eq!(reason(&revoked), "CREDENTIAL_INVALID");
}

#[tokio::test]
async fn a_tenants_key_opens_what_is_its_tenants_and_tells_nothing_of_others() {
    let door = Door::start().await;
    let mut answers = Vec::new();
    for name in [
        "tenants/globex",
        "tenants/nobody",
        "tenants/-",
        "tenants/acme2",
        "",
    ] {
        let status = door.get_tenant(&door.acme, name).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{name}");
        answers.push((status.message().to_owned(), status.details().to_vec()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "all are refused alike");
    let json = door.get(&door.acme, "/v1/tenants/globex").await;
    assert_eq!(json.refusal(), (403, "PERMISSION_DENIED"));
    assert_eq!(
        door.get(&door.acme, "/v1/tenants/nobody").await.body,
        json.body
    );
    // A tenant's key with a scope of operators has not got it.
    let list = door.get(&door.acme, "/v1/tenants").await;
    assert_eq!(list.refusal(), (403, "PERMISSION_DENIED"));
    assert_eq!(door.get(&door.operator, "/v1/tenants").await.status, 200);
}

#[tokio::test]
async fn keys_that_are_not_known_yet_are_waited_for() {
    let world = World::start_with(Auth::on(Keyring::default(), Clock::fixed(NOW)), LIFETIME).await;
    let bearer = bearer(&key(1));
    let headers = [("authorization", bearer.as_str())];
    let answer = world.call_with(&headers, "GET", "/v1/tenants", "").await;
    assert_eq!(answer.refusal(), (503, "NOT_READY"));
}

#[tokio::test]
async fn a_gibibyte_without_a_credential_is_refused_before_it_is_read() {
    let door = Door::start().await;
    for path in [
        "/v1/tenants",
        "/hookfleet.v1.TenantService/CreateTenant",
        "/x/subscribe",
    ] {
        let stream = TcpStream::connect(door.world.address).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n");
        let writing = tokio::spawn(async move {
            writer.write_all(head.as_bytes()).await.unwrap();
            let mut n_written = 0;
            while writer.write_all(&[b' '; 65_536]).await.is_ok() {
                n_written += 65_536;
            }
            n_written
        });
        let mut text = vec![0; 12];
        timeout(Duration::from_secs(10), reader.read_exact(&mut text))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&text), "HTTP/1.1 401");
        let ended = timeout(Duration::from_secs(20), writing).await;
        let n_written = ended.expect("the connection is closed").unwrap();
        assert!(n_written < 16 << 20, "{n_written} bytes were taken");
    }
}

//! The audit log of a server: who changed what and who was denied what, in whichever dialect, and that nobody can change it
//! unseen.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use hookfleet_proto::v1::{ListTenantsRequest, tenant_service_client::TenantServiceClient};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    eventually,
    http::{Answer, Http},
    process::{Process, hookfleet},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn start(data_dir: &Path) -> Process {
    let mut command = hookfleet();
    command.args(["standalone", "--authentication", "--data-dir"]);
    command.arg(data_dir);
    Process::start(command, "127.0.0.1:0")
}

fn verify(path: &Path) -> Output {
    let mut command = hookfleet();
    command.args(["audit", "verify"]).arg(path);
    command.output().unwrap()
}

/// The only file of the log.
fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("audit/audit-00000000000000000001.jsonl")
}

fn records(data_dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file(data_dir)).unwrap();
    text.lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect()
}

/// Waits for records of refusals, which nobody else waits for.
async fn record(data_dir: &Path, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually("the record", PATIENCE, || async {
        let records = records(data_dir);
        let found = records.iter().find(|it| is_it(it)).cloned();
        found.ok_or(records)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_denials_are_written_down_and_nobody_changes_that_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let http = Http::to(server.address);
    let first = std::fs::read_to_string(dir.path().join("first.key")).unwrap();
    let (first, operator) = (first.trim(), format!("Bearer {}", first.trim()));
    let call = async |method: Method, path: &str, bearer: &str, body: Value| -> Answer {
        let headers = [("x-request-id", "req-1"), ("authorization", bearer)];
        let n_headers = if bearer.is_empty() { 1 } else { 2 };
        let body = Some(body).filter(|it| !it.is_null());
        let body = body.map_or_else(String::new, |it| it.to_string());
        http.call(method, path, &headers[..n_headers], body.into())
            .await
    };

    // A change is there once it is answered.
    for tenant in ["acme", "globex"] {
        let path = format!("/v1/tenants?tenantId={tenant}");
        assert_eq!(
            call(Method::POST, &path, &operator, json!({})).await.status,
            200
        );
    }
    let created = records(dir.path()).pop().unwrap();
    assert_eq!(
        created["method"],
        "/hookfleet.v1.TenantService/CreateTenant"
    );
    assert_eq!(created["resources"], json!(["tenants/globex"]));
    assert_eq!(
        (&created["tenant"], &created["code"]),
        (&"globex".into(), &"OK".into())
    );
    assert_eq!(
        (&created["decision"], &created["request_id"]),
        (&"allowed".into(), &"req-1".into())
    );
    let actor = created["actor"].as_str().unwrap();
    assert!(
        actor.starts_with("keys/") && first.contains(actor.trim_start_matches("keys/")),
        "{actor}"
    );
    assert!(
        created["source"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:"),
        "{created}"
    );

    let key = json!({"scopes": ["subscriptions.read", "subscriptions.write", "events.publish"], "tenant": "tenants/acme"});
    let key = call(Method::POST, "/v1/keys", &operator, key).await.json();
    let secret_key = key["secret"].as_str().unwrap().to_owned();
    let acme = format!("Bearer {secret_key}");
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let wish = json!({"callbackUrl": "http://localhost:9000/?token=t0ps3cret", "secret": secret,
        "headers": [{"name": "authorization", "value": "h1dden"}]});
    let subscribed = call(Method::POST, "/orders/subscribe", &acme, wish.clone()).await;
    assert_eq!(subscribed.status, 201, "{subscribed:?}");
    let name = subscribed.json()["name"].as_str().unwrap().to_owned();
    let made = records(dir.path()).pop().unwrap();
    assert_eq!(made["actor"], key["name"]);
    assert_eq!(made["resources"], json!(["tenants/acme", name]));
    let again = call(Method::POST, "/orders/subscribe", &acme, wish).await;
    assert_eq!(again.status, 200, "{again:?}");
    let updated = records(dir.path()).pop().unwrap();
    assert_eq!(
        updated["method"],
        "/hookfleet.v1.SubscriptionService/UpdateSubscription"
    );

    // Publishing is not, unless it is denied.
    let event = json!({"type": "orders.created", "data": "p4yload"});
    let before = records(dir.path()).len();
    let published = call(
        Method::POST,
        "/v1/tenants/acme/events",
        &acme,
        event.clone(),
    )
    .await;
    assert_eq!(published.status, 200, "{published:?}");
    assert_eq!(records(dir.path()).len(), before);
    let denied = call(Method::POST, "/v1/tenants/globex/events", &acme, event).await;
    assert_eq!(denied.status, 403, "{denied:?}");
    let is_denied = |method: &'static str| {
        move |it: &Value| it["decision"] == "denied" && it["method"] == method
    };
    let denied = record(
        dir.path(),
        is_denied("/hookfleet.v1.PublisherService/Publish"),
    )
    .await;
    assert_eq!(
        (&denied["code"], &denied["tenant"]),
        (&"PERMISSION_DENIED".into(), &"acme".into())
    );
    assert_eq!(
        (&denied["actor"], &denied["reason"]),
        (&key["name"], &"PERMISSION_DENIED".into())
    );
    let foreign = call(Method::DELETE, "/v1/tenants/globex", &acme, Value::Null).await;
    assert_eq!(foreign.status, 403, "{foreign:?}");
    let path = "/v1/tenants/globex/subscriptions/hook:suspend";
    assert_eq!(call(Method::POST, path, &acme, json!({})).await.status, 403);
    let of_other = record(
        dir.path(),
        is_denied("/hookfleet.v1.SubscriptionService/SuspendSubscription"),
    )
    .await;
    assert_eq!(
        of_other["resources"],
        json!(["tenants/globex/subscriptions/hook"])
    );

    // Nor is anybody unknown let in unseen, in any dialect.
    assert_eq!(
        call(Method::GET, "/v1/tenants?token=t0ps3cret", "", Value::Null)
            .await
            .status,
        401
    );
    let unknown = record(dir.path(), is_denied("GET /v1/tenants")).await;
    assert_eq!(
        (&unknown["code"], &unknown["actor"]),
        (&"UNAUTHENTICATED".into(), &"".into())
    );
    let mut grpc = TenantServiceClient::new(server.channel());
    grpc.list_tenants(ListTenantsRequest::default())
        .await
        .unwrap_err();
    record(
        dir.path(),
        is_denied("POST /hookfleet.v1.TenantService/ListTenants"),
    )
    .await;
    let id = key["name"].as_str().unwrap();
    let delete = format!("/v1/{id}");
    assert_eq!(
        call(Method::DELETE, &delete, &operator, json!({}))
            .await
            .status,
        400,
        "a body"
    );
    let headers = [("authorization", operator.as_str())];
    let deleted = http
        .call(Method::DELETE, &delete, &headers, Vec::new().into())
        .await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    eventually("the key is revoked", PATIENCE, || async {
        let status = call(Method::GET, "/v1/tenants/acme", &acme, Value::Null)
            .await
            .status;
        if status == 401 { Ok(()) } else { Err(status) }
    })
    .await;
    let revoked = record(dir.path(), |it| it["claimed"] == id).await;
    assert_eq!(revoked["reason"], "CREDENTIAL_INVALID");

    // A flood of them does not fill the disk.
    for _ in 0..200 {
        assert_eq!(http.get("/v1/keys").await.status, 401);
    }
    record(dir.path(), |it| it["method"] == "GET /v1/keys").await;
    let flooded = records(dir.path());
    let n_denied = flooded
        .iter()
        .filter(|it| it["method"] == "GET /v1/keys")
        .count();
    assert!(n_denied < 150, "{n_denied}");

    // Restarts go on with it, and it is whole.
    assert!(server.terminate().await.success());
    let server = start(dir.path());
    let headers = [("authorization", operator.as_str())];
    let suspended = Http::to(server.address)
        .post("/v1/tenants/acme:suspend", &headers, "{}")
        .await;
    assert_eq!(suspended.status, 200, "{suspended:?}");
    drop(server);
    let whole = verify(&dir.path().join("audit"));
    let said = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(
        whole.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&whole.stderr)
    );
    let last = records(dir.path()).pop().unwrap();
    assert!(said.contains(last["hash"].as_str().unwrap()), "{said}");

    // Nothing of it is a secret, or what events carry.
    let text = std::fs::read_to_string(file(dir.path())).unwrap();
    for hidden in [
        first,
        &secret_key,
        secret,
        "t0ps3cret",
        "h1dden",
        "p4yload",
        "localhost:9000",
    ] {
        assert!(!text.contains(hidden), "{hidden}");
        let tail = hidden.rsplit('_').next().unwrap();
        assert!(!text.contains(tail), "{tail}");
    }

    // One bit is enough.
    let mut bytes = text.into_bytes();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    std::fs::write(file(dir.path()), bytes).unwrap();
    let broken = verify(&dir.path().join("audit"));
    assert!(!broken.status.success());
    let said = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(
        said.contains("is not whole") && said.contains("line "),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_off_only_if_somebody_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = hookfleet();
    command.args(["standalone", "--audit-dir", "", "--data-dir"]);
    command.arg(dir.path());
    let server = Process::start(command, "127.0.0.1:0");
    let made = Http::to(server.address)
        .post("/v1/tenants?tenantId=acme", &[], "{}")
        .await;
    assert_eq!(made.status, 200);
    assert!(!dir.path().join("audit").exists());
    assert!(
        !verify(dir.path()).status.success(),
        "there is nothing to verify"
    );
}

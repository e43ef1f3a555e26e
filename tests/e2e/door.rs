//! Who may call what, through the real binary: no credential, a wrong one, somebody else's, one that was revoked.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use bytes::Bytes;
use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::{
    DESCRIPTORS,
    v1::{
        ListTenantsRequest, PublishRequest, publisher_service_client::PublisherServiceClient,
        tenant_service_client::TenantServiceClient,
    },
};
use http::Method;
use prost_reflect::DescriptorPool;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Request, Status, transport::Channel};

use crate::harness::{
    api::{SCOPES_OF_TENANTS, event},
    eventually,
    http::Http,
    process::{Process, agent_command, hookfleet},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// What revocation may take on every node.
const REVOCATION: Duration = Duration::from_secs(5);

/// Runs a command of an operator that must succeed; what it prints.
fn operate(server: &Process, first_key: &Path, arguments: &[&str]) -> String {
    let operated = try_operate(server, first_key, arguments);
    operated.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn try_operate(server: &Process, first_key: &Path, arguments: &[&str]) -> Result<String, String> {
    let Output {
        status,
        stdout,
        stderr,
    } = hookfleet()
        .args(arguments)
        .arg("--server")
        .arg(format!("http://{}", server.address))
        .arg("--api-key-file")
        .arg(first_key)
        .output()
        .map_err(|error| error.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    if status.success() {
        Ok(text(stdout))
    } else {
        Err(text(stderr))
    }
}

fn standalone(data_dir: &Path) -> (Process, PathBuf) {
    let mut command = hookfleet();
    command.args(["standalone", "--authentication", "--data-dir"]);
    command.arg(data_dir);
    let server = Process::start(command, "127.0.0.1:0");
    (server, data_dir.join("first.key"))
}

/// Publishes nothing, which is refused later than a caller who may not publish.
async fn may_publish(channel: &Channel, tenant: &str, key: &str) -> Result<(), Status> {
    let mut request = Request::new(PublishRequest {
        parent: format!("tenants/{tenant}"),
        events: vec![event("1", "orders.created", "{}")],
    });
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let mut publisher = PublisherServiceClient::new(channel.clone());
    publisher.publish(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_without_a_key_and_a_tenant_sees_its_own_only() {
    let dir = tempfile::tempdir().unwrap();
    let (server, first_key) = standalone(dir.path());
    let mode = std::fs::metadata(&first_key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // In every dialect, and before a body is read.
    let http = Http::to(server.address);
    for (path, headers) in [
        ("/v1/tenants?tenantId=acme", &[][..]),
        ("/orders/subscribe", &[("content-type", "application/json")]),
        (
            "/v1/tenants/acme/events",
            &[("content-type", "application/cloudevents+json")],
        ),
        ("/nothing/here", &[]),
    ] {
        let answer = http.post(path, headers, "{}").await;
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert_eq!(
            answer.header("www-authenticate"),
            "Bearer realm=\"hookfleet\""
        );
        let is_facade = path == "/orders/subscribe";
        let content_type = if is_facade {
            "application/problem+json"
        } else {
            "application/json"
        };
        assert_eq!(answer.header("content-type"), content_type, "{path}");
    }
    let tenants = TenantServiceClient::new(server.channel())
        .list_tenants(ListTenantsRequest::default())
        .await;
    assert_eq!(tenants.unwrap_err().code(), Code::Unauthenticated);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/tenants HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    assert_eq!(http.get("/readyz").await.status, 200);

    for tenant in ["acme", "globex"] {
        operate(&server, &first_key, &["tenant", "create", tenant]);
    }
    let mut create = vec!["key", "create", "--tenant", "acme"];
    create.extend(SCOPES_OF_TENANTS.iter().flat_map(|it| ["--scope", it]));
    let key = operate(&server, &first_key, &create);
    let bearer = format!("Bearer {key}");
    let as_acme = [("authorization", bearer.as_str())];

    // How much there is of everything is for operators.
    assert_eq!(http.get("/metrics").await.status, 401);
    let metrics = async |key: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let answer = http.call(Method::GET, "/metrics", &headers, Bytes::new());
        answer.await
    };
    assert_eq!(metrics(&key).await.status, 403);
    let operator = std::fs::read_to_string(&first_key).unwrap();
    let text = metrics(operator.trim()).await.text();
    // Those who were not let in are counted.
    for code in ["401", "UNAUTHENTICATED"] {
        let answers = format!("hookfleet_answers_total{{code=\"{code}\"}}");
        assert!(text.contains(&answers), "{text}");
    }

    // The tenant is the key's, wherever the path says none.
    let receiver = Receiver::start().await;
    let body = format!(r#"{{"callbackUrl": "{}"}}"#, receiver.url("hook"));
    let json = [as_acme[0], ("content-type", "application/json")];
    let subscribed = http.post("/orders/subscribe", &json, body.clone()).await;
    assert_eq!(subscribed.status, 201, "{subscribed:?}");
    let location = subscribed.header("location").to_owned();
    assert!(location.contains("/tenants/acme/"), "{location}");
    let foreign = [json[0], json[1], ("hookfleet-tenant", "globex")];
    let refused = http.post("/orders/subscribe", &foreign, body).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    eventually("an event is received", PATIENCE, || async {
        may_publish(&server.channel(), "acme", &key).await.unwrap();
        (!receiver.received_at("hook").is_empty())
            .then_some(())
            .ok_or("not yet")
    })
    .await;

    // What is there and what is not look alike to others.
    operate(
        &server,
        &first_key,
        &[
            "subscription",
            "create",
            "globex",
            "http://127.0.0.1:9000/hook",
            "orders",
            "--id",
            "hook",
        ],
    );
    let mut n_methods = 0;
    for (method, path, is_of_tenants) in rest_calls() {
        let call = async |tenant: &str, id: &str| {
            let path = path.replace("TENANT", tenant).replace("ID", id);
            let has_body = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
            let body = if has_body { "{}" } else { "" };
            let answer = http.call(method.clone(), &path, &as_acme, body.into());
            let answer = answer.await;
            (answer.status, answer.json().to_string())
        };
        let there = call("globex", "hook").await;
        let nowhere = call("nobody", "none").await;
        assert_eq!(there, nowhere, "{method} {path}");
        assert_eq!(there.0, 403, "{method} {path}: {}", there.1);
        if is_of_tenants {
            let own = call("acme", "none").await;
            assert_ne!(own.0, 401, "{method} {path}: {}", own.1);
        }
        n_methods += 1;
    }
    assert!(n_methods > 25, "{n_methods}");

    let id = key.split('_').nth(2).unwrap().to_owned();
    operate(&server, &first_key, &["key", "delete", &id]);
    eventually("the key opens nothing", REVOCATION, || async {
        let published = may_publish(&server.channel(), "acme", &key).await;
        let code = published.err().map(|it| it.code());
        (code == Some(Code::Unauthenticated))
            .then_some(())
            .ok_or(code)
    })
    .await;

    // The first key is made once.
    let made = std::fs::read(&first_key).unwrap();
    assert!(server.terminate().await.success());
    let (server, first_key) = standalone(dir.path());
    assert_eq!(std::fs::read(&first_key).unwrap(), made);
    operate(&server, &first_key, &["tenant", "list"]);
}

/// Every method of the API that HTTP can call, with places for a tenant and for ids, and whether it is about tenants.
fn rest_calls() -> Vec<(Method, String, bool)> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let http = pool.get_extension_by_name("google.api.http").unwrap();
    let methods = pool
        .services()
        .flat_map(|it| it.methods().collect::<Vec<_>>());
    let methods = methods.filter(|it| it.full_name().starts_with("hookfleet.v1."));
    let rule = |method: prost_reflect::MethodDescriptor| {
        let options = method.options();
        let rule = options.get_extension(&http);
        let rule = rule.as_message().unwrap();
        ["get", "post", "put", "patch", "delete"]
            .into_iter()
            .find_map(|verb| {
                let path = rule.get_field_by_name(verb)?;
                let path = path.as_str().filter(|it| !it.is_empty())?.to_owned();
                let verb = verb.to_uppercase().parse::<Method>().unwrap();
                Some((verb, path))
            })
    };
    let filled = methods.filter_map(rule).map(|(verb, template)| {
        let (mut path, mut rest) = (String::new(), template.as_str());
        while let Some((before, inner)) = rest.split_once('{') {
            let (variable, after) = inner.split_once('}').unwrap();
            let pattern = variable.split_once('=').map_or("*", |it| it.1);
            let pattern = pattern.replace("tenants/*", "tenants/TENANT");
            path += before;
            path += &pattern
                .replace("events/*", "events/msg_AAAAAAAAAAAAAAAAAAAAAA")
                .replace("deliveries/*", "deliveries/dlv_0000000000000001-0")
                .replace('*', "ID");
            rest = after;
        }
        path += rest;
        let is_of_tenants = path.contains("TENANT");
        (verb, path, is_of_tenants)
    });
    filled.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_a_fleet_know_each_other_by_a_key_and_a_revoked_one_opens_none_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let (first_key, fleet_key) = (dir.path().join("first.key"), dir.path().join("fleet.key"));
    let mut command = hookfleet();
    command.args([
        "control-plane",
        "--authentication",
        "--allow-loopback-targets",
    ]);
    command.args(["--etcd", etcd.endpoint(), "--key-file"]);
    command.arg(dir.path().join("secrets.key"));
    command.arg("--audit-dir").arg(dir.path().join("audit"));
    command.arg("--first-key-file").arg(&first_key);
    command.arg("--fleet-key-file").arg(&fleet_key);
    let plane = Process::start(command, "127.0.0.1:0");
    let start = |id: &str, key: &Path| -> Command {
        let mut command = agent_command(&dir.path().join(id), plane.address);
        command.args(["--authentication", "--agent-id", id, "--fleet-key-file"]);
        command.arg(key);
        command
    };
    let keyless = start("keyless", &dir.path().join("none.key"))
        .args(["--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert!(!keyless.status.success());
    let said = String::from_utf8_lossy(&keyless.stderr).into_owned();
    assert!(said.contains("agents.register"), "{said}");

    let agents = ["first", "second"].map(|id| Process::start(start(id, &fleet_key), "127.0.0.1:0"));
    let receiver = Receiver::start().await;
    eventually("both have slots", PATIENCE, || async {
        let placement = try_operate(&plane, &first_key, &["fleet", "status"])?;
        (placement.matches("512").count() == 2)
            .then_some(())
            .ok_or(placement)
    })
    .await;
    for tenant in ["acme", "globex", "initech"] {
        let url = receiver.url(tenant);
        operate(&plane, &first_key, &["tenant", "create", tenant]);
        let create = [
            "subscription",
            "create",
            tenant,
            &url,
            "orders",
            "--id",
            "hook",
        ];
        operate(&plane, &first_key, &create);
    }
    let create = [
        "key",
        "create",
        "--scope",
        "events.publish",
        "--scope",
        "attempts.read",
    ];
    let key = operate(&plane, &first_key, &create);
    // Through both, of which one is not the owner.
    for agent in &agents {
        for tenant in ["acme", "globex", "initech"] {
            eventually("events are received", PATIENCE, || async {
                let published = may_publish(&agent.channel(), tenant, &key).await;
                published.map_err(|it| it.to_string())
            })
            .await;
        }
    }
    let listed = operate(&plane, &first_key, &["deliveries", "list", "acme"]);
    assert!(listed.contains("NAME"), "{listed}");

    let id = key.split('_').nth(2).unwrap().to_owned();
    operate(&plane, &first_key, &["key", "delete", &id]);
    for agent in &agents {
        eventually("the key opens nothing", REVOCATION, || async {
            let published = may_publish(&agent.channel(), "acme", &key).await;
            let code = published.err().map(|it| it.code());
            (code == Some(Code::Unauthenticated))
                .then_some(())
                .ok_or(code)
        })
        .await;
    }
}

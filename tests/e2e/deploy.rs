//! What `deploy/` has: judged by the schemas of those who read it, tried with the real binary, and run where it can be.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use hookfleet_proto::DESCRIPTORS;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use crate::harness::{
    eventually,
    process::{Process, hookfleet},
    receiver::Receiver,
    verifier::python,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn kubernetes_takes_every_manifest() {
    let manifests = fs::read_dir(deploy("kubernetes")).unwrap();
    let manifests = manifests.map(|it| it.unwrap().path());
    let mut n_manifests = 0;
    for manifest in manifests.filter(|it| !it.ends_with("kustomization.yaml")) {
        let judged = Command::new(tool("kubernetes-validate"))
            .arg("--strict")
            .arg(&manifest)
            .output();
        succeeded(&judged.unwrap());
        n_manifests += 1;
    }
    let kustomization = &yaml(&deploy("kubernetes/kustomization.yaml"))[0];
    assert_eq!(
        kustomization["resources"].as_array().unwrap().len(),
        n_manifests
    );
}

#[test]
fn linters_take_the_containerfile_and_envoy_its_configuration() {
    let linted = Command::new(tool("hadolint"))
        .arg(deploy("Containerfile"))
        .output();
    succeeded(&linted.unwrap());
    let judged = python("deploy_judge.py")
        .arg("envoy")
        .arg(deploy("envoy/envoy.yaml"))
        .output();
    succeeded(&judged.unwrap());
}

/// Flags and settings are those of the binary: each command line is tried with `--print-config`.
#[test]
fn the_binary_takes_every_command_line_and_every_setting() {
    let dir = tempfile::tempdir().unwrap();
    let mut n_tried = 0;
    let mut tries = |arguments: Vec<String>| {
        let tried = hookfleet().args(&arguments).arg("--print-config").output();
        succeeded(&tried.unwrap());
        n_tried += 1;
    };
    let texts = |it: &Value| -> Vec<String> {
        let texts = it.as_array().unwrap().iter();
        texts.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let settings = &yaml(&deploy("kubernetes/settings.yaml"))[0]["data"];
    for file in ["control-plane", "agent"] {
        let toml = settings[format!("{file}.toml")].as_str().unwrap();
        fs::write(dir.path().join(format!("{file}.toml")), toml).unwrap();
        let documents = yaml(&deploy(&format!("kubernetes/{file}.yaml")));
        let container = &documents[0]["spec"]["template"]["spec"]["containers"][0];
        let place = format!("{}/", dir.path().display());
        let arguments = texts(&container["args"]).into_iter();
        tries(
            arguments
                .map(|it| it.replace("/etc/hookfleet/", &place).replace("$(ZONE)", ""))
                .collect(),
        );
    }
    let services = &yaml(&deploy("compose.yaml"))[0]["services"];
    tries(texts(&services["control-plane"]["command"]));
    let mut agent = texts(&services["agent"]["command"]);
    agent.splice(
        0..0,
        ["agent", "--advertise", "http://x:7071"].map(ToOwned::to_owned),
    );
    assert!(
        services["agent"]["entrypoint"][2]
            .as_str()
            .unwrap()
            .contains("agent --advertise")
    );
    tries(agent);
    assert_eq!(n_tried, 4);
}

#[test]
fn apisix_is_told_of_methods_and_parts_that_there_are() {
    let config = &yaml(&deploy("apisix/apisix.yaml"))[0];
    let ids = |kind: &str| -> Vec<&Value> {
        let all = config[kind].as_array().unwrap().iter();
        all.map(|it| &it["id"]).collect()
    };
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    for upstream in config["upstreams"].as_array().unwrap() {
        let certificate = upstream["tls"].get("client_cert_id");
        assert!(
            certificate.is_none_or(|it| ids("ssls").contains(&it)),
            "{upstream}"
        );
    }
    let mut n_transcoded = 0;
    for route in config["routes"].as_array().unwrap() {
        assert!(ids("upstreams").contains(&&route["upstream_id"]), "{route}");
        let is_open = route["id"] == "confirmations";
        assert!(
            is_open || ids("plugin_configs").contains(&&route["plugin_config_id"]),
            "{route}"
        );
        let Some(transcode) = route["plugins"].get("grpc-transcode") else {
            continue;
        };
        assert!(ids("protos").contains(&&transcode["proto_id"]));
        let service = pool.get_service_by_name(transcode["service"].as_str().unwrap());
        let service = service.unwrap();
        assert!(
            service.methods().any(|it| transcode["method"] == it.name()),
            "{route}"
        );
        n_transcoded += 1;
    }
    assert_eq!(n_transcoded, 1);
    let envoy = fs::read_to_string(deploy("envoy/envoy.yaml")).unwrap();
    for service in pool
        .services()
        .filter(|it| it.package_name() == "hookfleet.v1")
    {
        assert!(envoy.contains(&format!("- {}\n", service.full_name())));
    }
}

#[test]
fn the_descriptor_set_has_everything_that_the_api_is_made_of() {
    let written = hookfleet().arg("descriptor-set").output().unwrap();
    let pool = DescriptorPool::decode(written.stdout.as_slice()).unwrap();
    for name in ["hookfleet.v1.SubscriptionService", "google.rpc.ErrorInfo"] {
        let has =
            pool.get_service_by_name(name).is_some() || pool.get_message_by_name(name).is_some();
        assert!(has, "{name}");
    }
    assert!(pool.get_extension_by_name("google.api.http").is_some());
}

/// gRPC and HTTP through a real proxy that has keys of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_an_nginx_are_the_tenants_that_it_knows_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = hookfleet();
    command.args(["standalone", "--authentication", "--data-dir"]);
    command.arg(dir.path().join("data"));
    let server = Process::start(command, "127.0.0.1:0");
    let operate = |arguments: &[&str]| {
        let operated = hookfleet()
            .args(arguments)
            .args([
                "--server",
                &format!("http://{}", server.address),
                "--api-key-file",
            ])
            .arg(dir.path().join("data/first.key"))
            .output();
        succeeded(&operated.unwrap())
    };
    for tenant in ["acme", "globex"] {
        operate(&["tenant", "create", tenant]);
    }
    let scopes = "events.publish subscriptions.read subscriptions.write";
    let mut create = vec!["key", "create", "--tenant", "acme"];
    create.extend(scopes.split(' ').flat_map(|it| ["--scope", it]));
    let key = operate(&create);
    let consumers = format!("\"consumer-acme\" \"Bearer {}\";\n", key.trim());
    let nginx = Nginx::start(&dir.path().join("nginx"), &server, &consumers);
    eventually("nginx answers", PATIENCE, || async {
        let answer = nginx.curl(&[], "/readyz");
        (answer.0 == 200).then_some(()).ok_or(answer)
    })
    .await;

    let receiver = Receiver::start().await;
    let body = json!({"callbackUrl": receiver.url("hook")}).to_string();
    let post = |headers: &[&str], path: &str, body: &str| {
        let headers = headers.iter().flat_map(|it| ["-H", *it]);
        let arguments: Vec<&str> = headers.chain(["-d", body]).collect();
        nginx.curl(&arguments, path)
    };
    const JSON: &str = "content-type: application/json";
    const ACME: &str = "apikey: consumer-acme";
    assert_eq!(post(&[JSON], "/orders/subscribe", &body).0, 401);
    assert_eq!(
        post(&[JSON, "apikey: forged"], "/orders/subscribe", &body).0,
        401
    );
    let forged = [JSON, ACME, "hookfleet-tenant: globex"];
    assert_eq!(post(&forged, "/orders/subscribe", &body).0, 403);
    let subscribed = post(&[JSON, ACME], "/orders/subscribe", &body);
    assert_eq!(subscribed.0, 201, "{subscribed:?}");
    assert!(
        subscribed.1.contains("tenants/acme/subscriptions/"),
        "{subscribed:?}"
    );
    // A credential that a consumer brings along does not reach Hookfleet.
    let first_key = fs::read_to_string(dir.path().join("data/first.key")).unwrap();
    let operator = format!("authorization: Bearer {}", first_key.trim());
    let listed = nginx.curl(&["-H", ACME, "-H", &operator], "/v1/tenants");
    assert_eq!(listed.0, 403, "{listed:?}");

    let cloud_event = json!({
        "specversion": "1.0", "id": "1", "source": "urn:shop", "type": "orders.created", "data": {"a": 1},
    });
    eventually("an event arrives", PATIENCE, || async {
        let headers = ["content-type: application/cloudevents+json", ACME];
        let mut event = cloud_event.clone();
        event["id"] = json!(format!("{}", receiver.received().len()));
        let published = post(&headers, "/v1/tenants/acme/events", &event.to_string());
        assert_eq!(published.0, 200, "{published:?}");
        (!receiver.received_at("hook").is_empty())
            .then_some(())
            .ok_or(published)
    })
    .await;

    let parent = |tenant: &str| json!({"parent": format!("tenants/{tenant}")}).to_string();
    let list = "hookfleet.v1.SubscriptionService/ListSubscriptions";
    let (ok, listed) = nginx.grpcurl(&[ACME], &parent("acme"), list);
    assert!(ok && listed.contains(&receiver.url("hook")), "{listed}");
    let (ok, refused) = nginx.grpcurl(&[ACME], &parent("globex"), list);
    assert!(!ok && refused.contains("PermissionDenied"), "{refused}");
    let (ok, refused) = nginx.grpcurl(&[], &parent("acme"), list);
    assert!(!ok && refused.contains("Unauthenticated"), "{refused}");
    // What processes of the fleet tell each other is not there for consumers.
    let sync = nginx.curl(
        &["-H", ACME, "-X", "POST"],
        "/hookfleet.fleet.v1.SyncService/Sync",
    );
    assert_eq!(sync.0, 404, "{sync:?}");
}

/// An nginx of its own, with the configuration of `deploy/` on sockets of a directory.
struct Nginx {
    child: Child,
    dir: PathBuf,
}

impl Nginx {
    fn start(dir: &Path, server: &Process, consumers: &str) -> Self {
        fs::create_dir(dir).unwrap();
        // Its workers are another user.
        for dir in [dir, dir.parent().unwrap()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let config = fs::read_to_string(deploy("nginx/nginx.conf")).unwrap();
        let server = server.address.to_string();
        let mut config = config
            .replace("127.0.0.1:7070", &server)
            .replace("127.0.0.1:7071", &server);
        for (listen, socket) in [("127.0.0.1:8080", "grpc"), ("127.0.0.1:8081", "http")] {
            assert!(config.contains(listen), "{listen}");
            config = config.replace(listen, &format!("unix:{}/{socket}", dir.display()));
        }
        fs::write(dir.join("nginx.conf"), config).unwrap();
        fs::write(dir.join("consumers.map"), consumers).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let child = Command::new("nginx")
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .args(["-e", "stderr", "-g"])
            .arg(format!(
                "daemon off; pid {0}/pid; error_log stderr;",
                dir.display()
            ))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("nginx starts: `tests/run` installs it");
        let dir = dir.to_owned();
        Self { child, dir }
    }

    /// The status and the body.
    fn curl(&self, arguments: &[&str], path: &str) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-sS", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(self.dir.join("http"))
            .args(arguments)
            .arg(format!("http://fleet{path}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or(0), body.to_owned())
    }

    fn grpcurl(&self, headers: &[&str], data: &str, method: &str) -> (bool, String) {
        let output = Command::new(tool("grpcurl"))
            .args(["-plaintext", "-unix", "-authority", "fleet", "-d", data])
            .args(headers.iter().flat_map(|it| ["-H", *it]))
            .arg(self.dir.join("grpc"))
            .arg(method)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!(
                "{}",
                fs::read_to_string(self.dir.join("log")).unwrap_or_default()
            );
        }
    }
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path)
}

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/test-tools/venv/bin")
        .join(name)
}

fn yaml(path: &Path) -> Vec<Value> {
    let read = python("deploy_judge.py").arg("json").arg(path).output();
    serde_json::from_str(&succeeded(&read.unwrap())).unwrap()
}

/// What a command that must succeed has printed.
fn succeeded(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

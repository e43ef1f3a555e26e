//! The OpenAPI document, judged by tools that share no code with us: it is one, and the server does what it says.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{
    eventually,
    http::Http,
    process::{Process, hookfleet},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Of each operation, in each phase that draws them.
const EXAMPLES: &str = "8";
/// All that may be true of an answer. That a field of the body which is null or a number in quotes must be refused is not:
/// proto3 JSON takes both.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance,unsupported_method,allow_header_conformance";
/// Where there is no body: what the document does not allow is refused.
const CHECKS_WITHOUT_BODY: &str = "negative_data_rejection,missing_required_header";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_does_what_its_document_says() {
    let world = World::start(false).await;
    let document = world.http.get("/openapi.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    let file = world.dir.path().join("openapi.json");
    std::fs::write(&file, &document.body).unwrap();
    succeed(Command::new(tool("openapi-spec-validator")).arg(&file));
    world.judge(&["--checks", CHECKS]);
    let reading = [
        "--checks",
        CHECKS_WITHOUT_BODY,
        "--include-method",
        "GET",
        "--include-method",
        "DELETE",
    ];
    world.judge(&reading);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_authentication_it_asks_where_its_document_says_so() {
    let world = World::start(true).await;
    let document = world.http.get("/openapi.json").await.json();
    let create = &document["paths"]["/v1/tenants"]["post"];
    assert_eq!(create["security"][0], json!({"bearer": ["tenants.admin"]}));
    world.judge(&["--checks", &format!("{CHECKS},ignored_auth")]);
}

/// A server with something of everything.
struct World {
    server: Process,
    http: Http,
    dir: tempfile::TempDir,
    bearer: String,
    ids: Vec<(&'static str, String)>,
}

impl World {
    async fn start(authentication: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = hookfleet();
        command.args(["standalone", "--data-dir"]).arg(dir.path());
        if authentication {
            command.arg("--authentication");
            // Whoever tries wrong credentials for so long is told to wait instead.
            command.env("HOOKFLEET_FAILURES_PER_SECOND", "0");
        }
        let server = Process::start(command, "127.0.0.1:0");
        let key = std::fs::read_to_string(dir.path().join("first.key"));
        let mut world = Self {
            http: Http::to(server.address),
            bearer: key.map_or_else(
                |_| "Bearer none".to_owned(),
                |it| format!("Bearer {}", it.trim()),
            ),
            server,
            dir,
            ids: Vec::new(),
        };
        if !authentication {
            world.bearer.clear();
        }
        world.furnish().await;
        world
    }

    /// Makes what paths can name.
    async fn furnish(&mut self) {
        for tenant in ["acme", "default", "doomed"] {
            self.post(&format!("/v1/tenants?tenantId={tenant}"), &json!({}))
                .await;
        }
        let hook = json!({"callbackUrl": "http://127.0.0.1:9000/hook", "eventTypes": ["orders"]});
        for id in ["hook", "doomed"] {
            let path = format!("/v1/tenants/acme/subscriptions?subscriptionId={id}");
            self.post(&path, &hook).await;
        }
        let path = "/v1/tenants/acme/events";
        let event = json!({"type": "orders.created", "data": {}});
        let receipt = eventually("a delivery", PATIENCE, || async {
            let receipt = self.post(path, &event).await;
            (receipt["deliveryCount"] == 2)
                .then_some(())
                .ok_or(&receipt)
                .map_err(Value::clone)?;
            Ok::<_, Value>(receipt)
        })
        .await;
        let listed = "/v1/tenants/acme/subscriptions/hook/deliveries";
        let delivery = eventually("it is listed", PATIENCE, || async {
            let page = self.get(listed).await;
            let name = page["deliveries"][0]["name"].as_str().map(str::to_owned);
            name.ok_or(page)
        })
        .await;
        let key = json!({"scopes": ["events.publish"], "tenant": "tenants/acme"});
        let key = self.post("/v1/keys", &key).await;
        let id = |name: &str| name.rsplit('/').next().unwrap().to_owned();
        self.ids = vec![
            ("tenant", "acme".to_owned()),
            ("subscription", "hook".to_owned()),
            ("resource", "orders".to_owned()),
            ("event", id(receipt["event"].as_str().unwrap())),
            ("delivery", id(&delivery)),
            ("key", id(key["name"].as_str().unwrap())),
        ];
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let headers = [("authorization", self.bearer.as_str())];
        let headers = if self.bearer.is_empty() {
            &[][..]
        } else {
            &headers
        };
        let answer = self.http.post(path, headers, body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    async fn get(&self, path: &str) -> Value {
        let headers = [("authorization", self.bearer.as_str())];
        let headers = if self.bearer.is_empty() {
            &[][..]
        } else {
            &headers
        };
        let answer = self
            .http
            .call(http::Method::GET, path, headers, Vec::new().into())
            .await;
        answer.json()
    }

    /// Lets schemathesis try it; panics at any finding.
    fn judge(&self, arguments: &[&str]) {
        let config = self.dir.path().join("schemathesis.toml");
        std::fs::write(&config, self.config()).unwrap();
        let mut command = Command::new(tool("schemathesis"));
        command.arg("--config-file").arg(config).arg("run");
        command.arg(format!("http://{}/openapi.json", self.server.address));
        command.args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            EXAMPLES,
        ]);
        command.args([
            "--seed",
            "1",
            "--generation-database",
            "none",
            "--no-shrink",
            "--request-timeout",
            "20",
        ]);
        command.args(arguments).current_dir(self.dir.path());
        if !self.bearer.is_empty() {
            command.args(["--header", &format!("Authorization: {}", self.bearer)]);
        }
        succeed(&mut command);
    }

    /// What paths name, so that operations are tried on things that are there; but deletion does not take them away.
    fn config(&self) -> String {
        let mut config = "[parameters]\n".to_owned();
        for (name, id) in &self.ids {
            config += &format!("\"path.{name}\" = \"{id}\"\n");
        }
        for (operation, place) in [
            ("DELETE /v1/tenants/{tenant}", "tenant"),
            (
                "DELETE /v1/tenants/{tenant}/subscriptions/{subscription}",
                "subscription",
            ),
            ("DELETE /v1/keys/{key}", "key"),
        ] {
            config += &format!(
                "[[operations]]\ninclude-name = \"{operation}\"\nparameters = {{ \"path.{place}\" = \"doomed\" }}\n"
            );
        }
        config
    }
}

fn tool(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("target/test-tools/venv/bin").join(name)
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("`tests/run` has installed it");
    let said = String::from_utf8_lossy(&output.stdout);
    let also = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}\n{also}");
}

//! Receivers that are asked whether they want callbacks: those that agree, now or later, and those that do not.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    GetSubscriptionRequest, Subscription, UpdateSubscriptionRequest, VerificationStatus,
    VerifySubscriptionRequest,
    subscription::{State, Verification},
    subscription_service_client::SubscriptionServiceClient,
    verification_status::{Failure, State as Stage},
};
use http::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use crate::harness::{
    api::{create_tenant, event, in_force, publish_one, subscribe, subscribe_in_force, to},
    eventually,
    http::Http,
    process::{Process, agent, agent_command, hookfleet},
    receiver::{Received, Receiver, Reply},
    verifier,
};

const PATIENCE: Duration = Duration::from_secs(60);
const ORIGIN: &str = "hooks.example.com";
const PUBLIC: &str = "https://hooks.example.com";

#[tokio::test]
async fn every_way_to_agree_makes_a_subscription_active() {
    let world = World::start().await;
    world.receiver.reply_with("options", |it, _| {
        consent(it, &[("webhook-allowed-rate", "*")])
    });
    world
        .receiver
        .reply_with("text", |it, _| match challenge(it) {
            Some(challenge) => say(challenge),
            None => Reply::default(),
        });
    world
        .receiver
        .reply_with("json", |it, _| match challenge(it) {
            Some(challenge) => say(json!({"challenge": challenge}).to_string()),
            None => Reply::default(),
        });
    world.receiver.reply_with("get", |it, _| match it.method {
        Method::GET => say(it.query.rsplit_once("challenge=").unwrap().1.to_owned()),
        _ => Reply::default(),
    });
    for (path, method, asked_by) in [
        ("options", Verification::CeOptions, Method::OPTIONS),
        ("text", Verification::ChallengeEcho, Method::POST),
        ("json", Verification::ChallengeEcho, Method::POST),
        ("get", Verification::ChallengeGet, Method::GET),
    ] {
        let asked = world.asking(path, method);
        let created = subscribe_in_force(&world.channel, "acme", path, asked).await;
        let found = world.get(path).await;
        assert_eq!(status(&found).state(), Stage::Succeeded, "{path}");
        let question = world.receiver.received_at(path).remove(0);
        assert_eq!(question.method, asked_by, "{path}");
        if asked_by == Method::POST {
            verifier::verify(&[(created.signing_secret, question)]);
        }
    }
    let receipt = publish_one(&world.channel, "acme", event("1", "orders", "{}")).await;
    assert_eq!(receipt.delivery_count, 4);
    for path in ["options", "text", "json", "get"] {
        let callback = world.callbacks(path, 1).await.remove(0);
        // CW-2: only who was told of an origin is told again.
        let origin = if path == "options" { ORIGIN } else { "" };
        assert_eq!(callback.header("webhook-request-origin"), origin, "{path}");
    }
}

#[tokio::test]
async fn nothing_is_delivered_until_the_receiver_agrees() {
    let world = World::start_with(&[("HOOKFLEET_ORIGIN", ORIGIN)]).await;
    // It answers browsers. That is no consent, and neither is its 200.
    world.receiver.reply_with("hook", |_, _| Reply {
        headers: vec![("access-control-allow-origin", "*".to_owned())],
        ..Reply::default()
    });
    world.subscribe("hook", Verification::CeOptions).await;
    let asked = world
        .until("hook", |it| status(it).attempt_count == 1)
        .await;
    assert_eq!(asked.state(), State::Pending);
    assert_eq!(status(&asked).failure(), Failure::NoConsent);
    assert_eq!(status(&asked).status_code, 200);
    assert!(status(&asked).next_attempt_time.is_some());
    let receipt = publish_one(&world.channel, "acme", event("1", "orders", "{}")).await;
    assert_eq!(receipt.delivery_count, 0);

    world.receiver.reply_with("hook", |it, _| consent(it, &[]));
    world.verify("hook").await.unwrap();
    in_force(&world.channel, &name("hook")).await;
    let receipt = publish_one(&world.channel, "acme", event("2", "orders", "{}")).await;
    assert_eq!(receipt.delivery_count, 1);
    world.callbacks("hook", 1).await;
    let question = world.receiver.received_at("hook").remove(0);
    assert_eq!(question.method, Method::OPTIONS);
    assert_eq!(question.header("webhook-request-origin"), ORIGIN);
}

#[tokio::test]
async fn a_receiver_that_refuses_makes_a_subscription_failed_and_says_why() {
    let world = World::start().await;
    world.receiver.answer("hook", 405);
    world.subscribe("hook", Verification::CeOptions).await;
    let failed = world.until("hook", |it| it.state() == State::Failed).await;
    assert_eq!(status(&failed).failure(), Failure::NotSupported);
    let listed = hookfleet()
        .args([
            "subscription",
            "list",
            "acme",
            "--filter",
            "state = FAILED",
            "--server",
        ])
        .arg(format!("http://{}", world.server.address))
        .output()
        .unwrap();
    let table = String::from_utf8(listed.stdout).unwrap();
    assert!(table.contains("FAILED (NOT_SUPPORTED)"), "{table}");
    let suspended = hookfleet()
        .args(["subscription", "suspend", "acme", "hook", "--server"])
        .arg(format!("http://{}", world.server.address))
        .output()
        .unwrap();
    assert!(!suspended.status.success());
    assert_eq!(world.receiver.received_at("hook").len(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let world = World::start().await;
    let elsewhere = world.receiver.url("elsewhere");
    world.receiver.reply_with("hook", move |_, _| Reply {
        status: StatusCode::FOUND,
        headers: vec![("location", elsewhere.clone())],
        ..Reply::default()
    });
    world
        .receiver
        .reply_with("elsewhere", |it, _| consent(it, &[]));
    world.subscribe("hook", Verification::CeOptions).await;
    let asked = world
        .until("hook", |it| status(it).attempt_count == 1)
        .await;
    assert_eq!(
        (asked.state(), status(&asked).status_code),
        (State::Pending, 302)
    );
    assert_eq!(world.receiver.received_at("elsewhere").len(), 0);
}

#[tokio::test]
async fn a_confirmation_may_come_before_the_answer_and_opens_once() {
    let world = World::start().await;
    world.receiver.reply_with("hook", |it, _| Reply {
        delay: if it.method == Method::OPTIONS {
            PATIENCE
        } else {
            Duration::ZERO
        },
        ..Reply::default()
    });
    world.subscribe("hook", Verification::CeOptions).await;
    let question = world.question("hook").await;
    let url = question.header("webhook-request-callback");
    let path = url.strip_prefix(PUBLIC).expect("the public URL").to_owned();
    assert!(path.starts_with("/v1/verifications/"), "{path}");

    let http = Http::to(world.server.address);
    let unknown = format!("/v1/verifications/{}", "A".repeat(43));
    for path in [unknown.as_str(), "/v1/verifications/x"] {
        assert_eq!(http.get(path).await.status, StatusCode::NOT_FOUND);
    }
    let looked = http.call(Method::HEAD, &path, &[], "".into()).await;
    assert_eq!(looked.status, StatusCode::METHOD_NOT_ALLOWED);
    let wrong = http.post(&path, &[("webhook-allowed-rate", "0")], "").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let confirmed = http
        .post(&path, &[("webhook-allowed-rate", "600")], "")
        .await;
    assert_eq!(confirmed.status, StatusCode::OK, "{confirmed:?}");
    // It is written down who was confirmed, and the key is not.
    let audit = audited(world.dir.path());
    let record = audit.lines().last().unwrap();
    let (place, key) = path.rsplit_once('/').unwrap();
    assert!(record.contains(&format!("{place}/-")), "{record}");
    assert!(record.contains(&name("hook")), "{record}");
    assert!(!audit.contains(key), "{audit}");
    in_force(&world.channel, &name("hook")).await;
    let grant = world.get("hook").await.grant.unwrap();
    assert_eq!(grant.max_requests_per_minute, 600);
    assert_eq!(grant.origin, ORIGIN);
    assert_eq!(
        http.get(&path).await.status,
        StatusCode::NOT_FOUND,
        "it opens once"
    );
    publish_one(&world.channel, "acme", event("1", "orders", "{}")).await;
    world.callbacks("hook", 1).await;
}

#[tokio::test]
async fn whoever_is_sent_a_url_confirms_by_it_when_it_suits() {
    let world = World::start().await;
    let created = world.subscribe("hook", Verification::ConfirmUrl).await;
    let taken = world
        .until("hook", |it| status(it).attempt_count == 1)
        .await;
    assert_eq!(taken.state(), State::Pending);
    assert_eq!(
        status(&taken).next_attempt_time,
        None,
        "its confirmation is waited for"
    );
    let question = world.question("hook").await;
    let body = question.json();
    assert_eq!(body["type"], "hookfleet.subscription.verification");
    verifier::verify(&[(created.signing_secret, question)]);
    let url = body["data"]["confirmUrl"].as_str().unwrap();
    let path = url.strip_prefix(PUBLIC).unwrap().to_owned();
    // Whoever kept it may come after everything was restarted.
    let world = world.restart();
    let http = Http::to(world.server.address);
    assert_eq!(http.get(&path).await.status, StatusCode::OK);
    in_force(&world.channel, &name("hook")).await;
}

#[tokio::test]
async fn a_receiver_that_is_down_is_asked_again_after_a_minute() {
    let world = World::start().await;
    let address = {
        // Nobody else listens on this address of the loopback network.
        let listener = std::net::TcpListener::bind("127.0.0.58:0").unwrap();
        listener.local_addr().unwrap()
    };
    let asked = Subscription {
        verification: Verification::CeOptions.into(),
        ..to(format!("http://{address}/hook"))
    };
    subscribe(&world.channel, "acme", "hook", asked)
        .await
        .unwrap();
    let asked = world
        .until("hook", |it| status(it).attempt_count == 1)
        .await;
    assert_eq!(status(&asked).failure(), Failure::Unreachable);
    let receiver = Receiver::start_at(&address.to_string()).await;
    receiver.reply_with("hook", |it, _| consent(it, &[]));
    let agreed = Duration::from_secs(120);
    let found = world
        .until_within("hook", agreed, |it| it.state() == State::Active)
        .await;
    assert_eq!(status(&found).attempt_count, 2);
}

#[tokio::test]
async fn a_new_url_takes_effect_when_its_receiver_agrees_and_the_old_one_stays_until_then() {
    let world = World::start().await;
    world.receiver.reply_with("old", |it, _| consent(it, &[]));
    world.receiver.answer("new", 405);
    let asked = world.asking("old", Verification::CeOptions);
    subscribe_in_force(&world.channel, "acme", "hook", asked).await;
    world.move_to("new").await;
    let failed = world
        .until("hook", |it| status(it).state() == Stage::Failed)
        .await;
    assert_eq!(failed.callback_url, world.receiver.url("old"));
    assert_eq!(status(&failed).callback_url, world.receiver.url("new"));
    in_force(&world.channel, &name("hook")).await;
    publish_one(&world.channel, "acme", event("1", "orders", "{}")).await;
    world.callbacks("old", 1).await;

    world.receiver.reply_with("new", |it, _| consent(it, &[]));
    world.verify("hook").await.unwrap();
    let new = world.receiver.url("new");
    world
        .until("hook", |it| {
            it.callback_url == new && it.state() == State::Active
        })
        .await;
    publish_one(&world.channel, "acme", event("2", "orders", "{}")).await;
    world.callbacks("new", 1).await;
    assert_eq!(world.callbacks("old", 1).await.len(), 1);
}

#[tokio::test]
async fn the_rate_that_a_receiver_allows_is_kept() {
    let world = World::start().await;
    let came = Arc::<Mutex<Vec<Instant>>>::default();
    let times = Arc::clone(&came);
    world.receiver.reply_with("hook", move |it, _| {
        if it.method == Method::POST {
            times.lock().unwrap().push(Instant::now());
        }
        consent(it, &[("webhook-allowed-rate", "30")])
    });
    let asked = Subscription {
        max_requests_per_second: 5.0,
        ..world.asking("hook", Verification::CeOptions)
    };
    subscribe_in_force(&world.channel, "acme", "hook", asked).await;
    assert_eq!(
        world.question("hook").await.header("webhook-request-rate"),
        "300"
    );
    for id in ["1", "2", "3"] {
        publish_one(&world.channel, "acme", event(id, "orders", "{}")).await;
    }
    world.callbacks("hook", 3).await;
    let came = came.lock().unwrap();
    // One in two seconds; what comes over the network does so a little sooner or later.
    let took = came[2] - came[0];
    assert!(took >= Duration::from_millis(3800), "{took:?}");
}

#[tokio::test]
async fn the_facade_answers_201_only_to_who_is_active_by_then() {
    let world = World::start().await;
    world.receiver.reply_with("quick", |it, _| consent(it, &[]));
    world.receiver.answer("not", 405);
    let http = Http::to(world.server.address);
    for (path, status, state) in [
        ("quick", StatusCode::CREATED, "ACTIVE"),
        // It took the question and has 72 hours to confirm.
        ("later", StatusCode::ACCEPTED, "PENDING"),
        ("not", StatusCode::ACCEPTED, "FAILED"),
    ] {
        let body = json!({"callbackUrl": world.receiver.url(path), "verification": "CE_OPTIONS"});
        let headers = [
            ("content-type", "application/json"),
            ("hookfleet-tenant", "acme"),
        ];
        let answer = http
            .post("/orders/subscribe", &headers, body.to_string())
            .await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.json()["state"], state);
        assert_eq!(answer.json()["verification"], "CE_OPTIONS");
    }
}

#[tokio::test]
async fn an_operator_may_require_that_receivers_agree() {
    let required = [("HOOKFLEET_REQUIRE_VERIFICATION", "true")];
    let world = World::start_with(&required).await;
    world.receiver.reply_with("hook", |it, _| consent(it, &[]));
    world.subscribe("hook", Verification::Unspecified).await;
    in_force(&world.channel, &name("hook")).await;
    assert_eq!(
        world.get("hook").await.verification(),
        Verification::CeOptions
    );
    // Without an origin of its own, a server on one machine is introduced as that.
    assert_eq!(
        world
            .question("hook")
            .await
            .header("webhook-request-origin"),
        "localhost"
    );
    assert_eq!(
        world
            .question("hook")
            .await
            .header("webhook-request-callback"),
        ""
    );
    for (method, reason) in [
        (Verification::None, "calls nobody who has not agreed"),
        (Verification::ConfirmUrl, "has no public_url"),
    ] {
        let asked = world.asking("hook", method);
        let refused = subscribe(&world.channel, "acme", "other", asked)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let text = format!("{refused:?}");
        assert!(text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn a_verification_goes_on_when_everything_is_killed_in_the_middle() {
    let world = World::start().await;
    world
        .receiver
        .reply_with("hook", |it, n_before| match n_before {
            0 => Reply {
                delay: PATIENCE,
                ..Reply::default()
            },
            _ => consent(it, &[]),
        });
    world.subscribe("hook", Verification::CeOptions).await;
    world.question("hook").await;
    let world = world.restart();
    in_force(&world.channel, &name("hook")).await;
    assert_eq!(world.receiver.received_at("hook").len(), 2);
}

#[tokio::test]
async fn a_verification_goes_on_at_the_agent_that_gets_the_slot() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane_with_origin(dir.path(), etcd.endpoint());
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    let receiver = Receiver::start().await;
    receiver.reply_with("hook", |it, n_before| match n_before {
        0 | 1 => Reply {
            delay: PATIENCE,
            ..Reply::default()
        },
        _ => consent(it, &[]),
    });
    let channel = plane.channel();
    create_tenant(&channel, "acme").await;
    let asked = Subscription {
        verification: Verification::CeOptions.into(),
        ..to(receiver.url("hook"))
    };
    subscribe(&channel, "acme", "hook", asked).await.unwrap();
    let asked_times = async |n_times: usize| {
        eventually("the receiver is asked", PATIENCE, || async {
            let n_asked = receiver.received_at("hook").len();
            (n_asked >= n_times).then_some(()).ok_or(n_asked)
        })
        .await;
    };
    // Killed in the middle, it goes on where it was.
    asked_times(1).await;
    first.kill();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    asked_times(2).await;
    // One that leaves is followed by another.
    let second = agent_command(&dir.path().join("second"), plane.address);
    let _second = Process::start(second, "127.0.0.1:0");
    assert!(first.terminate().await.success());
    in_force(&channel, &name("hook")).await;
}

/// A server on one machine, with a public name, and a receiver.
struct World {
    server: Process,
    channel: Channel,
    receiver: Receiver,
    settings: Vec<(&'static str, &'static str)>,
    dir: TempDir,
}

impl World {
    async fn start() -> Self {
        Self::start_with(&[("HOOKFLEET_PUBLIC_URL", PUBLIC)]).await
    }

    async fn start_with(settings: &[(&'static str, &'static str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path(), settings);
        let channel = server.channel();
        create_tenant(&channel, "acme").await;
        Self {
            server,
            channel,
            receiver: Receiver::start().await,
            settings: settings.to_vec(),
            dir,
        }
    }

    /// Kills the server as `kill -9` does, and starts it again.
    fn restart(self) -> Self {
        self.server.kill();
        let server = server(self.dir.path(), &self.settings);
        Self {
            channel: server.channel(),
            server,
            ..self
        }
    }

    fn asking(&self, path: &str, method: Verification) -> Subscription {
        Subscription {
            verification: method.into(),
            ..to(self.receiver.url(path))
        }
    }

    /// A subscription that is named as its path.
    async fn subscribe(&self, path: &str, method: Verification) -> Subscription {
        let asked = self.asking(path, method);
        subscribe(&self.channel, "acme", path, asked).await.unwrap()
    }

    async fn get(&self, id: &str) -> Subscription {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let request = GetSubscriptionRequest { name: name(id) };
        client.get_subscription(request).await.unwrap().into_inner()
    }

    async fn verify(&self, id: &str) -> Result<Subscription, tonic::Status> {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let request = VerifySubscriptionRequest {
            name: name(id),
            etag: String::new(),
        };
        let verified = client.verify_subscription(request).await;
        verified.map(tonic::Response::into_inner)
    }

    async fn move_to(&self, path: &str) {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let request = UpdateSubscriptionRequest {
            subscription: Some(Subscription {
                name: name("hook"),
                callback_url: self.receiver.url(path),
                ..Subscription::default()
            }),
            ..UpdateSubscriptionRequest::default()
        };
        client.update_subscription(request).await.unwrap();
    }

    async fn until(&self, id: &str, is: impl Fn(&Subscription) -> bool) -> Subscription {
        self.until_within(id, PATIENCE, is).await
    }

    async fn until_within(
        &self,
        id: &str,
        patience: Duration,
        is: impl Fn(&Subscription) -> bool,
    ) -> Subscription {
        let is = &is;
        eventually(
            "the subscription is as it should be",
            patience,
            || async move {
                let found = self.get(id).await;
                if is(&found) { Ok(found) } else { Err(found) }
            },
        )
        .await
    }

    /// What the receiver was asked first.
    async fn question(&self, path: &str) -> Received {
        eventually("the receiver is asked", PATIENCE, || async {
            let received = self.receiver.received_at(path);
            received.into_iter().next().ok_or("nothing")
        })
        .await
    }

    /// The callbacks to a path, once there are so many.
    async fn callbacks(&self, path: &str, n_callbacks: usize) -> Vec<Received> {
        eventually("callbacks", PATIENCE, || async {
            let received = self.receiver.received_at(path).into_iter();
            let callbacks: Vec<_> = received
                .filter(|it| !it.header("hookfleet-delivery-id").is_empty())
                .collect();
            let has_all = callbacks.len() >= n_callbacks;
            if has_all {
                Ok(callbacks)
            } else {
                Err(callbacks)
            }
        })
        .await
    }
}

fn server(data_dir: &Path, settings: &[(&str, &str)]) -> Process {
    let mut command = hookfleet();
    command.arg("standalone").arg("--data-dir").arg(data_dir);
    command.envs(settings.iter().copied());
    Process::start(command, "127.0.0.1:0")
}

fn control_plane_with_origin(dir: &Path, etcd: &str) -> Process {
    let mut command = hookfleet();
    command.args(["control-plane", "--etcd", etcd, "--allow-loopback-targets"]);
    command.arg("--key-file").arg(dir.join("secrets.key"));
    command.env("HOOKFLEET_ORIGIN", ORIGIN);
    Process::start(command, "127.0.0.1:0")
}

/// The audit log of a server.
fn audited(data_dir: &Path) -> String {
    let files = std::fs::read_dir(data_dir.join("audit")).unwrap();
    let texts = files.map(|it| std::fs::read_to_string(it.unwrap().path()).unwrap());
    texts.collect()
}

fn name(id: &str) -> String {
    format!("tenants/acme/subscriptions/{id}")
}

fn status(subscription: &Subscription) -> &VerificationStatus {
    let status = subscription.verification_status.as_ref();
    status.expect("a receiver is asked")
}

/// Agrees to OPTIONS, to whoever asks.
fn consent(received: &Received, headers: &[(&'static str, &str)]) -> Reply {
    let allowed = received.header("webhook-request-origin").to_owned();
    let others = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    let headers = std::iter::once(("webhook-allowed-origin", allowed)).chain(others);
    Reply {
        headers: headers
            .filter(|_| received.method == Method::OPTIONS)
            .collect(),
        ..Reply::default()
    }
}

/// The challenge of a callback that has one.
fn challenge(received: &Received) -> Option<String> {
    let event = received.json();
    event["data"]["challenge"].as_str().map(ToOwned::to_owned)
}

fn say(body: String) -> Reply {
    Reply {
        body,
        ..Reply::default()
    }
}

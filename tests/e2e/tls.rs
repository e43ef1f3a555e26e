//! TLS through the real binary: a fleet that knows its parts by certificates, from etcd to the receiver, and whom it does
//! not let in.

use std::{
    error::Error as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use hookfleet_contract::time::Timestamp;
use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_gateway::{
    clock::Clock,
    peers::{Authorization, Dialer, Peer, Peers},
    test_support::{Authority, Issued},
    tls::peer::PeerTls,
};
use hookfleet_proto::{
    fleet::{
        ForwardRequest, Hello, SyncRequest, relay_service_client::RelayServiceClient,
        sync_request::Message, sync_service_client::SyncServiceClient,
    },
    v1::{
        PublishRequest, PublishStreamRequest, PublishStreamResponse, publish_result,
        publish_stream_response::Message as Told, publisher_service_client::PublisherServiceClient,
    },
};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::{
    api::event,
    eventually,
    process::{Process, hookfleet},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// An agent's certificate.
fn agent(authority: &Authority, id: &str) -> Issued {
    authority.issue(id, &[&format!("spiffe://example.org/agent/{id}")])
}

/// What a process of the fleet is started with.
fn command(kind: &str, authority: &Authority, own: &Issued) -> Command {
    let mut command = hookfleet();
    command.args([kind, "--allow-loopback-targets", "--authentication"]);
    command.args(["--trust-domain", "example.org", "--tls-cert-file"]);
    command.arg(&own.certificate);
    command.arg("--tls-key-file").arg(&own.key);
    command.arg("--tls-client-ca-file").arg(authority.file());
    command.arg("--fleet-ca-file").arg(authority.file());
    command
}

/// A control plane's command, that knows whom to believe of etcd and shows it nothing.
fn control_plane(dir: &Path, authority: &Authority, own: &Issued, etcd: &TestEtcd) -> Command {
    let mut command = command("control-plane", authority, own);
    command.args(["--etcd", etcd.endpoint(), "--etcd-ca-file"]);
    command.arg(authority.file());
    for name in ["key", "first-key", "fleet-key"] {
        command.arg(format!("--{name}-file")).arg(dir.join(name));
    }
    command
}

/// Runs a command of an operator; what it prints, or says is wrong.
fn operate(server: SocketAddr, more: &[&Path], arguments: &[&str]) -> Result<String, String> {
    let mut command = hookfleet();
    command.args(arguments);
    command.arg("--server").arg(format!("https://{server}"));
    for (flag, file) in ["--ca-file", "--api-key-file"].iter().zip(more) {
        command.arg(flag).arg(file);
    }
    let operated = command.output();
    let Output {
        status,
        stdout,
        stderr,
    } = operated.map_err(|error| error.to_string())?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    match status.success() {
        true => Ok(text(&stdout)),
        false => Err(text(&stderr)),
    }
}

/// A connection with a certificate, a key, or neither.
fn peer(server: &Process, tls: PeerTls, key: Option<&str>) -> Peer {
    let key = key.map(|it| it.parse().unwrap());
    let authorization = key.as_ref().map(Authorization::with).unwrap_or_default();
    let peers = Peers::new(Dialer { authorization, tls });
    let url = format!("https://{}", server.address);
    peers.peer(&url, |_| true).unwrap()
}

/// Forwards an event as only agents may.
async fn forward(agent: &Process, tls: PeerTls) -> Result<(), Status> {
    let mut client = RelayServiceClient::new(peer(agent, tls, None));
    client.forward(ForwardRequest::default()).await.map(drop)
}

/// Says to be this agent.
async fn sync_as(plane: &Process, tls: PeerTls, agent_id: &str) -> Result<(), Status> {
    let hello = Hello {
        agent_id: agent_id.to_owned(),
        address: "https://127.0.0.1:1".to_owned(),
        ..Hello::default()
    };
    let request = SyncRequest {
        message: Some(Message::Hello(hello)),
    };
    let mut client = SyncServiceClient::new(peer(plane, tls, None));
    client.sync(tokio_stream::iter([request])).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_knows_its_parts_by_certificates_delivers_and_lets_nobody_else_in() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let member = authority.issue("etcd", &[]);
    let etcd = TestEtcd::start_secure(&authority.file(), &member.certificate, &member.key).await;
    let own = authority.issue("plane", &["spiffe://example.org/control/plane"]);

    // etcd lets nobody in either.
    let mut unknown = control_plane(dir.path(), &authority, &own, &etcd);
    let unknown = unknown.args(["--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(!unknown.status.success());
    let mut known = control_plane(dir.path(), &authority, &own, &etcd);
    known.arg("--etcd-cert-file").arg(&own.certificate);
    known.arg("--etcd-key-file").arg(&own.key);
    let plane = Process::start(known, "127.0.0.1:0");
    let certificates = ["first", "second"].map(|id| agent(&authority, id));
    let agents = [0, 1].map(|index: usize| {
        let id = ["first", "second"][index];
        let mut command = command("agent", &authority, &certificates[index]);
        command.args(["--agent-id", id, "--control-plane"]);
        command.arg(format!("https://{}", plane.address));
        command.arg("--data-dir").arg(dir.path().join(id));
        command
            .arg("--fleet-key-file")
            .arg(dir.path().join("there-is-none"));
        Process::start(command, "127.0.0.1:0")
    });
    let (ca, first_key) = (authority.file(), dir.path().join("first-key"));
    let admin = |arguments: &[&str]| operate(plane.address, &[&ca, &first_key], arguments);
    eventually("both have slots", PATIENCE, || async {
        let placement = admin(&["fleet", "status"])?;
        let is_even = placement.matches("512").count() == 2;
        is_even.then_some(()).ok_or(placement)
    })
    .await;

    let receiver = Receiver::start().await;
    for tenant in TENANTS {
        let url = receiver.url(tenant);
        admin(&["tenant", "create", tenant]).unwrap();
        admin(&["subscription", "create", tenant, &url, "orders"]).unwrap();
        eventually("it is in force", PATIENCE, || async {
            let listed = admin(&["subscription", "list", tenant])?;
            let is_in_force = listed.contains("ACTIVE");
            is_in_force.then_some(()).ok_or(listed)
        })
        .await;
    }
    let scopes = ["--scope", "events.publish", "--scope", "attempts.read"];
    let key = admin(&[&["key", "create"], &scopes[..]].concat()).unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(agents[0].address).await.unwrap());
    }
    publish_everywhere(&agents, &authority, &key).await;
    eventually("all is received", PATIENCE, || async {
        let n_received = TENANTS.map(|tenant| receiver.received_at(tenant).len());
        let are_all = n_received.iter().all(|it| *it >= 2) && n_received[0] >= 4;
        are_all.then_some(()).ok_or(n_received)
    })
    .await;
    // The control plane asks the agents.
    eventually("deliveries are listed", PATIENCE, || async {
        let listed = admin(&["deliveries", "list", "acme"])?;
        let is_there = listed.contains("SUCCEEDED");
        is_there.then_some(()).ok_or(listed)
    })
    .await;

    nobody_else_gets_in(&plane, &agents[0], &authority, &certificates[0]).await;
    rotation_ends_no_stream(&agents[1], &authority, &certificates[1], &key).await;
    expiry_ends_streams(&agents[0], &authority, &key).await;
}

/// Through both agents, of which one is not the owner, by gRPC and by HTTP/1.1.
async fn publish_everywhere(agents: &[Process; 2], authority: &Authority, key: &str) {
    let mut n_events = 0;
    for agent in agents {
        let client = PublisherServiceClient::new(peer(agent, authority.peer(None), Some(key)));
        for tenant in TENANTS {
            n_events += 1;
            let request = PublishRequest {
                parent: format!("tenants/{tenant}"),
                events: vec![event(&n_events.to_string(), "orders.created", "{}")],
            };
            eventually("the event is accepted", PATIENCE, || {
                let (mut client, request) = (client.clone(), request.clone());
                async move {
                    let published = client.publish(request).await.map_err(|it| it.to_string());
                    let result = published?
                        .into_inner()
                        .results
                        .pop()
                        .and_then(|it| it.result);
                    match result {
                        Some(publish_result::Result::Receipt(_)) => Ok(()),
                        other => Err(format!("{other:?}")),
                    }
                }
            })
            .await;
        }
        let certificate = std::fs::read(authority.file()).unwrap();
        let certificate = reqwest::Certificate::from_pem(&certificate).unwrap();
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .tls_certs_only([certificate])
            .build()
            .unwrap();
        n_events += 1;
        let body = format!(
            r#"{{"specversion": "1.0", "id": "{n_events}", "source": "urn:h", "type": "orders.created"}}"#
        );
        let answer = http
            .post(format!("https://{}/v1/tenants/acme/events", agent.address))
            .header("content-type", "application/cloudevents+json")
            .header("x-api-key", key)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_11);
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{status} {text}");
    }
}

/// A16, A18, and those that nobody has heard of.
async fn nobody_else_gets_in(
    plane: &Process,
    agent: &Process,
    authority: &Authority,
    first: &Issued,
) {
    let shows = |uris: &[&str]| authority.peer(Some(&authority.issue("stranger", uris)));
    let id = "spiffe://example.org/agent/stranger";
    for (what, tls) in [
        ("nothing", authority.peer(None)),
        ("no identity", shows(&[])),
        ("two", shows(&[id, "spiffe://example.org/agent/first"])),
        (
            "another domain",
            shows(&["spiffe://example.com/agent/first"]),
        ),
        (
            "a way around",
            shows(&["spiffe://example.org/agent/../control/x"]),
        ),
    ] {
        let refused = forward(agent, tls.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
        let refused = sync_as(plane, tls, "stranger").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
    }
    let other = Authority::new();
    let forged = self::agent(&other, "first");
    let refused = forward(agent, authority.peer(Some(&forged))).await;
    // Of the connection: what the agent says has no source.
    let refused = refused.unwrap_err();
    assert!(refused.source().is_some(), "{refused}");

    let tls = authority.peer(Some(first));
    let refused = sync_as(plane, tls.clone(), "second").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let control = shows(&["spiffe://example.org/control/plane"]);
    let refused = sync_as(plane, control, "second").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    // It is known, and what it sends is not good.
    let refused = forward(agent, tls).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

/// A stream of a publisher.
struct Publishing {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<PublishStreamResponse>,
}

impl Publishing {
    async fn start(peer: Peer, first: i64) -> Self {
        let (requests, stream) = mpsc::channel(1);
        requests.send(Self::request(first)).await.unwrap();
        let mut client = PublisherServiceClient::new(peer);
        let responses = client.publish_stream(ReceiverStream::new(stream)).await;
        let responses = responses.unwrap().into_inner();
        let mut publishing = Self {
            requests,
            responses,
        };
        assert_eq!(publishing.acknowledged().await.unwrap(), Some(first));
        publishing
    }

    async fn publish(&mut self, sequence: i64) {
        self.requests.send(Self::request(sequence)).await.unwrap();
        assert_eq!(self.acknowledged().await.unwrap(), Some(sequence));
    }

    /// The next acknowledgement, if there is one before the end.
    async fn acknowledged(&mut self) -> Result<Option<i64>, Status> {
        while let Some(response) = self.responses.message().await? {
            if let Some(Told::Ack(ack)) = response.message {
                return Ok(Some(ack.sequence));
            }
        }
        Ok(None)
    }

    fn request(sequence: i64) -> PublishStreamRequest {
        PublishStreamRequest {
            sequence,
            parent: "tenants/acme".to_owned(),
            event: Some(event(&format!("s{sequence}"), "orders.created", "{}")),
        }
    }
}

async fn rotation_ends_no_stream(agent: &Process, authority: &Authority, own: &Issued, key: &str) {
    let mut stream = Publishing::start(peer(agent, authority.peer(None), Some(key)), 1).await;
    assert_eq!(authority.shown_by(agent.address).await, own.der);
    let new = authority.issue("new", &["spiffe://example.org/agent/second"]);
    own.replace_by(&new);
    eventually("the new certificate is shown", PATIENCE, || async {
        let is_new = authority.shown_by(agent.address).await == new.der;
        is_new.then_some(()).ok_or("the old one is")
    })
    .await;
    stream.publish(2).await;
}

/// A17.
async fn expiry_ends_streams(agent: &Process, authority: &Authority, key: &str) {
    // Certificates tell whole seconds.
    let not_after = Timestamp(Clock::system().now().0 / 1000 * 1000 + 10_000);
    let short = authority.issue_until("short", &[], not_after);
    let mut stream =
        Publishing::start(peer(agent, authority.peer(Some(&short)), Some(key)), 3).await;
    let ended = timeout(Duration::from_secs(10 + 60), stream.acknowledged()).await;
    ended.expect("it ends with the certificate").unwrap_err();
    assert!(Clock::system().now() >= not_after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_server_serves_tls_by_a_certificate_that_need_not_name_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let own = authority.issue_for("server", "localhost");
    let mut command = hookfleet();
    command.args(["standalone", "--tls-cert-file"]);
    command.arg(&own.certificate);
    command.arg("--tls-key-file").arg(&own.key);
    command.arg("--data-dir").arg(dir.path());
    let server = Process::start(command, "127.0.0.1:0");
    let receiver = Receiver::start().await;
    let ca = authority.file();
    let operate = |arguments: &[&str]| {
        let mut command = hookfleet();
        let url = format!("https://localhost:{}", server.address.port());
        command.args(arguments).args(["--server", &url]);
        command.arg("--ca-file").arg(&ca);
        let Output { status, stderr, .. } = command.output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{arguments:?}: {said}");
    };
    operate(&["tenant", "create", "acme"]);
    operate(&[
        "subscription",
        "create",
        "acme",
        &receiver.url("hook"),
        "orders",
    ]);
    eventually("an event is received", PATIENCE, || async {
        operate(&["publish", "acme", "orders.created", "{}"]);
        let n_received = receiver.received_at("hook").len();
        (n_received > 0).then_some(()).ok_or(n_received)
    })
    .await;
    // Without the authority nobody believes it.
    let unbelieved = operate_nothing(server.address);
    assert!(unbelieved.contains("cannot reach"), "{unbelieved}");
}

fn operate_nothing(server: SocketAddr) -> String {
    operate(server, &[], &["tenant", "list"]).unwrap_err()
}

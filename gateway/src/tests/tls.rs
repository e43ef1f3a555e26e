//! TLS at the listener: what it shows, whom it asks for a certificate, what becomes of silent clients, of certificates that
//! are replaced and of those that end; and the caller's side.

use std::{error::Error as _, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use hookfleet_contract::time::Timestamp;
use hookfleet_proto::v1::{ListTenantsRequest, tenant_service_client::TenantServiceClient};
use rustls::{
    ProtocolVersion,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{LIFETIME, World};
use crate::{
    auth::{Auth, keyring::Keyring},
    clock::Clock,
    peers::{Dialer, Peer, Peers},
    test_support::{Authority, Issued},
    tls::{
        Error,
        files::Files,
        peer::PeerTls,
        server::{ServerTls, Settings},
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Everybody is asked, and nobody has a key.
async fn asking(files: Files, must_show: bool, clock: Clock) -> World {
    let keyring = Keyring::default();
    keyring.set_complete();
    let settings = Settings {
        files,
        clients_must_show: must_show,
        trust_domain: "example.org".parse().unwrap(),
    };
    let tls = ServerTls::start(settings, clock.clone()).unwrap();
    World::start_secure(Auth::on(keyring, clock), LIFETIME, Some(tls)).await
}

/// Nobody is asked who they are.
async fn open(issued: &Issued) -> World {
    let settings = Settings {
        files: Files {
            authorities: None,
            own: Some((issued.certificate.clone(), issued.key.clone())),
        },
        clients_must_show: false,
        trust_domain: "example.org".parse().unwrap(),
    };
    let tls = ServerTls::start(settings, Clock::system()).unwrap();
    World::start_secure(Auth::off(), LIFETIME, Some(tls)).await
}

/// Lists tenants over a connection of its own.
async fn list(world: &World, tls: PeerTls) -> Result<(), Status> {
    list_by(peer(world, &Peers::new(dialer(tls)))).await
}

async fn list_by(peer: Peer) -> Result<(), Status> {
    let mut client = TenantServiceClient::new(peer);
    let listed = client.list_tenants(ListTenantsRequest::default()).await;
    listed.map(drop)
}

/// Whether a call failed for its connection: what the server says has no source.
fn is_cut_off(called: Result<(), Status>) -> bool {
    called.is_err_and(|it| it.source().is_some())
}

fn peer(world: &World, peers: &Peers) -> Peer {
    peers.peer(&url(world), |_| true).unwrap()
}

fn dialer(tls: PeerTls) -> Dialer {
    Dialer {
        tls,
        ..Dialer::default()
    }
}

fn url(world: &World) -> String {
    format!("https://{}", world.address)
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Looks for as long as it takes to see new files three times.
async fn stays(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert!(check().await, "{what}: not any more");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn both_versions_of_tls_carry_http_1_and_grpc() {
    let authority = Authority::new();
    let world = open(&authority.issue("server", &[])).await;
    for (version, expected) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let mut stream = authority
            .connect(world.address, &[version], b"http/1.1")
            .await;
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(expected));
        assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
        let head = "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    list(&world, authority.peer(None)).await.unwrap();
    // Whoever believes others does not believe this one.
    let foreign = list(&world, Authority::new().peer(None)).await;
    assert!(is_cut_off(foreign));
    let public = list(&world, PeerTls::default()).await;
    assert!(is_cut_off(public));
}

#[tokio::test]
async fn a_new_certificate_is_shown_once_it_is_whole_and_open_streams_go_on() {
    let authority = Authority::new();
    let server = authority.issue("server", &[]);
    let world = open(&server).await;
    let endpoint = dialer(authority.peer(None)).endpoint(&url(&world)).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let mut watch = client
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    assert_eq!(authority.shown_by(world.address).await, server.der);

    // A certificate without its key, and one that is not all there, are not taken.
    let (other, new) = (authority.issue("other", &[]), authority.issue("new", &[]));
    fs::copy(&other.certificate, &server.certificate).unwrap();
    stays("the old certificate is shown", async || {
        authority.shown_by(world.address).await == server.der
    })
    .await;
    let half = fs::read(&new.certificate).unwrap();
    fs::write(&server.certificate, &half[..half.len() / 2]).unwrap();
    fs::copy(&new.key, &server.key).unwrap();
    stays("the old certificate is shown", async || {
        authority.shown_by(world.address).await == server.der
    })
    .await;
    fs::write(&server.certificate, &half).unwrap();
    eventually("the new certificate is shown", async || {
        authority.shown_by(world.address).await == new.der
    })
    .await;
    world.readiness.set("store", true);
    watch.message().await.unwrap().unwrap();
    client.check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_from_connecting_and_are_cut_off() {
    let authority = Authority::new();
    let world = open(&authority.issue("server", &[])).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(world.address).await.unwrap());
    }
    let listed = timeout(Duration::from_secs(4), list(&world, authority.peer(None)));
    listed.await.expect("at once").unwrap();
    for mut stream in silent {
        let mut byte = [0];
        let read = timeout(PATIENCE, stream.read(&mut byte)).await;
        assert!(matches!(read.expect("in time"), Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn a_certificate_of_the_fleet_opens_what_a_key_of_the_fleet_does() {
    let authority = Authority::new();
    let server = authority.issue("server", &[]);
    let world = asking(authority.files(&server), false, Clock::system()).await;
    let nobody = list(&world, authority.peer(None)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);

    // They are known, and may not do what this asks.
    for (name, uri) in [
        ("agent", "spiffe://example.org/agent/a"),
        ("control", "spiffe://example.org/control/a"),
    ] {
        let issued = authority.issue(name, &[uri]);
        let known = list(&world, authority.peer(Some(&issued))).await;
        assert_eq!(known.unwrap_err().code(), Code::PermissionDenied, "{name}");
    }
    // A18.
    for (name, uris) in [
        ("none", &[][..]),
        ("domain", &["spiffe://example.com/agent/a"]),
        ("path", &["spiffe://example.org/agent/../control/x"]),
        (
            "two",
            &[
                "spiffe://example.org/agent/a",
                "spiffe://example.org/agent/b",
            ],
        ),
    ] {
        let issued = authority.issue(name, uris);
        let unknown = list(&world, authority.peer(Some(&issued))).await;
        assert_eq!(unknown.unwrap_err().code(), Code::Unauthenticated, "{name}");
    }
    // What others say of somebody is not heard at all, even where nothing has to be said.
    let other = Authority::new();
    let forged = other.issue("agent", &["spiffe://example.org/agent/a"]);
    assert!(is_cut_off(
        list(&world, authority.peer(Some(&forged))).await
    ));
}

#[tokio::test]
async fn where_certificates_are_required_nobody_gets_in_without() {
    let authority = Authority::new();
    let server = authority.issue("server", &[]);
    let world = asking(authority.files(&server), true, Clock::system()).await;
    assert!(is_cut_off(list(&world, authority.peer(None)).await));
    let issued = authority.issue("agent", &["spiffe://example.org/agent/a"]);
    let with = list(&world, authority.peer(Some(&issued))).await;
    assert_eq!(with.unwrap_err().code(), Code::PermissionDenied);
}

/// A17.
#[tokio::test]
async fn connections_end_with_the_certificate_of_their_client() {
    let authority = Authority::new();
    let server = authority.issue("server", &[]);
    let end = Timestamp(2_208_988_800_000);
    let clock = Clock::fixed(Timestamp(end.0 - 100));
    let world = asking(authority.files(&server), false, clock.clone()).await;
    let watch = async |issued: Option<&Issued>| {
        let tls = authority.peer(issued);
        let endpoint = dialer(tls).endpoint(&url(&world)).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        let request = HealthCheckRequest::default();
        let mut watch = client.watch(request).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        watch
    };
    let short = authority.issue_until("short", &["spiffe://example.org/agent/a"], end);
    let mut mortal = watch(Some(&short)).await;
    let mut lasting = watch(None).await;
    clock.set(end);
    let ended = timeout(Duration::from_secs(20), mortal.message()).await;
    assert!(ended.expect("in time").is_err());
    world.readiness.set("store", true);
    lasting.message().await.unwrap().unwrap();
    // And whoever connects by it all the same is nobody.
    let refused = list(&world, authority.peer(Some(&short))).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_caller_shows_its_new_certificate_without_being_started_again() {
    let authority = Authority::new();
    let server = authority.issue("server", &[]);
    let world = asking(authority.files(&server), true, Clock::system()).await;
    let other = Authority::new();
    let foreign = other.issue("agent", &["spiffe://example.org/agent/a"]);
    let peers = Peers::new(dialer(authority.peer(Some(&foreign))));
    assert!(is_cut_off(list_by(peer(&world, &peers)).await));
    foreign.replace_by(&authority.issue("agent", &["spiffe://example.org/agent/a"]));
    eventually("the agent is known", async || {
        let listed = list_by(peer(&world, &peers)).await;
        listed.is_err_and(|it| it.code() == Code::PermissionDenied)
    })
    .await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_at_the_start() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one", &[]), authority.issue("other", &[]));
    let start = |files: Files| {
        let settings = Settings {
            files: files.clone(),
            clients_must_show: false,
            trust_domain: "example.org".parse().unwrap(),
        };
        let served = ServerTls::start(settings, Clock::system()).map(drop);
        let called = PeerTls::start(files).map(drop);
        assert_eq!(served.is_ok(), called.is_ok(), "{served:?} {called:?}");
        served
    };
    start(authority.files(&one)).unwrap();
    let mixed = Issued {
        key: other.key.clone(),
        ..one.clone()
    };
    assert!(matches!(
        start(authority.files(&mixed)),
        Err(Error::Unusable(_))
    ));
    let files = Files {
        authorities: Some(one.key.clone()),
        ..authority.files(&one)
    };
    assert!(matches!(start(files), Err(Error::Missing { .. })));
    fs::set_permissions(&one.key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        start(authority.files(&one)),
        Err(Error::Read { .. })
    ));
    fs::remove_file(&other.certificate).unwrap();
    assert!(matches!(
        start(authority.files(&other)),
        Err(Error::Read { .. })
    ));
}

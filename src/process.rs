//! Running processes: what a standalone server, a control plane and an agent are made of, and how
//! they end.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use hookfleet_contract::{target::Rules, zone::Zone};
use hookfleet_control_plane::{
    ControlPlane,
    store::{Embedded, Etcd, Store, embedded::Retention, etcd},
};
use hookfleet_delivery_agent::{identity::Identity, journal};
use hookfleet_gateway::{
    audit::Audit,
    auth::Auth,
    clock::Clock,
    peers::{Authorization, Dialer},
    readiness::Readiness,
    services::Services,
    tls::{files::Files, peer::PeerTls},
};
use tokio::net::TcpListener;

use crate::{
    access::{self, Access},
    config, issuers, key_file,
    member::Member,
    running::{Parts, Running, SUBSCRIPTIONS},
    telemetry, tls,
};

/// Any port that only this machine reaches.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The condition of readiness of a control plane.
const STORE: &str = hookfleet_control_plane::config::CONDITION;

/// Everything in one process on embedded storage.
pub(crate) struct Standalone;

// === impl Standalone ===

impl Standalone {
    /// Starts it and waits until it accepts events.
    pub(crate) async fn start(config: config::Standalone) -> anyhow::Result<Running> {
        let config::Standalone {
            listen,
            data_dir,
            authentication,
            verification,
            issuers,
            tls,
            audit_dir,
            limits,
            delivery,
        } = config;
        create(&data_dir)?;
        let measured = telemetry::measure()?;
        let secure = tls.server()?;
        let sealing_key = key_file::load_or_create(&data_dir.join("secrets.key"))?;
        let store_dir = data_dir.join("control-plane");
        let store = Embedded::open(&store_dir, Retention::default());
        let store = Arc::new(store.await.context("cannot open the store")?);
        let (listener, address) = bind(listen, authentication).await?;
        let readiness = Readiness::new(&[STORE, SUBSCRIPTIONS]);
        let control_plane = hookfleet_control_plane::Config::new(
            Arc::clone(&store) as Arc<dyn Store>,
            sealing_key,
            rules(delivery.allow_loopback_targets, delivery.allow_http_targets),
            readiness.clone(),
        );
        let mut settings = verification.rules();
        // On one machine that is who calls.
        settings
            .origin
            .get_or_insert_with(|| "localhost".to_owned());
        let control_plane = hookfleet_control_plane::Config {
            verification: settings,
            ..control_plane
        };
        let control_plane = ControlPlane::start(control_plane).await?;
        let access = if authentication {
            Access::standalone(&control_plane, &data_dir.join("first.key")).await?
        } else {
            Access::open()
        };
        let identity =
            Identity::load_or_create(&data_dir, Some("standalone".parse()?), rand::random())?;
        // What the certificate names may not be this machine, so the parts of this process meet elsewhere.
        let inner = match secure {
            Some(_) => Some((bind(LOOPBACK, true).await?, Access::within())),
            None => None,
        };
        let (meeting, authorization) = match &inner {
            Some(((_, address), access)) => (*address, access.authorization.clone()),
            None => (address, access.authorization),
        };
        let member = Member {
            identity,
            address: tls.url(address),
            weight: 100,
            zone: None,
            leaves: false,
            other_databases: vec![store_dir],
            dialer: Dialer {
                authorization,
                tls: PeerTls::default(),
            },
        };
        let meeting = [format!("http://{meeting}")];
        let limiter = limits.limiter(Some(&delivery));
        let memory = limits.memory();
        let agent = member.agent(&meeting, &data_dir, &delivery, &limiter, memory);
        let agent = agent.await?;
        let inner = inner.map(|((listener, _), access)| {
            let services = Services::new(readiness.clone()).guarded(access.auth);
            (listener, services.with(control_plane.sync_service()))
        });
        let services = Services::new(readiness.clone())
            .guarded(issuers::trusted(access.auth, &issuers)?)
            .audited(audit_log(&audit_dir, &data_dir).await?)
            .limited(limiter)
            .measured(measured)
            .within(memory)
            .confirmed_to(control_plane.confirmations())
            .with(control_plane.key_service())
            .with(control_plane.tenant_service())
            .with(control_plane.subscription_service())
            .with(control_plane.fleet_service())
            .with(control_plane.sync_service())
            .with(agent.publisher_service())
            .with(agent.relay_service())
            .with(agent.delivery_service());
        let ready = agent.ready();
        let mut parts = Parts::new();
        parts.run_agent(agent, readiness);
        parts.run_control_plane(control_plane);
        parts.watch_store(store);
        if let Some((listener, services)) = inner {
            parts.serve(listener, None, services, limits.connections())?;
        }
        parts.serve(listener, secure, services, limits.connections())?;
        if delivery.allow_loopback_targets {
            tracing::warn!("callback URLs may be on loopback: this server is for one machine");
        }
        let running = parts.running(address, tls.url(address));
        // Whoever starts it may use it at once.
        ready.cancelled().await;
        Ok(running)
    }
}

/// Starts a control plane on etcd.
pub(crate) async fn control_plane(config: config::ControlPlane) -> anyhow::Result<Running> {
    let measured = telemetry::measure()?;
    let sealing_key = key_file::load_or_create(&config.key_file)?;
    let agent_hold = Duration::from_secs(config.agent_hold_seconds);
    let secure = config.tls.server()?;
    let mut etcd = etcd::Config::new(config.etcd);
    etcd.tls = PeerTls::start(Files {
        own: tls::pair(&config.etcd_cert_file, &config.etcd_key_file),
        authorities: tls::named(&config.etcd_ca_file),
    })
    .context("cannot call etcd by TLS")?;
    let store = Etcd::connect(etcd);
    let store: Arc<dyn Store> = Arc::new(store.await.context("cannot use etcd")?);
    let (listener, address) = bind(config.listen, config.authentication).await?;
    let readiness = Readiness::new(&[STORE]);
    let control_plane = hookfleet_control_plane::Config::new(
        store,
        sealing_key,
        rules(config.allow_loopback_targets, config.allow_http_targets),
        readiness.clone(),
    );
    let control_plane = hookfleet_control_plane::Config {
        agent_hold,
        join_ramp: Duration::from_secs(config.join_ramp_seconds),
        verification: config.verification.rules(),
        ..control_plane
    };
    let control_plane = ControlPlane::start(control_plane).await?;
    let access = if config.authentication {
        let (first, fleet) = (&config.first_key_file, &config.fleet_key_file);
        Access::control_plane(&control_plane, first, fleet, config.tls.shows_certificate()).await?
    } else {
        Access::open()
    };
    let services = Services::new(readiness)
        .guarded(issuers::trusted(access.auth, &config.issuers)?)
        .audited(audit_log(&config.audit_dir, Path::new("")).await?)
        .limited(config.limits.limiter(None))
        .measured(measured)
        .within(config.limits.memory())
        .confirmed_to(control_plane.confirmations())
        .with(control_plane.key_service())
        .with(control_plane.tenant_service())
        .with(control_plane.subscription_service())
        .with(control_plane.fleet_service())
        .with(control_plane.sync_service())
        .with(control_plane.delivery_service(Dialer {
            authorization: access.authorization,
            tls: config.tls.peer()?,
        }));
    let mut parts = Parts::new();
    parts.run_control_plane(control_plane);
    let connections = config.limits.connections();
    parts.serve(listener, secure, services, connections)?;
    Ok(parts.running(address, config.tls.url(address)))
}

/// Starts an agent.
pub(crate) async fn agent(config: config::Agent) -> anyhow::Result<Running> {
    create(&config.data_dir)?;
    let measured = telemetry::measure()?;
    let agent_id = match config.agent_id.as_str() {
        "" => None,
        id => Some(id.parse().context("agent_id")?),
    };
    let identity = Identity::load_or_create(&config.data_dir, agent_id, rand::random())?;
    let secure = config.tls.server()?;
    let (listener, address) = bind(config.listen, config.authentication).await?;
    let authorization = if config.authentication {
        access::of_fleet(&config.fleet_key_file, config.tls.shows_certificate())?
    } else {
        Authorization::default()
    };
    let advertise = match config.advertise {
        it if it.is_empty() => config.tls.url(address),
        it => it,
    };
    let readiness = Readiness::new(&[SUBSCRIPTIONS]);
    let member = Member {
        identity,
        address: advertise,
        weight: config.weight,
        zone: Zone::optional(&config.zone).context("zone")?,
        leaves: !config.keep_slots,
        other_databases: Vec::new(),
        dialer: Dialer {
            authorization,
            tls: config.tls.peer()?,
        },
    };
    let limiter = config.limits.limiter(Some(&config.delivery));
    let agent = member.agent(
        &config.control_plane,
        &config.data_dir,
        &config.delivery,
        &limiter,
        config.limits.memory(),
    );
    let agent = agent.await?;
    let auth = if config.authentication {
        Auth::on(agent.keyring(), Clock::system())
    } else {
        Auth::off()
    };
    let services = Services::new(readiness.clone())
        .guarded(issuers::trusted(auth, &config.issuers)?)
        .audited(audit_log(&config.audit_dir, &config.data_dir).await?)
        .limited(limiter)
        .measured(measured)
        .within(config.limits.memory())
        .with(agent.publisher_service())
        .with(agent.relay_service())
        .with(agent.delivery_service());
    let mut parts = Parts::new();
    parts.run_agent(agent, readiness);
    let connections = config.limits.connections();
    parts.serve(listener, secure, services, connections)?;
    Ok(parts.running(address, config.tls.url(address)))
}

/// The audit log in a directory, which is in another unless it begins at the root.
async fn audit_log(dir: &Path, within: &Path) -> anyhow::Result<Audit> {
    if dir.as_os_str().is_empty() {
        tracing::warn!("there is no audit log");
        return Ok(Audit::off());
    }
    let dir = within.join(dir);
    let opened = tokio::task::spawn_blocking(|| Audit::open(dir, Clock::system())).await?;
    opened.context("cannot write the audit log")
}

pub(crate) fn rules(allow_loopback: bool, allow_http: bool) -> Rules {
    Rules {
        allow_http,
        allow_loopback,
        ..Rules::default()
    }
}

async fn bind(listen: SocketAddr, asks: bool) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    if !(address.ip().is_loopback() || asks) {
        tracing::warn!(%address, "whoever reaches this listener is trusted, with secrets too");
    }
    Ok((listener, address))
}

fn create(dir: &Path) -> anyhow::Result<()> {
    let create = || {
        std::fs::create_dir_all(dir)?;
        // Before anything is opened that writes.
        journal::release_reserve(&dir.join("journal"))
    };
    create().with_context(|| format!("cannot use {}", dir.display()))
}

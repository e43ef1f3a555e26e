//! How much memory does an agent need for its subscriptions, how long does it take to learn of them, how
//! long to read them back at a start, and how long to find those that want an event?
//!
//! Axes: the number of subscriptions, and over how many tenants they are spread.
//!
//! ```text
//! cargo bench -p hookfleet-delivery-agent --bench subscriptions -- --subscriptions 1000000
//! ```
//!
//! One process gets them as an agent does, in encoded updates of 1 MiB: mirror, directory, snapshot. Another reads
//! the snapshot. What sends them is not part of it.

#![expect(clippy::print_stdout, reason = "this is its output")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use hookfleet_contract::{name::TenantId, seal::Sealer, target::Rules};
use hookfleet_delivery_agent::{
    directory::Directory,
    sync::{mirror::Mirror, snapshot::Store},
};
use hookfleet_proto::{
    fleet::{Resource, ResourceType, SecretKey, SubscriptionSpec, Update, Welcome, resource::Body},
    v1,
};
use prost::Message as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As the control plane cuts them.
const CHUNK: u64 = 2000;
const EVENT_TYPES: [&str; 8] = [
    "orders",
    "orders.created",
    "orders.paid",
    "invoices",
    "customers.deleted",
    "shipments.sent",
    "shipments",
    "*",
];
const MATCHES: u64 = 1_000_000;

#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// How many subscriptions there are.
    #[arg(long, default_value_t = 1_000_000)]
    subscriptions: u64,
    /// Over how many tenants they are spread.
    #[arg(long, default_value_t = 50_000)]
    tenants: u64,
    /// Where; a temporary folder that is removed afterwards if left out.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Which of the processes this is.
    #[arg(long, hide = true)]
    phase: Option<Phase>,
    /// What cargo says.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Phase {
    Learn,
    Start,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = arguments.dir.as_deref();
    match (arguments.phase, dir) {
        (Some(Phase::Learn), Some(dir)) => learn(&arguments, dir),
        (Some(Phase::Start), Some(dir)) => start(&arguments, dir),
        (Some(_), None) => anyhow::bail!("a phase has a folder"),
        (None, _) => conduct(&arguments),
    }
}

/// Starts the processes, one after another.
fn conduct(arguments: &Arguments) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.as_deref().unwrap_or(temporary.path());
    let Arguments {
        subscriptions,
        tenants,
        ..
    } = arguments;
    println!("{subscriptions} subscriptions of {tenants} tenants");
    for phase in ["learn", "start"] {
        let status = Command::new(std::env::current_exe()?)
            .args(["--subscriptions", &subscriptions.to_string()])
            .args(["--tenants", &tenants.to_string()])
            .args(["--phase", phase])
            .arg("--dir")
            .arg(dir)
            .status()?;
        anyhow::ensure!(status.success(), "{phase} failed");
    }
    Ok(())
}

type Make = fn(&Arguments, u64) -> Resource;

fn learn(arguments: &Arguments, dir: &Path) -> anyhow::Result<()> {
    let store = open(dir)?;
    let (directory, mut mirror) = (Directory::default(), Mirror::new(Rules::default()));
    mirror.handle_welcome(&Welcome {
        cluster_id: "bench".to_owned(),
        slot_count: 1024,
        ..Welcome::default()
    })?;
    let before = status("VmRSS")?;
    let mut took = Duration::ZERO;
    let sets: [(ResourceType, u64, Make); 2] = [
        (ResourceType::Tenant, arguments.tenants, tenant),
        (
            ResourceType::Subscription,
            arguments.subscriptions,
            subscription,
        ),
    ];
    for (kind, n_resources, make) in sets {
        for first in (0..n_resources).step_by(usize::try_from(CHUNK)?) {
            let end = (first + CHUNK).min(n_resources);
            let resources = (first..end).map(|number| make(arguments, number));
            let update = Update {
                r#type: kind.into(),
                full: true,
                last_chunk: end == n_resources,
                revision: 1,
                upserts: resources.collect(),
                ..Update::default()
            };
            let encoded = update.encode_to_vec();
            drop(update);
            let started = Instant::now();
            let applied = mirror.handle_update(Update::decode(encoded.as_slice())?);
            anyhow::ensure!(applied.ack.rejections.is_empty(), "{:?}", applied.ack);
            store.save(&applied.rows, mirror.snapshot().as_ref())?;
            drop(directory.apply(applied.changes));
            took += started.elapsed();
        }
    }
    mirror.handle_bookmark(1);
    store.save(&[], mirror.snapshot().as_ref())?;
    store.sync()?;
    println!(
        "  learnt in {:.2} s; {:.0} MiB resident, {:.0} MiB at most, {:.0} MiB before",
        took.as_secs_f64(),
        status("VmRSS")?,
        status("VmHWM")?,
        before
    );
    find(arguments, &directory)?;
    let started = Instant::now();
    let mut one = subscription(arguments, arguments.subscriptions / 2);
    one.mod_revision = 2;
    let applied = mirror.handle_update(Update {
        r#type: ResourceType::Subscription.into(),
        revision: 2,
        upserts: vec![one],
        ..Update::default()
    });
    store.save(&applied.rows, mirror.snapshot().as_ref())?;
    drop(directory.apply(applied.changes));
    println!(
        "  one change: {:.0} µs",
        started.elapsed().as_secs_f64() * 1e6
    );
    Ok(())
}

fn start(arguments: &Arguments, dir: &Path) -> anyhow::Result<()> {
    let store = open(dir)?;
    let started = Instant::now();
    let loaded = store.load(&Rules::default())?;
    let (mirror, applied) = loaded.context("a snapshot")?;
    let directory = Directory::default();
    drop(directory.apply(applied.changes));
    println!(
        "  read back in {:.2} s; {:.0} MiB resident, {:.0} MiB at most",
        started.elapsed().as_secs_f64(),
        status("VmRSS")?,
        status("VmHWM")?
    );
    find(arguments, &directory)?;
    black_box(mirror);
    Ok(())
}

/// Finds the subscriptions that want events of random tenants.
fn find(arguments: &Arguments, directory: &Directory) -> anyhow::Result<()> {
    let tenants: Vec<TenantId> = (0..arguments.tenants.min(10_000))
        .map(|it| tenant_id(it * 7919 % arguments.tenants).parse())
        .collect::<Result<_, _>>()?;
    let started = Instant::now();
    let mut n_found = 0;
    for (id, number) in tenants.iter().cycle().zip(0..MATCHES) {
        let tenant = directory.tenant(id).context("a tenant")?;
        let event_type = if number % 2 == 0 {
            "orders.created"
        } else {
            "invoices.paid.late"
        };
        n_found += black_box(tenant.matching(event_type)).len();
    }
    println!(
        "  match: {:.2} µs for {:.1} subscriptions",
        started.elapsed().as_secs_f64() * 1e6 / MATCHES as f64,
        n_found as f64 / MATCHES as f64
    );
    Ok(())
}

fn open(dir: &Path) -> anyhow::Result<Store> {
    let database = fjall::Database::builder(dir.join("database")).open()?;
    Ok(Store::open(database, Sealer::new([7; 32]))?)
}

fn tenant_id(number: u64) -> String {
    format!("tenant-{number:06}")
}

fn tenant(_: &Arguments, number: u64) -> Resource {
    let name = format!("tenants/{}", tenant_id(number));
    Resource {
        name: name.clone(),
        mod_revision: 1,
        body: Some(Body::Tenant(v1::Tenant {
            name,
            ..v1::Tenant::default()
        })),
        shards: 1,
    }
}

/// As the control plane sends one that was made with the defaults. Tenants come one after another.
fn subscription(arguments: &Arguments, number: u64) -> Resource {
    let of = number * arguments.tenants / arguments.subscriptions;
    let name = format!(
        "tenants/{}/subscriptions/subscription-{number:08}",
        tenant_id(of)
    );
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let uid = uuid::Uuid::from_u64_pair(random, number).to_string();
    let event_type = EVENT_TYPES[usize::try_from(random >> 61).unwrap_or(0)];
    let key_id = format!("key-{random:016x}");
    let now = Some(prost_types::Timestamp {
        seconds: 1_700_000_000,
        nanos: 0,
    });
    Resource {
        name: name.clone(),
        mod_revision: 1,
        shards: 0,
        body: Some(Body::Subscription(SubscriptionSpec {
            verification: None,
            subscription: Some(v1::Subscription {
                name,
                uid,
                callback_url: format!("https://hooks.customer-{number}.com/webhooks/hookfleet"),
                event_types: vec![event_type.to_owned()],
                signing_keys: vec![v1::SigningKey {
                    key_id: key_id.clone(),
                    create_time: now,
                    ..v1::SigningKey::default()
                }],
                create_time: now,
                update_time: now,
                ..v1::Subscription::default()
            }),
            secret_keys: vec![SecretKey {
                key_id,
                secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3f0pq4oVSdI=".to_owned(),
                create_time: now,
                ..SecretKey::default()
            }],
        })),
    }
}

/// A number of `/proc/self/status`, in MiB.
fn status(field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|it| it.strip_prefix(field));
    let number = line.and_then(|it| it.split_whitespace().nth(1));
    Ok(number.context("a field of status")?.parse::<f64>()? / 1024.0)
}

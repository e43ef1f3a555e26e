//! `hookfleet demo`: the whole flow, live: a standalone server on a fresh directory, receivers good
//! and bad beside it, subscriptions, events of a bundled file, attempts, retries, a summary.

mod receiver;

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use clap::Args;
use hookfleet_contract::signature::Secret;
use hookfleet_proto::v1::{
    CreateSubscriptionRequest, CreateTenantRequest, Delivery, GetSubscriptionRequest,
    ListDeliveriesRequest, PublishRequest, RetryPolicy, Subscription, Tenant, delivery,
    delivery_service_client::DeliveryServiceClient, publish_result,
    publisher_service_client::PublisherServiceClient, retry_policy, subscription,
    subscription_service_client::SubscriptionServiceClient,
    tenant_service_client::TenantServiceClient,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::{command::publish, config, output, process::Standalone};
use receiver::{Receivers, Seen, Temper};

/// A day in the life of a web shop.
const EVENTS: &str = include_str!("events.jsonl");
const TENANT: &str = "tenants/acme";
/// Short, so that the demo is.
const RETRY_SECONDS: [i64; 2] = [1, 2];
/// How often to look whether everything is over.
const PAUSE: Duration = Duration::from_millis(100);

struct Subscriber {
    name: &'static str,
    event_types: &'static [&'static str],
    temper: Temper,
}

const SUBSCRIBERS: [Subscriber; 4] = [
    Subscriber {
        name: "warehouse",
        event_types: &["orders"],
        temper: Temper::Good,
    },
    Subscriber {
        name: "accounting",
        event_types: &["invoices", "payments", "orders.paid"],
        temper: Temper::Good,
    },
    Subscriber {
        name: "newsletter",
        event_types: &["orders.created"],
        temper: Temper::Moody,
    },
    Subscriber {
        name: "legacy-crm",
        event_types: &["orders.created"],
        temper: Temper::Failing,
    },
];

/// Show the whole flow live.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

impl Arguments {
    /// Runs the demo to its end.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
        let config = config::Standalone {
            listen: ([127, 0, 0, 1], 0).into(),
            data_dir: dir.path().to_owned(),
            ..config::Standalone::default()
        };
        let server = Standalone::start(config).await?;
        let channel = Endpoint::from_shared(format!("http://{}", server.address))?
            .connect()
            .await?;
        output::line(format_args!(
            "A standalone server listens on {}. Callbacks to loopback are allowed here, and only here.\n",
            server.address
        ));
        let shown = show(channel).await;
        server.stop().await?;
        shown
    }
}

async fn show(channel: Channel) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let _stop_receivers = shutdown.clone().drop_guard();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let (receivers, address) = Receivers::start(sender, shutdown).await?;
    create_tenant(channel.clone()).await?;
    for subscriber in &SUBSCRIBERS {
        receivers.add(subscriber.name, subscriber.temper);
        let url = format!("http://{address}/{}", subscriber.name);
        let secret = subscribe(channel.clone(), subscriber, url).await?;
        receivers.trust(subscriber.name, secret);
        let temper = match subscriber.temper {
            Temper::Good => "",
            Temper::Moody => ", which is down for some events' first attempt",
            Temper::Failing => ", which always answers 500, final for this one",
        };
        let types = subscriber.event_types.join(", ");
        output::line(format_args!(
            "subscribed {:<11} to {types}{temper}",
            subscriber.name
        ));
    }
    output::line("");

    let (n_events, n_deliveries) = publish_all(channel.clone()).await?;
    output::line(format_args!(
        "published {n_events} events, each on disk before it was acknowledged: {n_deliveries} deliveries\n"
    ));
    let mut summary = Summary::default();
    while n_settled(channel.clone()).await? < n_deliveries {
        match timeout(PAUSE, seen.recv()).await {
            Ok(Some(attempt)) => summary.add(&attempt),
            Ok(None) => break,
            Err(_) => {}
        }
        while let Ok(attempt) = seen.try_recv() {
            summary.add(&attempt);
        }
    }
    summary.print(n_events, &deliveries(channel, "").await?);
    Ok(())
}

async fn create_tenant(channel: Channel) -> anyhow::Result<()> {
    let request = CreateTenantRequest {
        tenant: Some(Tenant {
            display_name: "Acme Web Shop".to_owned(),
            ..Tenant::default()
        }),
        tenant_id: "acme".to_owned(),
        ..CreateTenantRequest::default()
    };
    TenantServiceClient::new(channel)
        .create_tenant(request)
        .await?;
    Ok(())
}

/// Subscribes, waits until the subscription is in force, and returns its secret.
async fn subscribe(
    channel: Channel,
    subscriber: &Subscriber,
    url: String,
) -> anyhow::Result<Secret> {
    let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
    let schedule = retry_policy::Schedule::Delays(retry_policy::Delays {
        delays: RETRY_SECONDS.map(seconds).to_vec(),
    });
    let request = CreateSubscriptionRequest {
        parent: TENANT.to_owned(),
        subscription: Some(Subscription {
            callback_url: url,
            event_types: subscriber
                .event_types
                .iter()
                .map(|it| (*it).to_owned())
                .collect(),
            retry_policy: Some(RetryPolicy {
                schedule: Some(schedule),
                // Else its deliveries would wait until it is well again.
                non_retryable_status_codes: match subscriber.temper {
                    Temper::Failing => vec![500],
                    Temper::Good | Temper::Moody => Vec::new(),
                },
                ..RetryPolicy::default()
            }),
            ..Subscription::default()
        }),
        subscription_id: subscriber.name.to_owned(),
        ..CreateSubscriptionRequest::default()
    };
    let mut client = SubscriptionServiceClient::new(channel);
    let created = client.create_subscription(request).await?.into_inner();
    loop {
        let name = created.name.clone();
        let now = client
            .get_subscription(GetSubscriptionRequest { name })
            .await?;
        if now.into_inner().state() == subscription::State::Active {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    created
        .signing_secret
        .parse()
        .context("the secret is not one")
}

async fn publish_all(channel: Channel) -> anyhow::Result<(usize, usize)> {
    let events = publish::parse(EVENTS.as_bytes())?;
    let n_events = events.len();
    let request = PublishRequest {
        parent: TENANT.to_owned(),
        events,
    };
    let response = PublisherServiceClient::new(channel)
        .publish(request)
        .await?;
    let mut n_deliveries = 0;
    for result in response.into_inner().results {
        match result.result {
            Some(publish_result::Result::Receipt(receipt)) => {
                n_deliveries += usize::try_from(receipt.delivery_count)?;
            }
            refused => anyhow::bail!("an event was refused: {refused:?}"),
        }
    }
    Ok((n_events, n_deliveries))
}

async fn n_settled(channel: Channel) -> anyhow::Result<usize> {
    let deliveries = deliveries(channel, "").await?;
    let is_settled = |it: &&Delivery| it.state() != delivery::State::Pending;
    Ok(deliveries.iter().filter(is_settled).count())
}

async fn deliveries(channel: Channel, filter: &str) -> anyhow::Result<Vec<Delivery>> {
    let request = ListDeliveriesRequest {
        parent: format!("{TENANT}/subscriptions/-"),
        page_size: 1000,
        filter: filter.to_owned(),
        ..ListDeliveriesRequest::default()
    };
    let response = DeliveryServiceClient::new(channel)
        .list_deliveries(request)
        .await?;
    Ok(response.into_inner().deliveries)
}

/// What the receivers saw.
#[derive(Debug, Default)]
struct Summary {
    n_attempts: usize,
    n_retries: usize,
    n_signed: usize,
}

impl Summary {
    /// Counts an attempt and shows it.
    fn add(&mut self, attempt: &Seen) {
        self.n_attempts += 1;
        self.n_retries += usize::from(attempt.attempt > 1);
        self.n_signed += usize::from(attempt.is_signed);
        let mark = match (attempt.status.is_success(), std::io::stdout().is_terminal()) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (false, true) => "\x1b[31m✗\x1b[0m",
            (true, false) => "✓",
            (false, false) => "✗",
        };
        let signature = if attempt.is_signed { "verified" } else { "BAD" };
        output::line(format_args!(
            "{mark} {:<11} {:<18} attempt {}  {}  signature {signature}",
            attempt.receiver,
            attempt.event_type,
            attempt.attempt,
            attempt.status.as_u16(),
        ));
    }

    fn print(&self, n_events: usize, deliveries: &[Delivery]) {
        let mut by_subscription: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for delivery in deliveries {
            let subscription = delivery.name.split('/').nth(3).unwrap_or_default();
            let counts = by_subscription.entry(subscription).or_default();
            counts[match delivery.state() {
                delivery::State::Succeeded => 0,
                delivery::State::DeadLettered => 1,
                delivery::State::Pending
                | delivery::State::HandedOver
                | delivery::State::Unspecified => 2,
            }] += 1;
        }
        output::line("");
        output::table(
            &["SUBSCRIPTION", "SUCCEEDED", "DEAD LETTERS", "PENDING"],
            by_subscription.iter().map(|(subscription, counts)| {
                let counts = counts.iter().map(ToString::to_string);
                std::iter::once((*subscription).to_owned())
                    .chain(counts)
                    .collect()
            }),
        );
        output::line(format_args!(
            "\n{n_events} events, {} deliveries, {} attempts, {} of them retries; {} signatures verified.\n\
             The failing endpoint cost only itself; its dead letters are kept for redelivery.",
            deliveries.len(),
            self.n_attempts,
            self.n_retries,
            self.n_signed,
        ));
    }
}

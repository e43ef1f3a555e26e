//! What is measured: who subscribes where, and how events come.

use clap::ValueEnum;
use hookfleet_proto::v1::{
    CreateSubscriptionRequest, CreateTenantRequest, GetSubscriptionRequest, Subscription, Tenant,
    subscription::State, subscription_service_client::SubscriptionServiceClient,
    tenant_service_client::TenantServiceClient,
};
use tonic::transport::Channel;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// One subscription, as fast as it goes.
    OneEndpoint,
    /// A thousand subscriptions to as many endpoints, each for its own events.
    ThousandEndpoints,
    /// Each event goes to a hundred endpoints.
    FanOut,
    /// A thousand endpoints at a fixed rate; one in twenty refuses connections, one in twenty never
    /// answers, one in fifty takes two seconds. Compared with the same without them.
    TenPercentDead,
    /// One event now and then.
    Idle,
}

/// Where events of a scenario go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Healthy,
    Refuses,
    Hangs,
    Slow,
}

impl Scenario {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OneEndpoint => "one-endpoint",
            Self::ThousandEndpoints => "thousand-endpoints",
            Self::FanOut => "fan-out",
            Self::TenPercentDead => "ten-percent-dead",
            Self::Idle => "idle",
        }
    }

    /// How many subscriptions there are.
    pub(super) fn n_subscriptions(self) -> usize {
        match self {
            Self::OneEndpoint | Self::Idle => 1,
            Self::ThousandEndpoints | Self::TenPercentDead => 1000,
            Self::FanOut => 100,
        }
    }

    /// Deliveries of each event.
    pub(super) fn fan_out(self) -> usize {
        match self {
            Self::FanOut => self.n_subscriptions(),
            Self::OneEndpoint | Self::ThousandEndpoints | Self::TenPercentDead | Self::Idle => 1,
        }
    }

    /// How many types of events there are.
    pub(super) fn n_types(self) -> usize {
        self.n_subscriptions() / self.fan_out()
    }

    /// Events in a second, where that is fixed.
    pub(super) fn rate(self) -> Option<f64> {
        match self {
            Self::TenPercentDead => Some(1000.0),
            Self::Idle => Some(50.0),
            Self::OneEndpoint | Self::ThousandEndpoints | Self::FanOut => None,
        }
    }

    fn temper(self, index: usize) -> Temper {
        match (self, index % 100) {
            (Self::TenPercentDead, 0..5) => Temper::Refuses,
            (Self::TenPercentDead, 5..10) => Temper::Hangs,
            (Self::TenPercentDead, 10..12) => Temper::Slow,
            (_, _) => Temper::Healthy,
        }
    }

    /// Makes a tenant and its subscriptions, and waits until they are in force. Without `ill`, only
    /// the healthy ones; events for the others then go nowhere.
    pub(super) async fn subscribe(
        self,
        tenant: &str,
        sink_port: u16,
        max_in_flight: i32,
        ill: bool,
        channel: &Channel,
    ) -> anyhow::Result<()> {
        let request = CreateTenantRequest {
            tenant: Some(Tenant::default()),
            tenant_id: tenant.to_owned(),
            ..CreateTenantRequest::default()
        };
        TenantServiceClient::new(channel.clone())
            .create_tenant(request)
            .await?;
        let mut client = SubscriptionServiceClient::new(channel.clone());
        let mut last = None;
        for index in 0..self.n_subscriptions() {
            let temper = self.temper(index);
            if !ill && temper != Temper::Healthy {
                continue;
            }
            let subscription = Subscription {
                callback_url: url(index, temper, sink_port),
                event_types: vec![format!(
                    "bench.t{}",
                    index / self.fan_out() % self.n_types()
                )],
                max_in_flight,
                ..Subscription::default()
            };
            let request = CreateSubscriptionRequest {
                parent: format!("tenants/{tenant}"),
                subscription: Some(subscription),
                subscription_id: format!("s{index}"),
                ..CreateSubscriptionRequest::default()
            };
            last = Some(client.create_subscription(request).await?.into_inner());
        }
        while let Some(it) = &last
            && it.state() == State::Pending
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let name = it.name.clone();
            let request = GetSubscriptionRequest { name };
            last = Some(client.get_subscription(request).await?.into_inner());
        }
        Ok(())
    }
}

fn url(index: usize, temper: Temper, sink_port: u16) -> String {
    let host = host(index);
    match temper {
        Temper::Healthy => format!("http://{host}:{sink_port}/ok"),
        Temper::Hangs => format!("http://{host}:{sink_port}/hang"),
        Temper::Slow => format!("http://{host}:{sink_port}/slow"),
        // The sink listens on its port only; nobody does on 9, which may be called here and is closed.
        Temper::Refuses => format!("http://{host}:{}/", sink_port.wrapping_add(1).max(1024)),
    }
}

/// Each endpoint has a loopback address of its own.
pub(super) fn host(index: usize) -> String {
    format!("127.1.{}.{}", index / 250, 1 + index % 250)
}

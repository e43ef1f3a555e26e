//! `hookfleet subscription`: manage subscriptions.

use clap::{Args, Subcommand, ValueEnum};
use hookfleet_gateway::peers::Peer;
use hookfleet_proto::v1::{
    BodyMode, CreateSubscriptionRequest, DeleteSubscriptionRequest, GetSubscriptionRequest,
    ListSubscriptionsRequest, Ordering, ResumeSubscriptionRequest, RetryPolicy,
    RotateSecretRequest, SignatureAlgorithm, Subscription, SuspendSubscriptionRequest,
    UpdateSubscriptionRequest, VerifySubscriptionRequest, retry_policy,
    subscription::{State, Verification},
    subscription_service_client::SubscriptionServiceClient,
    verification_status,
};
use prost_types::Duration;

use crate::{
    client::Client,
    output::{self, Output},
};

/// Manage subscriptions.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Subscribe a callback URL to types of events. Prints the signing secret, once.
    Create {
        /// The tenant's id.
        tenant: String,
        /// Where callbacks go.
        callback_url: String,
        /// Dotted prefixes of event types; `*` is everything.
        #[arg(required = true)]
        event_types: Vec<String>,
        /// The subscription's id; generated if absent.
        #[arg(long, default_value = "")]
        id: String,
        /// How the body is made.
        #[arg(long, default_value = "ce-structured")]
        body_mode: Mode,
        /// Sign with a key pair as well.
        #[arg(long)]
        ed25519: bool,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Show a subscription.
    Get(Which),
    /// List a tenant's subscriptions.
    List {
        /// The tenant's id.
        tenant: String,
        /// For example `state = SUSPENDED`.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Change where callbacks go, which types of events do, or how they are delivered.
    Update {
        #[command(flatten)]
        which: Which,
        /// The new callback URL.
        #[arg(long)]
        callback_url: Option<String>,
        /// The new event types, repeated.
        #[arg(long = "event-type")]
        event_types: Vec<String>,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Unsubscribe.
    Delete(Which),
    /// Let deliveries wait.
    Suspend(Which),
    /// Let a suspended subscription go on.
    Resume(Which),
    /// Ask the receiver again whether it wants callbacks.
    Verify(Which),
    /// Replace the signing secret; the old one signs beside it for a day. Prints the new one, once.
    RotateSecret(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The tenant's id.
    tenant: String,
    /// The subscription's id.
    subscription: String,
}

/// How a subscription is delivered.
#[derive(Debug, Args)]
struct Delivery {
    /// The most attempts in flight at once.
    #[arg(long)]
    max_in_flight: Option<i32>,
    /// The most attempts that start in a second.
    #[arg(long)]
    max_requests_per_second: Option<f64>,
    /// How many seconds an attempt may wait for the response's headers.
    #[arg(long)]
    timeout: Option<i64>,
    /// How the receiver shows that it wants callbacks.
    #[arg(long)]
    verification: Option<Method>,
    /// Attempt events with the same `partitionkey` one after the other.
    #[arg(long)]
    ordered: bool,
    /// Seconds between attempts, repeated; one more attempt than there are delays.
    #[arg(long = "retry-delay")]
    retry_delays: Vec<i64>,
    /// No attempt starts later than this many seconds after the event was accepted.
    #[arg(long)]
    ttl: Option<i64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    CeStructured,
    CeBinary,
    Raw,
    StandardWebhooks,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    None,
    CeOptions,
    ChallengeEcho,
    ChallengeGet,
    ConfirmUrl,
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.client.output;
        let mut client = SubscriptionServiceClient::new(self.client.connect().await?);
        let etag = String::new();
        let one = match self.verb {
            Verb::Create {
                tenant,
                callback_url,
                event_types,
                id,
                body_mode,
                ed25519,
                delivery,
            } => {
                let mut algorithms = vec![SignatureAlgorithm::HmacSha256.into()];
                algorithms.extend(ed25519.then_some(i32::from(SignatureAlgorithm::Ed25519)));
                let request = CreateSubscriptionRequest {
                    parent: format!("tenants/{tenant}"),
                    subscription: Some(Subscription {
                        callback_url,
                        event_types,
                        body_mode: BodyMode::from(body_mode).into(),
                        signature_algorithms: algorithms,
                        ..delivery.into()
                    }),
                    subscription_id: id,
                    ..CreateSubscriptionRequest::default()
                };
                client.create_subscription(request).await?
            }
            Verb::Get(which) => {
                let name = which.name();
                client
                    .get_subscription(GetSubscriptionRequest { name })
                    .await?
            }
            Verb::Update {
                which,
                callback_url,
                event_types,
                delivery,
            } => {
                // Without a mask, the fields that are set are the ones to change.
                let request = UpdateSubscriptionRequest {
                    subscription: Some(Subscription {
                        name: which.name(),
                        callback_url: callback_url.unwrap_or_default(),
                        event_types,
                        ..delivery.into()
                    }),
                    ..UpdateSubscriptionRequest::default()
                };
                client.update_subscription(request).await?
            }
            Verb::Suspend(which) => {
                let name = which.name();
                let request = SuspendSubscriptionRequest { name, etag };
                client.suspend_subscription(request).await?
            }
            Verb::Resume(which) => {
                let name = which.name();
                let request = ResumeSubscriptionRequest { name, etag };
                client.resume_subscription(request).await?
            }
            Verb::Verify(which) => {
                let name = which.name();
                let request = VerifySubscriptionRequest { name, etag };
                client.verify_subscription(request).await?
            }
            Verb::RotateSecret(which) => {
                let request = RotateSecretRequest {
                    name: which.name(),
                    ..RotateSecretRequest::default()
                };
                client.rotate_secret(request).await?
            }
            Verb::Delete(which) => {
                let request = DeleteSubscriptionRequest {
                    name: which.name(),
                    ..DeleteSubscriptionRequest::default()
                };
                client.delete_subscription(request).await?;
                return Ok(());
            }
            Verb::List { tenant, filter } => {
                return list(&mut client, &tenant, filter, output).await;
            }
        };
        print(output, &[one.into_inner()])
    }
}

async fn list(
    client: &mut SubscriptionServiceClient<Peer>,
    tenant: &str,
    filter: String,
    output: Output,
) -> anyhow::Result<()> {
    let mut request = ListSubscriptionsRequest {
        parent: format!("tenants/{tenant}"),
        filter,
        ..ListSubscriptionsRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page = client
            .list_subscriptions(request.clone())
            .await?
            .into_inner();
        found.extend(page.subscriptions);
        if page.next_page_token.is_empty() {
            return print(output, &found);
        }
        request.page_token = page.next_page_token;
    }
}

fn print(output: Output, subscriptions: &[Subscription]) -> anyhow::Result<()> {
    match output {
        Output::Table => {
            output::table(
                &["NAME", "STATE", "EVENT TYPES", "CALLBACK URL"],
                subscriptions.iter().map(|it| {
                    vec![
                        it.name.clone(),
                        state(it),
                        it.event_types.join(","),
                        it.callback_url.clone(),
                    ]
                }),
            );
            for line in subscriptions.iter().filter_map(change) {
                output::line(line);
            }
            for it in subscriptions
                .iter()
                .filter(|it| !it.signing_secret.is_empty())
            {
                output::line(format_args!(
                    "\nsigning secret, shown this once: {}",
                    it.signing_secret
                ));
            }
        }
        Output::Json => {
            for subscription in subscriptions {
                output::json("hookfleet.v1.Subscription", subscription)?;
            }
        }
    }
    Ok(())
}

/// The state, and why it has come to that.
fn state(subscription: &Subscription) -> String {
    let state = subscription.state().as_str_name();
    let failure = subscription.verification_status.as_ref();
    let failure = failure.map(|it| it.failure().as_str_name());
    match failure.filter(|_| subscription.state() == State::Failed) {
        Some(failure) => format!("{state} ({failure})"),
        None => state.to_owned(),
    }
}

/// What is to become of the callback URL, if its receiver agrees.
fn change(subscription: &Subscription) -> Option<String> {
    let status = subscription.verification_status.as_ref()?;
    let outcome = match status.state() {
        verification_status::State::Pending => "waits for its receiver to agree".to_owned(),
        verification_status::State::Failed => {
            let failure = status.failure().as_str_name();
            format!("has not been agreed to ({failure})")
        }
        verification_status::State::Succeeded | verification_status::State::Unspecified => {
            return None;
        }
    };
    Some(format!(
        "\n{}: {} {outcome}",
        subscription.name, status.callback_url
    ))
}

impl Which {
    fn name(&self) -> String {
        format!(
            "tenants/{}/subscriptions/{}",
            self.tenant, self.subscription
        )
    }
}

impl From<Delivery> for Subscription {
    /// A subscription with these fields and no others.
    fn from(delivery: Delivery) -> Self {
        let seconds = |seconds| Duration { seconds, nanos: 0 };
        let delays: Vec<_> = delivery.retry_delays.into_iter().map(seconds).collect();
        let has_delays = !delays.is_empty();
        let schedule = retry_policy::Schedule::Delays(retry_policy::Delays { delays });
        let policy = RetryPolicy {
            schedule: has_delays.then_some(schedule),
            ttl: delivery.ttl.map(seconds),
            ..RetryPolicy::default()
        };
        let ordering = delivery.ordered.then_some(Ordering::ByPartitionKey);
        Self {
            retry_policy: (policy != RetryPolicy::default()).then_some(policy),
            timeout: delivery.timeout.map(seconds),
            max_in_flight: delivery.max_in_flight.unwrap_or_default(),
            max_requests_per_second: delivery.max_requests_per_second.unwrap_or_default(),
            ordering: ordering.unwrap_or_default().into(),
            verification: delivery
                .verification
                .map_or(0, |it| Verification::from(it).into()),
            ..Self::default()
        }
    }
}

impl From<Mode> for BodyMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::CeStructured => Self::CeStructured,
            Mode::CeBinary => Self::CeBinary,
            Mode::Raw => Self::Raw,
            Mode::StandardWebhooks => Self::StandardWebhooks,
        }
    }
}

impl From<Method> for Verification {
    fn from(method: Method) -> Self {
        match method {
            Method::None => Self::None,
            Method::CeOptions => Self::CeOptions,
            Method::ChallengeEcho => Self::ChallengeEcho,
            Method::ChallengeGet => Self::ChallengeGet,
            Method::ConfirmUrl => Self::ConfirmUrl,
        }
    }
}

//! `hookfleet deliveries`: what became of events, and another try.

use clap::{Args, Subcommand};
use hookfleet_proto::v1::{
    Attempt, Delivery, ListAttemptsRequest, ListDeliveriesRequest, RedeliverDeliveryRequest,
    delivery_service_client::DeliveryServiceClient,
};

use crate::{
    client::Client,
    output::{self, Output},
};

/// Look at deliveries and their attempts, and deliver again.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List deliveries, newest first.
    List {
        /// The tenant's id.
        tenant: String,
        /// The subscription's id; absent means all.
        #[arg(default_value = "-")]
        subscription: String,
        /// For example `state = DEAD_LETTERED AND event_type = "orders.created"`.
        #[arg(long, default_value = "")]
        filter: String,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// List the attempts of a delivery, oldest first.
    Attempts {
        /// The delivery's full name, as `list` prints it.
        name: String,
    },
    /// Deliver again.
    Redeliver {
        /// The delivery's full name, as `list` prints it.
        name: String,
    },
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.client.output;
        let mut client = DeliveryServiceClient::new(self.client.connect().await?);
        match self.verb {
            Verb::List {
                tenant,
                subscription,
                filter,
                limit,
            } => {
                let mut request = ListDeliveriesRequest {
                    parent: format!("tenants/{tenant}/subscriptions/{subscription}"),
                    filter,
                    ..ListDeliveriesRequest::default()
                };
                let mut found = Vec::new();
                while found.len() < limit {
                    request.page_size = i32::try_from(limit - found.len()).unwrap_or(i32::MAX);
                    let page = client.list_deliveries(request.clone()).await?.into_inner();
                    found.extend(page.deliveries);
                    for agent in page.unreachable {
                        output::progress(format!("{agent} may know of more and is out of reach"));
                    }
                    if page.next_page_token.is_empty() {
                        break;
                    }
                    request.page_token = page.next_page_token;
                }
                print(output, &found)
            }
            Verb::Attempts { name } => {
                let mut request = ListAttemptsRequest {
                    parent: name,
                    ..ListAttemptsRequest::default()
                };
                let mut found = Vec::new();
                loop {
                    let page = client.list_attempts(request.clone()).await?.into_inner();
                    found.extend(page.attempts);
                    if page.next_page_token.is_empty() {
                        return print_attempts(output, &found);
                    }
                    request.page_token = page.next_page_token;
                }
            }
            Verb::Redeliver { name } => {
                let request = RedeliverDeliveryRequest { name };
                let delivery = client.redeliver_delivery(request).await?.into_inner();
                print(output, &[delivery])
            }
        }
    }
}

fn print(output: Output, deliveries: &[Delivery]) -> anyhow::Result<()> {
    match output {
        Output::Table => output::table(
            &["NAME", "STATE", "EVENT TYPE", "ATTEMPTS", "LAST", "NEXT"],
            deliveries.iter().map(|it| {
                let last = it.last_attempt.as_ref();
                let next = it.next_attempt_time.as_ref();
                vec![
                    it.name.clone(),
                    it.state().as_str_name().to_owned(),
                    it.event_type.clone(),
                    it.attempt_count.to_string(),
                    last.map(result).unwrap_or_default(),
                    next.map(ToString::to_string).unwrap_or_default(),
                ]
            }),
        ),
        Output::Json => {
            for delivery in deliveries {
                output::json("hookfleet.v1.Delivery", delivery)?;
            }
        }
    }
    Ok(())
}

fn print_attempts(output: Output, attempts: &[Attempt]) -> anyhow::Result<()> {
    match output {
        Output::Table => output::table(
            &["ATTEMPT", "STARTED", "MS", "OUTCOME", "RESULT"],
            attempts.iter().map(|it| {
                let started = it.start_time.as_ref();
                vec![
                    it.number.to_string(),
                    started.map(ToString::to_string).unwrap_or_default(),
                    it.duration_millis.to_string(),
                    it.outcome().as_str_name().to_owned(),
                    result(it),
                ]
            }),
        ),
        Output::Json => {
            for attempt in attempts {
                output::json("hookfleet.v1.Attempt", attempt)?;
            }
        }
    }
    Ok(())
}

/// The status, or what kept one from coming.
fn result(attempt: &Attempt) -> String {
    match attempt.status_code {
        0 => attempt.failure().as_str_name().to_owned(),
        status => status.to_string(),
    }
}

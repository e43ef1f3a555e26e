//! The publisher: many calls at a time, each of many events, that waits when too much is on its way.
//!
//! Closed loop, it publishes as fast as the whole path goes: never more than a bounded number of
//! deliveries are between it and the sink. Open loop, it publishes at a rate, and latency counts from
//! the time at which an event was to be sent, whether it could be or not.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::future::join_all;
use hdrhistogram::Histogram;
use hookfleet_proto::{
    cloudevents::{CloudEvent, CloudEventAttributeValue, cloud_event, cloud_event_attribute_value},
    v1::{PublishRequest, publish_result, publisher_service_client::PublisherServiceClient},
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;

use super::{clock, report, sink::SENT};

/// Calls at a time, and events in each: about what a busy API provider batches.
const CALLS: usize = 16;
const BATCH: usize = 64;
/// Deliveries that may be on their way in the closed loop.
const MAX_ON_THEIR_WAY: u64 = 8_192;
/// How often to look whether there are fewer.
const PAUSE: Duration = Duration::from_millis(2);
/// When to come back if the server does not say.
const DEFAULT_RETRY: Duration = Duration::from_millis(250);

/// What to publish.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// To whom.
    pub(super) channel: Channel,
    /// `tenants/…`.
    pub(super) parent: String,
    /// The bytes of an event's data.
    pub(super) payload: usize,
    /// How many event types there are; each subscription wants one, or all do.
    pub(super) n_types: usize,
    /// Deliveries of each event.
    pub(super) fan_out: u64,
}

/// What was published.
#[derive(Debug)]
pub(super) struct Published {
    /// Events that were acknowledged.
    pub(super) n_events: u64,
    /// How long a call took until its acknowledgement.
    pub(super) latency: Histogram<u64>,
}

impl Load {
    /// Publishes until `over`; `received` is how many deliveries the sink has.
    pub(super) async fn closed(
        &self,
        received: Arc<AtomicU64>,
        over: CancellationToken,
    ) -> anyhow::Result<Published> {
        let n_acked = Arc::new(AtomicU64::new(0));
        let n_sent = Arc::new(AtomicU64::new(0));
        let latency = Arc::new(Mutex::new(report::histogram()?));
        let calls = (0..CALLS).map(|_| {
            let (it, over, received) = (self.clone(), over.clone(), Arc::clone(&received));
            let (n_acked, n_sent) = (Arc::clone(&n_acked), Arc::clone(&n_sent));
            let latency = Arc::clone(&latency);
            tokio::spawn(async move {
                while !over.is_cancelled() {
                    let on_their_way = (n_sent.load(Ordering::Relaxed) * it.fan_out)
                        .saturating_sub(received.load(Ordering::Relaxed));
                    if on_their_way > MAX_ON_THEIR_WAY {
                        sleep(PAUSE).await;
                        continue;
                    }
                    let batch = (BATCH as u64 / it.fan_out).max(1);
                    let first = n_sent.fetch_add(batch, Ordering::Relaxed);
                    let micros = it.publish(first, batch, None).await?;
                    n_acked.fetch_add(batch, Ordering::Relaxed);
                    let mut latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
                    latency.saturating_record(micros);
                }
                Ok::<(), anyhow::Error>(())
            })
        });
        for ended in join_all(calls.collect::<Vec<_>>()).await {
            ended??;
        }
        finish(&n_acked, &latency)
    }

    /// Publishes `n_events` one at a time, `per_second` of them.
    pub(super) async fn open(&self, n_events: u64, per_second: f64) -> anyhow::Result<Published> {
        let n_acked = Arc::new(AtomicU64::new(0));
        let latency = Arc::new(Mutex::new(report::histogram()?));
        let start = Instant::now();
        let wall = clock::micros();
        let mut calls = Vec::new();
        for number in 0..n_events {
            let due = Duration::from_secs_f64(number as f64 / per_second);
            sleep_until(start + due).await;
            let it = self.clone();
            let (n_acked, latency) = (Arc::clone(&n_acked), Arc::clone(&latency));
            let intended = wall + u64::try_from(due.as_micros()).unwrap_or(u64::MAX);
            calls.push(tokio::spawn(async move {
                let micros = it.publish(number, 1, Some(intended)).await?;
                n_acked.fetch_add(1, Ordering::Relaxed);
                let mut latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
                latency.saturating_record(micros);
                Ok::<(), anyhow::Error>(())
            }));
        }
        for ended in join_all(calls).await {
            ended??;
        }
        finish(&n_acked, &latency)
    }

    /// One call; returns how long it took, in microseconds. Comes back when the server is busy.
    async fn publish(&self, first: u64, n: u64, intended: Option<u64>) -> anyhow::Result<u64> {
        let sent = intended.unwrap_or_else(clock::micros);
        let events = (first..first + n).map(|number| self.event(number, sent));
        let request = PublishRequest {
            parent: self.parent.clone(),
            events: events.collect(),
        };
        let mut client = PublisherServiceClient::new(self.channel.clone());
        loop {
            match client.publish(request.clone()).await {
                Ok(response) => {
                    for it in response.into_inner().results {
                        if let Some(publish_result::Result::Error(error)) = it.result {
                            bail!("an event was refused: {}", error.message);
                        }
                    }
                    return Ok(clock::micros().saturating_sub(sent));
                }
                Err(status) if status.code() == Code::ResourceExhausted => {
                    let delay = status
                        .get_details_retry_info()
                        .and_then(|it| it.retry_delay);
                    sleep(delay.unwrap_or(DEFAULT_RETRY)).await;
                }
                Err(status) => return Err(status).context("cannot publish"),
            }
        }
    }

    fn event(&self, number: u64, sent: u64) -> CloudEvent {
        let head = format!("{{{SENT}{sent},\"pad\":\"");
        let pad = self.payload.saturating_sub(head.len() + 2);
        let data = format!("{head}{}\"}}", "x".repeat(pad));
        let text = |text: &str| CloudEventAttributeValue {
            attr: Some(cloud_event_attribute_value::Attr::CeString(text.to_owned())),
        };
        CloudEvent {
            id: format!("{sent}-{number}"),
            source: "urn:hookfleet:bench".to_owned(),
            spec_version: "1.0".to_owned(),
            r#type: format!("bench.t{}", number as usize % self.n_types),
            attributes: [("datacontenttype".to_owned(), text("application/json"))].into(),
            data: Some(cloud_event::Data::TextData(data)),
        }
    }
}

fn finish(n_acked: &AtomicU64, latency: &Mutex<Histogram<u64>>) -> anyhow::Result<Published> {
    let latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Published {
        n_events: n_acked.load(Ordering::Relaxed),
        latency: latency.clone(),
    })
}

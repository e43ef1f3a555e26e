//! The delivery engine on real sockets: order, isolation, overload, and what a restart remembers.

use std::{collections::BTreeMap, time::Duration};

use hookfleet_proto::v1::{PublishRequest, publisher_service_client::PublisherServiceClient};
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;

use crate::harness::{
    api::{create_tenant, event, keyed, ordered, publish, publish_one, subscribe_in_force, to},
    eventually,
    process::standalone,
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_key_arrive_in_order_over_failures_and_a_kill() {
    const KEYS: usize = 5;
    const EACH: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    // Every fourth attempt fails.
    receiver.answer_with("ordered", |_, n_before| {
        let status = if n_before % 4 == 3 { 503_u16 } else { 200 };
        (status.try_into().unwrap(), Vec::new(), Duration::ZERO)
    });
    let server = standalone(dir.path());
    create_tenant(&server.channel(), "acme").await;
    let wanted = ordered(to(receiver.url("ordered")));
    subscribe_in_force(&server.channel(), "acme", "ordered", wanted).await;
    for number in 0..EACH {
        for key in 0..KEYS {
            let id = format!("{key}-{number}");
            publish_one(
                &server.channel(),
                "acme",
                keyed(event(&id, "a.b", "{}"), &format!("key {key}")),
            )
            .await;
        }
    }
    server.kill();
    let server = standalone(dir.path());
    let firsts = eventually("every event", PATIENCE, || async {
        let mut firsts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for it in receiver.received_at("ordered") {
            let id = it.json()["id"].as_str().unwrap_or_default().to_owned();
            let (key, number) = id.split_once('-').ok_or("an id")?;
            let (key, number) = (key.parse().unwrap(), number.parse().unwrap());
            let firsts = firsts.entry(key).or_default();
            if !firsts.contains(&number) {
                firsts.push(number);
            }
        }
        let n_all: usize = firsts.values().map(Vec::len).sum();
        (n_all == KEYS * EACH)
            .then_some(firsts)
            .ok_or(format!("{n_all} have arrived"))
    })
    .await;
    for (key, numbers) in firsts {
        assert!(numbers.is_sorted(), "key {key}: {numbers:?}");
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_and_hanging_receivers_hold_up_nobody() {
    const EVENTS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    receiver.answer_with("hangs", |_, _| {
        (
            200_u16.try_into().unwrap(),
            Vec::new(),
            Duration::from_secs(600),
        )
    });
    receiver.answer("fails", 500);
    let server = standalone(dir.path());
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    for (id, url) in [
        ("hangs", receiver.url("hangs")),
        ("fails", receiver.url("fails")),
        // Nobody listens there.
        ("refuses", "http://127.0.0.77:1024/".to_owned()),
        ("healthy", receiver.url("healthy")),
    ] {
        subscribe_in_force(&channel, "acme", id, to(url)).await;
    }
    for number in 0..EVENTS / 100 {
        let events = (0..100).map(|it| event(&format!("{number}-{it}"), "a.b", "{}"));
        publish(&channel, "acme", events.collect()).await.unwrap();
    }
    eventually("every healthy delivery", PATIENCE, || async {
        let n = receiver.received_at("healthy").len();
        (n == EVENTS).then_some(()).ok_or(n)
    })
    .await;
    // A receiver that only fails is left alone after a few attempts.
    let n_failed = receiver.received_at("fails").len();
    assert!((1..30).contains(&n_failed), "{n_failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_large_events_is_taken_or_refused_and_leaves_memory_bounded() {
    const CALLS: usize = 150;
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let server = standalone(dir.path());
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "hook", to(receiver.url("hook"))).await;
    let calls =
        (0..CALLS).map(|number| tokio::spawn(publish_until_accepted(channel.clone(), number)));
    for call in futures::future::join_all(calls.collect::<Vec<_>>()).await {
        call.unwrap();
    }
    eventually("every delivery", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n == CALLS * LARGE_EVENTS).then_some(()).ok_or(n)
    })
    .await;
    let megabytes = server.peak_resident_bytes() >> 20;
    // 600 MB were sent; what waits for the disk and for receivers is bounded.
    assert!(megabytes < 600, "{megabytes} MiB were resident");
}

pub(super) const LARGE_EVENTS: usize = 20;

/// Publishes large events, as often as they are refused.
pub(super) async fn publish_until_accepted(channel: Channel, number: usize) {
    let data = format!("{{\"x\":\"{}\"}}", "x".repeat(200_000));
    let events = (0..LARGE_EVENTS).map(|it| event(&format!("{number}-{it}"), "a.b", &data));
    let request = PublishRequest {
        parent: "tenants/acme".to_owned(),
        events: events.collect(),
    };
    let mut client = PublisherServiceClient::new(channel);
    while let Err(status) = client.publish(request.clone()).await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let advice = status
            .get_details_retry_info()
            .and_then(|it| it.retry_delay);
        tokio::time::sleep(advice.expect("advice")).await;
    }
}

//! A machine whose clock jumps and whose names do not resolve (rows F23 and F42 of the fault matrix).

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use hookfleet_delivery_agent::clock::Clock;
use hookfleet_proto::v1::{Subscription, subscription};
use tokio::time::Instant;

use crate::harness::{
    api::{
        create_tenant, deliveries, event, publish_one, retries, subscribe_in_force,
        subscription_state, to,
    },
    eventually,
    name_server::NameServer,
    process::Process,
    receiver::Receiver,
    shim::Shim,
};

const PATIENCE: Duration = Duration::from_secs(60);
const YEAR: i64 = 365 * 24 * 3600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_keep_their_distance_while_the_wall_clock_jumps() {
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::compile(dir.path());
    let receiver = Receiver::start().await;
    let arrivals = Arc::<Mutex<Vec<Instant>>>::default();
    let noted = Arc::clone(&arrivals);
    receiver.answer_with("hook", move |_, n_before| {
        noted.lock().unwrap().push(Instant::now());
        let status = if n_before % 2 == 0 { 503_u16 } else { 200 };
        (status.try_into().unwrap(), Vec::new(), Duration::ZERO)
    });
    let command = shim.standalone(&dir.path().join("data"));
    let server = Process::start(command, "127.0.0.1:0");
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    let subscription = Subscription {
        retry_policy: retries(&[2; 10]),
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&channel, "acme", "hook", subscription).await;

    let jumps = [0, 3600, -3600, 10 * YEAR, -55 * YEAR, 0];
    for (round, seconds) in jumps.into_iter().enumerate() {
        shim.set_clock_off(seconds);
        publish_one(&channel, "acme", event(&format!("{round}"), "a.b", "{}")).await;
        eventually("the first attempt", PATIENCE, || async {
            let n = arrivals.lock().unwrap().len();
            (n > 2 * round).then_some(()).ok_or(n)
        })
        .await;
        // And again while it waits.
        shim.set_clock_off(-seconds);
        eventually("the second attempt", PATIENCE, || async {
            let n = arrivals.lock().unwrap().len();
            (n > 2 * round + 1).then_some(()).ok_or(n)
        })
        .await;
    }
    let arrivals = arrivals.lock().unwrap().clone();
    for pair in arrivals.chunks_exact(2) {
        let pause = pair[1] - pair[0];
        assert!(pause >= Duration::from_millis(1500), "{pause:?} is early");
    }
    // Signatures are of the time that the machine believes in.
    let received = receiver.received_at("hook");
    let now = Clock::system().now().unix_seconds();
    let said = |at: usize| {
        received[at]
            .header("webhook-timestamp")
            .parse::<i64>()
            .unwrap()
    };
    let off = said(2) - now.cast_signed();
    assert!((3600 - 120..3600 + 120).contains(&off), "{off} s off");
    eventually("every delivery succeeded", PATIENCE, || async {
        let all = deliveries(&channel, "acme", "state = SUCCEEDED").await;
        (all.len() == jumps.len()).then_some(()).ok_or(all)
    })
    .await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_clock_was_years_ahead_delays_nothing_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::compile(dir.path());
    let receiver = Receiver::start().await;
    receiver.answer("hook", 503);
    shim.set_clock_off(10 * YEAR);
    let start = || Process::start(shim.standalone(&dir.path().join("data")), "127.0.0.1:0");
    let server = start();
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    let wanted = Subscription {
        retry_policy: retries(&[2; 10]),
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&channel, "acme", "hook", wanted).await;
    for number in 0..20 {
        publish_one(&channel, "acme", event(&format!("{number}"), "a.b", "{}")).await;
    }
    // Its breaker is open by now, most events are before their first attempt, and all of that is of the year to come.
    eventually("some attempts", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n >= 4).then_some(()).ok_or(n)
    })
    .await;
    assert!(server.terminate().await.success());

    shim.set_clock_off(0);
    receiver.answer("hook", 204);
    let server = start();
    let channel = server.channel();
    eventually("every delivery", PATIENCE, || async {
        let all = deliveries(&channel, "acme", "state = SUCCEEDED").await;
        (all.len() == 20).then_some(()).ok_or(all.len())
    })
    .await;
    publish_one(&channel, "acme", event("next", "a.b", "{}")).await;
    eventually("what comes now", PATIENCE, || async {
        let all = deliveries(&channel, "acme", "state = SUCCEEDED").await;
        (all.len() == 21).then_some(()).ok_or(all.len())
    })
    .await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_do_not_resolve_for_a_while_cost_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let names = NameServer::start(Ipv4Addr::LOCALHOST).await;
    names.is_well.store(false, Ordering::SeqCst);
    let server = names.standalone(dir.path());
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    let port = receiver.address.port();
    let subscription = Subscription {
        retry_policy: retries(&[1; 50]),
        ..to(format!("http://hooks.acme.com:{port}/hook"))
    };
    let created = subscribe_in_force(&channel, "acme", "hook", subscription).await;

    publish_one(&channel, "acme", event("1", "a.b", "{}")).await;
    eventually("some questions in vain", PATIENCE, || async {
        let n = names.n_asked();
        (n >= 6).then_some(()).ok_or(n)
    })
    .await;
    assert!(receiver.received().is_empty());
    let state = subscription_state(&channel, &created.name).await;
    assert_eq!(state, Ok(subscription::State::Active));

    names.is_well.store(true, Ordering::SeqCst);
    eventually("the delivery", PATIENCE, || async {
        let n = receiver.received_at("hook").len();
        (n == 1).then_some(()).ok_or(n)
    })
    .await;
    let received = receiver.received_at("hook");
    assert_eq!(received[0].header("host"), format!("hooks.acme.com:{port}"));
    assert!(server.terminate().await.success());
}

//! A machine whose memory ends (row F44 of the fault matrix): events are refused before it does, nobody is killed, and if
//! somebody is, nothing that was acknowledged is lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hookfleet_proto::v1::publisher_service_client::PublisherServiceClient;
use hookfleet_proto::v1::{PublishRequest, Subscription, publish_result};
use nix::sys::signal::Signal;
use tokio::time::Instant;
use tonic::Code;

use crate::harness::{
    api::{create_tenant_in_force, event, retries, subscribe_in_force, to},
    cgroup::Group,
    eventually,
    process::{Process, hookfleet},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(120);
const LIMIT: u64 = 256 << 20;
const PUBLISHERS: usize = 64;
const EVENT_BYTES: usize = 200_000;
const EVENTS: usize = 20;
/// Requests come through whole meanwhile, not a little of each.
const TAKEN: usize = 10 * EVENTS;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn overload_is_refused_before_memory_ends_and_a_kill_for_it_loses_nothing() {
    let Some(group) = Group::new(LIMIT) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = hookfleet();
        command.arg("standalone").arg("--data-dir").arg(dir.path());
        Process::start(group.run(&command), "127.0.0.1:0")
    };
    let server = start();
    let receiver = Receiver::start().await;
    // Slower than publishers, and all bodies wait.
    receiver.answer_with("hook", |_, _| {
        (
            204_u16.try_into().unwrap(),
            Vec::new(),
            Duration::from_millis(200),
        )
    });
    let channel = server.channel();
    create_tenant_in_force(&channel, "acme").await;
    let slow = to(receiver.url("hook"));
    subscribe_in_force(&channel, "acme", "hook", slow).await;
    for number in 0..40 {
        let dead = Subscription {
            retry_policy: retries(&[1; 50]),
            ..to(format!("http://127.0.0.77:{}/", 1024 + number))
        };
        subscribe_in_force(&channel, "acme", &format!("dead-{number}"), dead).await;
    }

    let acked = Arc::<Mutex<BTreeSet<String>>>::default();
    let n_refused = Arc::<AtomicU64>::default();
    let is_over = Arc::<AtomicBool>::default();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let mut client = PublisherServiceClient::new(server.channel());
            let (acked, n_refused) = (Arc::clone(&acked), Arc::clone(&n_refused));
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                let data = format!("\"{}\"", "x".repeat(EVENT_BYTES));
                for round in 0.. {
                    let id = |it| format!("{publisher}-{round}-{it}");
                    let request = PublishRequest {
                        parent: "tenants/acme".to_owned(),
                        events: (0..EVENTS).map(|it| event(&id(it), "a.b", &data)).collect(),
                    };
                    match client.publish(request).await {
                        Ok(answer) => {
                            let results = answer.into_inner().results.into_iter();
                            for (it, result) in results.enumerate() {
                                let is_taken = matches!(
                                    result.result,
                                    Some(publish_result::Result::Receipt(_))
                                );
                                assert!(is_taken, "{result:?}");
                                acked.lock().unwrap().insert(id(it));
                            }
                        }
                        Err(status) if status.code() == Code::ResourceExhausted => {
                            n_refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) if is_over.load(Ordering::Relaxed) => return,
                        Err(status) => panic!("{status:?}"),
                    }
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    let begin = Instant::now();
    eventually("an overload for a while", PATIENCE, || async {
        let (lasted, n_taken) = (begin.elapsed(), acked.lock().unwrap().len());
        let n_refused = n_refused.load(Ordering::Relaxed);
        let is_long = lasted > Duration::from_secs(20) && n_refused > 200 && n_taken >= TAKEN;
        is_long.then_some(()).ok_or((lasted, n_taken, n_refused))
    })
    .await;
    assert_eq!(group.n_kills(), 0, "nobody is killed");
    eprintln!(
        "peak {} MiB; {} events acknowledged, {} calls refused",
        server.peak_resident_bytes() >> 20,
        acked.lock().unwrap().len(),
        n_refused.load(Ordering::Relaxed)
    );
    // What the kernel does when it is asked for more than there is.
    is_over.store(true, Ordering::Relaxed);
    server.signal(Signal::SIGKILL);
    server.kill();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let acked = std::mem::take(&mut *acked.lock().unwrap());
    receiver.answer("hook", 204);
    let server = start();
    eventually("everything acknowledged", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let received: BTreeSet<_> = received
            .iter()
            .map(|it| it.json()["id"].as_str().unwrap().to_owned())
            .collect();
        let n_missing = acked.difference(&received).count();
        (n_missing == 0).then_some(()).ok_or(n_missing)
    })
    .await;
    assert_eq!(group.n_kills(), 0);
    assert!(server.terminate().await.success());
}

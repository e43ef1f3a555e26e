//! What Prometheus reads at `/metrics`: the same that publishers and receivers saw, and nothing of who they are.

use std::{collections::BTreeMap, time::Duration};

use crate::harness::{
    api::{create_tenant_in_force, event, publish, subscribe_in_force, to},
    eventually,
    http::Http,
    process::{Process, standalone},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: usize = 20;

/// The series by their names and labels.
async fn scrape(server: &Process) -> BTreeMap<String, f64> {
    let answer = Http::to(server.address).get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain"));
    let text = answer.text();
    let lines = text.lines().filter(|it| !it.starts_with('#'));
    let series = lines.map(|it| it.rsplit_once(' ').expect("a name and a value"));
    series
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_measured_is_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let channel = server.channel();
    let receiver = Receiver::start().await;
    receiver.answer("broken", 413);
    create_tenant_in_force(&channel, "acme").await;
    subscribe_in_force(&channel, "acme", "good", to(receiver.url("good"))).await;
    let broken = to(receiver.url("broken"));
    let before = scrape(&server).await;
    subscribe_in_force(&channel, "acme", "broken", broken).await;
    for number in 0..EVENTS {
        let event = event(&number.to_string(), "a.b", "{}");
        publish(&channel, "acme", vec![event]).await.unwrap();
    }
    let over = |series: &BTreeMap<String, f64>, state: &str| {
        let of_state = |(name, _): &(&String, &f64)| {
            name.starts_with("hookfleet_deliveries_total") && name.contains(state)
        };
        series
            .iter()
            .filter(of_state)
            .map(|(_, value)| value)
            .sum::<f64>()
    };
    let series = eventually("an end of all deliveries", PATIENCE, || async {
        let series = scrape(&server).await;
        let n_over = over(&series, "SUCCEEDED") + over(&series, "DEAD_LETTERED");
        (n_over >= 2.0 * EVENTS as f64)
            .then_some(series)
            .ok_or(n_over)
    })
    .await;
    let grown = |name: &str| series[name] - before.get(name).copied().unwrap_or(0.0);
    let n_events = EVENTS as f64;
    assert!((grown("hookfleet_events_total") - n_events).abs() < 0.5);
    assert!((over(&series, "SUCCEEDED") - n_events).abs() < 0.5);
    assert!((over(&series, "PAYLOAD_TOO_LARGE") - n_events).abs() < 0.5);
    let delivered =
        "hookfleet_attempt_duration_seconds_count{failure=\"NONE\",outcome=\"DELIVERED\"}";
    assert!((series[delivered] - receiver.received_at("good").len() as f64).abs() < 0.5);
    let n_failed: f64 = series
        .iter()
        .filter(|(name, _)| name.starts_with("hookfleet_attempt_duration_seconds_count"))
        .filter(|(name, _)| name.contains("failure=\"STATUS\""))
        .map(|(_, value)| value)
        .sum();
    assert!((n_failed - receiver.received_at("broken").len() as f64).abs() < 0.5);
    assert!((series["hookfleet_delivery_latency_seconds_count"] - n_events).abs() < 0.5);
    let published = "hookfleet_request_duration_seconds_count{code=\"OK\",method=\"hookfleet.v1.PublisherService/Publish\"}";
    assert!((grown(published) - n_events).abs() < 0.5);
    assert!((series["hookfleet_subscriptions"] - 2.0).abs() < 0.5);
    assert!((series["hookfleet_leader"] - 1.0).abs() < 0.5);
    for name in ["hookfleet_disk_free_bytes", "process_resident_memory_bytes"] {
        assert!(series[name] > 0.0, "{name}");
    }
    // Nothing says whose they are.
    let names: String = series.keys().map(String::as_str).collect();
    for text in ["acme", "good", "broken", "127.0.0.1"] {
        assert!(!names.contains(text), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_invents_methods_makes_no_new_series() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let http = Http::to(server.address);
    for number in 0..50 {
        let service = format!("/hookfleet.v1.Invented{number}/Publish");
        let method = format!("/hookfleet.v1.PublisherService/Invented{number}");
        for path in [service, method] {
            for dialect in ["grpc", "grpc-web", "json"] {
                let content_type = format!("application/{dialect}");
                http.post(&path, &[("content-type", &content_type)], "")
                    .await;
            }
        }
    }
    let series = scrape(&server).await;
    let invented: Vec<_> = series.keys().filter(|it| it.contains("Invented")).collect();
    assert!(invented.is_empty(), "{invented:?}");
}

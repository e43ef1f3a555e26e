//! What does the scheduler cost per delivery: accept, pick, finish, settle?
//!
//! Axes: one busy subscription, and one delivery for each of many in turn, which are known to the core
//! only while they have one. Nothing is performed.
//!
//! ```text
//! cargo bench -p hookfleet-delivery-agent --bench core
//! ```

#![expect(missing_docs, reason = "criterion's macros write functions")]

use std::{hint::black_box, net::Ipv4Addr, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hookfleet_contract::{
    id::DeliveryId,
    response::Verdict,
    retry::{Jitter, Policy, Progress},
    shard::Shard,
    time::Timestamp,
};
use hookfleet_delivery_agent::core::{Command, Core, Finished, Settings, Uid, Waiting};

/// Deliveries that are in flight together, of one iteration.
const BATCH: u64 = 64;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(BATCH));
    for n_subscriptions in [1, 1000, 100_000] {
        let id = BenchmarkId::new("delivery", n_subscriptions);
        group.bench_function(id, |bencher| {
            let settings: Vec<Settings> = (0..n_subscriptions).map(settings).collect();
            let mut core = Core::new(4096, u64::MAX);
            let mut seq = 0;
            bencher.iter(|| {
                for _ in 0..BATCH {
                    seq += 1;
                    accept(&mut core, seq, &settings);
                }
                run(&mut core);
            });
        });
    }
}

fn accept(core: &mut Core, seq: u64, settings: &[Settings]) {
    let index = seq % settings.len() as u64;
    let mut uid = Uid::default();
    // Real ones are random.
    uid[..8].copy_from_slice(&index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    let waiting = Waiting {
        delivery: DeliveryId { seq, target: 0 },
        progress: Progress::default(),
        bytes: 1024,
        due: NOW,
    };
    let settings = || settings.get(usize::try_from(index).unwrap_or(0)).cloned();
    core.handle_accepted(uid.into(), waiting, settings, NOW);
}

/// Lets every attempt succeed until nothing is left.
fn run(core: &mut Core) {
    while let Some(command) = core.poll_command(NOW) {
        if let Command::Attempt(attempt) = black_box(command) {
            let finished = Finished {
                delivery: attempt.delivery,
                verdict: Verdict::Delivered,
                status: Some(200),
                attempted: true,
                duration: Duration::from_millis(1),
                destination: Some(Ipv4Addr::new(93, 184, 215, 14).into()),
                accept_time: NOW,
                expiry: None,
                jitter: Jitter::NONE,
                spread: 0.5,
            };
            core.handle_finished(finished, NOW);
        }
    }
}

fn settings(index: usize) -> Settings {
    let tenant = format!("t{}", index % 997);
    Settings {
        shard: match tenant.parse() {
            Ok(tenant) => Shard::first(&tenant),
            Err(_) => unreachable!("a label"),
        },
        endpoint: format!("https://h{index}.example:443").into(),
        policy: Arc::new(Policy::default()),
        max_in_flight: 64,
        max_requests_per_second: None,
        suspended: false,
    }
}

criterion_group!(benches, step);
criterion_main!(benches);

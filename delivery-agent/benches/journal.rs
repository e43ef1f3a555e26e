//! What does the journal cost per event?
//!
//! - `append`: events of 1 KiB by 1, 64 and 1024 publishers, each waiting for its answer; on the disk
//!   under the temporary folder, and in memory (`/dev/shm`), where a sync costs nothing: the difference
//!   is the disk's, the rest is ours.
//! - `append_and_settle`: the same with a driver that records a success for every event at once.
//! - `read`: an event that is in memory, and one that is on the disk.
//! - `record`: outcomes alone.
//!
//! Each group but `read` also prints the CPU per event, of all threads, on the standard error output.
//!
//! ```text
//! cargo bench -p hookfleet-delivery-agent --bench journal
//! cargo bench -p hookfleet-delivery-agent --bench journal -- append/memory
//! ```

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]
#![expect(clippy::print_stderr, reason = "criterion reports time, not CPU")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    retry::Progress,
};
use hookfleet_delivery_agent::{
    clock::Clock,
    journal::{Config, Journal, NewEvent, Origin, Outcome, Standing, Target},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENT_BYTES: usize = 1024;
/// As the agent has it.
const ACCEPTED_CAPACITY: usize = 4096;
const PUBLISHERS: [u64; 3] = [1, 64, 1024];

/// A journal with a driver, in a folder of its own.
struct Bench {
    journal: Journal,
    clock: Clock,
    next_number: Arc<AtomicU64>,
    body: Bytes,
    _dir: TempDir,
}

/// What happens to an event that became durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Settled,
}

impl Bench {
    fn new(parent: &Path, then: Then) -> Self {
        let dir = TempDir::new_in(parent).unwrap();
        let database = fjall::Database::builder(dir.path().join("database"))
            .open()
            .unwrap();
        let clock = Clock::system();
        let (sender, mut accepted) = mpsc::channel(ACCEPTED_CAPACITY);
        let config = Config {
            // A journal in memory must stay small.
            retention_bytes: 256 << 20,
            min_free_bytes: Some(0),
            ..Config::new(
                dir.path().join("journal"),
                1,
                clock,
                CancellationToken::new(),
            )
        };
        let (journal, _) = Journal::open(config, &database, sender).unwrap();
        let driven = journal.clone();
        thread::spawn(move || {
            let mut events = Vec::new();
            while accepted.blocking_recv_many(&mut events, 256) > 0 {
                let at = clock.now();
                for event in events.drain(..) {
                    if then == Then::Settled {
                        driven.record(succeeded(event.seq, at));
                    }
                }
            }
        });
        Self {
            journal,
            clock,
            next_number: Arc::default(),
            body: Bytes::from(vec![0x5a; EVENT_BYTES]),
            _dir: dir,
        }
    }

    /// `n_events` events by `n_publishers`, each with one in flight.
    async fn publish(&self, n_publishers: u64, n_events: u64) {
        let mut publishers = JoinSet::new();
        for publisher in 0..n_publishers {
            let share = n_events / n_publishers + u64::from(publisher < n_events % n_publishers);
            let (journal, clock) = (self.journal.clone(), self.clock);
            let (next_number, body) = (Arc::clone(&self.next_number), self.body.clone());
            publishers.spawn(async move {
                for _ in 0..share {
                    let number = next_number.fetch_add(1, Ordering::Relaxed);
                    let event = event(number, clock, body.clone());
                    journal.append(event).await.unwrap();
                }
            });
        }
        publishers.join_all().await;
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    append(&mut criterion);
    append_and_settle(&mut criterion);
    read(&mut criterion);
    record(&mut criterion);
    criterion.final_summary();
}

fn event(number: u64, clock: Clock, body: Bytes) -> NewEvent {
    let mut id = [0; 16];
    let spread = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    id[..8].copy_from_slice(&spread.to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    NewEvent {
        tenant: "tenant-1".parse().unwrap(),
        webhook_id: WebhookId(id),
        accept_time: clock.now(),
        targets: vec![Target {
            uid: [1; 16],
            partition: 0,
            subscription: "orders".parse().unwrap(),
        }],
        origin: Origin::Published,
        stands: Vec::new(),
        event: body,
    }
}

fn succeeded(seq: u64, at: hookfleet_contract::time::Timestamp) -> Outcome {
    Outcome {
        delivery: DeliveryId { seq, target: 0 },
        progress: Progress {
            attempts: 1,
            step: 0,
        },
        standing: Standing::Succeeded,
        at,
    }
}

/// Where journals are put, by name.
fn disks() -> Vec<(&'static str, PathBuf)> {
    let memory = PathBuf::from("/dev/shm");
    let disk = ("disk", std::env::temp_dir());
    match memory.is_dir() {
        true => vec![disk, ("memory", memory)],
        false => vec![disk],
    }
}

fn append(criterion: &mut Criterion) {
    appending(criterion, "append", Then::Nothing);
}

fn append_and_settle(criterion: &mut Criterion) {
    appending(criterion, "append_and_settle", Then::Settled);
}

fn appending(criterion: &mut Criterion, name: &str, then: Then) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for (disk, parent) in disks() {
        for n_publishers in PUBLISHERS {
            let bench = Bench::new(&parent, then);
            let mut used = Used::default();
            group.bench_function(BenchmarkId::new(disk, n_publishers), |bencher| {
                bencher.iter_custom(|n_events| {
                    used.measure(n_events, || {
                        runtime.block_on(bench.publish(n_publishers, n_events));
                    })
                });
            });
            used.print(&format!("{name}/{disk}/{n_publishers}"));
            runtime.block_on(bench.journal.close());
        }
    }
}

fn read(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let bench = Bench::new(&std::env::temp_dir(), Then::Nothing);
    let n_events = 200_000;
    runtime.block_on(bench.publish(1024, n_events));
    let mut group = criterion.benchmark_group("read");
    for (name, first) in [("recent", n_events - 10_000), ("older", 1)] {
        let mut seq = first;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                seq = first + (seq + 7919) % 10_000;
                bench.journal.read(seq).unwrap().unwrap()
            });
        });
    }
    group.finish();
    runtime.block_on(bench.journal.close());
}

fn record(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    let bench = Bench::new(&std::env::temp_dir(), Then::Nothing);
    runtime.block_on(bench.publish(64, 1000));
    let mut used = Used::default();
    group.bench_function("outcome", |bencher| {
        bencher.iter_custom(|n_outcomes| {
            let at = bench.clock.now();
            used.measure(n_outcomes, || {
                for n in 0..n_outcomes {
                    bench.journal.record(succeeded(1 + n % 1000, at));
                }
                runtime.block_on(bench.journal.flush()).unwrap();
            })
        });
    });
    used.print("record/outcome");
    runtime.block_on(bench.journal.close());
}

/// What all threads used.
#[derive(Default)]
struct Used {
    cpu: Duration,
    n_events: u64,
}

impl Used {
    fn measure(&mut self, n_events: u64, run: impl FnOnce()) -> Duration {
        let (cpu_before, started) = (cpu(), Instant::now());
        run();
        let took = started.elapsed();
        self.cpu += cpu() - cpu_before;
        self.n_events += n_events;
        took
    }

    fn print(&self, name: &str) {
        let micros = self.cpu.as_secs_f64() * 1e6 / self.n_events as f64;
        eprintln!(
            "{name}: {micros:.2} µs of CPU per event of {}\n",
            self.n_events
        );
    }
}

/// In ticks of 10 ms.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * ticks.map(|it| it.parse::<u64>().unwrap()).sum::<u64>())
}

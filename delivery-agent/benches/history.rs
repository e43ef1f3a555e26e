//! What does it cost to keep the history of a delivery?
//!
//! Axes: a delivery that succeeds at once, and one that fails first and succeeds a second later.
//! 40,000 events of 1 KiB a second from 1,000 tenants, one delivery each, with outcomes 50 ms behind,
//! as a busy agent tells them. CPU is that of the process without the telling thread's own work, but
//! with flushes and compactions; the driver's share is what telling costs the thread that tells.
//!
//! ```text
//! cargo bench -p hookfleet-delivery-agent --bench history -- [once|retried] [events]
//! ```
//!
//! One case to a process, so that they do not share threads: `once` if none is named.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a program that measures and prints"
)]

use std::{
    collections::VecDeque,
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fjall::Database;
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    retry::Progress,
    time::Timestamp,
};
use hookfleet_delivery_agent::{
    history::{History, Log, Report},
    journal::{Origin, Outcome, Standing, StoredEvent, Target},
};
use hookfleet_proto::{
    cloudevents::{CloudEvent, cloud_event::Data},
    v1,
};
use prost::Message as _;
use rustix::time::{ClockId, clock_gettime};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TICK: Duration = Duration::from_millis(5);
const EVENTS_A_TICK: u64 = 200;
/// How many events later the first attempt is over, and the second.
const FIRST_AFTER: usize = 2_000;
const SECOND_AFTER: usize = 40_000;
const N_TENANTS: u64 = 1_000;
const N_EVENTS: u64 = 1_500_000;
const T0: Timestamp = Timestamp(20_000 * 86_400_000);

struct Counting(Arc<AtomicU64>);

impl Log for Counting {
    fn event(&self, _: u64) -> Option<Arc<StoredEvent>> {
        None
    }

    fn settle(&self, _: Outcome) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let retried = arguments.iter().any(|it| it == "retried");
    let n_events = arguments.iter().find_map(|it| it.parse().ok());
    run(retried, n_events.unwrap_or(N_EVENTS));
}

fn run(retried: bool, n_events: u64) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let database = Database::builder(dir.path()).open().unwrap();
    let settled = Arc::<AtomicU64>::default();
    let log = Counting(Arc::clone(&settled));
    let history = History::open(database.clone(), T0, log).unwrap();
    let payload = payload();
    let (started, written_before) = (Instant::now(), written());
    let cpu_before = cpu_of_others();
    let (mut first, mut second) = (VecDeque::new(), VecDeque::new());
    let (mut seq, mut driver) = (0, Duration::ZERO);
    while seq < n_events || !first.is_empty() || !second.is_empty() {
        let tick = Instant::now();
        let seqs = seq..n_events.min(seq + EVENTS_A_TICK);
        seq = seqs.end;
        let events: Vec<_> = seqs.map(|seq| event(seq, &payload)).collect();
        let is_over = seq == n_events;

        let telling = cpu(ClockId::ThreadCPUTime);
        for event in events {
            history.accepted(Arc::clone(&event));
            first.push_back(event);
        }
        while first.len() > FIRST_AFTER || is_over && !first.is_empty() {
            let event = first.pop_front().unwrap();
            history.record(report(&event, 1, !retried));
            if retried {
                second.push_back(event);
            }
        }
        while second.len() > SECOND_AFTER || is_over && !second.is_empty() {
            let event = second.pop_front().unwrap();
            history.record(report(&event, 2, true));
        }
        driver += cpu(ClockId::ThreadCPUTime) - telling;
        while history.backlog() > 65_536 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(TICK.saturating_sub(tick.elapsed()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(history.flush());
    let took = started.elapsed();
    while database.outstanding_flushes() > 0 || database.active_compactions() > 0 {
        thread::sleep(TICK);
    }
    let cpu = cpu_of_others() - cpu_before;
    assert_eq!(
        settled.load(Ordering::Relaxed),
        n_events * (1 + u64::from(retried))
    );
    let each = |all: f64| all / f64::from(u32::try_from(n_events).unwrap());
    println!(
        "{}: {n_events} deliveries in {took:.1?}: {:.2} µs of CPU and {:.2} µs of the driver's each, \
         {:.0} bytes written and {:.0} kept",
        if retried { "retried" } else { "once" },
        each(cpu.as_secs_f64() * 1e6),
        each(driver.as_secs_f64() * 1e6),
        each((written() - written_before) as f64),
        each(database.disk_space().unwrap() as f64),
    );
}

fn event(seq: u64, payload: &Bytes) -> Arc<StoredEvent> {
    // Ids are digests: they come in no order.
    let high = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    let low = seq.wrapping_mul(0xC2B2_AE3D_27D4_EB4F).to_be_bytes();
    let mut webhook_id = [0; 16];
    webhook_id[..8].copy_from_slice(&high);
    webhook_id[8..].copy_from_slice(&low);
    Arc::new(StoredEvent {
        seq,
        tenant: format!("tenant-{}", seq % N_TENANTS).parse().unwrap(),
        webhook_id: WebhookId(webhook_id),
        accept_time: T0 + Duration::from_micros(seq * 25),
        targets: vec![Target {
            partition: 0,
            uid: [1; 16],
            subscription: "hook-1".parse().unwrap(),
        }],
        origin: Origin::Published,
        stands: Vec::new(),
        event: payload.clone(),
    })
}

fn payload() -> Bytes {
    let event = CloudEvent {
        id: "0123456789".to_owned(),
        source: "/shop".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "orders.created".to_owned(),
        data: Some(Data::BinaryData(vec![7; 1024].into())),
        ..CloudEvent::default()
    };
    event.encode_to_vec().into()
}

fn report(event: &Arc<StoredEvent>, number: u32, succeeded: bool) -> Report {
    let at = event.accept_time + Duration::from_millis(50) * number;
    let mut attempt = v1::Attempt {
        number: number.cast_signed(),
        start_time: Some(at.into()),
        duration_millis: 12,
        ..v1::Attempt::default()
    };
    let standing = if succeeded {
        attempt.set_outcome(v1::Outcome::Delivered);
        attempt.status_code = 200;
        Standing::Succeeded
    } else {
        attempt.set_outcome(v1::Outcome::Retry);
        attempt.set_failure(v1::FailureKind::Status);
        attempt.status_code = 500;
        attempt.response_body = b"internal error".to_vec();
        Standing::Deferred { due: at }
    };
    Report {
        outcome: Outcome {
            delivery: DeliveryId {
                seq: event.seq,
                target: 0,
            },
            progress: Progress {
                attempts: number,
                step: number,
            },
            standing,
            at,
        },
        attempt: Some(attempt),
        event: Some(Arc::clone(event)),
    }
}

/// The CPU time of all threads but this one.
fn cpu_of_others() -> Duration {
    let own = cpu(ClockId::ThreadCPUTime);
    cpu(ClockId::ProcessCPUTime) - own
}

fn cpu(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap()
}

/// Bytes that were handed to the operating system.
fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let written = io.lines().find_map(|it| it.strip_prefix("wchar: "));
    written.unwrap().parse().unwrap()
}

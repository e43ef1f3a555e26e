//! How much memory and disk do deliveries cost that wait for their next attempt, and how long does
//! a start take after `kill -9`?
//!
//! Axes: the number of events, each with one target whose first attempt failed; their size; over how
//! many subscriptions they are spread. The history is not part of it.
//!
//! ```text
//! cargo bench -p hookfleet-delivery-agent --bench pending -- --events 10000000 --bytes 256
//! ```
//!
//! One process fills a journal and plays the driver: it records each outcome and puts the delivery
//! into the queue on disk. It is killed, and another process opens what is left.

#![expect(clippy::print_stdout, reason = "this is its output")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use hookfleet_contract::{id::WebhookId, retry::Progress};
use hookfleet_delivery_agent::{
    clock::Clock,
    core::Waiting,
    journal::{
        Config, Journal, NewEvent, Origin, Outcome, Recovered, Standing, StoredEvent, Target,
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As the agent has it.
const ACCEPTED_CAPACITY: usize = 4096;
const PUBLISHERS: u64 = 64;
/// Events of one call.
const BATCH: u64 = 16;
const MIB: f64 = (1 << 20) as f64;

#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// How many events wait.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// The size of each, besides its names.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// Over how many subscriptions they are spread.
    #[arg(long, default_value_t = 100_000)]
    subscriptions: u64,
    /// Where; a temporary folder that is removed afterwards if left out.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Which of the processes this is.
    #[arg(long, hide = true)]
    phase: Option<Phase>,
    /// What cargo says.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Phase {
    Fill,
    Recover,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.phase {
        None => conduct(&arguments),
        Some(phase) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            let dir = arguments.dir.clone().context("a folder")?;
            match phase {
                Phase::Fill => runtime.block_on(fill(&arguments, &dir)),
                Phase::Recover => recover(&dir),
            }
        }
    }
}

/// Starts the processes, one after another.
fn conduct(arguments: &Arguments) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.as_deref().unwrap_or(temporary.path());
    let Arguments {
        events,
        bytes,
        subscriptions,
        ..
    } = arguments;
    println!("{events} events of {bytes} bytes over {subscriptions} subscriptions");
    // Killed: nothing is synced in the end, nor closed.
    for phase in [Phase::Fill, Phase::Recover] {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--events", &events.to_string()])
            .args(["--bytes", &bytes.to_string()])
            .args(["--subscriptions", &subscriptions.to_string()])
            .args(["--phase", &format!("{phase:?}").to_lowercase()])
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(process.stdout.take().context("its output")?);
        let mut done = false;
        for line in output.lines() {
            let line = line?;
            done = line == "done";
            if done {
                break;
            }
            println!("{line}");
        }
        process.kill()?;
        process.wait()?;
        anyhow::ensure!(done, "{phase:?} failed");
    }
    Ok(())
}

/// Says that the work is done and waits to be killed.
fn wait_to_be_killed() -> anyhow::Result<()> {
    println!("done");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn fill(arguments: &Arguments, dir: &Path) -> anyhow::Result<()> {
    let (journal, accepted, _) = open(dir)?;
    let clock = Clock::system();
    let started = Instant::now();
    let driver = {
        let journal = journal.clone();
        let n_events = arguments.events;
        thread::spawn(move || drive(&journal, accepted, n_events, clock))
    };
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (journal, arguments) = (journal.clone(), arguments.clone());
            tokio::spawn(publish(journal, arguments, publisher, clock))
        })
        .collect();
    for publisher in publishers {
        publisher.await??;
    }
    let published = started.elapsed();
    driver.join().ok().context("the driver panicked")??;
    let driven = started.elapsed();
    journal.flush().await?;
    let n_events = arguments.events as f64;
    println!(
        "  filled: {:.0} events/s published, {:.0} deferred; {:.1} µs of CPU each",
        n_events / published.as_secs_f64(),
        n_events / driven.as_secs_f64(),
        cpu()?.as_secs_f64() * 1e6 / n_events,
    );
    report(&journal, dir)?;
    wait_to_be_killed()
}

/// As the driver does when every first attempt fails.
fn drive(
    journal: &Journal,
    mut accepted: mpsc::Receiver<Arc<StoredEvent>>,
    n_events: u64,
    clock: Clock,
) -> anyhow::Result<()> {
    let deferred = journal.deferred();
    let progress = Progress {
        attempts: 1,
        step: 1,
    };
    for _ in 0..n_events {
        let event = accepted.blocking_recv().context("the journal ended")?;
        let at = clock.now();
        let due = at + Duration::from_secs(3600 + event.seq % 3600);
        for (delivery, target) in event.deliveries() {
            journal.record(Outcome {
                delivery,
                progress,
                standing: Standing::Deferred { due },
                at,
            });
            let waiting = Waiting {
                delivery,
                progress,
                bytes: event.n_bytes(),
                due,
            };
            deferred.defer(target.queue(), waiting)?;
        }
    }
    Ok(())
}

async fn publish(
    journal: Journal,
    arguments: Arguments,
    publisher: u64,
    clock: Clock,
) -> anyhow::Result<()> {
    let body = Bytes::from(vec![0x5a; arguments.bytes]);
    let share =
        arguments.events / PUBLISHERS + u64::from(publisher < arguments.events % PUBLISHERS);
    let mut rest = share;
    while rest > 0 {
        let n_events = rest.min(BATCH);
        let events = (0..n_events).map(|i| {
            let number = (rest - i) * PUBLISHERS + publisher;
            let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut id = [0; 16];
            id[..8].copy_from_slice(&spread.to_be_bytes());
            id[8..].copy_from_slice(&number.to_be_bytes());
            let subscription = (spread >> 20) % arguments.subscriptions;
            let mut uid = [0; 16];
            uid[..8].copy_from_slice(
                &subscription
                    .wrapping_mul(0xd6e8_feb8_6659_fd93)
                    .to_be_bytes(),
            );
            uid[8..].copy_from_slice(&subscription.to_be_bytes());
            Ok(NewEvent {
                tenant: format!("tenant-{}", subscription % 1000).parse()?,
                webhook_id: WebhookId(id),
                accept_time: clock.now(),
                targets: vec![Target {
                    uid,
                    partition: 0,
                    subscription: format!("s-{subscription}").parse()?,
                }],
                origin: Origin::Published,
                stands: Vec::new(),
                event: body.clone(),
            })
        });
        let events = events.collect::<anyhow::Result<Vec<_>>>()?;
        loop {
            match journal.append_all(events.clone()).await {
                Ok(_) => break,
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        rest -= n_events;
    }
    Ok(())
}

fn recover(dir: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    let (journal, _accepted, recovered) = open(dir)?;
    let took = started.elapsed();
    let n_pending: u64 = recovered.pending.iter().map(|it| it.count).sum();
    println!(
        "  recovered: {n_pending} pending of {} subscriptions in {:.2} s, {:.2} s of CPU; damage: {:?}",
        recovered.pending.len(),
        took.as_secs_f64(),
        cpu()?.as_secs_f64(),
        recovered.damage,
    );
    report(&journal, dir)?;
    wait_to_be_killed()
}

fn open(dir: &Path) -> anyhow::Result<(Journal, mpsc::Receiver<Arc<StoredEvent>>, Recovered)> {
    let started = Instant::now();
    let database = fjall::Database::builder(dir.join("database")).open()?;
    let opened = started.elapsed();
    let (sender, accepted) = mpsc::channel(ACCEPTED_CAPACITY);
    let config = Config::new(
        dir.join("journal"),
        1,
        Clock::system(),
        CancellationToken::new(),
    );
    let (journal, recovered) = Journal::open(config, &database, sender)?;
    println!("  database opened in {:.2} s", opened.as_secs_f64());
    Ok((journal, accepted, recovered))
}

fn report(journal: &Journal, dir: &Path) -> anyhow::Result<()> {
    let stats = journal.stats();
    println!(
        "  memory: {:.0} MiB resident, {:.0} MiB at most",
        status("VmRSS")? / 1024.0,
        status("VmHWM")? / 1024.0
    );
    println!(
        "  disk: {:.0} MiB journal, {:.0} MiB database; {} live and {} retired segments; \
         {} unsettled and {} lingering deliveries",
        disk_usage(&dir.join("journal"))? as f64 / MIB,
        disk_usage(&dir.join("database"))? as f64 / MIB,
        stats.n_live_segments,
        stats.n_retired_segments,
        stats.n_unsettled,
        stats.n_lingering,
    );
    Ok(())
}

/// A number of `/proc/self/status`, in KiB.
fn status(field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|it| it.strip_prefix(field));
    let number = line.and_then(|it| it.split_whitespace().nth(1));
    Ok(number.context("a field of status")?.parse()?)
}

/// What all threads used, in ticks of 10 ms.
fn cpu() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.split_whitespace().collect();
    let ticks = |i: usize| -> anyhow::Result<u64> { Ok(fields.get(i).context("stat")?.parse()?) };
    Ok(Duration::from_millis(10 * (ticks(13)? + ticks(14)?)))
}

fn disk_usage(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut n_bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        n_bytes += match metadata.is_dir() {
            true => disk_usage(&entry.path())?,
            false => metadata.blocks() * 512,
        };
    }
    Ok(n_bytes)
}

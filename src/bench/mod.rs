//! `hookfleet bench`: what the whole path does on this machine, beside what a bare HTTP client does.
//!
//! Everything that is measured is a process of its own: the server as users start it, with its real
//! journal and `fdatasync`; a sink; and a bare client that posts the same bytes to the same endpoints. The
//! client and the server take turns, so that whatever else the machine does is done to both.

mod bare;
mod child;
mod clock;
mod load;
mod report;
mod scenario;
mod sink;
mod usage;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::output;
use child::Process;
use load::Load;
use report::{Latency, Report, Round};
use scenario::Scenario;
use sink::Seen;
use usage::Usage;

/// Requests at a time, of the bare client and of each subscription.
const AT_ONCE: usize = 128;
/// How often the publisher learns what the sink has.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long what is on its way may take to arrive when a measurement is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measure the whole path on this machine, beside a bare HTTP client.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to measure; everything if absent.
    #[arg(long = "scenario", value_enum)]
    scenarios: Vec<Scenario>,
    /// Bytes of an event's data, repeated.
    #[arg(long = "payload", default_values_t = [1024])]
    payloads: Vec<usize>,
    /// Seconds of each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds; each is the bare client and then Hookfleet.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One short round.
    #[arg(long)]
    quick: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Where the server keeps its data, so which disk is measured; a temporary directory if absent.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// The other parts that this binary plays.
#[derive(Debug, Args)]
pub(crate) struct Part {
    #[command(subcommand)]
    part: PartKind,
}

#[derive(Debug, clap::Subcommand)]
enum PartKind {
    Sink,
    Bare(bare::Bare),
}

/// What is running.
struct Rig {
    server: Process,
    channel: Channel,
    _sink: Process,
    sink_address: SocketAddr,
    http: reqwest::Client,
    seconds: f64,
    _data: tempfile::TempDir,
}

// === impl Part ===

impl Part {
    /// Plays it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.part {
            PartKind::Sink => sink::run().await,
            PartKind::Bare(bare) => bare::run(bare).await,
        }
    }
}

// === impl Arguments ===

impl Arguments {
    /// Measures, and prints what it measured.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        if self.quick {
            (self.seconds, self.rounds) = (1.0, 1);
        }
        if self.scenarios.is_empty() {
            self.scenarios = <Scenario as clap::ValueEnum>::value_variants().to_vec();
        }
        let mut reports = Vec::new();
        for &scenario in &self.scenarios {
            for &payload in &self.payloads {
                reports.push(self.measure(scenario, payload).await?);
            }
        }
        if self.json {
            output::line(serde_json::to_string_pretty(&reports)?);
        } else {
            report::print(&reports);
        }
        Ok(())
    }

    async fn measure(&self, scenario: Scenario, payload: usize) -> anyhow::Result<Report> {
        let rig = Rig::start(self).await?;
        let at_once = i32::try_from(AT_ONCE)?;
        let load = |tenant: &str| Load {
            channel: rig.channel.clone(),
            parent: format!("tenants/{tenant}"),
            payload,
            n_types: scenario.n_types(),
            fan_out: scenario.fan_out() as u64,
        };
        let port = rig.sink_address.port();
        if scenario == Scenario::TenPercentDead {
            let tenant = "alone";
            scenario
                .subscribe(tenant, port, at_once, false, &rig.channel)
                .await?;
        }
        scenario
            .subscribe("all", port, at_once, true, &rig.channel)
            .await?;
        say(format_args!(
            "{} with {payload} bytes: warming up",
            scenario.name()
        ));
        rig.round(scenario, &load("all"), false).await?;
        let (mut rounds, mut alone) = (Vec::new(), Vec::new());
        for number in 1..=self.rounds {
            if scenario == Scenario::TenPercentDead {
                let round = rig.round(scenario, &load("alone"), false).await?;
                alone.push(round.end_to_end);
            }
            let bare = scenario.rate().is_none();
            let round = rig.round(scenario, &load("all"), bare).await?;
            say(format_args!(
                "{} with {payload} bytes, round {number} of {}: {:.0} deliveries/s, {:.0} bare posts/s",
                scenario.name(),
                self.rounds,
                round.deliveries_per_second,
                round.bare_per_second,
            ));
            rounds.push(round);
        }
        let peak = Usage::of(rig.server.pid()?)?.peak_bytes;
        let mut report = Report::new(scenario.name(), payload, rounds, peak);
        alone.sort_by_key(|it| it.p99_micros);
        report.end_to_end_alone = alone.get(alone.len() / 2).copied();
        Ok(report)
    }
}

// === impl Rig ===

impl Rig {
    async fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let data = match &arguments.data_dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let data = data.context("cannot make a directory for the data")?;
        let dir = data.path().to_str().context("a path in UTF-8")?;
        let mut sink = Process::start(&["bench-part", "sink"])?;
        let sink_address = sink.address().await?;
        let listen = ["standalone", "--listen", "127.0.0.1:0", "--data-dir", dir];
        let mut server = Process::start(&listen)?;
        let address = server.address().await?;
        Ok(Self {
            server,
            channel: Endpoint::from_shared(format!("http://{address}"))?
                .connect()
                .await?,
            _sink: sink,
            sink_address,
            http: http_client()?,
            seconds: arguments.seconds,
            _data: data,
        })
    }

    /// The bare client, if it is wanted, and then Hookfleet.
    async fn round(&self, scenario: Scenario, load: &Load, bare: bool) -> anyhow::Result<Round> {
        let mut round = Round::default();
        if bare {
            let numbers = [
                self.sink_address.port().to_string(),
                scenario.n_subscriptions().to_string(),
                AT_ONCE.to_string(),
                self.seconds.to_string(),
            ];
            let arguments = numbers.iter().map(String::as_str);
            let arguments: Vec<&str> = ["bench-part", "bare"]
                .into_iter()
                .chain(arguments)
                .collect();
            let mut bare = Process::start(&arguments)?;
            let done: bare::Done = serde_json::from_str(&bare.line().await?)?;
            round.bare_per_second = done.per_second;
            round.bare_cpu_micros_per_post = done.cpu_micros;
        }
        self.ask("reset").await?;
        let before = Usage::of(self.server.pid()?)?;
        let start = Instant::now();
        let published = match scenario.rate() {
            None => self.saturate(load).await?,
            Some(rate) => load.open((rate * self.seconds) as u64, rate).await?,
        };
        let (seconds, seen) = (start.elapsed().as_secs_f64(), self.seen().await?);
        let n_deliveries = published.n_events * load.fan_out;
        // Not all of them have somebody who answers.
        let ill = scenario == Scenario::TenPercentDead;
        let expected = if ill {
            n_deliveries * 85 / 100
        } else {
            n_deliveries
        };
        self.wait_for(expected).await?;
        let (after, all) = (Usage::of(self.server.pid()?)?, self.seen().await?);
        round.events_per_second = published.n_events as f64 / seconds;
        round.deliveries_per_second = seen.n_received as f64 / seconds;
        round.cpu_micros_per_delivery =
            (after.cpu_micros - before.cpu_micros) as f64 / all.n_received.max(1) as f64;
        round.written_bytes_per_event =
            (after.written_bytes - before.written_bytes) as f64 / published.n_events.max(1) as f64;
        round.publish = Latency::of(&published.latency);
        round.end_to_end = all.latency;
        Ok(round)
    }

    /// Publishes for as long as a round takes, as fast as deliveries arrive.
    async fn saturate(&self, load: &Load) -> anyhow::Result<load::Published> {
        let (received, over) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let publishing = load.closed(Arc::clone(&received), over.clone());
        let looking = async {
            let end = Instant::now() + Duration::from_secs_f64(self.seconds);
            while Instant::now() < end {
                received.store(self.seen().await?.n_received, Ordering::Relaxed);
                sleep(LOOK_EVERY).await;
            }
            over.cancel();
            Ok::<(), anyhow::Error>(())
        };
        let (published, looked) = tokio::join!(publishing, looking);
        looked?;
        published
    }

    /// Waits until the sink has so many deliveries.
    async fn wait_for(&self, n_deliveries: u64) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let n_received = self.seen().await?.n_received;
            if n_received >= n_deliveries {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < end,
                "{n_received} of {n_deliveries} deliveries have arrived"
            );
            sleep(LOOK_EVERY).await;
        }
    }

    async fn seen(&self) -> anyhow::Result<Seen> {
        Ok(self.ask("seen").await?.json().await?)
    }

    async fn ask(&self, what: &str) -> anyhow::Result<reqwest::Response> {
        let url = format!("http://{}/{what}", self.sink_address);
        Ok(self.http.get(url).send().await?.error_for_status()?)
    }
}

/// A client that goes nowhere but to the sink.
fn http_client() -> anyhow::Result<reqwest::Client> {
    // The client wants a provider of TLS even where there is none. One that is there already will do.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(AT_ONCE);
    client.build().context("cannot make an HTTP client")
}

/// Says how far it is, beside the result.
fn say(text: std::fmt::Arguments<'_>) {
    output::progress(text);
}

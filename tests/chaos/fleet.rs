//! A fleet that a scenario does things to: members of etcd, control planes and agents, each with a name and an address
//! that it keeps when it comes back.

use std::{
    collections::BTreeMap,
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    Agent, GetPlacementRequest, ListAgentsRequest, fleet_service_client::FleetServiceClient,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::harness::{
    api::{spread, subscribe_in_force, to},
    eventually,
    ledger::{Doors, Ledger, Shape},
    network::Network,
    process::{Process, hookfleet},
    receiver::Receiver,
};

/// How long the fleet may take for anything, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);
const N_TENANTS: usize = 8;
/// Fleets of one run of the tests have addresses of their own, so that nobody takes a port while its owner restarts.
static N_FLEETS: AtomicU8 = AtomicU8::new(20);

/// How big a fleet is, and how it behaves.
pub struct Size {
    pub n_etcd: usize,
    pub n_planes: usize,
    /// How long an absent agent keeps its slots, in seconds, after the 15 s of its lease.
    pub hold: u64,
    /// What agents are started with besides.
    pub agent_flags: &'static [&'static str],
}

/// Everything that runs. Agents end first, then what they need.
pub struct Fleet {
    pub ledger: Ledger,
    /// Where publishers go: all agents, unless a scenario wants it otherwise.
    pub doors: Doors,
    pub tenants: Vec<String>,
    agents: BTreeMap<&'static str, Node>,
    planes: Vec<Node>,
    pub etcd: Vec<TestEtcd>,
    temper: Arc<AtomicU8>,
    size: Size,
    network: Option<Network>,
    addresses: u8,
    dir: TempDir,
}

/// How receivers behave.
#[derive(Clone, Copy)]
pub enum Temper {
    /// A little slow, and now and then they fail.
    Usual,
    Fails,
    /// They take seconds.
    Stalls,
}

/// A process that may be away.
struct Node {
    /// Where it listens; the same after a restart.
    listen: String,
    process: Option<Process>,
}

/// Who owns which slot, with its epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    owners: BTreeMap<i32, (String, i64)>,
    /// Slots of which another agent may still have something.
    n_moving: usize,
}

// === impl Fleet ===

impl Fleet {
    /// Starts etcd and control planes, no agent.
    pub async fn start(size: Size) -> Self {
        Self::start_in(size, None).await
    }

    /// Starts them in a network in which they can be cut off from each other.
    pub async fn start_in(size: Size, network: Option<Network>) -> Self {
        let etcd = match &network {
            Some(network) => vec![TestEtcd::start_on(network.own()).await],
            None => TestEtcd::cluster(size.n_etcd).await,
        };
        let ledger = Ledger::start().await;
        let mut fleet = Self {
            ledger,
            doors: Doors::default(),
            tenants: Vec::new(),
            agents: BTreeMap::new(),
            planes: Vec::new(),
            etcd,
            temper: Arc::default(),
            network,
            addresses: N_FLEETS.fetch_add(1, Ordering::Relaxed),
            size,
            dir: tempfile::tempdir().unwrap(),
        };
        for number in 0..fleet.size.n_planes {
            let listen = fleet.address(&plane(number), 100 + number);
            let process = None;
            fleet.planes.push(Node { listen, process });
            fleet.restart_plane(number);
        }
        fleet
    }

    /// Makes tenants whose receivers are a little slow, and fail now and then, or all the time if they are told to.
    pub async fn subscribe(&mut self) {
        self.tenants = self.ledger.tenants(&self.admin(), N_TENANTS).await;
        for tenant in &self.tenants {
            for id in ["any", "inorder"] {
                self.receive(&format!("{tenant}/{id}"));
            }
        }
    }

    /// One more subscription of each tenant, which everybody hears of. It is to get what is published from now on only, so
    /// it is no part of the ledger.
    pub async fn subscribe_late(&self, id: &str) {
        let receiver = Receiver::start().await;
        for tenant in &self.tenants {
            let wanted = to(receiver.url(id));
            subscribe_in_force(&self.admin(), tenant, id, wanted).await;
        }
    }

    /// Spreads all tenants over so many slots.
    pub async fn spread(&self, n: i32) {
        for tenant in &self.tenants {
            spread(&self.admin(), tenant, n).await.unwrap();
        }
    }

    fn receive(&self, path: &str) {
        let temper = Arc::clone(&self.temper);
        self.ledger.receiver.answer_with(path, move |_, n_before| {
            let temper = temper.load(Ordering::Relaxed);
            let fails = n_before % 50 == 20 || temper == Temper::Fails as u8;
            let status: u16 = if fails { 503 } else { 204 };
            let delay = match n_before as u64 % 20 {
                _ if temper == Temper::Stalls as u8 => Duration::from_secs(3),
                millis => Duration::from_millis(millis),
            };
            (status.try_into().unwrap(), Vec::new(), delay)
        });
    }

    /// Lets all receivers behave like this from now on.
    pub fn receivers(&self, temper: Temper) {
        self.temper.store(temper as u8, Ordering::Relaxed);
    }

    /// A load on all tenants until it is stopped.
    pub fn shape(&self, name: &'static str) -> Shape {
        Shape {
            name,
            tenants: self.tenants.clone(),
            pause: Duration::from_millis(60),
            n_each: usize::MAX,
            stays: true,
        }
    }

    /// Starts an agent, or starts it again.
    pub fn join(&mut self, name: &'static str) {
        let planes = (0..self.planes.len()).collect::<Vec<_>>();
        self.join_through(name, &planes);
    }

    /// Starts an agent that knows these control planes only.
    pub fn join_through(&mut self, name: &'static str, planes: &[usize]) {
        let listen = match self.agents.get(name) {
            Some(node) => node.listen.clone(),
            None => self.address(name, 1 + self.agents.len()),
        };
        let mut command = hookfleet();
        command.args(["agent", "--allow-loopback-targets", "--agent-id", name]);
        command.arg("--data-dir").arg(self.dir.path().join(name));
        command.args(self.size.agent_flags);
        for plane in planes {
            let url = format!("http://{}", self.planes[*plane].listen);
            command.args(["--control-plane", &url]);
        }
        if let Some(network) = &self.network {
            network.receive(name, &self.ledger.receiver);
        }
        let node = self.start_node(name, command, &listen);
        self.agents.insert(name, node);
        self.open_doors();
    }

    /// Starts a control plane again.
    pub fn restart_plane(&mut self, number: usize) {
        let mut command = hookfleet();
        command.args(["control-plane", "--allow-loopback-targets"]);
        command.args(["--agent-hold-seconds", &self.size.hold.to_string()]);
        // Slots come to whoever joins a quarter at a time, and soon.
        command.args(["--join-ramp-seconds", "1"]);
        command
            .arg("--key-file")
            .arg(self.dir.path().join("secrets.key"));
        for member in &self.etcd {
            command.args(["--etcd", member.endpoint()]);
        }
        let listen = self.planes[number].listen.clone();
        self.planes[number] = self.start_node(&plane(number), command, &listen);
    }

    fn start_node(&self, name: &str, command: Command, listen: &str) -> Node {
        let command = match &self.network {
            Some(network) => network.inside(name, &command),
            None => command,
        };
        let process = Process::start(command, listen);
        Node {
            listen: process.address.to_string(),
            process: Some(process),
        }
    }

    /// An address with a free port.
    fn address(&self, name: &str, number: usize) -> String {
        match &self.network {
            Some(network) => format!("{}:0", network.host(name)),
            None => format!("127.0.{}.{number}:0", self.addresses),
        }
    }

    /// Publishers go to the agents that are there.
    pub fn open_doors(&self) {
        let agents = self.agents.values().filter_map(|it| it.process.as_ref());
        self.doors.set(agents.map(Process::channel).collect());
    }

    pub fn agent(&self, name: &str) -> &Process {
        self.agents[name].process.as_ref().expect("it runs")
    }

    pub fn plane(&self, number: usize) -> &Process {
        self.planes[number].process.as_ref().expect("it runs")
    }

    /// The network of a fleet that has one of its own.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a network of its own")
    }

    /// A control plane that runs.
    pub fn admin(&self) -> Channel {
        let mut running = self.planes.iter().filter_map(|it| it.process.as_ref());
        running.next().expect("a control plane runs").channel()
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        self.take(name).kill();
    }

    /// SIGTERM, and what it ended with.
    pub async fn terminate(&mut self, name: &str) -> ExitStatus {
        self.take(name).terminate().await
    }

    /// Freezes an agent, or lets it go on.
    pub fn freeze(&self, name: &str, frozen: bool) {
        let signal = if frozen {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        self.agent(name).signal(signal);
    }

    /// An agent that is about to end; publishers still go there.
    pub fn take(&mut self, name: &str) -> Process {
        let node = self.agents.get_mut(name).expect("it was started");
        node.process.take().expect("it runs")
    }

    pub fn take_plane(&mut self, number: usize) -> Process {
        self.planes[number].process.take().expect("it runs")
    }

    /// What an agent leaves on its disk is gone.
    pub fn wipe(&self, name: &str) {
        std::fs::remove_dir_all(self.dir.path().join(name)).unwrap();
    }

    /// Runs `hookfleet fleet`.
    pub async fn command(&self, arguments: &[&str]) {
        let mut command = hookfleet();
        command.arg("fleet").args(arguments).arg("--server");
        let plane = self.planes.iter().find(|it| it.process.is_some());
        command.arg(format!(
            "http://{}",
            plane.expect("a control plane runs").listen
        ));
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = ran.await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
    }

    /// The number of the control plane that places slots.
    pub fn placer(&self) -> Option<usize> {
        let place = |it: &Process| it.has_logged("places slots from now on");
        self.planes
            .iter()
            .position(|it| it.process.as_ref().is_some_and(place))
    }

    pub async fn agents(&self) -> Result<Vec<Agent>, String> {
        let mut fleet = FleetServiceClient::new(self.admin());
        let agents = fleet.list_agents(ListAgentsRequest::default()).await;
        Ok(agents.map_err(|it| it.to_string())?.into_inner().agents)
    }

    pub async fn table(&self) -> Result<Table, String> {
        self.table_of(self.admin()).await
    }

    /// The table as one of the control planes knows it.
    pub async fn table_of(&self, plane: Channel) -> Result<Table, String> {
        let mut fleet = FleetServiceClient::new(plane);
        let placement = fleet.get_placement(GetPlacementRequest {}).await;
        let placement = placement.map_err(|it| it.to_string())?.into_inner();
        let mut table = Table {
            owners: BTreeMap::new(),
            n_moving: 0,
        };
        for range in placement.ranges {
            for slot in range.first_slot..=range.last_slot {
                let owner = range.agent.trim_start_matches("agents/").to_owned();
                table.owners.insert(slot, (owner, range.epoch));
                table.n_moving += usize::from(!range.previous_agent.is_empty());
            }
        }
        Ok(table)
    }

    /// Waits until these agents share out the slots evenly, and nothing is moving any more.
    pub async fn shared_by(&self, names: &[&str]) -> Table {
        self.shared(names, true).await
    }

    /// Waits until these agents share out the slots evenly; something may be moving still.
    pub async fn owned_by(&self, names: &[&str]) -> Table {
        self.shared(names, false).await
    }

    async fn shared(&self, names: &[&str], at_rest: bool) -> Table {
        eventually("slots are shared out", PATIENCE, || async {
            let table = self.table().await?;
            let counts = table.counts();
            let least = 1024 / names.len();
            let is_even = |name: &&str| counts.get(*name).is_some_and(|it| *it - least <= 1);
            let is_right = counts.len() == names.len()
                && counts.values().all(|it| *it >= least)
                && names.iter().all(is_even)
                && (table.n_moving == 0 || !at_rest);
            if is_right {
                return Ok(table);
            }
            sleep(Duration::from_millis(100)).await;
            Err(format!("{counts:?}, {} are moving", table.n_moving))
        })
        .await
    }

    /// Waits until so much time has passed while everything goes on; there is no other sign of it.
    pub async fn outlast(&self, time: Duration) {
        let until = self.ledger.now() + time;
        eventually("time passes", time + PATIENCE, || async {
            let now = self.ledger.now();
            (now >= until).then_some(()).ok_or(now)
        })
        .await;
    }
}

pub fn plane(number: usize) -> String {
    format!("plane{number}")
}

// === impl Table ===

impl Table {
    /// How many slots each owner has.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (owner, _) in self.owners.values() {
            *counts.entry(owner.clone()).or_default() += 1;
        }
        counts
    }

    /// How many slots an agent has.
    pub fn count(&self, name: &str) -> usize {
        self.counts().get(name).copied().unwrap_or(0)
    }

    /// How many slots have changed hands since `before`, however often.
    pub fn moved_since(&self, before: &Self) -> usize {
        let mut slots = self.owners.iter();
        let has_moved = |it: &(&i32, &(String, i64))| before.owners.get(it.0) != Some(it.1);
        slots.by_ref().filter(has_moved).count()
    }
}

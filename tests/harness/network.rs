//! Networks of a scenario: each process in a namespace of its own, joined by a bridge, and cut off from others by routes
//! that lead nowhere: packets vanish, connections stay open.
//!
//! It takes root and network namespaces. Where they are not there it says so, loudly, and does nothing.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
    thread,
};

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpListener;

use super::receiver::Receiver;

/// Networks of one run of the tests.
static N_NETWORKS: AtomicU8 = AtomicU8::new(0);

/// A bridge and the hosts on it.
pub struct Network {
    /// Makes names unlike those of other runs on this machine.
    prefix: String,
    subnet: u8,
    hosts: BTreeMap<String, u8>,
    /// Hosts where the receivers listen already.
    receiving: RefCell<Vec<String>>,
}

// === impl Network ===

impl Network {
    /// `None`, with a word about it, where this machine does not permit one.
    pub fn new(hosts: &[&str]) -> Option<Self> {
        let pid = std::process::id();
        let number = N_NETWORKS.fetch_add(1, Ordering::Relaxed);
        let hosts = hosts.iter().zip(2..);
        let network = Self {
            prefix: format!("hf{pid}n{number}"),
            subnet: u8::try_from((pid + 125 * u32::from(number)) % 250).unwrap(),
            hosts: hosts.map(|(it, place)| ((*it).to_owned(), place)).collect(),
            receiving: RefCell::default(),
        };
        match network.make() {
            Ok(()) => Some(network),
            Err(why) => {
                eprintln!(
                    "SKIPPED: nobody is cut off, because this machine has no network namespaces for us: {why}"
                );
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let bridge = &self.prefix;
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", self.own()))?;
        ip(&format!("link set {bridge} up"))?;
        for (host, place) in &self.hosts {
            let (space, link) = (self.space(host), format!("{bridge}v{place}"));
            let address = self.host(host);
            ip(&format!("netns add {space}"))?;
            ip(&format!(
                "link add {link} type veth peer name eth0 netns {space}"
            ))?;
            ip(&format!("link set {link} master {bridge} up"))?;
            ip(&format!("-n {space} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(())
    }

    /// Where the test is.
    pub fn own(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 1)
    }

    pub fn host(&self, name: &str) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, self.hosts[name])
    }

    fn space(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The command on a host.
    pub fn inside(&self, host: &str, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.space(host)]);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Lets receivers be on loopback of the host, at the address that they have here.
    pub fn receive(&self, host: &str, receiver: &Receiver) {
        let mut receiving = self.receiving.borrow_mut();
        if receiving.iter().any(|it| it == host) {
            return;
        }
        receiving.push(host.to_owned());
        receiver.serve(self.listen(host, receiver.address));
    }

    /// Listens on a host.
    pub fn listen(&self, host: &str, address: SocketAddr) -> TcpListener {
        let space = self.space(host);
        // A socket stays in the network in which its thread was when it made it.
        let listener = thread::spawn(move || listen(&space, address));
        TcpListener::from_std(listener.join().unwrap()).unwrap()
    }

    /// Gives a host one more address, at which it is in reach from where the test is.
    pub fn add_address(&self, host: &str, address: Ipv4Addr) {
        let (space, gateway) = (self.space(host), self.host(host));
        ip(&format!("-n {space} addr add {address}/32 dev eth0")).unwrap();
        // It goes with the bridge.
        let bridge = &self.prefix;
        ip(&format!(
            "route add {address}/32 via {gateway} dev {bridge}"
        ))
        .unwrap();
    }

    /// Packets between two hosts vanish, in both directions.
    pub fn cut(&self, one: &str, other: &str) {
        self.route("add", one, self.host(other));
        self.route("add", other, self.host(one));
    }

    /// They pass again.
    pub fn heal(&self, one: &str, other: &str) {
        self.route("del", one, self.host(other));
        self.route("del", other, self.host(one));
    }

    /// Packets of a host to where the test is vanish: etcd is there.
    pub fn cut_own(&self, host: &str) {
        self.route("add", host, self.own());
    }

    /// They pass again.
    pub fn heal_own(&self, host: &str) {
        self.route("del", host, self.own());
    }

    fn route(&self, verb: &str, host: &str, to: Ipv4Addr) {
        ip(&format!(
            "-n {} route {verb} blackhole {to}/32",
            self.space(host)
        ))
        .unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.keys() {
            let _never_made = ip(&format!("netns del {}", self.space(host)));
        }
        let _never_made = ip(&format!("link del {}", self.prefix));
    }
}

fn listen(space: &str, address: SocketAddr) -> std::net::TcpListener {
    let space = File::open(format!("/var/run/netns/{space}")).unwrap();
    setns(space, CloneFlags::CLONE_NEWNET).unwrap();
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {error}"))
}

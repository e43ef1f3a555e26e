//! Real etcd servers for tests: each in a directory of its own, on ports that were free, killed when dropped.
//!
//! Owns the processes. Refuses to run without the real thing: there is no fake and no skipping. Panics are its errors.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take to answer, on a machine that is busy with other tests.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// A free port can be taken by somebody else before the server binds it.
const STARTS: usize = 5;

/// A member of an etcd cluster, usually the only one.
#[derive(Debug)]
pub struct TestEtcd {
    dir: TempDir,
    endpoint: String,
    arguments: Vec<String>,
    tls: Option<TlsOptions>,
    server: Option<Child>,
}

impl TestEtcd {
    /// Starts a cluster of one and waits until it answers.
    ///
    /// # Panics
    /// When there is no `etcd` on the path, or it does not start.
    pub async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST).await
    }

    /// Starts a cluster of one at an address, for processes in other networks.
    ///
    /// # Panics
    /// As [`TestEtcd::start`] does.
    pub async fn start_on(host: Ipv4Addr) -> Self {
        let mut members = Self::cluster_on(host, 1).await;
        members.remove(0)
    }

    /// Starts a cluster of one that is called by TLS, with certificates of this authority only. It shows `certificate`
    /// itself, which must be good for 127.0.0.1, and for clients too.
    ///
    /// # Panics
    /// When there is no `etcd` on the path, or it does not start.
    pub async fn start_secure(authority: &Path, certificate: &Path, key: &Path) -> Self {
        let read = |path| fs::read(path).expect("a PEM file");
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read(authority)))
            .identity(Identity::from_pem(read(certificate), read(key)));
        let secure = |mut member: Self| {
            for argument in &mut member.arguments {
                if argument.contains("client-urls=") {
                    *argument = argument.replace("http://", "https://");
                }
            }
            member.endpoint = member.endpoint.replace("http://", "https://");
            let file = |name, path: &Path| format!("--{name}={}", path.display());
            member.arguments.extend([
                "--client-cert-auth".to_owned(),
                file("trusted-ca-file", authority),
                file("cert-file", certificate),
                file("key-file", key),
            ]);
            member.tls = Some(tls.clone());
            member
        };
        let mut members = Self::start_all(Ipv4Addr::LOCALHOST, 1, secure).await;
        members.remove(0)
    }

    /// Starts a cluster and waits until all members answer.
    ///
    /// # Panics
    /// When there is no `etcd` on the path, or it does not start.
    pub async fn cluster(n_members: usize) -> Vec<Self> {
        Self::cluster_on(Ipv4Addr::LOCALHOST, n_members).await
    }

    async fn cluster_on(host: Ipv4Addr, n_members: usize) -> Vec<Self> {
        Self::start_all(host, n_members, |member| member).await
    }

    async fn start_all(
        host: Ipv4Addr,
        n_members: usize,
        adapt: impl Fn(Self) -> Self,
    ) -> Vec<Self> {
        let mut log = String::new();
        for _ in 0..STARTS {
            let members = Self::describe(host, n_members).into_iter();
            let mut members: Vec<_> = members.map(&adapt).collect();
            members.iter_mut().for_each(Self::spawn);
            let mut ready = true;
            for member in &mut members {
                ready &= member.is_ready().await;
            }
            if ready {
                return members;
            }
            log = members.iter().map(Self::log).collect();
        }
        panic!("etcd did not start:\n{log}");
    }

    /// The address for clients, `http://host:port`; the same after a restart.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the server keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the server as `kill -9` does. Its data stay.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("a child can be killed");
            server.wait().expect("a child can be waited for");
        }
    }

    /// Starts the server again on its data and ports, and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(
            self.is_ready().await,
            "etcd did not come back:\n{}",
            self.log()
        );
    }

    /// Kills the server and leaves it nothing.
    ///
    /// # Panics
    /// When its data cannot be deleted.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).expect("the data can be deleted");
    }

    /// Kills the server and puts a copy of its data aside.
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn back_up(&mut self) {
        self.kill();
        copy(&self.data(), &self.dir.path().join("backup"));
    }

    /// Kills the server and gives it the data that were put aside.
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn restore(&mut self) {
        self.wipe();
        copy(&self.dir.path().join("backup"), &self.data());
    }

    /// Wipes the server; when it is started again it is another cluster.
    pub fn become_another(&mut self) {
        self.wipe();
        self.arguments
            .push("--initial-cluster-token=another".to_owned());
    }

    /// Undoes [`TestEtcd::become_another`], with the data that were put aside.
    pub fn become_itself(&mut self) {
        self.restore();
        self.arguments.pop();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Whether this member leads its cluster, as far as it can tell.
    pub async fn is_leader(&self) -> bool {
        let asked = timeout(Duration::from_secs(1), async {
            let client = Client::connect([&self.endpoint], None).await?;
            client.maintenance_client().status().await
        });
        let own = |status: &etcd_client::StatusResponse| {
            let id = status.header().map(etcd_client::ResponseHeader::member_id);
            id == Some(status.leader())
        };
        matches!(asked.await, Ok(Ok(status)) if own(&status))
    }

    /// Forgets everything but the latest of each key: whoever watches from before is told that it is too late.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn compact(&self) {
        let client = Client::connect([&self.endpoint], None)
            .await
            .expect("an etcd that answers");
        let found = client
            .kv_client()
            .get("ready", None)
            .await
            .expect("an etcd that answers");
        let revision = found.header().expect("a header").revision();
        let compacted = client.kv_client().compact(revision, None).await;
        compacted.expect("the revision is the latest");
    }

    /// Freezes the server: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn describe(host: Ipv4Addr, n_members: usize) -> Vec<Self> {
        let ports = free_ports(host, n_members * 2);
        let (clients, peers) = ports.split_at(n_members);
        let cluster: Vec<_> = peers
            .iter()
            .enumerate()
            .map(|(member, port)| format!("member{member}=http://{host}:{port}"))
            .collect();
        let members = clients.iter().zip(peers).enumerate();
        members
            .map(|(member, (client, peer))| {
                let dir = TempDir::new().expect("a temporary directory");
                let endpoint = format!("http://{host}:{client}");
                let peer = format!("http://{host}:{peer}");
                let arguments = vec![
                    format!("--name=member{member}"),
                    format!("--data-dir={}", dir.path().join("data").display()),
                    format!("--listen-client-urls={endpoint}"),
                    format!("--advertise-client-urls={endpoint}"),
                    format!("--listen-peer-urls={peer}"),
                    format!("--initial-advertise-peer-urls={peer}"),
                    format!("--initial-cluster={}", cluster.join(",")),
                    format!("--initial-cluster-token={}", cluster.join(",")),
                ];
                Self {
                    dir,
                    endpoint,
                    arguments,
                    tls: None,
                    server: None,
                }
            })
            .collect()
    }

    fn spawn(&mut self) {
        let log = File::create(self.dir.path().join("log")).expect("a log file");
        let spawned = Command::new("etcd")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.server = match spawned {
            Ok(server) => Some(server),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("these tests run a real etcd: apt-get install etcd-server")
            }
            Err(error) => panic!("etcd does not run: {error}"),
        };
    }

    /// Waits until the server answers; `false` when it has ended, or never does.
    async fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            let ended = |server: &mut Child| server.try_wait().is_ok_and(|status| status.is_some());
            if self.server.as_mut().is_none_or(ended) {
                return false;
            }
            let mut options = ConnectOptions::new().with_connect_timeout(READY);
            if let Some(tls) = self.tls.clone() {
                options = options.with_tls(tls);
            }
            let asked = timeout(Duration::from_secs(1), async {
                let client = Client::connect([&self.endpoint], Some(options)).await?;
                client.kv_client().get("ready", None).await
            });
            if matches!(asked.await, Ok(Ok(_))) {
                return true;
            }
            sleep(POLL).await;
        }
        false
    }

    fn signal(&self, signal: Signal) {
        let server = self.server.as_ref().expect("the server runs");
        kill_process(Pid::from_child(server), signal).expect("a child can be signalled");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.is_ok_and(|it| it.success()), "the data are copied");
}

fn free_ports(host: Ipv4Addr, n: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind((host, 0)).expect("a free port");
    // All at once, so that none is given twice.
    let listeners: Vec<_> = (0..n).map(bind).collect();
    let ports = listeners.iter().map(|listener| listener.local_addr());
    ports
        .map(|address| address.expect("a bound port").port())
        .collect()
}

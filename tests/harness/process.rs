//! Hookfleet as its users run it: the real binary, on a free port, in a temporary directory.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::transport::{Channel, Endpoint};

/// How long a process may take to listen. It takes well under a second unless the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running process of the binary. Dropping it kills it, and panics if it has logged an ERROR:
/// something that a human must act on has happened in a test that did not expect it.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    /// What it has logged.
    lines: Arc<Mutex<Vec<String>>>,
    /// Where it keeps what nobody has said another place for.
    _home: tempfile::TempDir,
}

/// The binary.
pub fn hookfleet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookfleet"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOOKFLEET_")) {
        command.env_remove(name);
    }
    command
}

/// `hookfleet standalone` on a data directory.
pub fn standalone(data_dir: &Path) -> Process {
    let mut command = hookfleet();
    command.arg("standalone").arg("--data-dir").arg(data_dir);
    Process::start(command, "127.0.0.1:0")
}

/// `hookfleet control-plane` on an etcd.
pub fn control_plane(dir: &Path, etcd: &str, listen: &str) -> Process {
    let mut command = hookfleet();
    command.args(["control-plane", "--etcd", etcd, "--allow-loopback-targets"]);
    command.arg("--key-file").arg(dir.join("secrets.key"));
    // What joins is whole at once, unless a test is about how it comes to be.
    command.args(["--join-ramp-seconds", "0"]);
    Process::start(command, listen)
}

/// `hookfleet agent` of a control plane.
pub fn agent(data_dir: &Path, control_plane: SocketAddr, listen: &str) -> Process {
    Process::start(agent_command(data_dir, control_plane), listen)
}

/// `hookfleet agent` with more to be said.
pub fn agent_command(data_dir: &Path, control_plane: SocketAddr) -> Command {
    let mut command = hookfleet();
    command.args(["agent", "--allow-loopback-targets", "--control-plane"]);
    command.arg(format!("http://{control_plane}"));
    command.arg("--data-dir").arg(data_dir);
    command
}

impl Process {
    /// Starts the command and waits until it says where it listens. What is to be started again on
    /// the same port listens on a loopback address of its own, so that nobody takes it meanwhile.
    pub fn start(command: Command, listen: &str) -> Self {
        Self::try_start(command, listen).unwrap_or_else(|why| panic!("{why}"))
    }

    /// As [`Process::start`]; or how the process ended before it listened.
    pub fn try_start(command: Command, listen: &str) -> Result<Self, String> {
        let (mut process, address) = Self::launch(command, listen);
        match address.recv_timeout(PATIENCE) {
            Ok(address) => {
                process.address = address;
                Ok(process)
            }
            Err(_) => {
                drop(process.child.kill());
                let ended = process.child.wait();
                Err(format!("the process does not listen; it ended: {ended:?}"))
            }
        }
    }

    /// Starts the command; where it listens is not known yet.
    fn launch(mut command: Command, listen: &str) -> (Self, mpsc::Receiver<SocketAddr>) {
        command.args(["--listen", listen]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let home = tempfile::tempdir().expect("a directory");
        command.current_dir(home.path());
        let mut child = command.spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let logged = Arc::clone(&lines);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("{line}");
                logged.lock().expect("no panic").push(line);
            }
        });
        let (sender, address) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let url = line.strip_prefix("listening on ");
                if let Some((_, address)) = url.and_then(|it| it.split_once("://")) {
                    let _nobody_waits = sender.send(address.parse().expect("an address"));
                }
            }
        });
        let process = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            lines,
            _home: home,
        };
        (process, address)
    }

    /// A connection that is made when it is used, and again after a restart.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .expect("a URL")
            .connect_timeout(Duration::from_secs(2))
            .connect_lazy()
    }

    /// The most memory that was resident.
    pub fn peak_resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the process is there");
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
        let kilobytes = line.expect("a line").trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().expect("a number") * 1024
    }

    /// Whether it has logged a line with this in it.
    pub fn has_logged(&self, text: &str) -> bool {
        self.n_logged(text) > 0
    }

    /// How many lines with this in it it has logged.
    pub fn n_logged(&self, text: &str) -> usize {
        let lines = self.lines.lock().expect("no panic");
        lines.iter().filter(|it| it.contains(text)).count()
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has, in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the process is alive");
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        kib.expect("a number of kB") << 10
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("the process can be signalled");
    }

    /// `kill -9`: nothing is said, nothing is flushed.
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process has ended");
    }

    /// `kill -9` of a process whose disk has failed, which it may have said.
    pub fn kill_expecting_errors(mut self) {
        drop(self.child.kill());
        self.child.wait().expect("the process has ended");
        // Its last lines are read when the pipe ends; they are not an accusation.
        self.lines = Arc::default();
    }

    /// Waits for a process that ends because its disk has failed, which it may have said.
    pub async fn ended_by_itself(mut self) -> std::process::ExitStatus {
        let waiting = tokio::task::spawn_blocking(move || (self.child.wait(), self));
        let ended = tokio::time::timeout(PATIENCE, waiting).await;
        let (status, mut process) = ended.expect("the process ends in time").expect("no panic");
        process.lines = Arc::default();
        status.expect("the process has ended")
    }

    /// SIGTERM, and what the process made of it.
    pub async fn terminate(self) -> std::process::ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits for a process that has been told to end.
    pub async fn ended(mut self) -> std::process::ExitStatus {
        // Receivers of this test may have to answer before it ends.
        let waiting = tokio::task::spawn_blocking(move || {
            let status = self.child.wait();
            drop(self);
            status
        });
        waiting
            .await
            .expect("no panic")
            .expect("the process has ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if !thread::panicking() {
            let lines = self.lines.lock().expect("no panic");
            let errors: Vec<_> = lines.iter().filter(|it| it.contains(" ERROR ")).collect();
            assert!(errors.is_empty(), "an ERROR was logged: {errors:#?}");
        }
    }
}

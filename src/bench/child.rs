//! The processes that are measured: this binary again, in its other parts.

use std::{net::SocketAddr, process::Stdio};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// A process; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts this binary with other arguments. Its warnings are ours.
    pub(super) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("cannot find this binary")?;
        let mut child = Command::new(binary)
            .args(arguments)
            .env("HOOKFLEET_LOG", "error")
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a process")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// The next line that it prints.
    pub(super) async fn line(&mut self) -> anyhow::Result<String> {
        let line = self.lines.next_line().await?;
        line.context("a process ended before it was done")
    }

    /// Where it says that it listens.
    pub(super) async fn address(&mut self) -> anyhow::Result<SocketAddr> {
        loop {
            let line = self.line().await?;
            let address = line.rsplit("http://").next().unwrap_or(&line);
            if let Ok(address) = address.parse() {
                return Ok(address);
            }
        }
    }

    /// Its number, while it runs.
    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        match self.child.id() {
            Some(pid) => Ok(pid),
            None => bail!("a process has ended"),
        }
    }
}

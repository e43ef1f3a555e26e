//! The connection of a command to a server.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tonic::transport::{Channel, Endpoint};

use crate::output::Output;

/// Which server, and how to print what it says.
#[derive(Clone, Debug, Args)]
pub(crate) struct Client {
    /// The server's address.
    #[arg(
        long,
        global = true,
        env = "HOOKFLEET_SERVER",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    server: String,
    /// How results are printed.
    #[arg(long, short, global = true, default_value = "table")]
    pub(crate) output: Output,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(self.server.clone())
            .with_context(|| format!("{} is not a URL", self.server))?;
        endpoint
            .connect_timeout(Duration::from_secs(5))
            .connect()
            .await
            .with_context(|| format!("cannot reach {}", self.server))
    }
}

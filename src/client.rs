//! The connection of a command to a server.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use hookfleet_gateway::{
    peers::{Authorization, Dialer, Peer},
    tls::{files::Files, peer::PeerTls},
};

use crate::{key_file, output::Output};

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
    /// The API key to show. It is better kept in a file or in the environment, where others do not see it.
    #[arg(
        long,
        global = true,
        env = "HOOKFLEET_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    api_key: Option<String>,
    /// A file with the API key to show.
    #[arg(
        long,
        global = true,
        env = "HOOKFLEET_API_KEY_FILE",
        value_name = "FILE",
        conflicts_with = "api_key"
    )]
    api_key_file: Option<PathBuf>,
    /// A PEM file of certificate authorities to believe an https server by; the public ones if there is none.
    #[arg(long, global = true, env = "HOOKFLEET_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show.
    #[arg(
        long,
        global = true,
        env = "HOOKFLEET_CLIENT_CERT_FILE",
        value_name = "FILE",
        requires = "client_key_file"
    )]
    client_cert_file: Option<PathBuf>,
    /// A PEM file with the key of the certificate to show.
    #[arg(
        long,
        global = true,
        env = "HOOKFLEET_CLIENT_KEY_FILE",
        value_name = "FILE",
        requires = "client_cert_file"
    )]
    client_key_file: Option<PathBuf>,
    /// How results are printed.
    #[arg(long, short, global = true, default_value = "table")]
    pub(crate) output: Output,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(&self) -> anyhow::Result<Peer> {
        let key = match (&self.api_key, &self.api_key_file) {
            (Some(key), _) => Some(key.parse().context("the API key given")?),
            (None, Some(file)) => Some(key_file::load_api_key(file)?),
            (None, None) => None,
        };
        let authorization = key.as_ref().map(Authorization::with).unwrap_or_default();
        let own = self
            .client_cert_file
            .clone()
            .zip(self.client_key_file.clone());
        let files = Files {
            own,
            authorities: self.ca_file.clone(),
        };
        let tls = PeerTls::start(files).context("cannot call a server by TLS")?;
        let dialer = Dialer { authorization, tls };
        let endpoint = dialer
            .endpoint(&self.server)
            .with_context(|| format!("{} is not a URL", self.server))?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .connect()
            .await
            .with_context(|| format!("cannot reach {}", self.server))?;
        Ok(dialer.on(channel))
    }
}

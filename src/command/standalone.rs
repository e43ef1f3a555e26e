//! `hookfleet standalone`: everything in one process.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Common, is_false};
use crate::{config, process, tls};

/// Run everything in one process on embedded storage.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Where to listen; loopback only [default: 127.0.0.1:7070].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Where everything is kept [default: hookfleet-data].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// Ask callers who they are: they show an API key.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    authentication: bool,
    /// The most attempts in flight at once [default: 4096].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<usize>,
    /// Where the audit log is kept, in the data directory if it does not begin with a slash; "" is off [default: audit].
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_dir: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    tls: tls::Flags,
    #[command(flatten)]
    #[serde(skip)]
    common: Common,
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let file = self.common.config.as_deref();
        let config = config::load(config::Standalone::default(), file, &self)?;
        if self.common.print_config {
            return config::print(&config);
        }
        process::Standalone::start(config)
            .await?
            .until_signal()
            .await
    }
}

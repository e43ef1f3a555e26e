//! `hookfleet agent`: a delivery agent.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Common, is_false};
use crate::{config, process, tls};

/// Run a delivery agent.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Where to listen [default: 127.0.0.1:7071].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Where publishers and control planes reach this agent [default: http:// or https:// and the listener].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// A control plane; repeat for each [default: http://127.0.0.1:7070].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    control_plane: Vec<String>,
    /// Where everything is kept [default: hookfleet-agent-data].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// Unique in the fleet [default: made at the first start].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    /// Its share of the slots, beside the weights of other agents [default: 100].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    /// Where it runs, as far as failures are shared: a rack, a building, a zone of a cloud [default: none].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// On termination keep slots and what waits, for a restart, rather than hand them over.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    keep_slots: bool,
    /// Ask callers who they are: they show an API key.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    authentication: bool,
    /// The key with which the processes of the fleet call each other [default: hookfleet-fleet.key].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet_key_file: Option<PathBuf>,
    /// The most attempts in flight at once [default: 4096].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<usize>,
    /// Make callbacks to loopback, and with plain http there.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    allow_loopback_targets: bool,
    /// Make callbacks with plain http.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    allow_http_targets: bool,
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
        let config = config::load(config::Agent::default(), file, &self)?;
        if self.common.print_config {
            return config::print(&config);
        }
        process::agent(config).await?.until_signal().await
    }
}

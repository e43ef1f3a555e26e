//! `hookfleet control-plane`: a control plane on etcd.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Common, is_false};
use crate::{config, process, tls};

/// Run a control plane, which owns the subscriptions in etcd.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Arguments {
    /// Where to listen [default: 127.0.0.1:7070].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// A member of the etcd cluster; repeat for each [default: http://127.0.0.1:2379].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    etcd: Vec<String>,
    /// Believe etcd by the authorities in this PEM file [default: the public ones].
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_ca_file: Option<PathBuf>,
    /// Show etcd the certificate in this PEM file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_cert_file: Option<PathBuf>,
    /// The PEM file of that certificate's key.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_key_file: Option<PathBuf>,
    /// The key that seals secrets, the same for every control plane; made if there is none
    /// [default: hookfleet-secrets.key].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<PathBuf>,
    /// Ask callers who they are: they show an API key.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    authentication: bool,
    /// Where the first control plane of all writes the first key [default: hookfleet-first.key].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    first_key_file: Option<PathBuf>,
    /// The key with which the processes of the fleet call each other [default: hookfleet-fleet.key].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet_key_file: Option<PathBuf>,
    /// How many seconds an agent may be away, beyond 15, before others get its slots [default: 15].
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_hold_seconds: Option<u64>,
    /// How many seconds a joining agent waits for each further quarter of its share; 0 is all at once [default: 10].
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    join_ramp_seconds: Option<u64>,
    /// Accept callback URLs on loopback, and plain http there.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    allow_loopback_targets: bool,
    /// Accept callback URLs with plain http.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    allow_http_targets: bool,
    /// Where the audit log is kept; "" is off [default: hookfleet-audit].
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
        let config = config::load(config::ControlPlane::default(), file, &self)?;
        if self.common.print_config {
            return config::print(&config);
        }
        process::control_plane(config).await?.until_signal().await
    }
}

//! The agent of a process: what its settings make of it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use hookfleet_contract::{event::Limits, zone::Zone};
use hookfleet_delivery_agent::{app::Agent, config::Config, identity::Identity};
use hookfleet_egress::{Egress, address::Policy};
use hookfleet_gateway::{
    limits::{limiter::Limiter, memory::Memory},
    peers::Dialer,
};

use crate::{config, key_file, limits::open_files, process::rules, spans};

/// What an agent is to its fleet.
pub(crate) struct Member {
    pub(crate) identity: Identity,
    pub(crate) address: String,
    pub(crate) weight: u16,
    pub(crate) zone: Option<Zone>,
    /// Others take its slots when it ends.
    pub(crate) leaves: bool,
    /// What its process has on the same disk.
    pub(crate) other_databases: Vec<PathBuf>,
    /// How it calls other processes.
    pub(crate) dialer: Dialer,
}

// === impl Member ===

impl Member {
    /// Opens what is in `data_dir` and makes an agent of it.
    pub(crate) async fn agent(
        self,
        control_planes: &[String],
        data_dir: &Path,
        delivery: &config::Delivery,
        limiter: &Limiter,
        memory: Memory,
    ) -> anyhow::Result<Agent> {
        let sealing_key = key_file::load_or_create(&data_dir.join("agent.key"))?;
        for url in control_planes {
            let endpoint = self.dialer.endpoint(url);
            endpoint.with_context(|| format!("{url} is not a URL"))?;
        }
        let egress = Egress::new(hookfleet_egress::Config {
            policy: Policy {
                allow_loopback: delivery.allow_loopback_targets,
                ..Policy::default()
            },
            ca_files: delivery.ca_files.clone(),
            resolvers: delivery.name_servers.clone(),
        })?;
        let tracing = spans::tracing(delivery, &self.identity.agent_id)?;
        let drain_timeout = Duration::from_secs(delivery.drain_seconds);
        let config = Config {
            dialer: self.dialer,
            identity: self.identity,
            address: self.address,
            weight: self.weight,
            zone: self.zone,
            control_planes: control_planes.to_vec(),
            data_dir: data_dir.to_owned(),
            other_databases: self.other_databases,
            sealing_key,
            egress,
            target_rules: rules(delivery.allow_loopback_targets, delivery.allow_http_targets),
            event_limits: Limits::default(),
            segment_bytes: delivery.segment_mib << 20,
            max_in_flight: affordable(delivery.max_in_flight),
            drain_timeout,
            leave_timeout: self.leaves.then_some(drain_timeout),
            stream_lifetime: Duration::from_secs(delivery.stream_seconds),
            limiter: limiter.clone(),
            tracing,
            memory,
        };
        // Recovery reads the disk for as long as it takes.
        let built = tokio::task::spawn_blocking(|| Agent::build(config)).await?;
        Ok(built?)
    }
}

/// Attempts in flight have three quarters of the open files.
fn affordable(max_in_flight: usize) -> usize {
    let files = open_files();
    let affordable = (files / 4 * 3).max(1);
    if affordable < max_in_flight {
        tracing::warn!(
            files,
            affordable,
            "the limit of open files bounds attempts in flight"
        );
    }
    max_in_flight.min(affordable)
}

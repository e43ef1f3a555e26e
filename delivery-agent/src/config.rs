//! What the agent is told at its start. Where that comes from is not its business.

use std::{path::PathBuf, time::Duration};

use hookfleet_contract::{event::Limits, target::Rules, zone::Zone};
use hookfleet_egress::Egress;

use hookfleet_gateway::{
    limits::{limiter::Limiter, memory::Memory},
    peers::Dialer,
};

use crate::{identity::Identity, spans::Tracing};

/// What an agent is made of.
#[derive(Debug)]
pub struct Config {
    /// Who it is.
    pub identity: Identity,
    /// Where publishers reach it: `http://host:port`, or `https`.
    pub address: String,
    /// Its share of the slots, beside the weights of other agents.
    pub weight: u16,
    /// Where it runs, as far as failures are shared.
    pub zone: Option<Zone>,
    /// How it calls other processes.
    pub dialer: Dialer,
    /// Control planes, tried in turn: `http://host:port`, or `https`.
    pub control_planes: Vec<String>,
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// Where this process has databases of its own on that disk: they are kept able to write too.
    pub other_databases: Vec<PathBuf>,
    /// Seals the snapshot and page tokens; kept outside `data_dir`'s backups.
    pub sealing_key: [u8; 32],
    /// The way out.
    pub egress: Egress,
    /// Which callback URLs may be called.
    pub target_rules: Rules,
    /// What an event may be.
    pub event_limits: Limits,
    /// The size of a segment of the journal.
    pub segment_bytes: u64,
    /// The most attempts in flight at once.
    pub max_in_flight: usize,
    /// How long attempts in flight may go on after shutdown.
    pub drain_timeout: Duration,
    /// How long other agents have to take what is here at shutdown. Without it slots stay, and what waits does.
    pub leave_timeout: Option<Duration>,
    /// How long a publisher's stream may last, give or take a fifth.
    pub stream_lifetime: Duration,
    /// Counts what tenants publish.
    pub limiter: Limiter,
    /// Who is told of the ways of events.
    pub tracing: Tracing,
    /// What there is for events in memory.
    pub memory: Memory,
}

//! Configuration: defaults < TOML file < `HOOKFLEET_*` environment < flags. Unknown keys are refused,
//! and all problems are reported at once.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use figment::{
    Figment,
    providers::{Env, Format as _, Serialized, Toml},
};
use hookfleet_contract::zone::Zone;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    issuers::{self, Issuer},
    limits::Limits,
    tls::{self, Tls},
    verification::Verification,
};

/// What `HOOKFLEET_*` names that is not configuration of a service.
const OTHER_VARIABLES: [&str; 9] = [
    "log",
    "log_format",
    "server",
    "api_key",
    "api_key_file",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "config",
];

/// What a configuration has to say about itself.
pub(crate) trait Validate {
    /// Everything that is wrong.
    fn problems(&self) -> Vec<String>;
}

/// How callbacks are made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Delivery {
    /// The most attempts in flight at once.
    pub(crate) max_in_flight: usize,
    /// Callback URLs may be on loopback, and plain http there.
    pub(crate) allow_loopback_targets: bool,
    /// Callback URLs may be plain http.
    pub(crate) allow_http_targets: bool,
    /// PEM files of certificate authorities to trust beside the public ones.
    pub(crate) ca_files: Vec<PathBuf>,
    /// The name servers to ask for the hosts of callback URLs, as address:port. Empty: those of the system.
    pub(crate) name_servers: Vec<SocketAddr>,
    /// The size of a segment of the journal, in MiB.
    pub(crate) segment_mib: u64,
    /// How long attempts in flight may go on after a termination signal, in seconds.
    pub(crate) drain_seconds: u64,
    /// How long a publisher's stream may last before it is asked to begin another, in seconds.
    pub(crate) stream_seconds: u64,
    /// Where spans of events go, as OTLP over gRPC: `http://collector:4317`. Nowhere if empty.
    pub(crate) otlp_endpoint: String,
    /// The share of events of which spans are sent, from 0 to 1. Those with a `traceparent` follow that.
    pub(crate) trace_share: f64,
    /// The most events of a tenant that this process takes in a second; 0 is no limit.
    pub(crate) tenant_events_per_second: u64,
    /// The most bytes of events of a tenant that this process takes in a second; 0 is no limit.
    pub(crate) tenant_bytes_per_second: u64,
}

/// `hookfleet standalone`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Standalone {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// Callers show an API key. The first one is written into `first.key` in `data_dir`.
    pub(crate) authentication: bool,
    /// Where in `data_dir` the audit log is kept; off if empty.
    pub(crate) audit_dir: PathBuf,
    #[serde(flatten)]
    pub(crate) verification: Verification,
    /// Identity providers whose tokens are taken beside keys.
    pub(crate) issuers: Vec<Issuer>,
    #[serde(flatten)]
    pub(crate) tls: Tls,
    #[serde(flatten)]
    pub(crate) limits: Limits,
    #[serde(flatten)]
    pub(crate) delivery: Delivery,
}

/// `hookfleet control-plane`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ControlPlane {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// The members of the etcd cluster.
    pub(crate) etcd: Vec<String>,
    /// PEM file of the authorities of etcd's members; the public ones if empty.
    pub(crate) etcd_ca_file: PathBuf,
    /// PEM file of the certificate to show them, if any.
    pub(crate) etcd_cert_file: PathBuf,
    /// PEM file of that certificate's key.
    pub(crate) etcd_key_file: PathBuf,
    /// The key that seals secrets, the same for every control plane. Made if there is none.
    pub(crate) key_file: PathBuf,
    /// Callers show an API key, and so do the processes of the fleet to each other.
    pub(crate) authentication: bool,
    /// Identity providers whose tokens are taken beside keys.
    pub(crate) issuers: Vec<Issuer>,
    /// Where the first control plane of all writes the first key, which opens everything.
    pub(crate) first_key_file: PathBuf,
    /// The key with which the processes of the fleet call each other; the first control plane of all writes it.
    pub(crate) fleet_key_file: PathBuf,
    /// Where the audit log is kept, one for each process; off if empty.
    pub(crate) audit_dir: PathBuf,
    /// How long an agent may be away before others get its slots, in seconds; the life of its lease, 15 s, comes first.
    pub(crate) agent_hold_seconds: u64,
    /// How long a joining agent waits for each further quarter of its share of other agents' slots, in seconds; 0 is all at once.
    pub(crate) join_ramp_seconds: u64,
    /// Callback URLs may be on loopback, and plain http there.
    pub(crate) allow_loopback_targets: bool,
    /// Callback URLs may be plain http.
    pub(crate) allow_http_targets: bool,
    #[serde(flatten)]
    pub(crate) verification: Verification,
    #[serde(flatten)]
    pub(crate) tls: Tls,
    #[serde(flatten)]
    pub(crate) limits: Limits,
}

/// `hookfleet agent`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Agent {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Where publishers and control planes reach this agent; made of `listen` if empty.
    pub(crate) advertise: String,
    /// Control planes, tried in turn.
    pub(crate) control_plane: Vec<String>,
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// Unique in the fleet; made at the first start and kept in `data_dir` if empty.
    pub(crate) agent_id: String,
    /// Its share of the slots, beside the weights of other agents: 1 to 10000.
    pub(crate) weight: u16,
    /// Where it runs, as far as failures are shared: a rack, a building, a zone of a cloud. Empty if nobody knows.
    pub(crate) zone: String,
    /// A termination signal means a restart: slots and what waits stay here. Else other agents take them.
    pub(crate) keep_slots: bool,
    /// Callers show an API key, and so do the processes of the fleet to each other.
    pub(crate) authentication: bool,
    /// Identity providers whose tokens are taken beside keys.
    pub(crate) issuers: Vec<Issuer>,
    /// The key with which the processes of the fleet call each other; the first control plane of all has written it.
    pub(crate) fleet_key_file: PathBuf,
    /// Where in `data_dir` the audit log is kept; off if empty.
    pub(crate) audit_dir: PathBuf,
    #[serde(flatten)]
    pub(crate) tls: Tls,
    #[serde(flatten)]
    pub(crate) limits: Limits,
    #[serde(flatten)]
    pub(crate) delivery: Delivery,
}

/// Merges the layers.
///
/// # Errors
/// Every unknown key, every value of the wrong type that is found, and every problem of the whole.
pub(crate) fn load<T>(defaults: T, file: Option<&Path>, flags: &impl Serialize) -> anyhow::Result<T>
where
    T: Serialize + DeserializeOwned + Validate,
{
    let known = Figment::from(Serialized::defaults(&defaults));
    let mut figment = known.clone();
    if let Some(file) = file {
        figment = figment.merge(Toml::file_exact(file));
    }
    let environment = Env::prefixed("HOOKFLEET_").ignore(&OTHER_VARIABLES);
    let figment = figment
        .merge(environment)
        .merge(Serialized::defaults(flags));

    let names = |figment: &Figment| -> anyhow::Result<Vec<String>> {
        let values: figment::value::Dict =
            figment.extract().context("cannot read configuration")?;
        Ok(values.into_keys().collect())
    };
    let known = names(&known)?;
    let mut problems: Vec<String> = names(&figment)?
        .into_iter()
        .filter(|key| !known.contains(key))
        .map(|key| format!("{key}: is not a setting; there are {}", known.join(", ")))
        .collect();
    match figment.extract::<T>() {
        Ok(config) => {
            problems.extend(config.problems());
            if problems.is_empty() {
                return Ok(config);
            }
        }
        Err(errors) => problems.extend(errors.into_iter().map(|it| it.to_string())),
    }
    bail!(
        "the configuration is not valid:\n  {}",
        problems.join("\n  ")
    )
}

/// Prints a configuration as the file that would give it.
pub(crate) fn print(config: &impl Serialize) -> anyhow::Result<()> {
    crate::output::line(toml::to_string(config)?.trim_end());
    Ok(())
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            max_in_flight: 4096,
            allow_loopback_targets: false,
            allow_http_targets: false,
            ca_files: Vec::new(),
            name_servers: Vec::new(),
            segment_mib: 64,
            drain_seconds: 25,
            stream_seconds: 30 * 60,
            otlp_endpoint: String::new(),
            trace_share: 0.01,
            tenant_events_per_second: 0,
            tenant_bytes_per_second: 0,
        }
    }
}

impl Default for Standalone {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            data_dir: "hookfleet-data".into(),
            authentication: false,
            verification: Verification::default(),
            issuers: Vec::new(),
            tls: Tls::default(),
            audit_dir: "audit".into(),
            limits: Limits::default(),
            delivery: Delivery {
                // On one machine the first receiver is nearly always a program beside it.
                allow_loopback_targets: true,
                ..Delivery::default()
            },
        }
    }
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            etcd: vec!["http://127.0.0.1:2379".to_owned()],
            etcd_ca_file: PathBuf::new(),
            etcd_cert_file: PathBuf::new(),
            etcd_key_file: PathBuf::new(),
            key_file: "hookfleet-secrets.key".into(),
            authentication: false,
            issuers: Vec::new(),
            first_key_file: "hookfleet-first.key".into(),
            fleet_key_file: "hookfleet-fleet.key".into(),
            audit_dir: "hookfleet-audit".into(),
            agent_hold_seconds: 15,
            join_ramp_seconds: 10,
            allow_loopback_targets: false,
            allow_http_targets: false,
            verification: Verification::default(),
            tls: Tls::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7071)),
            advertise: String::new(),
            control_plane: vec!["http://127.0.0.1:7070".to_owned()],
            data_dir: "hookfleet-agent-data".into(),
            agent_id: String::new(),
            weight: 100,
            zone: String::new(),
            keep_slots: false,
            authentication: false,
            issuers: Vec::new(),
            fleet_key_file: "hookfleet-fleet.key".into(),
            tls: Tls::default(),
            audit_dir: "audit".into(),
            limits: Limits::default(),
            delivery: Delivery::default(),
        }
    }
}

impl Validate for Delivery {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=65_536).contains(&self.max_in_flight) {
            problems.push("max_in_flight: must be 1 to 65536".to_owned());
        }
        if !(1..=1024).contains(&self.segment_mib) {
            problems.push("segment_mib: must be 1 to 1024".to_owned());
        }
        if self.stream_seconds == 0 {
            problems.push("stream_seconds: must be at least 1".to_owned());
        }
        if !(self.otlp_endpoint.is_empty() || self.otlp_endpoint.starts_with("http://")) {
            problems.push("otlp_endpoint: must be http://host:port".to_owned());
        }
        if !(0.0..=1.0).contains(&self.trace_share) {
            problems.push("trace_share: must be 0 to 1".to_owned());
        }
        for file in self.ca_files.iter().filter(|file| !file.is_file()) {
            problems.push(format!("ca_files: {} is not a file", file.display()));
        }
        problems
    }
}

impl Validate for Standalone {
    fn problems(&self) -> Vec<String> {
        let mut problems = self.delivery.problems();
        problems.extend(self.verification.problems());
        problems.extend(issuers::problems(&self.issuers, self.authentication));
        problems.extend(self.tls.problems());
        problems.extend(self.limits.problems());
        if !(self.listen.ip().is_loopback() || self.authentication) {
            let problem = "listen: must be on loopback while nobody is asked who they are: set authentication";
            problems.push(problem.to_owned());
        }
        problems
    }
}

impl Validate for ControlPlane {
    fn problems(&self) -> Vec<String> {
        let mut problems = urls("etcd", &self.etcd);
        problems.extend(self.verification.problems());
        problems.extend(issuers::problems(&self.issuers, self.authentication));
        problems.extend(tls::paired(
            "etcd",
            &self.etcd_cert_file,
            &self.etcd_key_file,
        ));
        problems.extend(self.tls.problems());
        problems.extend(self.limits.problems());
        problems
    }
}

impl Validate for Agent {
    fn problems(&self) -> Vec<String> {
        let mut problems = self.delivery.problems();
        problems.extend(self.tls.problems());
        problems.extend(self.limits.problems());
        problems.extend(urls("control_plane", &self.control_plane));
        problems.extend(issuers::problems(&self.issuers, self.authentication));
        if !(1..=10_000).contains(&self.weight) {
            problems.push("weight: must be 1 to 10000".to_owned());
        }
        if let Err(error) = Zone::optional(&self.zone) {
            problems.push(format!("zone: {error}"));
        }
        if self.advertise.is_empty() && self.listen.ip().is_unspecified() {
            problems
                .push("advertise: is required when the agent listens on all addresses".to_owned());
        }
        if !self.advertise.is_empty() {
            problems.extend(urls("advertise", std::slice::from_ref(&self.advertise)));
            if self.tls.is_served() && !self.advertise.starts_with("https://") {
                problems.push("advertise: must begin with https:// with tls_cert_file".to_owned());
            }
        }
        problems
    }
}

fn urls(key: &str, urls: &[String]) -> Vec<String> {
    if urls.is_empty() {
        return vec![format!("{key}: is required")];
    }
    urls.iter()
        .filter(|url| !(url.starts_with("http://") || url.starts_with("https://")))
        .map(|url| format!("{key}: {url} must begin with http:// or https://"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        listen: Option<SocketAddr>,
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let file = file("max_in_flight = 7\nlisten = '127.0.0.1:1'");
        let listen = Some("127.0.0.1:2".parse().unwrap());
        let config = load(Standalone::default(), Some(file.path()), &Flags { listen }).unwrap();
        assert_eq!(config.delivery.max_in_flight, 7);
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.delivery.segment_mib, 64);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let file = file("max_inflight = 7\nsegment_mib = 0\nlisten = '0.0.0.0:7070'");
        let error = load(
            Standalone::default(),
            Some(file.path()),
            &Flags { listen: None },
        );
        let error = error.unwrap_err().to_string();
        for problem in [
            "max_inflight: is not",
            "segment_mib: must",
            "listen: must be on loopback",
        ] {
            assert!(error.contains(problem), "{problem} is missing in {error}");
        }
    }

    #[test]
    fn tls_is_configured_as_a_whole() {
        let file = file(
            "tls_key_file = 'a'\ntls_client_required = true\ntrust_domain = 'A'\netcd_cert_file = 'b'",
        );
        let none = Flags { listen: None };
        let error = load(ControlPlane::default(), Some(file.path()), &none);
        let error = error.unwrap_err().to_string();
        for problem in [
            "tls_key_file: needs tls_cert_file",
            "tls_client_required: needs tls_client_ca_file",
            "trust_domain: must",
            "etcd_cert_file: needs etcd_key_file",
        ] {
            assert!(error.contains(problem), "{problem} is missing in {error}");
        }
    }

    #[test]
    fn an_agent_on_all_addresses_must_say_where_it_is_reached() {
        let listen = Some("0.0.0.0:7071".parse().unwrap());
        let error = load(Agent::default(), None, &Flags { listen }).unwrap_err();
        assert!(error.to_string().contains("advertise: is required"));
    }

    #[test]
    fn a_zone_is_a_label_or_nothing() {
        let none = Flags { listen: None };
        let zone = |text: &str| {
            let file = file(&format!("zone = '{text}'"));
            load(Agent::default(), Some(file.path()), &none)
        };
        assert_eq!(zone("").unwrap().zone, "");
        assert_eq!(zone("eu-1").unwrap().zone, "eu-1");
        assert!(
            zone("eu/1")
                .unwrap_err()
                .to_string()
                .contains("zone: must be")
        );
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }
}

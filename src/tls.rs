//! TLS settings of a process: what its listener shows and asks for, and what it shows the processes that it calls.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hookfleet_gateway::{
    clock::Clock,
    tls::{
        files::Files,
        identity::TrustDomain,
        peer::PeerTls,
        server::{ServerTls, Settings},
    },
};
use serde::{Deserialize, Serialize};

use crate::config::Validate;

/// How a process is reached, and what its certificate is for. A file that is not named is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// PEM file of the certificate to show, its issuers after it: to callers, and to the processes that are called.
    pub(crate) tls_cert_file: PathBuf,
    /// PEM file of the certificate's key.
    pub(crate) tls_key_file: PathBuf,
    /// PEM file of the authorities of clients. A client that shows a certificate must show one of theirs.
    pub(crate) tls_client_ca_file: PathBuf,
    /// Clients that show no certificate are not let in, and neither are probes.
    pub(crate) tls_client_required: bool,
    /// Certificates of the fleet say `spiffe://{trust_domain}/agent/{id}` or `…/control/{id}`.
    pub(crate) trust_domain: String,
    /// PEM file of the authorities of the processes that are called; the public ones if empty.
    pub(crate) fleet_ca_file: PathBuf,
}

/// The same, from the command line.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Flags {
    /// Serve TLS with the certificate in this PEM file, and show it to processes of the fleet.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert_file: Option<PathBuf>,
    /// The PEM file of the certificate's key.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key_file: Option<PathBuf>,
    /// Accept client certificates of the authorities in this PEM file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_ca_file: Option<PathBuf>,
    /// Let nobody in who shows no certificate, not even probes.
    #[arg(long)]
    #[serde(skip_serializing_if = "crate::command::is_false")]
    tls_client_required: bool,
    /// Where the fleet's certificates get their SPIFFE identities [default: hookfleet].
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_domain: Option<String>,
    /// Believe processes of the fleet by the authorities in this PEM file [default: the public ones].
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet_ca_file: Option<PathBuf>,
}

// === impl Tls ===

impl Tls {
    /// The listener's side, if it has one.
    pub(crate) fn server(&self) -> anyhow::Result<Option<ServerTls>> {
        if !self.is_served() {
            return Ok(None);
        }
        let settings = Settings {
            files: Files {
                own: pair(&self.tls_cert_file, &self.tls_key_file),
                authorities: named(&self.tls_client_ca_file),
            },
            clients_must_show: self.tls_client_required,
            trust_domain: self.trust_domain.parse().context("trust_domain")?,
        };
        let server = ServerTls::start(settings, Clock::system());
        Ok(Some(server.context("cannot serve TLS")?))
    }

    /// The caller's side. A certificate is shown to nobody but those whom the fleet's authorities vouch for.
    pub(crate) fn peer(&self) -> anyhow::Result<PeerTls> {
        let own = pair(&self.tls_cert_file, &self.tls_key_file);
        let files = Files {
            own: own.filter(|_| self.shows_certificate()),
            authorities: named(&self.fleet_ca_file),
        };
        PeerTls::start(files).context("cannot call other processes by TLS")
    }

    /// Whether the listener serves TLS.
    pub(crate) fn is_served(&self) -> bool {
        named(&self.tls_cert_file).is_some()
    }

    /// Whether other processes are shown a certificate.
    pub(crate) fn shows_certificate(&self) -> bool {
        self.is_served() && named(&self.fleet_ca_file).is_some()
    }

    /// The URL of a listener.
    pub(crate) fn url(&self, address: std::net::SocketAddr) -> String {
        let scheme = if self.is_served() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            tls_cert_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            tls_client_ca_file: PathBuf::new(),
            tls_client_required: false,
            trust_domain: "hookfleet".to_owned(),
            fleet_ca_file: PathBuf::new(),
        }
    }
}

impl Validate for Tls {
    fn problems(&self) -> Vec<String> {
        let mut problems = paired("tls", &self.tls_cert_file, &self.tls_key_file);
        if let Err(error) = self.trust_domain.parse::<TrustDomain>() {
            problems.push(format!("trust_domain: {error}"));
        }
        let asks = named(&self.tls_client_ca_file).is_some();
        if asks && !self.is_served() {
            problems.push("tls_client_ca_file: needs tls_cert_file".to_owned());
        }
        if self.tls_client_required && !asks {
            problems.push("tls_client_required: needs tls_client_ca_file".to_owned());
        }
        problems
    }
}

/// A path that is given.
pub(crate) fn named(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// A certificate and its key, if they are given.
pub(crate) fn pair(certificate: &Path, key: &Path) -> Option<(PathBuf, PathBuf)> {
    named(certificate).zip(named(key))
}

/// What is wrong if one is given without the other.
pub(crate) fn paired(prefix: &str, certificate: &Path, key: &Path) -> Vec<String> {
    match (named(certificate), named(key)) {
        (Some(_), None) => vec![format!("{prefix}_cert_file: needs {prefix}_key_file")],
        (None, Some(_)) => vec![format!("{prefix}_key_file: needs {prefix}_cert_file")],
        (Some(_), Some(_)) | (None, None) => Vec::new(),
    }
}

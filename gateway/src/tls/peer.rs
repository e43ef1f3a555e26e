//! The caller's side of TLS: whom this process believes, and the certificate that it shows.

use std::sync::Arc;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::{
    Error,
    files::{Files, Pem, Reloaded},
};

/// What TLS connections to other processes are made with, as the files say now; cheap to clone. By default the public
/// authorities are believed, and no certificate is shown.
#[derive(Clone, Debug)]
pub struct PeerTls(Reloaded<ClientTlsConfig>);

// === impl PeerTls ===

impl PeerTls {
    /// Reads the files, and again when they change. Without authorities the public ones are believed. Must be called
    /// within a runtime.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(files: Files) -> Result<Self, Error> {
        if files == Files::default() {
            return Ok(Self::default());
        }
        Reloaded::start(files, config).map(Self)
    }

    /// What is in force now; another one once the files have changed.
    #[must_use]
    pub fn current(&self) -> Arc<ClientTlsConfig> {
        self.0.current()
    }

    /// Waits until the files have changed since this was in force.
    pub async fn renewed(&self, since: &Arc<ClientTlsConfig>) {
        self.0.changed_from(since).await;
    }
}

impl Default for PeerTls {
    fn default() -> Self {
        Self(Reloaded::fixed(ClientTlsConfig::new().with_webpki_roots()))
    }
}

fn config(files: &Files, pem: &Pem) -> Result<ClientTlsConfig, Error> {
    // Only to see that they are good: what follows would leave out those that are not.
    files.authorities(pem)?;
    let config = ClientTlsConfig::new();
    let config = match &pem.authorities {
        Some(authorities) => config.ca_certificate(Certificate::from_pem(authorities)),
        None => config.with_webpki_roots(),
    };
    let config = match &pem.own {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, &**key)),
        None => config,
    };
    let tried = Endpoint::from_static("https://localhost").tls_config(config.clone());
    tried.map_err(Error::unusable)?;
    Ok(config)
}

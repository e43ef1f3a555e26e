//! The listener's side of TLS: which certificate it shows, whom it asks for theirs, and how long a handshake may take.
//!
//! **Invariant:** a client certificate that is shown is one of the authorities', whether or not one must be shown, and its
//! verification is never left out: no session is resumed where certificates are asked for.

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Error,
    files::{Files, Pem, Reloaded},
    identity::{ClientCertificate, TrustDomain},
};
use crate::{
    clock::Clock,
    limits::connections::{Connections, Source},
};

/// A client that takes longer is not one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// More at once are closed, and no address has more than a quarter of them. Each may hold some 20 KiB.
const MAX_HANDSHAKES: usize = 1024;
/// How often the time of day is asked whether a certificate is over: it may jump.
const EXPIRY_POLL: Duration = Duration::from_secs(15);
/// How long before its certificate's end a connection is asked to end, so that what is under way can.
const NOTICE: Duration = Duration::from_secs(60);

/// What a listener shows, and whom it lets in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its certificate with its key, and the authorities of client certificates, if it asks for any.
    pub files: Files,
    /// Whoever shows no certificate is not let in.
    pub clients_must_show: bool,
    /// Whose identities are the fleet's.
    pub trust_domain: TrustDomain,
}

/// Makes connections of a listener secure; cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    config: Reloaded<ServerConfig>,
    trust_domain: TrustDomain,
    handshakes: Connections,
    clock: Clock,
}

// === impl ServerTls ===

impl ServerTls {
    /// Reads the files, and again when they change. Must be called within a runtime.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(settings: Settings, clock: Clock) -> Result<Self, Error> {
        let make = match settings.clients_must_show {
            true => |files: &Files, pem: &Pem| config(files, pem, true),
            false => |files: &Files, pem: &Pem| config(files, pem, false),
        };
        Ok(Self {
            config: Reloaded::start(settings.files, make)?,
            trust_domain: settings.trust_domain,
            handshakes: Connections::new(MAX_HANDSHAKES, MAX_HANDSHAKES / 4),
            clock,
        })
    }

    /// Shakes hands, within [`HANDSHAKE_TIMEOUT`].
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        source: Source,
    ) -> io::Result<(TlsStream<TcpStream>, Option<ClientCertificate>)> {
        let turn = self.handshakes.admit(source);
        let _turn = turn.ok_or(io::ErrorKind::ConnectionRefused)?;
        let handshake = TlsAcceptor::from(self.config.current()).accept(stream);
        let stream = timeout(HANDSHAKE_TIMEOUT, handshake).await??;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let Some(shown) = shown else {
            return Ok((stream, None));
        };
        match ClientCertificate::read(shown, &self.trust_domain) {
            Some(certificate) => Ok((stream, Some(certificate))),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// How long a connection with this certificate may go on before it is asked to end.
    pub(crate) fn until_notice(&self, certificate: &ClientCertificate) -> Duration {
        let left = certificate.not_after.since(self.clock.now());
        left - NOTICE.min(left / 2)
    }

    /// Waits until the certificate is over.
    pub(crate) async fn until_over(&self, certificate: &ClientCertificate) {
        loop {
            let left = certificate.not_after.since(self.clock.now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(EXPIRY_POLL)).await;
        }
    }
}

fn config(files: &Files, pem: &Pem, clients_must_show: bool) -> Result<ServerConfig, Error> {
    let own = files.own.as_ref().zip(pem.own.as_ref());
    let ((path, key_path), (chain, key)) = own.ok_or_else(|| Error::unusable("no certificate"))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(Error::unusable)?;
    if chain.is_empty() {
        return Err(Error::missing(path, "certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|_| Error::missing(key_path, "private key"))?;

    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(Error::unusable)?;
    let authorities = files.authorities(pem)?;
    let asks = authorities.is_some();
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(authorities.into(), provider);
            let verifier = match clients_must_show {
                true => verifier,
                false => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(Error::unusable)?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(Error::unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if asks {
        // A session that goes on would not ask whether the certificate still is good.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

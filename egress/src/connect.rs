//! Connections to addresses that were judged: never to a name. TLS verifies the name of the URL.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, IpAddr as TlsAddress, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use hookfleet_contract::target::{Host, Target};

use crate::{
    connection::Connection,
    meter::{Budget, Metered},
};

/// For all addresses of a target together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For one address, if there are others: less is shorter than the first repetition of a lost SYN.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(1200);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a handshake: chains of certificates are long.
const MAX_HANDSHAKE_BYTES: usize = 64 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    ConnectTimeout,
    #[error("connected to {0}, which was not asked for")]
    OtherPeer(SocketAddr),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("no TLS within {HANDSHAKE_TIMEOUT:?}")]
    TlsTimeout,
    #[error("the name cannot be verified by TLS")]
    Name,
    #[error("HTTP cannot begin")]
    Http(#[source] hyper::Error),
}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector(TlsConnector);

impl Connector {
    /// Trusts the public certificate authorities and those in the PEM files.
    pub(crate) fn new<P: AsRef<Path>>(ca_files: &[P]) -> Result<Self, rustls::Error> {
        let mut config = client_config(ca_files)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Tickets of one tenant must not be used by another; connections are kept alive instead.
        config.resumption = Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Connects to the first of the addresses that answers; `tried` is the last that was called.
    pub(crate) async fn connect(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        tried: &mut Option<SocketAddr>,
    ) -> Result<Connection, Error> {
        let (stream, address) = timeout(CONNECT_TIMEOUT, first(addresses, tried))
            .await
            .map_err(|_| Error::ConnectTimeout)??;
        let budget = Budget::default();
        budget.refill(MAX_HANDSHAKE_BYTES);
        if !target.is_https() {
            let begun = Connection::begin(stream, budget, address).await;
            return begun.map_err(Error::Http);
        }
        let name = server_name(target.host()).ok_or(Error::Name)?;
        let handshake = self.0.connect(name, Metered::new(stream, budget.clone()));
        let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| Error::TlsTimeout)?
            .map_err(Error::Tls)?;
        let begun = Connection::begin(stream, budget, address).await;
        begun.map_err(Error::Http)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

/// TLS that trusts the public certificate authorities and those in the PEM files.
pub(crate) fn client_config<P: AsRef<Path>>(ca_files: &[P]) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    for file in ca_files {
        let unreadable =
            |error| rustls::Error::General(format!("{}: {error}", file.as_ref().display()));
        let certificates = CertificateDer::pem_file_iter(file).map_err(unreadable)?;
        for certificate in certificates {
            roots.add(certificate.map_err(unreadable)?)?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn first(
    addresses: &[SocketAddr],
    tried: &mut Option<SocketAddr>,
) -> Result<(TcpStream, SocketAddr), Error> {
    let n_addresses = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let patience = (CONNECT_TIMEOUT / n_addresses).max(MIN_CONNECT_TIMEOUT);
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for &address in addresses {
        *tried = Some(address);
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let peer = stream.peer_addr().map_err(Error::Connect)?;
                if peer != address {
                    return Err(Error::OtherPeer(peer));
                }
                stream.set_nodelay(true).map_err(Error::Connect)?;
                return Ok((stream, address));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(Error::Connect(last))
}

fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Domain(name) => ServerName::try_from(name.clone()).ok(),
        Host::Ipv4(address) => Some(ServerName::IpAddress(TlsAddress::V4((*address).into()))),
        Host::Ipv6(address) => Some(ServerName::IpAddress(TlsAddress::V6((*address).into()))),
    }
}

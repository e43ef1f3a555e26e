//! Certificates for tests: an authority in a directory of its own, and the files of those that it vouches for. Panics are
//! its errors.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use hookfleet_contract::time::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::ring, pki_types::ServerName,
    version::TLS13,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::tls::{files::Files, peer::PeerTls};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate for this machine with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// What the certificate is on the wire.
    pub der: Vec<u8>,
}

// === impl Authority ===

impl Authority {
    /// A new one, that nobody believes yet.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let dir = TempDir::new().expect("a temporary directory");
        fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("a file");
        Self { issuer, dir }
    }

    /// The file of its own certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate that says these URIs. Another one of the same name takes its place in the files.
    #[must_use]
    pub fn issue(&self, name: &str, uris: &[&str]) -> Issued {
        self.issue_with(name, uris, |_| {})
    }

    /// One that is over at this time.
    #[must_use]
    pub fn issue_until(&self, name: &str, uris: &[&str], not_after: Timestamp) -> Issued {
        let not_after = UNIX_EPOCH + Duration::from_millis(not_after.0);
        self.issue_with(name, uris, |params| params.not_after = not_after.into())
    }

    /// One for a host of this name only.
    #[must_use]
    pub fn issue_for(&self, name: &str, host: &str) -> Issued {
        self.issue_with(name, &[], |params| {
            let host = host.try_into().expect("ASCII");
            params.subject_alt_names = vec![SanType::DnsName(host)];
        })
    }

    /// The certificate that a new connection to a listener is shown, which must be one of this authority.
    pub async fn shown_by(&self, address: SocketAddr) -> Vec<u8> {
        let stream = self.connect(address, &[&TLS13], b"h2").await;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        shown.expect("a certificate").to_vec()
    }

    /// A connection by one of these versions of TLS, for this protocol.
    pub async fn connect(
        &self,
        address: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
        protocol: &[u8],
    ) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.expect("a handshake")
    }

    fn issue_with(
        &self,
        name: &str,
        uris: &[&str],
        adapt: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(hosts).expect("parameters");
        let uris = uris.iter().map(|uri| (*uri).try_into().expect("ASCII"));
        params.subject_alt_names.extend(uris.map(SanType::URI));
        adapt(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |extension| self.dir.path().join(name).with_extension(extension);
        let issued = Issued {
            certificate: file("pem"),
            key: file("key"),
            der: certificate.der().to_vec(),
        };
        write(&issued.certificate, &certificate.pem());
        write(&issued.key, &key.serialize_pem());
        issued
    }

    /// What a listener is told that shows this and asks for certificates of this authority.
    #[must_use]
    pub fn files(&self, own: &Issued) -> Files {
        Files {
            own: Some((own.certificate.clone(), own.key.clone())),
            authorities: Some(self.file()),
        }
    }

    /// What a caller believes by, who shows this.
    #[must_use]
    pub fn peer(&self, own: Option<&Issued>) -> PeerTls {
        let files = Files {
            own: own.map(|it| (it.certificate.clone(), it.key.clone())),
            authorities: Some(self.file()),
        };
        PeerTls::start(files).expect("good files")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Issued ===

impl Issued {
    /// Puts another certificate in the place of this one.
    pub fn replace_by(&self, other: &Self) {
        fs::copy(&other.certificate, &self.certificate).expect("a copy");
        fs::copy(&other.key, &self.key).expect("a copy");
    }
}

fn write(path: &Path, text: &str) {
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

//! R13 and R15: whose certificate a receiver shows, and what it asks of us. Each fault is the only one:
//! the same receiver with a good certificate is called.
//!
//! The files beside this one were made with openssl and are good for a hundred years: an authority, and
//! the same certificate for `localhost` signed by it with SHA-1 and with SHA-256. What makes
//! certificates here does not sign with SHA-1.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hookfleet_contract::response::TransportError;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, GeneralSubtree, IsCa, KeyPair,
    NameConstraints, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::{
    behaviour::{OK, error, loopback, request_to},
    receiver::Receiver,
};
use crate::{Config, Egress, Exchange};

const CA: &str = include_str!("ca.pem");
const SHA1: &str = include_str!("sha1.pem");
const SHA256: &str = include_str!("sha256.pem");
const KEY: &str = include_str!("leaf.key");

type Authority = CertifiedIssuer<'static, KeyPair>;

/// What a receiver shows, and what we trust.
struct Shown {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    trusted: String,
}

#[tokio::test]
async fn a_good_certificate_of_a_trusted_authority_is_good() {
    let ours = authority(|_| {});
    let exchange = call(shown(&ours, |_| {}), false).await;
    assert!(exchange.result.unwrap().is_success());
    let exchange = call(signed(SHA256), false).await;
    assert!(exchange.result.unwrap().is_success());
}

/// R13.
#[tokio::test]
async fn other_certificates_are_not() {
    let ours = authority(|_| {});
    let elsewhere = authority(|params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    let untrusted = Shown {
        trusted: authority(|_| {}).pem(),
        ..shown(&ours, |_| {})
    };
    let cases = [
        (
            "expired",
            shown(&ours, |params| params.not_after = date_time_ymd(2020, 1, 1)),
        ),
        (
            "not valid yet",
            shown(&ours, |params| {
                params.not_before = date_time_ymd(2999, 1, 1);
            }),
        ),
        (
            "not valid for name",
            shown(&ours, |params| {
                params.subject_alt_names = CertificateParams::new(["example.com".to_owned()])
                    .unwrap()
                    .subject_alt_names;
            }),
        ),
        ("BadSignature", untrusted),
        ("NameConstraintViolation", shown(&elsewhere, |_| {})),
        ("UnsupportedSignatureAlgorithm", signed(SHA1)),
    ];
    for (fault, shown) in cases {
        let exchange = call(shown, false).await;
        assert_eq!(error(&exchange), TransportError::Tls, "{fault}");
        let detail = exchange.result.unwrap_err().detail;
        assert!(detail.contains(fault), "{fault}: {detail}");
    }
}

/// R15: whether we are let in without a certificate of our own is the receiver's to say.
#[tokio::test]
async fn a_receiver_that_would_like_our_certificate_is_called_without() {
    let exchange = call(shown(&authority(|_| {}), |_| {}), true).await;
    assert!(exchange.result.unwrap().is_success());
}

/// Calls a receiver that shows this, and may ask for a certificate of ours.
async fn call(shown: Shown, asks_for_ours: bool) -> Exchange {
    static N_FILES: AtomicUsize = AtomicUsize::new(0);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if asks_for_ours {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(CA.as_bytes()).unwrap())
            .unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let config = builder
        .with_single_cert(vec![shown.certificate], shown.key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let receiver = Receiver::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut request = [0; 1024];
            let _n_read = stream.read(&mut request).await.unwrap();
            stream.write_all(OK).await.unwrap();
            stream.flush().await.unwrap();
        }
    })
    .await;

    let number = N_FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("hookfleet-authority-{}-{number}.pem", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, shown.trusted).unwrap();
    let egress = Egress::new(Config {
        policy: loopback(),
        ca_files: vec![file.clone()],
        ..Config::default()
    })
    .unwrap();
    std::fs::remove_file(file).unwrap();
    let url = format!("https://localhost:{}/", receiver.address.port());
    egress.post(request_to(&url)).await
}

fn authority(adapt: impl FnOnce(&mut CertificateParams)) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    adapt(&mut params);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `localhost`, adapted.
fn shown(authority: &Authority, adapt: impl FnOnce(&mut CertificateParams)) -> Shown {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    adapt(&mut params);
    let certificate = params.signed_by(&key, authority).unwrap();
    Shown {
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        trusted: authority.pem(),
    }
}

/// One of the certificates in the files.
fn signed(pem: &str) -> Shown {
    Shown {
        certificate: CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(),
        key: PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap(),
        trusted: CA.to_owned(),
    }
}

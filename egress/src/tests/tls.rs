//! Receivers whose TLS is none, and connections that do not come about.

use std::{sync::Arc, time::Duration};

use hookfleet_contract::response::TransportError;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    behaviour::{OK, egress, error, loopback, request_to},
    receiver::Receiver,
};
use crate::{Config, Egress};

/// R12, R13: TLS that is none, and certificates of nobody.
#[tokio::test]
async fn tls_that_cannot_be_trusted_is_not_spoken() {
    let garbage = Receiver::start(|mut stream, _| async move {
        let _hello = stream.read_u8().await;
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    let url = format!("https://127.0.0.1:{}/", garbage.address.port());
    assert_eq!(
        error(&egress().post(request_to(&url)).await),
        TransportError::Tls
    );

    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let receiver = tls_receiver(&certificate).await;
    let url = format!("https://localhost:{}/", receiver.address.port());
    assert_eq!(
        error(&egress().post(request_to(&url)).await),
        TransportError::Tls
    );

    let file = std::env::temp_dir().join(format!("hookfleet-egress-{}.pem", std::process::id()));
    std::fs::write(&file, certificate.cert.pem()).unwrap();
    let trusting = Egress::new(Config {
        policy: loopback(),
        ca_files: vec![file.clone()],
        ..Config::default()
    })
    .unwrap();
    let trusted = trusting.post(request_to(&url)).await;
    assert!(trusted.result.unwrap().is_success());
    let other_name = format!("https://127.0.0.1:{}/", receiver.address.port());
    assert_eq!(
        error(&trusting.post(request_to(&other_name)).await),
        TransportError::Tls
    );
    std::fs::remove_file(file).unwrap();
}

/// R14: a ServerHello of TLS 1.1, as a server writes it that knows nothing newer.
#[tokio::test]
async fn old_versions_of_tls_are_not_spoken() {
    const VERSION: [u8; 2] = [3, 2];
    let receiver = Receiver::start(|mut stream, _| async move {
        let _hello = stream.read_u8().await;
        // Random bytes, no session, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
        let body = [&VERSION[..], &[7; 32], &[0], &[0, 0x2f], &[0]].concat();
        let handshake = [&[2, 0, 0, 38], &body[..]].concat();
        let record = [&[22], &VERSION[..], &[0, 42], &handshake[..]].concat();
        stream.write_all(&record).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let url = format!("https://127.0.0.1:{}/", receiver.address.port());
    let exchange = egress().post(request_to(&url)).await;
    assert_eq!(error(&exchange), TransportError::Tls);
    let detail = exchange.result.unwrap_err().detail;
    assert!(detail.contains("peer is incompatible"), "{detail}");
}

/// R11: the handshake has a time of its own, shorter than the request's.
#[tokio::test]
async fn a_handshake_that_stalls_ends_after_five_seconds() {
    let receiver = Receiver::start(|stream, _| async move {
        let _held_open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut request = request_to(&format!("https://127.0.0.1:{}/", receiver.address.port()));
    request.timeout = Duration::from_secs(15);
    let exchange = egress().post(request).await;
    assert_eq!(error(&exchange), TransportError::Tls);
    assert!(exchange.duration < Duration::from_secs(7), "{exchange:?}");
}

/// A full backlog: the kernel answers no more SYNs.
#[tokio::test]
async fn a_connection_that_does_not_come_about_ends_after_three_seconds() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    let mut request = request_to(&format!("http://{address}/"));
    request.timeout = Duration::from_secs(15);
    let exchange = egress().post(request).await;
    assert_eq!(error(&exchange), TransportError::Connect);
    assert!(exchange.duration < Duration::from_secs(5), "{exchange:?}");
}

async fn tls_receiver(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Receiver {
    use rustls::pki_types::PrivateKeyDer;
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    Receiver::start(move |stream, _| {
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
    .await
}

//! Confirmations of receivers: from anybody, with a key.

use http::HeaderValue;
use tokio::time::timeout;

use super::{LIFETIME, World};
use crate::{
    auth::{Auth, keyring::Keyring},
    clock::Clock,
    status::ApiError,
    verification::Confirm,
};

/// Knows the key `good`, and does not know about `perhaps`.
#[derive(Clone)]
pub(super) struct Keys;

impl Confirm for Keys {
    async fn confirm(&self, key: &str, rate: Option<&HeaderValue>) -> Result<String, ApiError> {
        match (key, rate.map(HeaderValue::as_bytes)) {
            ("good", None | Some(b"60")) => Ok("tenants/acme/subscriptions/hook".to_owned()),
            ("good", Some(_)) => Err(ApiError::invalid_field("rate", "must be 60")),
            ("perhaps", _) => Err(ApiError::unavailable("STORE", "away", LIFETIME)),
            _ => Err(ApiError::not_found("verifications/-")),
        }
    }
}

#[tokio::test]
async fn who_has_the_key_needs_no_credential_and_who_has_not_learns_nothing() {
    let auth = Auth::on(Keyring::default(), Clock::system());
    let world = World::start_with(auth, LIFETIME).await;
    for (method, path, headers, status) in [
        ("GET", "/v1/verifications/good", &[][..], 200),
        (
            "POST",
            "/v1/verifications/good",
            &[("webhook-allowed-rate", "60")],
            200,
        ),
        (
            "POST",
            "/v1/verifications/good",
            &[("webhook-allowed-rate", "x")],
            400,
        ),
        ("GET", "/v1/verifications/bad", &[], 404),
        ("POST", "/v1/verifications/bad", &[], 404),
        ("POST", "/v1/verifications/perhaps", &[], 503),
        // Whoever only looks has not confirmed.
        ("HEAD", "/v1/verifications/good", &[], 405),
        ("DELETE", "/v1/verifications/good", &[], 405),
    ] {
        let answer = world.call_with(headers, method, path, "").await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    let answer = world.call("GET", "/v1/verifications", "").await;
    assert_ne!(answer.status, 200, "everything else asks for a credential");
}

#[tokio::test]
async fn nothing_of_a_body_is_waited_for() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let world = World::start().await;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let head =
        "POST /v1/verifications/good HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = timeout(LIFETIME / 10, stream.read_exact(&mut answer)).await;
    read.expect("an answer in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

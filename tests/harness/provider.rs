//! A small identity provider: a key, a document that says where it is, and tokens.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hookfleet_gateway::clock::Clock;
use http::StatusCode;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// A provider on a free port; gone when it is dropped.
pub struct Provider {
    pub issuer: String,
    known: Arc<Known>,
    serving: JoinHandle<()>,
}

struct Known {
    address: SocketAddr,
    key: Ed25519KeyPair,
    asked: Mutex<Vec<String>>,
}

impl Provider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let known = Arc::new(Known {
            address,
            key: Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes"),
            asked: Mutex::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&known));
        Self {
            issuer: format!("http://{address}"),
            known,
            serving: tokio::spawn(async move {
                axum::serve(listener, router).await.expect("it serves");
            }),
        }
    }

    /// What it was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.known.asked.lock().expect("no panic").clone()
    }

    /// Answers nobody any more.
    pub fn stop(&self) {
        self.serving.abort();
    }

    /// What a token of an organization claims.
    pub fn claims(&self, organization: &str, scope: &str) -> Value {
        let now = Clock::system().now().unix_seconds();
        json!({
            "iss": self.issuer, "aud": "hookfleet", "sub": "alice", "iat": now, "exp": now + 600,
            "org": organization, "scope": scope,
        })
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": "EdDSA", "kid": "first"}), claims)
    }

    /// A token with this header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let parts = [header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        let signed = parts.join(".");
        let signature = self.known.key.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(known): State<Arc<Known>>, request: Request) -> Response {
    let path = request.uri().path();
    known.asked.lock().expect("no panic").push(path.to_owned());
    let issuer = format!("http://{}", known.address);
    let document = match path {
        "/.well-known/openid-configuration" => {
            json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")})
        }
        "/keys" => {
            let x = URL_SAFE_NO_PAD.encode(known.key.public_key());
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "first", "x": x}]})
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    axum::Json(document).into_response()
}

//! The listener with a small service behind it, by gRPC and by HTTP/JSON.

mod access;
mod dialects;
mod limits;
mod tenants;
mod tls;
mod verifications;
mod web;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Auth,
    limits::{connections::Connections, limiter::Limiter},
    listener::{self, Lifetimes},
    readiness::Readiness,
    services::Services,
    tls::server::ServerTls,
};

/// Longer than any test.
const LIFETIME: Duration = Duration::from_secs(600);
/// Long enough for a head on a busy machine, and short enough to wait for.
const HEAD: Duration = Duration::from_secs(2);
/// More connections than any test makes.
const MANY: (usize, usize) = (10_000, 10_000);

/// A running listener.
struct World {
    address: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl World {
    async fn start() -> Self {
        Self::start_with(Auth::off(), LIFETIME).await
    }

    /// A listener whose connections are to last as long.
    async fn start_with(auth: Auth, connection: Duration) -> Self {
        Self::start_limited(auth, connection, Limiter::off(), MANY).await
    }

    async fn start_secure(auth: Auth, connection: Duration, tls: Option<ServerTls>) -> Self {
        Self::start_all(auth, connection, tls, Limiter::off(), MANY).await
    }

    /// A listener that counts requests, and has room for so many connections, all together and of one address.
    async fn start_limited(
        auth: Auth,
        connection: Duration,
        limiter: Limiter,
        room: (usize, usize),
    ) -> Self {
        Self::start_all(auth, connection, None, limiter, room).await
    }

    async fn start_all(
        auth: Auth,
        connection: Duration,
        tls: Option<ServerTls>,
        limiter: Limiter,
        (max, max_per_address): (usize, usize),
    ) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let readiness = Readiness::new(&["store"]);
        let services = Services::new(readiness.clone())
            .guarded(auth)
            .limited(limiter)
            .confirmed_to(verifications::Keys)
            .with(tenants::service());
        let router = services.into_router().unwrap();
        let shutdown = CancellationToken::new();
        let lifetimes = Lifetimes {
            connection,
            head: HEAD,
            drain: Duration::from_millis(300),
        };
        let serving = tokio::spawn(listener::serve(
            tcp,
            tls,
            router,
            lifetimes,
            Connections::new(max, max_per_address),
            shutdown.clone(),
        ));
        Self {
            address,
            readiness,
            shutdown,
            serving,
        }
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.call_with(&[], method, path, body).await
    }

    async fn call_with(
        &self,
        headers: &[(&str, &str)],
        method: &str,
        path: &str,
        body: &str,
    ) -> Answer {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let mut request = http::Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let (head, body) = client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Answer {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }

    async fn channel(&self) -> tonic::transport::Channel {
        let url = format!("http://{}", self.address);
        let endpoint = tonic::transport::Endpoint::from_shared(url).unwrap();
        endpoint.connect().await.unwrap()
    }
}

impl Answer {
    /// The status, and the reason in the error's `ErrorInfo`.
    fn refusal(&self) -> (u16, &str) {
        let details = self.body["error"]["details"].as_array().unwrap();
        let infos: Vec<&Value> = details
            .iter()
            .filter(|it| it["@type"] == "type.googleapis.com/google.rpc.ErrorInfo")
            .collect();
        assert_eq!(infos.len(), 1, "{}", self.body);
        assert_eq!(infos[0]["domain"], "hookfleet.dev");
        (self.status.as_u16(), infos[0]["reason"].as_str().unwrap())
    }
}

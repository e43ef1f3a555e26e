//! An HTTP receiver that remembers every request and answers as it is told.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::any,
};
use tokio::{net::TcpListener, time::Instant};

/// What a receiver got.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    /// Behind the `?`; empty if there is none.
    pub query: String,
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What it was answered.
    pub status: StatusCode,
    /// When it came.
    pub from: Instant,
    answered: Arc<OnceLock<Instant>>,
}

/// What a path answers, and after how long.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub delay: Duration,
}

/// How a path answers, given the number of requests it has had before.
pub type Answer = Arc<dyn Fn(&Received, usize) -> Reply + Send + Sync>;

/// Receivers at paths of one address.
#[derive(Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    answers: HashMap<String, Answer>,
    received: Vec<Received>,
    counts: HashMap<String, usize>,
}

impl Receiver {
    /// Listens on a free port; every path answers 204 until told otherwise.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// Listens there.
    pub async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let receiver = Self {
            address: listener.local_addr().expect("bound"),
            state: Arc::default(),
        };
        receiver.serve(listener);
        receiver
    }

    /// Listens there too: on loopback of another network, say.
    pub fn serve(&self, listener: TcpListener) {
        let router = Router::new()
            .route("/{*path}", any(receive))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// The path answers with this status from now on.
    pub fn answer(&self, path: &str, status: u16) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.answer_with(path, move |_, _| (status, Vec::new(), Duration::ZERO));
    }

    /// The path answers as the function says.
    pub fn answer_with(
        &self,
        path: &str,
        answer: impl Fn(&HeaderMap, usize) -> (StatusCode, Vec<(&'static str, String)>, Duration)
        + Send
        + Sync
        + 'static,
    ) {
        self.reply_with(path, move |received, n_before| {
            let (status, headers, delay) = answer(&received.headers, n_before);
            Reply {
                status,
                headers,
                delay,
                ..Reply::default()
            }
        });
    }

    /// The path replies to what it gets as the function says.
    pub fn reply_with(
        &self,
        path: &str,
        reply: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static,
    ) {
        let mut state = self.state.lock().expect("no panic");
        state.answers.insert(path.to_owned(), Arc::new(reply));
    }

    /// Looks at everything that came, in order, where it is: it may be much.
    pub fn with<T>(&self, look: impl FnOnce(&[Received]) -> T) -> T {
        look(&self.state.lock().expect("no panic").received)
    }

    /// How much came.
    pub fn count(&self) -> usize {
        self.with(<[Received]>::len)
    }

    /// Everything that came, in order.
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().expect("no panic").received.clone()
    }

    /// What came to a path.
    pub fn received_at(&self, path: &str) -> Vec<Received> {
        let all = self.received();
        all.into_iter().filter(|it| it.path == path).collect()
    }
}

impl Received {
    /// When the answer was ready; never, if the sender was gone by then.
    pub fn until(&self) -> Option<Instant> {
        self.answered.get().copied()
    }

    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |it| it.to_str().expect("text"))
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (answer, n_before) = {
        let mut state = receiver.state.lock().expect("no panic");
        let n_before = *state
            .counts
            .entry(path.clone())
            .and_modify(|it| *it += 1)
            .or_default();
        (state.answers.get(&path).cloned(), n_before)
    };
    let answered = Arc::<OnceLock<Instant>>::default();
    let mut received = Received {
        path,
        query: uri.query().unwrap_or_default().to_owned(),
        method,
        headers,
        body,
        status: StatusCode::NO_CONTENT,
        from: Instant::now(),
        answered: Arc::clone(&answered),
    };
    let reply = answer.map(|it| it(&received, n_before));
    let reply = reply.unwrap_or_else(|| Reply {
        status: StatusCode::NO_CONTENT,
        ..Reply::default()
    });
    received.status = reply.status;
    // Remembered before it is answered: what the sender knows, the ledger knows.
    receiver
        .state
        .lock()
        .expect("no panic")
        .received
        .push(received);
    tokio::time::sleep(reply.delay).await;
    // Whoever hangs up before ends this future.
    answered.get_or_init(Instant::now);
    let mut response = match reply.body.as_str() {
        "" => reply.status.into_response(),
        _ => (reply.status, reply.body).into_response(),
    };
    for (name, value) in reply.headers {
        response
            .headers_mut()
            .insert(name, value.parse().expect("a header value"));
    }
    response
}

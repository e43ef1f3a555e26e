//! The members of the cluster: one client each, one of them in use, the next one when it fails.
//!
//! Owns deadlines, retries and the turn of endpoints. One client over all of them would keep sending a share of the calls
//! to a dead member for ever. Invariant: a request that must not be performed twice is sent again only after
//! [`Fault::NotSent`].

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, ResponseHeader, TlsOptions};
use hookfleet_gateway::tls::peer::PeerTls;
use tokio::{
    sync::watch,
    time::{error::Elapsed, sleep, timeout},
};

use super::fault::Fault;
use crate::store::Error;

/// How long one try may take. etcd answers in milliseconds; its own limit is 7 s.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often a request is tried, over all endpoints.
const TRIES: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a connection is probed. Servers cut clients that ping more often than every 5 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

pub(super) struct Endpoints {
    urls: Vec<String>,
    /// The clients in the order of their addresses; new ones when there is a new certificate to show.
    members: watch::Receiver<Arc<Vec<Member>>>,
    /// Counts failures; the member in use is this number modulo their count.
    turn: AtomicUsize,
    cluster: OnceLock<u64>,
}

#[derive(Clone)]
struct Member {
    /// For everything but watches: `require_leader` would make plain reads fail too.
    plain: Client,
    watching: Client,
}

/// A request may be performed twice, or must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Safe,
    Unsafe,
}

/// A server's answer.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: Result<T, Fault>,
    /// An earlier try of the same request may have been performed, or may yet be.
    pub(super) doubtful: bool,
}

impl Endpoints {
    pub(super) async fn connect(
        urls: Vec<String>,
        tls: PeerTls,
    ) -> Result<Self, etcd_client::Error> {
        if urls.is_empty() {
            return Err(etcd_client::Error::InvalidArgs("no endpoints".to_owned()));
        }
        let shown = tls.current();
        let (made, members) = watch::channel(Arc::new(clients(&urls, &shown).await?));
        tokio::spawn(renew(urls.clone(), tls, shown, made));
        Ok(Self {
            urls,
            members,
            turn: AtomicUsize::new(0),
            cluster: OnceLock::new(),
        })
    }

    /// Sends a request until somebody answers, at most [`TRIES`] times.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        request: impl Fn(Client) -> F,
    ) -> Answer<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut doubtful = false;
        let mut n_tries = 0;
        loop {
            let turn = self.turn.load(Ordering::Relaxed);
            let tried = timeout(DEADLINE, request(self.member(turn).plain)).await;
            let fault = match tried {
                Ok(Ok(value)) => {
                    let value = Ok(value);
                    return Answer { value, doubtful };
                }
                Ok(Err(error)) => Fault::from(error),
                Err(elapsed) => Fault::Lost(elapsed.into()),
            };
            n_tries += 1;
            let again = match &fault {
                Fault::NotSent(_) => true,
                Fault::Lost(_) => repeat == Repeat::Safe,
                Fault::Answered(..) => {
                    let value = Err(fault);
                    return Answer { value, doubtful };
                }
            };
            self.skip(turn, &fault);
            if !again || n_tries == TRIES {
                let value = Err(fault);
                return Answer { value, doubtful };
            }
            doubtful |= matches!(fault, Fault::Lost(_));
            sleep(backoff(n_tries)).await;
        }
    }

    /// The client to watch with, and its turn for [`Self::skip`].
    pub(super) fn watching(&self) -> (Client, usize) {
        let turn = self.turn.load(Ordering::Relaxed);
        (self.member(turn).watching, turn)
    }

    /// Uses the next member from now on, if the one of this `turn` still is in use.
    pub(super) fn skip(&self, turn: usize, fault: &Fault) {
        let next = turn.wrapping_add(1);
        let skipped = self
            .turn
            .compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
        if skipped.is_ok() {
            let (failed, next) = (self.url(turn), self.url(next));
            tracing::warn!(?fault, failed, next, "etcd endpoint failed");
        }
    }

    /// Refuses the answer of another cluster than the first one that answered.
    pub(super) fn check(&self, header: Option<&ResponseHeader>) -> Result<(), Error> {
        let Some(found) = header.map(ResponseHeader::cluster_id) else {
            return Ok(());
        };
        let expected = *self.cluster.get_or_init(|| found);
        if found == expected {
            Ok(())
        } else {
            Err(Error::Foreign { expected, found })
        }
    }

    /// The cluster's id; 0 before anybody answered.
    pub(super) fn cluster(&self) -> u64 {
        self.cluster.get().copied().unwrap_or(0)
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        self.urls.iter().map(String::as_str)
    }

    fn member(&self, turn: usize) -> Member {
        self.members.borrow()[turn % self.urls.len()].clone()
    }

    fn url(&self, turn: usize) -> &str {
        &self.urls[turn % self.urls.len()]
    }
}

/// A member for each address.
async fn clients(urls: &[String], tls: &TlsOptions) -> Result<Vec<Member>, etcd_client::Error> {
    let mut members = Vec::with_capacity(urls.len());
    for url in urls {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true);
        if url.starts_with("https://") {
            options = options.with_tls(tls.clone());
        }
        let watching = options.clone().with_require_leader(true);
        members.push(Member {
            plain: Client::connect([url], Some(options)).await?,
            watching: Client::connect([url], Some(watching)).await?,
        });
    }
    Ok(members)
}

/// Makes new clients whenever there is something else to show. What is under way on the old ones goes on.
async fn renew(
    urls: Vec<String>,
    tls: PeerTls,
    mut shown: Arc<TlsOptions>,
    made: watch::Sender<Arc<Vec<Member>>>,
) {
    loop {
        tokio::select! {
            () = made.closed() => return,
            () = tls.renewed(&shown) => shown = tls.current(),
        }
        match clients(&urls, &shown).await {
            Ok(members) => drop(made.send_replace(Arc::new(members))),
            Err(error) => tracing::error!(%error, "etcd cannot be called with the new certificate"),
        }
    }
}

impl From<Elapsed> for Fault {
    fn from(elapsed: Elapsed) -> Self {
        Self::Lost(elapsed.into())
    }
}

/// How long to wait after this many failures: doubles, with full jitter so that replicas do not come back together.
pub(super) fn backoff(n_failures: u32) -> Duration {
    let most = FIRST_BACKOFF.saturating_mul(1 << n_failures.saturating_sub(1).min(10));
    most.min(MAX_BACKOFF).mul_f64(rand::random())
}

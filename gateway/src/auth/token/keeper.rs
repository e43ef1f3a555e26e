//! Keeps the keys of one issuer: a task that does what the [upkeep](super::upkeep) says, and a handle by which requests
//! look at them.
//!
//! **Invariant:** nothing that a token says becomes part of a URL.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{
    Refusal,
    issuer::Issuer,
    key_set::{self, KeySet},
    upkeep::{Command, Upkeep},
};
use crate::clock::Clock;

/// How long a request waits for a fetch that may bring its key.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait when there is nothing to wait for.
const IDLE: Duration = Duration::from_secs(60);
/// Where providers say where their keys are (OpenID Connect Discovery 1.0).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Gets documents of identity providers: with bounds of time and size, from nowhere but the URL, and without following
/// where it points.
pub trait Fetch: Send + Sync {
    /// Gets one.
    fn get<'a>(&'a self, url: &'a str) -> Fetching<'a>;
}

/// A document that is on its way.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Bytes, BoxError>> + Send + 'a>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keeper {
    upkeep: Mutex<Upkeep>,
    clock: Clock,
    wanted: Notify,
    /// Changes with every fetch that ends.
    n_fetches: watch::Sender<u64>,
}

/// The keys of an issuer were not fetched.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot fetch {0}")]
    Fetch(String, #[source] BoxError),
    #[error("the discovery document cannot be read")]
    Discovery(#[source] serde_json::Error),
    #[error("the discovery document is of {0:?}")]
    OtherIssuer(String),
    #[error("the keys cannot be used")]
    Keys(#[from] key_set::Error),
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            upkeep: Mutex::default(),
            clock,
            wanted: Notify::new(),
            n_fetches: watch::Sender::new(0),
        }
    }

    /// The keys, if the one of this name is among them. Waits only for a fetch that may bring it, and not for long.
    pub(super) async fn keys_with(&self, id: &str) -> Result<Arc<KeySet>, Refusal> {
        let mut n_fetches = self.n_fetches.subscribe();
        let found = self.look(id);
        if found.is_ok() || !self.lock().handle_unknown_key(self.clock.steady()) {
            return found;
        }
        self.wanted.notify_one();
        match timeout(PATIENCE, n_fetches.changed()).await {
            Ok(_) => self.look(id),
            Err(_) => found,
        }
    }

    fn look(&self, id: &str) -> Result<Arc<KeySet>, Refusal> {
        let upkeep = self.lock();
        let keys = upkeep.keys(self.clock.steady()).ok_or(Refusal::NotReady)?;
        let keys = keys.has(id).then(|| Arc::clone(keys));
        keys.ok_or(Refusal::UnknownKey)
    }

    /// Fetches whenever it is time to.
    pub(super) async fn run(self: Arc<Self>, issuer: Issuer, fetch: Box<dyn Fetch>) {
        let mut was_reached = true;
        loop {
            let now = self.clock.steady();
            let (command, due) = {
                let mut upkeep = self.lock();
                (upkeep.poll_command(now), upkeep.poll_timeout())
            };
            if let Some(Command::Fetch) = command {
                let fetched = keys(&issuer, &*fetch).await;
                tell(&issuer, &fetched, &mut was_reached);
                self.lock()
                    .handle_fetched(fetched.ok(), self.clock.steady());
                self.n_fetches.send_modify(|it| *it += 1);
                continue;
            }
            tokio::select! {
                () = sleep(due.map_or(IDLE, |it| it.since(now))) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keys(issuer: &Issuer, fetch: &dyn Fetch) -> Result<KeySet, Error> {
    let url = match &issuer.jwks_url {
        Some(url) => url.clone(),
        None => discover(&issuer.issuer, fetch).await?,
    };
    Ok(KeySet::read(&get(fetch, &url).await?)?)
}

async fn discover(issuer: &str, fetch: &dyn Fetch) -> Result<String, Error> {
    let url = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
    let document = get(fetch, &url).await?;
    let found: Discovery = serde_json::from_slice(&document).map_err(Error::Discovery)?;
    if found.issuer != issuer {
        return Err(Error::OtherIssuer(found.issuer));
    }
    Ok(found.jwks_uri)
}

async fn get(fetch: &dyn Fetch, url: &str) -> Result<Bytes, Error> {
    let got = fetch.get(url).await;
    got.map_err(|error| Error::Fetch(url.to_owned(), error))
}

/// Says what has changed; an issuer that is down for a day is not news twice a minute.
fn tell(issuer: &Issuer, fetched: &Result<KeySet, Error>, was_reached: &mut bool) {
    let name = &issuer.issuer;
    match fetched {
        Ok(keys) if keys.is_empty() => {
            tracing::warn!(issuer = name, "the issuer has no key that can be used");
        }
        Ok(keys) if *was_reached => {
            tracing::debug!(issuer = name, n_keys = keys.len(), "fetched keys");
        }
        Ok(keys) => tracing::info!(issuer = name, n_keys = keys.len(), "fetched keys again"),
        Err(error) if *was_reached => {
            let error: &(dyn std::error::Error + 'static) = error;
            tracing::warn!(issuer = name, error, "cannot fetch the keys of the issuer");
        }
        Err(_) => {}
    }
    *was_reached = fetched.is_ok();
}

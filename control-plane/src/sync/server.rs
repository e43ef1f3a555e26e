//! Opens sessions with agents, as far as they may be; what happens in one is the [`Connection`]'s.
//!
//! **Invariants:** an agent has one session, the newest; nobody is told anything before the cache is complete; every
//! session ends soon after shutdown.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::Stream;
use hookfleet_contract::{name::AgentId, zone::Zone};
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::fleet::{Hello, StoredAgent, SyncRequest, SyncResponse};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{connection::Connection, reports::Reports, session::Session};
use crate::api::Api;

/// How long an agent that is ahead of this control plane is kept waiting.
const CATCH_UP: Duration = Duration::from_secs(3);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// One update, its bookmarks until the agent counts as silent, and the welcome: a session never waits for room.
const OUTBOUND: usize = 16;

/// Opens sessions.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) api: Arc<Api>,
    pub(super) heartbeat: Duration,
    pub(super) reports: Reports,
    /// Ends the session of an agent when it begins a newer one.
    ends: Mutex<HashMap<AgentId, CancellationToken>>,
    pub(super) shutdown: CancellationToken,
    sessions: TaskTracker,
}

// === impl Server ===

impl Server {
    pub(crate) fn new(
        api: Arc<Api>,
        heartbeat: Duration,
        reports: Reports,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            api,
            heartbeat,
            reports,
            ends: Mutex::default(),
            shutdown,
            sessions: TaskTracker::new(),
        }
    }

    /// How many agents are kept up to date from here.
    pub(crate) fn n_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Waits until every session has ended, after shutdown.
    pub(crate) async fn drain(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }

    /// Whether agents can be told anything yet.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        if self.shutdown.is_cancelled() {
            let message = "this control plane is shutting down";
            return Err(ApiError::unavailable("DRAINING", message, RETRY_AFTER));
        }
        if !self.api.cache.is_ready() {
            let message = "this control plane does not know the store yet";
            return Err(ApiError::unavailable("NOT_READY", message, RETRY_AFTER));
        }
        Ok(())
    }

    /// Opens a session; what the agent is told comes out of the receiver.
    pub(crate) async fn open<S>(
        self: &Arc<Self>,
        hello: Hello,
        said: S,
    ) -> Result<mpsc::Receiver<SyncResponse>, ApiError>
    where
        S: Stream<Item = SyncRequest> + Send + Unpin + 'static,
    {
        let agent = self.check_hello(&hello)?;
        let zone = check_zone(&hello)?;
        let era = self.api.cache.read(|contents| contents.era().clone());
        let is_same_store = hello.store_generation == era.as_str();
        let stand = Some(hello.revision).filter(|revision| is_same_store && *revision > 0);
        if let Some(stand) = stand {
            self.catch_up(stand).await?;
        }
        let end = CancellationToken::new();
        let older = self.ends().insert(agent.clone(), end.clone());
        if let Some(older) = older {
            older.cancel();
        }
        let now = self.api.clock.steady();
        let known = hello.known_slots.iter();
        let known = match hello.has_strangers {
            true => (0..self.api.slot_count).collect(),
            false => known.filter_map(|slot| u16::try_from(*slot).ok()).collect(),
        };
        // What it has of other slots may be nothing, so changes alone would not do.
        let stand = stand.filter(|_| !hello.has_strangers);
        let session = self.api.cache.read(|contents| {
            Session::new(agent.clone(), stand, known, contents, self.heartbeat, now)
        });
        let (session_id, is_back) = self.api.fleet(|fleet| {
            if !session.goes_on() {
                fleet.forget_rejections(&agent);
            }
            let session_id = fleet.join(
                &agent,
                hello.address.clone(),
                hello.version.clone(),
                zone,
                session.era().clone(),
                self.api.clock.now(),
            );
            (session_id, fleet.is_back(&agent, now))
        });
        tracing::info!(%agent, address = hello.address, goes_on = session.goes_on(), "agent connected");
        let noted = watch::Sender::new(StoredAgent {
            address: hello.address,
            version: hello.version,
            incarnation: hello.incarnation,
            applied_revision: session.answered(),
            write_time: Some(self.api.clock.now().into()),
            weight: hello.weight,
            leftovers: None,
            draining: false,
            store_era: session.era().to_string(),
            zone: hello.zone,
            behind_since: None,
        });
        let (told, answers) = mpsc::channel(OUTBOUND);
        let connection = Connection {
            server: Arc::clone(self),
            agent,
            session_id,
            is_back,
            session,
            noted,
            told,
        };
        self.sessions.spawn(connection.run(said, end));
        Ok(answers)
    }

    fn check_hello(&self, hello: &Hello) -> Result<AgentId, ApiError> {
        let agent = hello.agent_id.parse();
        let agent =
            agent.map_err(|error| ApiError::invalid_field("hello.agent_id", format!("{error}")))?;
        if !hello.cluster_id.is_empty() && hello.cluster_id != self.api.cluster.cluster_id {
            let message = "the agent belongs to another cluster";
            let error = ApiError::precondition("FOREIGN_CLUSTER", message);
            return Err(error.with("cluster_id", self.api.cluster.cluster_id.clone()));
        }
        let uri = hello.address.parse::<tonic::transport::Uri>().ok();
        match uri.and_then(|uri| uri.host().zip(uri.scheme_str()).map(|_| ())) {
            Some(()) => Ok(agent),
            None => {
                let description = "must be where the agent takes events, http://host:port or https";
                Err(ApiError::invalid_field("hello.address", description))
            }
        }
    }

    /// Waits until this control plane knows at least as much as the agent.
    async fn catch_up(&self, stand: i64) -> Result<(), ApiError> {
        let mut progress = self.api.cache.progress();
        let caught_up = timeout(CATCH_UP, progress.wait_for(|it| it.revision >= stand)).await;
        match caught_up {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                self.api.cache.witness(stand);
                let message = "this control plane is behind the agent";
                Err(ApiError::unavailable("BEHIND", message, RETRY_AFTER))
            }
        }
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, HashMap<AgentId, CancellationToken>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_zone(hello: &Hello) -> Result<Option<Zone>, ApiError> {
    let zone = Zone::optional(&hello.zone);
    zone.map_err(|error| ApiError::invalid_field("hello.zone", format!("{error}")))
}

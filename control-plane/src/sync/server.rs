//! Sessions with agents: joins the pure [`Session`] with the cache, the stream and time.
//!
//! **Invariants:** an agent has one session, the newest; nobody is told anything before the cache is complete; every
//! session ends soon after shutdown.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use hookfleet_contract::name::AgentId;
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::fleet::{
    Ack, Bookmark, Heartbeat, Hello, StoredAgent, SyncRequest, SyncResponse, Welcome,
    sync_request::Message as Said, sync_response::Message as Told,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    presence::{Blind, Presence},
    reports::{Report, Reports},
    session::{Command, Session},
    wire,
};
use crate::{api::Api, fleet::SessionId};

/// How long an agent that is ahead of this control plane is kept waiting.
const CATCH_UP: Duration = Duration::from_secs(3);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// One update, its bookmarks until the agent counts as silent, and the welcome: a session never waits for room.
const OUTBOUND: usize = 16;
const SUPERSEDED: &str = "the agent has a newer session";

/// Opens sessions.
#[derive(Debug)]
pub(crate) struct Server {
    api: Arc<Api>,
    heartbeat: Duration,
    reports: Reports,
    /// Ends the session of an agent when it begins a newer one.
    ends: Mutex<HashMap<AgentId, CancellationToken>>,
    shutdown: CancellationToken,
    sessions: TaskTracker,
}

/// A session that is open.
#[derive(Debug)]
struct Connection {
    server: Arc<Server>,
    agent: AgentId,
    session_id: SessionId,
    session: Session,
    noted: watch::Sender<StoredAgent>,
    told: mpsc::Sender<SyncResponse>,
}

/// The session is over.
#[derive(Debug)]
struct Over;

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
        let session_id = self.api.fleet(|fleet| {
            if !session.goes_on() {
                fleet.forget_rejections(&agent);
            }
            fleet.join(
                &agent,
                hello.address.clone(),
                hello.version.clone(),
                session.era().clone(),
                self.api.clock.now(),
            )
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
        });
        let (told, answers) = mpsc::channel(OUTBOUND);
        let connection = Connection {
            server: Arc::clone(self),
            agent,
            session_id,
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

// === impl Connection ===

impl Connection {
    async fn run<S>(mut self, said: S, end: CancellationToken)
    where
        S: Stream<Item = SyncRequest> + Send + Unpin,
    {
        let store = Arc::clone(&self.server.api.store);
        let mut presence = Presence::new(store, self.agent.clone(), self.noted.subscribe());
        let (shutdown, told) = (self.server.shutdown.clone(), self.told.clone());
        let goodbye = tokio::select! {
            Over = self.converse(said) => None,
            Blind = presence.keep() => Some("the control plane cannot reach the store"),
            () = end.cancelled() => Some(SUPERSEDED),
            () = shutdown.cancelled() => Some("the control plane is shutting down"),
        };
        if let Some(reason) = goodbye {
            drop(told.try_send(wire::goaway(reason)));
        }
        drop(told);
        tracing::info!(agent = %self.agent, goodbye, "agent disconnected");
        self.server
            .api
            .fleet(|fleet| fleet.leave(&self.agent, self.session_id));
        if goodbye != Some(SUPERSEDED) {
            presence.finish().await;
        }
    }

    /// Talks until there is nothing more to say.
    async fn converse<S>(&mut self, mut said: S) -> Over
    where
        S: Stream<Item = SyncRequest> + Send + Unpin,
    {
        let mut progress = self.server.api.cache.progress();
        let welcome = Told::Welcome(Welcome {
            cluster_id: self.server.api.cluster.cluster_id.clone(),
            store_generation: self.session.era().as_str().to_owned(),
            slot_count: i32::from(self.server.api.slot_count),
            heartbeat_millis: i32::try_from(self.server.heartbeat.as_millis()).unwrap_or(i32::MAX),
        });
        if self.tell(welcome).await.is_err() {
            return Over;
        }
        loop {
            progress.mark_unchanged();
            if self.act().await.is_err() {
                return Over;
            }
            let pause = self
                .session
                .poll_timeout()
                .since(self.server.api.clock.steady());
            tokio::select! {
                request = said.next() => match request.and_then(|it| it.message) {
                    Some(message) => self.hear(message),
                    None => return Over,
                },
                changed = progress.changed() => if changed.is_err() { return Over },
                () = sleep(pause) => {}
            }
        }
    }

    /// Does what the session wants done now.
    async fn act(&mut self) -> Result<(), Over> {
        loop {
            let now = self.server.api.clock.steady();
            let command = self
                .server
                .api
                .cache
                .read(|contents| self.session.poll_command(contents, now));
            self.note();
            match command {
                None => return Ok(()),
                Some(Command::Bookmark(revision)) => {
                    self.tell(Told::Bookmark(Bookmark { revision })).await?
                }
                Some(Command::Update(draft)) => {
                    let (update, unreadable) = wire::update(&self.server.api.vault, draft);
                    for it in unreadable {
                        tracing::error!(
                            name = it.name,
                            reason = it.reason,
                            "cannot read a resource of the store"
                        );
                        self.server
                            .api
                            .fleet(|fleet| fleet.reject(&self.agent, it.name, it.mod_revision));
                    }
                    self.tell(Told::Update(update)).await?;
                }
                Some(Command::Close(reason)) => {
                    tracing::warn!(agent = %self.agent, %reason, "giving up the agent's session");
                    drop(self.told.try_send(wire::goaway(&reason.to_string())));
                    return Err(Over);
                }
            }
        }
    }

    fn hear(&mut self, message: Said) {
        self.session
            .handle_sign_of_life(self.server.api.clock.steady());
        match message {
            Said::Ack(ack) => self.hear_ack(ack),
            Said::Heartbeat(heartbeat) => self.hear_heartbeat(heartbeat),
            Said::SuspendReport(report) => self.server.reports.report(Report::Suspend(report)),
            Said::VerificationReport(report) => {
                self.server.reports.report(Report::Verification(report))
            }
            Said::Hello(_) => tracing::warn!(agent = %self.agent, "a second hello is not heard"),
        }
    }

    fn hear_ack(&mut self, ack: Ack) {
        // Rejections first: what was rejected must not be taken for applied for a moment.
        for rejection in &ack.rejections {
            let (name, reason) = (rejection.name.as_str(), rejection.reason.as_str());
            tracing::warn!(agent = %self.agent, name, reason, "the agent cannot apply a resource");
        }
        self.server.api.fleet(|fleet| {
            for rejection in &ack.rejections {
                fleet.reject(&self.agent, rejection.name.clone(), rejection.mod_revision);
            }
        });
        self.session
            .handle_ack(&ack, self.server.api.clock.steady());
    }

    fn hear_heartbeat(&mut self, heartbeat: Heartbeat) {
        let now = self.server.api.clock.now();
        if let Some(leftovers) = &heartbeat.leftovers {
            self.session.handle_leftovers(leftovers);
        }
        let wrong = self
            .server
            .api
            .cache
            .read(|contents| self.session.handle_digests(&heartbeat.digests, contents));
        if let Some(part) = wrong {
            tracing::warn!(agent = %self.agent, ?part, "the agent has not what it was told; telling it everything again");
        }
        self.noted.send_if_modified(|noted| {
            let is_new =
                noted.leftovers != heartbeat.leftovers || noted.draining != heartbeat.draining;
            if is_new {
                noted.leftovers.clone_from(&heartbeat.leftovers);
                noted.draining = heartbeat.draining;
                noted.write_time = Some(now.into());
            }
            is_new
        });
        self.server.api.fleet(|fleet| {
            if let Some(agent) = fleet.session(&self.agent, self.session_id) {
                agent.n_pending = heartbeat.pending_delivery_count;
                agent.last_heard = now;
            }
        });
    }

    /// Notes how far the agent is, for others to see.
    fn note(&self) {
        let (session, now) = (&self.session, self.server.api.clock.now());
        let answered = session.answered();
        self.server.api.fleet(|fleet| {
            if let Some(agent) = fleet.session(&self.agent, self.session_id) {
                agent.applied = session.stand();
                agent.is_live = session.is_live();
            }
        });
        self.noted.send_if_modified(|noted| {
            let is_further = noted.applied_revision != answered;
            if is_further {
                noted.applied_revision = answered;
                noted.write_time = Some(now.into());
            }
            is_further
        });
    }

    async fn tell(&self, message: Told) -> Result<(), Over> {
        let response = SyncResponse {
            message: Some(message),
        };
        self.told.send(response).await.map_err(|_| Over)
    }
}

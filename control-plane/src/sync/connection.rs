//! One session that is open: joins the pure [`Session`] with the cache, the stream and time.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::{
    Ack, Bookmark, Heartbeat, StoredAgent, SyncRequest, SyncResponse, Welcome,
    sync_request::Message as Said, sync_response::Message as Told,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    presence::{Blind, Presence},
    reports::Report,
    server::Server,
    session::{Command, Session},
    wire,
};
use crate::fleet::SessionId;

/// An agent that has lacked something for so long is noted to: others see it, and the store is left alone mostly.
const LATE: Duration = Duration::from_secs(5);
const SUPERSEDED: &str = "the agent has a newer session";
const BLIND: &str = "the control plane cannot reach the store";

/// A session that is open.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) server: Arc<Server>,
    pub(super) agent: AgentId,
    pub(super) session_id: SessionId,
    /// The agent was sent elsewhere while the store was out of reach, and has come again.
    pub(super) is_back: bool,
    pub(super) session: Session,
    pub(super) noted: watch::Sender<StoredAgent>,
    pub(super) told: mpsc::Sender<SyncResponse>,
}

/// The session is over.
#[derive(Debug)]
struct Over;

impl Connection {
    /// Serves the session until it is over.
    pub(super) async fn run<S>(mut self, said: S, end: CancellationToken)
    where
        S: Stream<Item = SyncRequest> + Send + Unpin,
    {
        let store = Arc::clone(&self.server.api.store);
        let noted = self.noted.subscribe();
        let mut presence = Presence::new(store, self.agent.clone(), noted, self.is_back);
        let (shutdown, told) = (self.server.shutdown.clone(), self.told.clone());
        let goodbye = tokio::select! {
            Over = self.converse(said) => None,
            Blind = presence.keep() => Some(BLIND),
            () = end.cancelled() => Some(SUPERSEDED),
            () = shutdown.cancelled() => Some("the control plane is shutting down"),
        };
        if let Some(reason) = goodbye {
            drop(told.try_send(wire::goaway(reason)));
        }
        drop(told);
        tracing::info!(agent = %self.agent, goodbye, "agent disconnected");
        let now = self.server.api.clock.steady();
        self.server.api.fleet(|fleet| {
            fleet.leave(&self.agent, self.session_id);
            if goodbye == Some(BLIND) {
                fleet.send_away(&self.agent, now);
            }
        });
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
        let (session, clock) = (&self.session, &self.server.api.clock);
        let (now, steady) = (clock.now(), clock.steady());
        let answered = session.answered();
        let lag = session.behind_since().map(|since| steady.since(since));
        let behind_since = lag.map(|lag| now - lag);
        self.server.api.fleet(|fleet| {
            if let Some(agent) = fleet.session(&self.agent, self.session_id) {
                agent.applied = session.stand();
                agent.is_live = session.is_live();
                agent.behind_since = behind_since;
            }
        });
        let is_late = lag.is_some_and(|lag| lag >= LATE);
        self.noted.send_if_modified(|noted| {
            let is_further = noted.applied_revision != answered;
            let is_news = noted.behind_since.is_some() != is_late;
            if is_further {
                noted.applied_revision = answered;
            }
            if is_news {
                noted.behind_since = behind_since.filter(|_| is_late).map(Into::into);
            }
            if is_further || is_news {
                noted.write_time = Some(now.into());
            }
            is_further || is_news
        });
    }

    async fn tell(&self, message: Told) -> Result<(), Over> {
        let response = SyncResponse {
            message: Some(message),
        };
        self.told.send(response).await.map_err(|_| Over)
    }
}

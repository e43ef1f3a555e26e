//! The connection to the control plane: keeps one sync stream, puts what comes over it in force,
//! acknowledges, and saves snapshots. What an update means is the mirror's to say.
//!
//! **Invariant:** whatever was applied stays applied in every state of the connection.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use hookfleet_contract::{subscription::Subscription, zone::Zone};
use hookfleet_gateway::{auth::keyring::Keyring, peers::Dialer};
use hookfleet_proto::{
    fleet::{
        Heartbeat, Hello, Leftovers, SuspendReport, SyncRequest, SyncResponse, VerificationReport,
        Welcome, sync_request::Message as Request, sync_response::Message as Response,
        sync_service_client::SyncServiceClient,
    },
    v1::subscription::SuspendReason,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    backoff::backoff,
    mirror::{Applied, ForeignCluster, Mirror},
    report::report,
    saver::Saver,
    snapshot::Row,
    talk::{goaway_error, goodbye, send, transport},
};
use crate::{core::Counts, directory::Directory, driver, slots::Slots, verification};

/// A full set of a large fleet comes in chunks of 1 MiB; one resource can be larger than that.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// After as long a live stream, pauses between reconnections are short again.
const STEADY: Duration = Duration::from_secs(30);

/// Who this agent is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Unique in the cluster.
    pub agent_id: String,
    /// Random for each start.
    pub incarnation: String,
    /// Where it takes events: `http://host:port`.
    pub address: String,
    /// Its share of the slots, beside the weights of others.
    pub weight: i32,
    /// Where it runs, as far as failures are shared.
    pub zone: Option<Zone>,
}

/// What the client needs and feeds.
#[derive(Debug)]
pub struct Config {
    /// Control planes to try in turn: `http://host:port`, or `https`.
    pub control_planes: Vec<String>,
    /// How it calls them.
    pub dialer: Dialer,
    /// Who this agent is.
    pub identity: Identity,
    /// What is known, perhaps from a snapshot.
    pub mirror: Mirror,
    /// Whether there are deliveries of subscriptions that are not known.
    pub has_strangers: bool,
    /// Where snapshots go.
    pub saver: Saver,
    /// Where changes take effect.
    pub directory: Directory,
    /// Where changes of the slot table take effect.
    pub slots: Slots,
    /// Where changes of callers' keys take effect.
    pub keyring: Keyring,
    /// Who delivers.
    pub driver: driver::Handle,
    /// Who verifies callback URLs.
    pub verifier: verification::Handle,
    /// What receivers have answered.
    pub verifications: mpsc::Receiver<VerificationReport>,
    /// Subscriptions whose receivers want no more.
    pub suspensions: mpsc::UnboundedReceiver<(Arc<Subscription>, SuspendReason)>,
    /// What is still here of slots of others.
    pub leftovers: watch::Receiver<Option<Leftovers>>,
    /// Whether this agent is about to end.
    pub draining: watch::Receiver<bool>,
    /// Cancelled once everything has been heard of.
    pub synced: CancellationToken,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot reach the control plane")]
    Transport(#[source] Box<dyn StdError + Send + Sync>),
    #[error("the control plane was silent for {0:?}")]
    Silent(Duration),
    #[error("the control plane broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the control plane ended the stream")]
    Ended,
    #[error("the control plane asked to reconnect: {reason}")]
    Goaway { reason: String, pause: Duration },
    #[error("this agent has a new certificate to show")]
    Renewed,
    #[error(transparent)]
    ForeignCluster(#[from] ForeignCluster),
}

/// Keeps the agent in sync.
#[derive(Debug)]
pub struct Client {
    config: Config,
    all_known: bool,
    /// Reports that no control plane has been sent yet.
    reports: Vec<SuspendReport>,
}

// === impl Client ===

impl Client {
    /// A client that is not connected yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            all_known: false,
            reports: Vec::new(),
        }
    }

    /// Stays connected until `shutdown`, then sees to it that the snapshot is on stable storage.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failures = 0;
        for control_plane in self.config.control_planes.clone().iter().cycle() {
            let live = tokio::time::Instant::now();
            let ended = self.stream(control_plane, &shutdown).await;
            if shutdown.is_cancelled() {
                break;
            }
            // What is known stays known, even if the power goes while nobody is in reach.
            self.config.saver.sync().await;
            failures = if live.elapsed() > STEADY {
                0
            } else {
                failures + 1
            };
            let mut pause = backoff(failures, rand::random());
            match ended {
                Error::Goaway {
                    reason,
                    pause: wanted,
                } => {
                    tracing::info!(reason, "control plane asked to reconnect");
                    pause = wanted;
                }
                Error::Renewed => {
                    tracing::info!("reconnecting with a new certificate");
                    pause = Duration::ZERO;
                }
                Error::ForeignCluster(error) => {
                    tracing::error!(%error, "refused to sync");
                }
                error @ (Error::Transport(_)
                | Error::Silent(_)
                | Error::Protocol(_)
                | Error::Ended) => {
                    let cause = error.source().map(ToString::to_string);
                    tracing::warn!(%error, cause, ?pause, "sync interrupted");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.config.saver.sync().await;
    }

    /// One stream, until it fails or this agent ends.
    async fn stream(&mut self, control_plane: &str, shutdown: &CancellationToken) -> Error {
        match self.session(control_plane, shutdown).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn session(
        &mut self,
        control_plane: &str,
        shutdown: &CancellationToken,
    ) -> Result<std::convert::Infallible, Error> {
        let shown = self.config.dialer.tls.current();
        let (requests, mut responses, welcome) = tokio::select! {
            () = shutdown.cancelled() => return Err(Error::Ended),
            opened = self.open(control_plane) => opened?,
        };
        let period = Duration::from_millis(u64::try_from(welcome.heartbeat_millis).unwrap_or(0))
            .clamp(Duration::from_millis(100), Duration::from_secs(60));
        self.config.mirror.handle_welcome(&welcome)?;
        tracing::info!(
            cluster = welcome.cluster_id,
            "connected to the control plane"
        );

        let mut heartbeat = interval(period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let live = Instant::now();
        let mut silence = Box::pin(tokio::time::sleep(period * 3));
        for report in self.reports.drain(..) {
            send(&requests, Request::SuspendReport(report)).await?;
        }
        loop {
            let sync_at = self.config.saver.sync_at();
            tokio::select! {
                // What the control plane says comes first: it is what the agent is for.
                biased;
                response = responses.message() => {
                    silence.as_mut().reset(tokio::time::Instant::now() + period * 3);
                    let response = response.map_err(transport)?.ok_or(Error::Ended)?;
                    self.handle(response, &requests).await?;
                }
                Some((subscription, reason)) = self.config.suspensions.recv() => {
                    let report = report(&subscription, reason);
                    if let Err(error) = send(&requests, Request::SuspendReport(report.clone())).await {
                        self.reports.push(report);
                        return Err(error);
                    }
                }
                // What is lost is reported again.
                Some(report) = self.config.verifications.recv() => {
                    send(&requests, Request::VerificationReport(report)).await?;
                }
                () = sleep_until(sync_at.unwrap_or(live)), if sync_at.is_some() => {
                    self.config.saver.sync().await;
                }
                // Slots move on when nothing is left of them, so that is said at once.
                Ok(()) = self.config.leftovers.changed() => {
                    send(&requests, Request::Heartbeat(self.heartbeat())).await?;
                }
                Ok(()) = self.config.draining.changed() => {
                    send(&requests, Request::Heartbeat(self.heartbeat())).await?;
                }
                _ = heartbeat.tick() => {
                    send(&requests, Request::Heartbeat(self.heartbeat())).await?;
                }
                // Where the old one ends, the connection would.
                () = self.config.dialer.tls.renewed(&shown) => {
                    goodbye(requests, responses).await;
                    return Err(Error::Renewed);
                }
                () = shutdown.cancelled() => {
                    goodbye(requests, responses).await;
                    return Err(Error::Ended);
                }
                () = &mut silence => return Err(Error::Silent(period * 3)),
            }
        }
    }

    async fn open(
        &self,
        control_plane: &str,
    ) -> Result<(mpsc::Sender<SyncRequest>, Streaming<SyncResponse>, Welcome), Error> {
        let endpoint = self
            .config
            .dialer
            .endpoint(control_plane)
            .map_err(transport)?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let channel = endpoint.connect().await.map_err(transport)?;
        // Few messages are under way at once: one acknowledgement, one heartbeat, some reports.
        let (requests, stream) = mpsc::channel(16);
        send(&requests, Request::Hello(self.hello())).await?;
        let mut client = SyncServiceClient::new(self.config.dialer.on(channel))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let opening = async {
            let mut responses = client
                .sync(ReceiverStream::new(stream))
                .await
                .map_err(transport)?
                .into_inner();
            let first = responses.message().await.map_err(transport)?;
            match first.and_then(|it| it.message) {
                Some(Response::Welcome(welcome)) => Ok((responses, welcome)),
                Some(Response::Goaway(goaway)) => Err(goaway_error(goaway)),
                Some(Response::Update(_) | Response::Bookmark(_)) | None => {
                    Err(Error::Protocol("the first message is not a welcome"))
                }
            }
        };
        let (responses, welcome) = timeout(WELCOME_TIMEOUT, opening)
            .await
            .map_err(|_| Error::Silent(WELCOME_TIMEOUT))??;
        Ok((requests, responses, welcome))
    }

    fn heartbeat(&mut self) -> Heartbeat {
        let Counts {
            n_waiting,
            n_in_flight,
            ..
        } = self.config.driver.counts();
        Heartbeat {
            applied_revision: self.config.mirror.revision(),
            pending_delivery_count: i64::try_from(n_waiting).unwrap_or(i64::MAX),
            in_flight_count: i64::try_from(n_in_flight).unwrap_or(i64::MAX),
            leftovers: self.config.leftovers.borrow_and_update().clone(),
            draining: *self.config.draining.borrow_and_update(),
            digests: self.config.mirror.next_digests(),
        }
    }

    fn hello(&self) -> Hello {
        let mirror = &self.config.mirror;
        let zone = self.config.identity.zone.as_ref();
        Hello {
            cluster_id: mirror.cluster_id().to_owned(),
            agent_id: self.config.identity.agent_id.clone(),
            incarnation: self.config.identity.incarnation.clone(),
            address: self.config.identity.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: mirror.revision(),
            store_generation: mirror.store_generation().to_owned(),
            known_slots: mirror.known_slots(),
            weight: self.config.identity.weight,
            zone: zone.map(ToString::to_string).unwrap_or_default(),
            has_strangers: self.config.has_strangers && !self.all_known,
        }
    }

    async fn handle(
        &mut self,
        response: SyncResponse,
        requests: &mpsc::Sender<SyncRequest>,
    ) -> Result<(), Error> {
        match response.message {
            Some(Response::Update(update)) => {
                let mut applied = self.config.mirror.handle_update(update);
                let (ack, rows) = (applied.ack.clone(), std::mem::take(&mut applied.rows));
                self.put_in_force(applied).await;
                self.save(rows).await;
                send(requests, Request::Ack(ack)).await
            }
            Some(Response::Bookmark(bookmark)) => {
                self.config.mirror.handle_bookmark(bookmark.revision);
                if !self.all_known {
                    self.all_known = true;
                    self.save(Vec::new()).await;
                    self.config.keyring.set_complete();
                    self.config.driver.all_known().await;
                    self.config.synced.cancel();
                }
                Ok(())
            }
            Some(Response::Goaway(goaway)) => Err(goaway_error(goaway)),
            Some(Response::Welcome(_)) => Err(Error::Protocol("a second welcome")),
            // A message of a later version.
            None => Ok(()),
        }
    }

    async fn put_in_force(&self, applied: Applied) {
        for rejection in &applied.ack.rejections {
            tracing::warn!(
                name = rejection.name,
                reason = rejection.reason,
                "cannot apply a resource; the last good one stays"
            );
        }
        if let Some(table) = applied.slot_table {
            self.config.slots.set(table);
        }
        self.config.keyring.apply(applied.keys);
        let effects = self.config.directory.apply(applied.changes);
        self.config.verifier.effects(effects.clone()).await;
        self.config.driver.effects(effects).await;
    }

    async fn save(&mut self, rows: Vec<Row>) {
        let head = self.config.mirror.snapshot();
        self.config.saver.save(rows, head).await;
    }
}

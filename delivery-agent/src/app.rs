//! The composition root of the agent: opens what is on disk, wires the parts, runs them, and stops
//! them in the order in which they depend on each other.

use std::{convert::Infallible, future::pending, io, path::PathBuf, time::Duration};

use hookfleet_contract::seal::Sealer;
use hookfleet_gateway::{auth::keyring::Keyring, page::Pages};
use hookfleet_proto::fleet::relay_service_server::RelayServiceServer;
use hookfleet_proto::v1::{
    delivery_service_server::DeliveryServiceServer,
    publisher_service_server::PublisherServiceServer,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{delivery::Deliveries, lifecycle::Stages, publisher::Publisher, relay::Relayed},
    callback::Caller,
    clock::Clock,
    config::Config,
    drain::Drain,
    driver::{self, Driver},
    history::{self, History},
    ingest::{Ingest, redelivery::Redeliverer},
    journal::{self, Journal},
    known::Known,
    leftovers, metrics,
    relay::{
        self, Relay,
        courier::Courier,
        handover::{HandOver, Handed, Lot},
        parking::Parked,
    },
    spans::Tracing,
    sync::{
        client::{self, Client},
        saver::Saver,
        snapshot,
    },
    verification::{self, Verifier},
};

/// How long a started agent waits for the control plane before it goes by its snapshot.
const BOOT_WAIT: Duration = Duration::from_secs(5);
/// Events that are durable and that the driver has not taken yet.
const ACCEPTED_CAPACITY: usize = 4096;

/// Why an agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The embedded database cannot be opened.
    #[error("cannot open the database")]
    Database(#[source] fjall::Error),
    /// The journal cannot be opened.
    #[error("cannot open the journal")]
    Journal(#[from] journal::Error),
    /// The history cannot be opened.
    #[error("cannot open the history")]
    History(#[from] history::Error),
    /// Delivering cannot go on.
    #[error("delivering has stopped")]
    Driver(#[from] driver::Error),
    /// The disk failed; nothing was acknowledged that is not durable.
    #[error("the journal has failed")]
    Fatal,
}

/// An agent that is wired and not yet running.
#[derive(Debug)]
pub struct Agent {
    publisher: Publisher,
    deliveries: Deliveries,
    driver: Driver,
    client: Client,
    verifier: Verifier,
    leftovers: leftovers::Watcher,
    keyring: Keyring,
    drain: Option<(Drain, Duration)>,
    handover: HandOver,
    handovers: (mpsc::UnboundedReceiver<Lot>, mpsc::UnboundedSender<Handed>),
    journal: Journal,
    history: History,
    tracing: Tracing,
    clock: Clock,
    stages: Stages,
    fatal: CancellationToken,
    has_snapshot: bool,
}

// === impl Agent ===

impl Agent {
    /// Opens what is on disk and wires the parts. Blocks while the journal is recovered.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn build(config: Config) -> Result<Self, Error> {
        let data_dir = |source| Error::DataDir {
            path: config.data_dir.clone(),
            source,
        };
        std::fs::create_dir_all(&config.data_dir).map_err(data_dir)?;
        let clock = Clock::system();
        let sealer = Sealer::new(config.sealing_key);
        let database = fjall::Database::builder(config.data_dir.join("database"))
            .open()
            .map_err(Error::Database)?;
        let (accepted_sender, accepted) = mpsc::channel(ACCEPTED_CAPACITY);
        let fatal = CancellationToken::new();
        let mut journal_config = journal::Config::new(
            config.data_dir.join("journal"),
            config.identity.journal_id,
            clock,
            fatal.clone(),
        )
        .within(config.memory);
        journal_config.segment_bytes = config.segment_bytes;
        journal_config.database_dirs.extend(config.other_databases);
        let (journal, recovered) = Journal::open(journal_config, &database, accepted_sender)?;
        recovered.report();
        let snapshots = snapshot::Store::open(database.clone(), sealer.clone());
        let snapshots = snapshots.map_err(Error::Database)?;
        let history = History::open(database, clock.now(), journal.clone())?;

        let known = Known::load(&snapshots, config.target_rules).map_err(Error::Database)?;
        let has_strangers = known.lacks_any(&recovered.pending);
        let Known {
            has_snapshot,
            mirror,
            directory,
            effects,
            slots,
            keyring,
        } = known;

        let ingest = Ingest {
            agent_id: config.identity.agent_id.to_string(),
            directory: directory.clone(),
            slots: slots.clone(),
            parked: Parked::recovered(&recovered.pending),
            journal: journal.clone(),
            limits: config.event_limits,
            clock,
        };
        let relay = Relay::new(slots.clone(), config.dialer.clone());
        let (lots_sender, lots) = mpsc::unbounded_channel();
        let (handed_sender, handed) = mpsc::unbounded_channel();
        let handover = HandOver {
            agent_id: config.identity.agent_id.to_string(),
            journal_id: config.identity.journal_id,
            slots: slots.clone(),
            journal: journal.clone(),
            relay: relay.clone(),
        };
        let (verifier, verifier_handle, verifications) = Verifier::new(
            verification::Config {
                agent_id: config.identity.agent_id.to_string(),
                slots: slots.clone(),
                directory: directory.clone(),
                egress: config.egress.clone(),
                clock,
            },
            &effects,
        );
        let (suspensions_sender, suspensions) = mpsc::unbounded_channel();
        let (driver, handle) = Driver::new(
            driver::Config {
                max_in_flight: config.max_in_flight,
                memory: config.memory,
                drain_timeout: config.drain_timeout,
                deferred: journal.deferred(),
                history: history.clone(),
                directory: directory.clone(),
                caller: Caller {
                    journal: journal.clone(),
                    egress: config.egress,
                    clock,
                    tracing: config.tracing.clone(),
                },
                courier: Courier {
                    ingest: ingest.clone(),
                    relay: relay.clone(),
                },
                handovers: (lots_sender, handed),
                hints: driver::hints::Store::new(&config.data_dir, sealer.clone()),
                clock,
                accepted,
                suspensions: suspensions_sender,
            },
            recovered,
            effects,
        )?;
        metrics::observe(&handle, &journal, &history);
        let stages = Stages::default();
        let (told, leftovers) = watch::channel(None);
        let watcher = leftovers::Watcher {
            agent_id: config.identity.agent_id.to_string(),
            slots: slots.clone(),
            journal: journal.clone(),
            history: history.clone(),
            driver: handle.clone(),
            told,
        };
        let (draining_sender, asked) = watch::channel(false);
        let drain = config.leave_timeout.map(|patience| {
            let drain = Drain {
                agent_id: config.identity.agent_id.to_string(),
                slots: slots.clone(),
                leftovers: leftovers.clone(),
                driver: handle.clone(),
                draining: draining_sender,
                closed: stages.closed.clone(),
                publishes: stages.publishes.clone(),
                journal: journal.clone(),
            };
            (drain, patience)
        });
        let client = Client::new(client::Config {
            control_planes: config.control_planes,
            dialer: config.dialer,
            identity: client::Identity {
                agent_id: config.identity.agent_id.to_string(),
                incarnation: format!("{:032x}", rand::random::<u128>()),
                address: config.address,
                weight: config.weight.into(),
                zone: config.zone,
            },
            mirror,
            has_strangers,
            saver: Saver::new(snapshots),
            keyring: keyring.clone(),
            directory,
            slots,
            driver: handle,
            verifier: verifier_handle,
            verifications,
            suspensions,
            leftovers,
            draining: asked,
            synced: stages.ready.clone(),
        });
        let redeliverer = Redeliverer {
            ingest: ingest.clone(),
            history: history.clone(),
            relay: relay.clone(),
        };
        Ok(Self {
            publisher: Publisher::new(
                ingest,
                relay,
                stages.clone(),
                config.stream_lifetime,
                config.limiter,
                config.memory,
            ),
            deliveries: Deliveries::new(redeliverer, Pages::new(sealer)),
            driver,
            client,
            verifier,
            leftovers: watcher,
            keyring,
            drain,
            handover,
            handovers: (lots, handed_sender),
            journal,
            history,
            tracing: config.tracing,
            clock,
            stages,
            fatal,
            has_snapshot,
        })
    }

    /// `PublisherService`, for a listener.
    #[must_use]
    pub fn publisher_service(&self) -> PublisherServiceServer<Publisher> {
        // A request of 1000 events; the size of each is checked against the event limits.
        PublisherServiceServer::new(self.publisher.clone()).max_decoding_message_size(8 << 20)
    }

    /// `RelayService`, for a listener.
    #[must_use]
    pub fn relay_service(&self) -> RelayServiceServer<Relayed> {
        let (publisher, deliveries) = (self.publisher.clone(), self.deliveries.clone());
        RelayServiceServer::new(Relayed {
            publisher,
            deliveries,
            driver: self.leftovers.driver.clone(),
        })
        .max_decoding_message_size(relay::MAX_MESSAGE_BYTES)
    }

    /// `DeliveryService`, for a listener.
    #[must_use]
    pub fn delivery_service(&self) -> DeliveryServiceServer<Deliveries> {
        DeliveryServiceServer::new(self.deliveries.clone())
    }

    /// The keys of callers that are in force.
    #[must_use]
    pub fn keyring(&self) -> Keyring {
        self.keyring.clone()
    }

    /// Cancelled once events are accepted.
    #[must_use]
    pub fn ready(&self) -> CancellationToken {
        self.stages.ready.clone()
    }

    /// Delivers until `shutdown`, then drains.
    ///
    /// # Errors
    /// When the disk can no longer be trusted; the process must end.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            driver,
            client,
            verifier,
            leftovers,
            drain,
            handover,
            handovers: (lots, handed),
            journal,
            history,
            tracing,
            clock,
            stages,
            fatal,
            has_snapshot,
            ..
        } = self;
        // The control plane is served until the last outcome is known, so that a suspension is told.
        let sync_shutdown = CancellationToken::new();
        let sync = tokio::spawn(client.run(sync_shutdown.clone()));
        let boot = tokio::spawn(async move {
            tokio::time::sleep(BOOT_WAIT).await;
            if has_snapshot && !stages.ready.is_cancelled() {
                tracing::warn!("no control plane in reach; going by the snapshot");
                stages.ready.cancel();
            }
        });
        let looking = tokio::spawn(leftovers.run());
        let verifying = tokio::spawn(verifier.run());
        let handing = tokio::spawn(handover.run(lots, handed));
        let expiring = tokio::spawn(history.clone().expire_hourly(clock));
        let stop = CancellationToken::new();
        let leaving = async {
            shutdown.cancelled().await;
            stages.leaving.cancel();
            if let Some((drain, patience)) = drain {
                let is_empty = drain.run(patience).await;
                tracing::info!(is_empty, "left the fleet");
            }
            stages.closed.cancel();
            stop.cancel();
            pending::<Infallible>().await
        };
        let ended = tokio::select! {
            ended = driver.run(stop.clone()) => ended.map_err(Error::from),
            () = fatal.cancelled() => Err(Error::Fatal),
            never = leaving => match never {},
        };
        stages.closed.cancel();
        for task in [boot, expiring, looking, verifying, handing] {
            task.abort();
        }
        // A disk that failed is not waited for.
        ended?;
        sync_shutdown.cancel();
        if let Err(panic) = sync.await {
            tracing::error!(%panic, "the sync client panicked");
        }
        history.flush().await;
        journal.close().await;
        tracing.close().await;
        Ok(())
    }
}

//! The composition root: finds or makes the cluster, wires the parts, runs them and stops them.

use std::{io, sync::Arc, time::Duration};

use hookfleet_contract::{seal::Sealer, verification::VALIDITY};
use hookfleet_gateway::{
    auth::keyring::Keyring, page::Pages, peers::Dialer, readiness::Readiness, verification::Confirm,
};
use hookfleet_proto::{
    fleet::{
        StoredCluster,
        sync_service_server::{SyncService, SyncServiceServer},
    },
    v1::{
        delivery_service_server::{DeliveryService, DeliveryServiceServer},
        fleet_service_server::{FleetService, FleetServiceServer},
        key_service_server::{KeyService, KeyServiceServer},
        subscription_service_server::{SubscriptionService, SubscriptionServiceServer},
        tenant_service_server::{TenantService, TenantServiceServer},
    },
};
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        Api,
        creation::{self, Leases},
        delivery::Deliveries,
        fleet::Agents,
        key::Keys,
        subscription::Subscriptions,
        sync::Sync,
        tenant::Tenants,
    },
    bootstrap::{self, Bootstrap, FirstKeys},
    cache::{Cache, era, guard::Guarded},
    config::{CONDITION, Config},
    keyring, keys, metrics,
    query::Deliverers,
    random, reconciler,
    store::{self, Outcome, Store, Txn},
    sync::{
        reports::{self, Report, Reports},
        server::Server,
    },
    vault::{Place, Vault},
};

/// The layout of the store that this version reads and writes.
const SCHEMA: i32 = 1;
const KEY_CHECK: &[u8] = b"hookfleet";
/// What agents say is small, but for rejections of a whole chunk.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// How long sessions may take to say goodbye.
const DRAIN: Duration = Duration::from_secs(2);

/// Why a control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not answer, or refuses.
    #[error("cannot read the cluster from the store")]
    Store(#[from] store::Error),
    /// The store was sealed with another key.
    #[error("the sealing key is not the one of cluster {cluster_id}")]
    Key {
        /// The cluster.
        cluster_id: String,
    },
    /// The store has another layout, or is damaged.
    #[error(
        "the store has no cluster that this version can read (schema {schema}, {slot_count} slots)"
    )]
    Layout {
        /// The schema that was found.
        schema: i32,
        /// The slot count that was found.
        slot_count: i32,
    },
}

/// A control plane that is wired and not yet running.
#[derive(Debug)]
pub struct ControlPlane {
    api: Arc<Api>,
    server: Arc<Server>,
    reports: mpsc::Receiver<Report>,
    readiness: Readiness,
    agent_hold: Duration,
    join_ramp: Duration,
    audit_period: Duration,
    keyring: Keyring,
    draining: CancellationToken,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Finds the cluster in the store, or makes it, and wires the parts.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(config: Config) -> Result<Self, Error> {
        let vault = Vault::new(config.sealing_key);
        let era = era::find(&*config.store).await?.era;
        let cluster = find_or_make_cluster(&*config.store, &vault, config.slot_count).await?;
        let slot_count = u16::try_from(cluster.slot_count).unwrap_or(0);
        config.readiness.set(CONDITION, false);
        tracing::info!(cluster = cluster.cluster_id, %era, slot_count, "control plane wired");

        let cache = Cache::new(era);
        let api = Arc::new(Api {
            store: Arc::new(Guarded::new(Arc::clone(&config.store), cache.clone())),
            unguarded: config.store,
            cluster,
            cache,
            fleet: Arc::default(),
            vault,
            pages: Pages::new(Sealer::new(config.sealing_key)),
            clock: config.clock,
            rules: config.target_rules,
            slot_count,
            max_subscriptions: config.max_subscriptions_per_tenant,
            leases: Leases::new(creation::KEPT),
            verification: config.verification,
            confirmations: Leases::new(VALIDITY),
        });
        let (reporting, reports) = Reports::new();
        let draining = CancellationToken::new();
        let server = Server::new(
            Arc::clone(&api),
            config.heartbeat,
            reporting,
            draining.clone(),
        );
        let server = Arc::new(server);
        metrics::observe(&api, &server);
        Ok(Self {
            api,
            server,
            reports,
            readiness: config.readiness,
            agent_hold: config.agent_hold,
            join_ramp: config.join_ramp,
            audit_period: config.audit_period,
            keyring: Keyring::default(),
            draining,
        })
    }

    /// `TenantService`, for a listener.
    #[must_use]
    pub fn tenant_service(&self) -> TenantServiceServer<impl TenantService + use<>> {
        TenantServiceServer::new(Tenants(Arc::clone(&self.api)))
    }

    /// `SubscriptionService`, for a listener.
    #[must_use]
    pub fn subscription_service(
        &self,
    ) -> SubscriptionServiceServer<impl SubscriptionService + use<>> {
        SubscriptionServiceServer::new(Subscriptions(Arc::clone(&self.api)))
    }

    /// Who learns of confirmations, for a listener that receivers reach.
    #[must_use]
    pub fn confirmations(&self) -> impl Confirm + use<> {
        Subscriptions(Arc::clone(&self.api))
    }

    /// `FleetService`, for a listener.
    #[must_use]
    pub fn fleet_service(&self) -> FleetServiceServer<impl FleetService + use<>> {
        FleetServiceServer::new(Agents(Arc::clone(&self.api)))
    }

    /// `KeyService`, for a listener.
    #[must_use]
    pub fn key_service(&self) -> KeyServiceServer<impl KeyService + use<>> {
        KeyServiceServer::new(Keys(Arc::clone(&self.api)))
    }

    /// The keys of callers that are in force, once this control plane runs.
    #[must_use]
    pub fn keyring(&self) -> Keyring {
        self.keyring.clone()
    }

    /// Makes the first keys if there were none. `show` is given them before they are in force.
    ///
    /// # Errors
    /// See [`bootstrap::Error`].
    pub async fn first_keys(
        &self,
        show: impl FnOnce(&FirstKeys) -> io::Result<()>,
    ) -> Result<Bootstrap, bootstrap::Error> {
        bootstrap::first_keys(&self.api, show).await
    }

    /// `SyncService`, for a listener that agents reach. It hands out secrets.
    #[must_use]
    pub fn sync_service(&self) -> SyncServiceServer<impl SyncService + use<>> {
        SyncServiceServer::new(Sync(Arc::clone(&self.server)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// `DeliveryService` for the whole fleet, for a listener that has no agent's own. Agents are called by
    /// `dialer`.
    #[must_use]
    pub fn delivery_service(
        &self,
        dialer: Dialer,
    ) -> DeliveryServiceServer<impl DeliveryService + use<>> {
        let deliverers = Deliverers::new(Arc::clone(&self.api), dialer);
        DeliveryServiceServer::new(Deliveries(deliverers))
    }

    /// The inner parts, for tests that call them without a network.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> (Arc<Api>, Arc<Server>) {
        (Arc::clone(&self.api), Arc::clone(&self.server))
    }

    /// Follows the store, places slots and keeps agents in sync until `shutdown`; then says goodbye to them.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self {
            api,
            server,
            reports,
            readiness,
            agent_hold,
            join_ramp,
            audit_period,
            keyring,
            draining,
        } = self;
        let ending = CancellationToken::new();
        let id = random::uuid().to_string();
        let placing = tokio::spawn(reconciler::run(
            Arc::clone(&api),
            id,
            agent_hold,
            join_ramp,
            ending.clone(),
        ));
        let cache = api.cache.clone();
        let mut progress = cache.progress();
        let following = cache.follow(Arc::clone(&api.unguarded), api.slot_count, audit_period);
        let telling = async {
            loop {
                let ready = progress.borrow_and_update().ready;
                readiness.set(CONDITION, ready);
                if progress.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = following => {}
            () = telling => {}
            never = keyring::run(Arc::clone(&api), keyring) => match never {},
            () = reports::run(api, reports) => {}
        }
        readiness.set(CONDITION, false);
        // Another one places slots from here on.
        ending.cancel();
        if timeout(DRAIN, placing).await.is_err() {
            tracing::warn!("the right to place slots could not be given up in time");
        }
        draining.cancel();
        if timeout(DRAIN, server.drain()).await.is_err() {
            tracing::warn!("sessions of agents have not ended in time");
        }
    }
}

/// The cluster that the store is of. Whoever is first makes it.
async fn find_or_make_cluster(
    store: &dyn Store,
    vault: &Vault,
    slot_count: u16,
) -> Result<StoredCluster, Error> {
    loop {
        let (entry, _) = store.get(keys::CLUSTER).await?;
        if let Some(entry) = entry {
            let cluster = StoredCluster::decode(entry.value).unwrap_or_default();
            return check_cluster(vault, cluster);
        }
        let cluster_id = random::uuid().to_string();
        let cluster = StoredCluster {
            slot_count: i32::from(slot_count.max(1)),
            schema: SCHEMA,
            key_check: vault.seal(Place::Cluster(&cluster_id), KEY_CHECK),
            cluster_id,
        };
        let txn = Txn::new()
            .absent(keys::CLUSTER)
            .put(keys::CLUSTER, cluster.encode_to_vec());
        match store.commit(txn).await {
            Ok(Outcome::Committed(_)) => return Ok(cluster),
            Ok(Outcome::Conflict) | Err(store::Error::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn check_cluster(vault: &Vault, cluster: StoredCluster) -> Result<StoredCluster, Error> {
    let is_count = u16::try_from(cluster.slot_count).is_ok_and(|count| count > 0);
    if cluster.schema != SCHEMA || !is_count {
        return Err(Error::Layout {
            schema: cluster.schema,
            slot_count: cluster.slot_count,
        });
    }
    match vault.open(Place::Cluster(&cluster.cluster_id), &cluster.key_check) {
        Ok(_) => Ok(cluster),
        Err(_) => Err(Error::Key {
            cluster_id: cluster.cluster_id,
        }),
    }
}

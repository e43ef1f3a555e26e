//! Notes in the store that an agent is there, and how far it is, for as long as it has a session here. When the session
//! ends the note outlives it by the life of a lease, so that a short interruption is none.

use std::{sync::Arc, time::Duration};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::StoredAgent;
use prost::Message as _;
use tokio::{sync::watch, time::sleep};

use crate::{
    keys,
    store::{Error, LeaseId, Store, Txn},
};

/// How long a note outlives its session.
const LIFE: Duration = Duration::from_secs(15);
/// Between renewals. It also bounds how often progress is noted.
const PERIOD: Duration = Duration::from_secs(5);
/// Between attempts while the store is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the note for as long as it is polled.
pub(crate) async fn keep(store: Arc<dyn Store>, id: AgentId, mut agent: watch::Receiver<StoredAgent>) {
    loop {
        let Err(error) = keep_lease(&*store, &id, &mut agent).await;
        match error {
            Error::LeaseLost(_) => tracing::info!(agent = %id, "the lease of the agent was lost; taking another"),
            error => {
                tracing::warn!(agent = %id, %error, "cannot note that the agent is there");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn keep_lease(
    store: &dyn Store,
    id: &AgentId,
    agent: &mut watch::Receiver<StoredAgent>,
) -> Result<std::convert::Infallible, Error> {
    let lease = store.grant(LIFE).await?;
    loop {
        let noted = agent.borrow_and_update().clone();
        write(store, id, noted, lease).await?;
        while !agent.has_changed().unwrap_or(false) {
            sleep(PERIOD).await;
            store.keep_alive(lease).await?;
        }
    }
}

async fn write(store: &dyn Store, id: &AgentId, agent: StoredAgent, lease: LeaseId) -> Result<(), Error> {
    let txn = Txn::new().put_leased(keys::agent(id), agent.encode_to_vec(), lease);
    store.commit(txn).await.map(drop)
}

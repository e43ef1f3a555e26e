//! Notes in the store that an agent is there, and how far it is, for as long as it has a session here. When the session
//! ends the note outlives it by the life of a lease, so that a short interruption is none.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::StoredAgent;
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    keys,
    store::{Error, LeaseId, Store, Txn},
};

/// How long a note outlives its session.
const LIFE: Duration = Duration::from_secs(15);
/// Between renewals.
const PERIOD: Duration = Duration::from_secs(5);
/// Between notes. Slots that move wait for them.
const LEAST: Duration = Duration::from_millis(250);
/// Between attempts while the store is away.
const PAUSE: Duration = Duration::from_secs(1);

/// The note of one session.
#[derive(Debug)]
pub(crate) struct Presence {
    store: Arc<dyn Store>,
    id: AgentId,
    agent: watch::Receiver<StoredAgent>,
    lease: Option<LeaseId>,
}

// === impl Presence ===

impl Presence {
    /// The note that is to follow `agent`.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        id: AgentId,
        agent: watch::Receiver<StoredAgent>,
    ) -> Self {
        Self {
            store,
            id,
            agent,
            lease: None,
        }
    }

    /// Keeps the note for as long as it is polled.
    pub(crate) async fn keep(&mut self) -> Infallible {
        loop {
            let Err(error) = self.keep_lease().await;
            self.lease = None;
            if matches!(error, Error::LeaseLost(_)) {
                tracing::info!(agent = %self.id, "the lease of the agent was lost; taking another");
            } else {
                tracing::warn!(agent = %self.id, %error, "cannot note that the agent is there");
                sleep(PAUSE).await;
            }
        }
    }

    /// Notes what has not been noted yet, so that others know how far the agent came. Best effort.
    pub(crate) async fn finish(mut self) {
        if let Some(lease) = self
            .lease
            .filter(|_| self.agent.has_changed().unwrap_or(true))
        {
            match timeout(PAUSE, self.write(lease)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    tracing::debug!(agent = %self.id, "left without a last note")
                }
            }
        }
    }

    async fn keep_lease(&mut self) -> Result<Infallible, Error> {
        let lease = self.store.grant(LIFE).await?;
        self.lease = Some(lease);
        loop {
            self.write(lease).await?;
            let written = Instant::now();
            while timeout(PERIOD, self.agent.changed()).await.is_err() {
                self.store.keep_alive(lease).await?;
            }
            // A note that changes all the time is written now and then.
            sleep_until(written + LEAST).await;
            // A change that was seen is still to be written.
            self.agent.mark_changed();
            self.store.keep_alive(lease).await?;
        }
    }

    async fn write(&mut self, lease: LeaseId) -> Result<(), Error> {
        let agent = self.agent.borrow_and_update().clone();
        let txn = Txn::new().put_leased(keys::agent(&self.id), agent.encode_to_vec(), lease);
        self.store.commit(txn).await.map(drop)
    }
}

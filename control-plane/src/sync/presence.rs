//! Notes in the store that an agent is there, and how far it is, for as long as it has a session here. When the session
//! ends the note outlives it by the life of a lease, so that a short interruption is none.
//!
//! **Invariant:** an agent whose session goes on has a note. One that cannot be noted is told to go elsewhere while its
//! last note still stands, once; if it finds nobody better it is kept. What an older session wrote over it elsewhere is put right before that one's lease ends.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::StoredAgent;
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use crate::{
    keys,
    store::{self, LeaseId, Outcome, Revision, Store, Txn},
};

/// How long a note outlives its session.
const LIFE: Duration = Duration::from_secs(15);
/// Between renewals.
const PERIOD: Duration = Duration::from_secs(5);
/// How long the store may be out of reach before the agent is sent elsewhere. It has the rest of the lease for that.
const BLIND: Duration = Duration::from_secs(10);
/// The same for an agent that was sent elsewhere and is back: nobody has the store, or nobody else is there. It looks
/// again now and then, because somebody else may have the store first.
const BLIND_AGAIN: Duration = Duration::from_secs(30);
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
    /// Of the note.
    revision: Revision,
    /// Something was seen that has not been noted for certain.
    is_behind: bool,
    /// When the store last answered.
    answered: Instant,
    /// How long it may be silent.
    patience: Duration,
}

/// The store has been out of reach for too long.
#[derive(Debug)]
pub(crate) struct Blind;

#[derive(Debug)]
enum Error {
    Store(store::Error),
    Blind,
}

// === impl Presence ===

impl Presence {
    /// The note that is to follow `agent`, which may be back because it has found no better control plane.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        id: AgentId,
        agent: watch::Receiver<StoredAgent>,
        is_back: bool,
    ) -> Self {
        Self {
            store,
            id,
            agent,
            lease: None,
            revision: 0,
            is_behind: true,
            answered: Instant::now(),
            patience: if is_back { BLIND_AGAIN } else { BLIND },
        }
    }

    /// Keeps the note for as long as it is polled, unless the store is out of reach for too long.
    pub(crate) async fn keep(&mut self) -> Blind {
        loop {
            let Err(error) = self.keep_lease().await;
            self.lease = None;
            match error {
                Error::Blind => return Blind,
                Error::Store(store::Error::LeaseLost(_)) => {
                    tracing::info!(agent = %self.id, "the lease of the agent was lost; taking another");
                }
                Error::Store(error) => {
                    tracing::warn!(agent = %self.id, %error, "cannot note that the agent is there");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Notes what has not been noted yet, so that others know how far the agent came. Best effort.
    pub(crate) async fn finish(mut self) {
        let is_behind = self.is_behind || self.agent.has_changed().unwrap_or(true);
        if let Some(lease) = self.lease.filter(|_| is_behind) {
            match timeout(PAUSE, self.write(lease)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    tracing::debug!(agent = %self.id, "left without a last note")
                }
            }
        }
    }

    async fn keep_lease(&mut self) -> Result<Infallible, Error> {
        let granting = Arc::clone(&self.store);
        let lease = self.answer(granting.grant(LIFE)).await?;
        self.lease = Some(lease);
        loop {
            self.write(lease).await?;
            let written = Instant::now();
            while timeout(PERIOD, self.agent.changed()).await.is_err() {
                self.renew(lease).await?;
                if !self.stands().await? {
                    break;
                }
            }
            self.is_behind = true;
            // A note that changes all the time is written now and then.
            sleep_until(written + LEAST).await;
            self.renew(lease).await?;
        }
    }

    async fn renew(&mut self, lease: LeaseId) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        self.answer(store.keep_alive(lease)).await.map(drop)
    }

    /// Whether the note is the one that was written here.
    async fn stands(&mut self) -> Result<bool, Error> {
        let store = Arc::clone(&self.store);
        let txn = Txn::new().unchanged(keys::agent(&self.id), self.revision);
        let outcome = self.answer(store.commit(txn)).await?;
        Ok(outcome != Outcome::Conflict)
    }

    async fn write(&mut self, lease: LeaseId) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        let agent = self.agent.borrow_and_update().clone();
        self.is_behind = true;
        let txn = Txn::new().put_leased(keys::agent(&self.id), agent.encode_to_vec(), lease);
        if let Outcome::Committed(revision) = self.answer(store.commit(txn)).await? {
            self.revision = revision;
            self.is_behind = false;
        }
        Ok(())
    }

    /// What the store answers, if it does in time.
    async fn answer<T>(
        &mut self,
        call: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, Error> {
        let answer = timeout_at(self.answered + self.patience, call).await;
        let answer = answer.map_err(|_| Error::Blind)?.map_err(Error::Store)?;
        self.answered = Instant::now();
        self.patience = BLIND;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Embedded, deaf::Deaf, embedded::Retention};

    struct Noted {
        store: Arc<dyn Store>,
        sender: watch::Sender<StoredAgent>,
        presence: Presence,
        _dir: tempfile::TempDir,
    }

    async fn noted() -> Noted {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path().join("store"), Retention::default());
        let store: Arc<dyn Store> = Arc::new(store.await.unwrap());
        let sender = watch::Sender::new(version("1"));
        let id = "a".parse().unwrap();
        Noted {
            presence: Presence::new(Arc::clone(&store), id, sender.subscribe(), false),
            store,
            sender,
            _dir: dir,
        }
    }

    fn version(version: &str) -> StoredAgent {
        StoredAgent {
            version: version.to_owned(),
            ..StoredAgent::default()
        }
    }

    async fn found(store: &Arc<dyn Store>) -> Option<String> {
        let (entry, _) = store
            .get(&keys::agent(&"a".parse().unwrap()))
            .await
            .unwrap();
        Some(StoredAgent::decode(entry?.value).unwrap().version)
    }

    async fn until(store: &Arc<dyn Store>, version: &str) {
        while found(store).await.as_deref() != Some(version) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_was_said_last_is_noted_though_the_session_ends_at_once() {
        let Noted {
            store,
            sender,
            mut presence,
            _dir,
        } = noted().await;
        let says = async {
            until(&store, "1").await;
            sender.send_replace(version("2"));
            // It is seen, and to be noted in a moment.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            Blind = presence.keep() => panic!("the store answers"),
            () = says => {}
        }
        assert_eq!(found(&store).await.as_deref(), Some("1"));
        presence.finish().await;
        assert_eq!(found(&store).await.as_deref(), Some("2"));
    }

    #[tokio::test]
    async fn a_note_that_an_older_session_wrote_over_is_put_right() {
        let Noted {
            store,
            sender: _sender,
            mut presence,
            _dir,
        } = noted().await;
        let overwritten = async {
            until(&store, "1").await;
            let other = version("older").encode_to_vec();
            let key = keys::agent(&"a".parse().unwrap());
            store.commit(Txn::new().put(key, other)).await.unwrap();
            until(&store, "1").await;
        };
        tokio::select! {
            Blind = presence.keep() => panic!("the store answers"),
            () = overwritten => {}
        }
    }

    /// For how long a store that answers nothing, or no longer, is waited for.
    async fn patience(is_back: bool, n_answers: usize) -> Duration {
        let sender = watch::Sender::new(version("1"));
        let store = Arc::new(Deaf::after(n_answers));
        let id = "a".parse().unwrap();
        let mut presence = Presence::new(store, id, sender.subscribe(), is_back);
        let started = Instant::now();
        let Blind = presence.keep().await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_found_nobody_better_is_kept_while_the_store_is_away() {
        assert_eq!(patience(false, 0).await, BLIND);
        assert_eq!(patience(true, 0).await, BLIND_AGAIN);
        // Once the store has answered, the next time is the first again.
        assert_eq!(patience(true, 1).await, BLIND);
    }
}

//! The store of one machine: everything in memory, every change on disk before it is answered.
//!
//! Joins a pure core ([`history`], [`leases`], [`stage`]) with one writer thread and one fjall keyspace. Refuses to share
//! its directory with another process. Invariant: the same semantics as etcd's, which `suite.rs` checks. The past lives in
//! memory only, so a restart compacts it.

mod disk;
mod history;
mod leases;
mod shared;
mod stage;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{task, time::Instant};

pub use self::history::Retention;
use self::{
    disk::Disk,
    history::History,
    leases::Leases,
    shared::Shared,
    writer::{Request, Writer},
};
use super::{Entry, Error, Generation, LeaseId, Outcome, Page, Revision, Store, Txn, Watch};

/// A persistent store in a directory of this process.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    generation: Generation,
    writer: Writer,
}

impl Embedded {
    /// Opens or creates the store in `dir`.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::Fatal`].
    pub async fn open(dir: impl AsRef<Path>, retention: Retention) -> Result<Self, Error> {
        let dir: PathBuf = dir.as_ref().to_owned();
        let opened = task::spawn_blocking(move || Self::open_blocking(&dir, retention)).await;
        opened.map_err(|panic| failed(panic.into()))?
    }

    /// Resolves once the disk has failed it: only opening it again mends that.
    pub async fn failed(&self) {
        self.shared.failed().await;
    }

    fn open_blocking(dir: &Path, retention: Retention) -> Result<Self, Error> {
        let (disk, contents) = Disk::open(dir)?;
        let mut leases = Leases::default();
        // Nobody could renew while we were away: everyone gets the whole time again.
        let now = Instant::now();
        for (id, ttl) in contents.leases {
            leases.grant(id, ttl, now);
        }
        for (entry, lease) in &contents.entries {
            leases.attach(&entry.key, *lease);
        }
        let entries = contents.entries.into_iter().map(|(entry, _)| entry);
        let history = History::new(contents.revision, entries, retention);
        let shared = Arc::new(Shared::new(history));
        let persist = Box::new(move |group: &_| disk.write(group).map_err(Into::into));
        let writer = Writer::spawn(Arc::clone(&shared), leases, persist)
            .map_err(|error| failed(error.into()))?;
        Ok(Self {
            shared,
            generation: Generation::new(0, contents.incarnation),
            writer,
        })
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        self.shared
            .read("get", |history| (history.get(key), history.revision()))
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        self.shared
            .read("range", |history| history.range(prefix, after, limit, at))?
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        txn.check()?;
        self.writer
            .ask("commit", |reply| Request::Commit(txn, reply))
            .await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let (shared, prefix) = (Arc::clone(&self.shared), prefix.to_owned());
        Ok(Watch::spawn(|watch| async move {
            shared.follow(prefix, after, watch).await;
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let id = LeaseId(rand::random_range(1..i64::MAX));
        let ttl = Duration::from_secs(super::whole_seconds(ttl));
        self.writer
            .ask("grant", |reply| Request::Grant(id, ttl, reply))
            .await?;
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.writer
            .ask("keep alive", |reply| Request::KeepAlive(lease, reply))
            .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.writer
            .ask("revoke", |reply| Request::Revoke(lease, reply))
            .await
    }

    async fn generation(&self) -> Result<Generation, Error> {
        Ok(self.generation.clone())
    }
}

fn failed(source: super::BoxError) -> Error {
    Error::Fatal {
        operation: "open",
        source: Some(source),
    }
}

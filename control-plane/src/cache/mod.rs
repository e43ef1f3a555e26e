//! The store in memory: listed once, then followed. One per control plane, shared by every list, session and placement.
//!
//! Owns the following; what is in the [`Contents`] is theirs. **Invariants:** readers see whole revisions in order, and
//! nothing at all before the first list is complete; a store that lost what was known is not believed until an operator
//! says so ([`era`]), and nothing is changed in it meanwhile ([`guard`]).
//!
//! Watches are not believed either: [`audit`] compares what they said with the store.

mod audit;
mod contents;
pub(crate) mod era;
pub(crate) mod guard;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{sync::watch, time::sleep};

pub(crate) use self::contents::{Contents, FEW, Item, part_of};
use self::{contents::Difference, era::Era};
use crate::{
    keys,
    store::{self, Error, Revision, Store},
};

/// Entries per page of a list; slots are rarely larger.
const PAGE: usize = 1000;
/// Slots listed at once. More starves the store's writers (measured: reference/control-plane.md E4).
const CONCURRENCY: usize = 4;
/// Between attempts to list a store that cannot be listed, and one that is not believed.
const PAUSE: Duration = Duration::from_secs(1);
const GUARDED_PAUSE: Duration = Duration::from_secs(2);
/// How many differences are named in the log.
const NAMED: usize = 5;

/// A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    contents: Arc<RwLock<Contents>>,
    progress: watch::Sender<Progress>,
    standing: watch::Sender<Standing>,
    /// Agents have seen the store at this revision.
    witnessed: Arc<AtomicI64>,
}

/// How the store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has not been listed yet.
    #[default]
    Unknown,
    /// It is followed.
    Followed,
    /// It cannot be followed now; what is known may be old.
    Away {
        /// What it said.
        reason: String,
    },
    /// It is not believed: what was known stays in force, and nothing is changed.
    Guarded {
        /// What speaks against it.
        reason: String,
    },
}

/// How far the cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Everything up to here is known.
    pub(crate) revision: Revision,
    /// The first list is complete, and the store can be believed.
    pub(crate) ready: bool,
}

// === impl Cache ===

impl Cache {
    /// Nothing yet of the store as it is in this era.
    pub(crate) fn new(era: Era) -> Self {
        Self {
            contents: Arc::new(RwLock::new(Contents::new(era))),
            progress: watch::Sender::new(Progress::default()),
            standing: watch::Sender::new(Standing::default()),
            witnessed: Arc::default(),
        }
    }

    /// Reads one revision. Others wait meanwhile, so `read` must be short.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Contents) -> T) -> T {
        read(&self.contents.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows the progress.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.progress.borrow().ready
    }

    /// How the store stands.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    pub(crate) fn is_guarded(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Guarded { .. })
    }

    /// An agent has seen the store of this era at a revision that is not known here.
    pub(crate) fn witness(&self, revision: Revision) {
        self.witnessed.fetch_max(revision, Ordering::Relaxed);
    }

    /// Follows the store for as long as it is polled, and compares everything with it once in `audit_period`. A store
    /// that is gone is waited for; one that has lost its data is not believed: what is known stays until an operator
    /// accepts the store, or it is back.
    pub(crate) async fn follow(
        self,
        store: Arc<dyn Store>,
        slot_count: u16,
        audit_period: Duration,
    ) {
        let mut mending = false;
        loop {
            let ended = match self.list(&*store, slot_count, mending).await {
                Ok(revision) => {
                    self.standing.send_replace(Standing::Followed);
                    tokio::select! {
                        ended = self.watch(&*store, revision) => ended,
                        ended = self.audit(&*store, slot_count, audit_period) => ended,
                    }
                }
                Err(ended) => ended,
            };
            mending = matches!(ended, Follow::Diverged(_));
            let (standing, pause) = match ended {
                Follow::Store(Error::Compacted { .. }) => {
                    tracing::info!("the watch was too far behind; listing the store again");
                    continue;
                }
                Follow::Diverged(differences) => {
                    let (n, some) = (differences.len(), differences.iter().take(NAMED));
                    let some: Vec<_> = some.collect();
                    tracing::warn!(
                        n,
                        ?some,
                        "the store is not as its watch said; listing it again"
                    );
                    continue;
                }
                Follow::Accepted(era) => {
                    tracing::warn!(%era, "an operator has accepted the store; beginning anew with it");
                    self.begin(era);
                    continue;
                }
                Follow::Store(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "cannot follow the store");
                    let reason = error.to_string();
                    (Standing::Away { reason }, PAUSE)
                }
                Follow::Guarded(reason) => (Standing::Guarded { reason }, GUARDED_PAUSE),
            };
            self.suspect(standing);
            sleep(pause).await;
        }
    }

    /// The store is away, or not believed. What was not believed stays so until it is right again.
    fn suspect(&self, standing: Standing) {
        self.set_ready(false);
        let is_new = self.standing.send_if_modified(|before| {
            let stays = matches!(before, Standing::Guarded { .. })
                && matches!(standing, Standing::Away { .. });
            let is_new = !stays && *before != standing;
            if is_new {
                *before = standing.clone();
            }
            is_new
        });
        if is_new && let Standing::Guarded { reason } = standing {
            tracing::error!(
                reason,
                "the store is not believed; what was known stays in force. Restore it, or accept it: \
                 hookfleet fleet accept-store"
            );
        }
    }

    /// Forgets everything, as nothing of it counts in the new era.
    fn begin(&self, era: Era) {
        self.witnessed.store(0, Ordering::Relaxed);
        *self.write() = Contents::new(era);
        self.progress.send_replace(Progress::default());
    }

    /// Looks whether the store is the one that was known, and has all that was known; its revision.
    async fn believe(&self, store: &dyn Store) -> Result<Revision, Follow> {
        let found = era::find(store).await?;
        let expected = self.read(|contents| contents.era().clone());
        if found.era != expected {
            return Err(match found.follows(&expected) {
                true => Follow::Accepted(found.era),
                false => {
                    let found = found.era;
                    let reason = format!("it is another store: {found} instead of {expected}");
                    Follow::Guarded(reason)
                }
            });
        }
        let known = self.progress.borrow().revision;
        let known = known.max(self.witnessed.load(Ordering::Relaxed));
        let (_, newest) = store.get(keys::CLUSTER).await?;
        if newest < known {
            let reason = format!("it has gone back to revision {newest}, and was at {known}");
            return Err(Follow::Guarded(reason));
        }
        Ok(newest)
    }

    /// Lists everything at one revision, slot by slot: paging through one large range costs etcd the whole rest of
    /// the range for each page (measured: reference/control-plane.md E2).
    async fn list(
        &self,
        store: &dyn Store,
        slot_count: u16,
        mending: bool,
    ) -> Result<Revision, Follow> {
        let revision = self.believe(store).await?;
        let mut list = BTreeMap::new();
        let mut pages = stream::iter(audit::prefixes(slot_count))
            .map(|prefix| list_prefix(store, prefix, revision))
            .buffer_unordered(CONCURRENCY);
        while let Some(items) = pages.try_next().await? {
            list.extend(items);
        }
        let mut contents = self.write();
        contents
            .replace(list, revision)
            .map_err(|error| Follow::Guarded(error.to_string()))?;
        if mending {
            contents.mended();
        }
        drop(contents);
        self.advance(revision);
        Ok(revision)
    }

    async fn watch(&self, store: &dyn Store, after: Revision) -> Follow {
        let watch = store.watch("", after).await;
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => return error.into(),
        };
        loop {
            match watch.next().await {
                Ok(batch) => {
                    let revision = batch.revision;
                    let mut contents = self.write();
                    if let Err(error) = contents.check(&batch) {
                        return Follow::Guarded(error.to_string());
                    }
                    contents.apply(batch);
                    drop(contents);
                    self.advance(revision);
                }
                Err(error) => return error.into(),
            }
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, revision: Revision) {
        self.progress.send_replace(Progress {
            revision,
            ready: true,
        });
    }

    fn set_ready(&self, ready: bool) {
        self.progress.send_if_modified(|progress| {
            let changed = progress.ready != ready;
            progress.ready = ready;
            changed
        });
    }
}

/// Why following ended.
#[derive(Debug)]
enum Follow {
    Store(store::Error),
    /// The cache is not as the store is.
    Diverged(Vec<Difference>),
    /// The store has lost what was known.
    Guarded(String),
    /// An operator wants this store to be believed.
    Accepted(Era),
}

impl From<store::Error> for Follow {
    fn from(error: store::Error) -> Self {
        if matches!(error, Error::FutureRevision { .. } | Error::Foreign { .. }) {
            return Self::Guarded(error.to_string());
        }
        Self::Store(error)
    }
}

async fn list_prefix(
    store: &dyn Store,
    prefix: String,
    at: Revision,
) -> Result<Vec<(String, Item)>, store::Error> {
    let mut items: Vec<(String, Item)> = Vec::new();
    loop {
        let after = items.last().map(|(key, _)| key.as_str());
        let page = store.range(&prefix, after, PAGE, Some(at)).await?;
        items.extend(page.entries.into_iter().map(|entry| {
            let item = Item {
                mod_revision: entry.mod_revision,
                value: entry.value,
            };
            (entry.key, item)
        }));
        if !page.more {
            return Ok(items);
        }
    }
}

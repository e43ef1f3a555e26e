//! The store in memory: listed once, then followed. One per control plane, shared by every list, session and placement.
//!
//! Owns the following; what is in the [`Contents`] is theirs. **Invariant:** readers see whole revisions in order, and
//! nothing at all before the first list is complete.

mod contents;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use hookfleet_contract::slot::Slot;
use tokio::{sync::watch, time::sleep};

pub(crate) use self::contents::{Contents, Item};
use crate::{
    keys,
    store::{self, Error, Generation, Revision, Store},
};

/// Entries per page of a list; slots are rarely larger.
const PAGE: usize = 1000;
/// Slots listed at once. More starves the store's writers (measured: reference/control-plane.md E4).
const CONCURRENCY: usize = 4;
/// Between attempts to list a store that cannot be listed, and one that is not believed.
const PAUSE: Duration = Duration::from_secs(1);
const GUARDED_PAUSE: Duration = Duration::from_secs(30);

/// A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    contents: Arc<RwLock<Contents>>,
    progress: watch::Sender<Progress>,
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
    pub(crate) fn new() -> Self {
        Self {
            contents: Arc::default(),
            progress: watch::Sender::new(Progress::default()),
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

    /// Follows the store for as long as it is polled. A store that is gone is waited for; one that has lost its data is
    /// not believed: what is known stays, and a human must look.
    pub(crate) async fn follow(
        self,
        store: Arc<dyn Store>,
        generation: Generation,
        slot_count: u16,
    ) {
        loop {
            let error = match self.list(&*store, &generation, slot_count).await {
                Ok(revision) => self.watch(&*store, revision).await,
                Err(error) => error,
            };
            let pause = match &error {
                Follow::Store(Error::Compacted { .. }) => {
                    tracing::info!("the watch was too far behind; listing the store again");
                    continue;
                }
                Follow::Store(error) => {
                    let cause = std::error::Error::source(error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "cannot follow the store");
                    PAUSE
                }
                Follow::Guarded(reason) => {
                    tracing::error!(
                        reason,
                        "the store is not believed; what was known stays in force. Restore it, or restart the \
                         control plane to accept it"
                    );
                    GUARDED_PAUSE
                }
            };
            self.set_ready(false);
            sleep(pause).await;
        }
    }

    /// Lists everything at one revision, slot by slot: paging through one large range costs etcd the whole rest of
    /// the range for each page (measured: reference/control-plane.md E2).
    async fn list(
        &self,
        store: &dyn Store,
        expected: &Generation,
        slot_count: u16,
    ) -> Result<Revision, Follow> {
        let found = store.generation().await?;
        if found != *expected {
            let reason = format!("it is another store: generation {found} instead of {expected}");
            return Err(Follow::Guarded(reason));
        }
        let (_, revision) = store.get(keys::CLUSTER).await?;
        let prefixes = [
            keys::TENANTS,
            keys::AGENTS,
            keys::KEYS,
            keys::SLOTS,
            keys::FLEET,
        ]
        .map(str::to_owned);
        let slots = (0..slot_count).map(|slot| keys::slot(Slot(slot)));
        let mut list = BTreeMap::new();
        let mut pages = stream::iter(prefixes.into_iter().chain(slots))
            .map(|prefix| list_prefix(store, prefix, revision))
            .buffer_unordered(CONCURRENCY);
        while let Some(items) = pages.try_next().await? {
            list.extend(items);
        }
        let mut contents = self
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        contents
            .replace(list, revision)
            .map_err(|error| Follow::Guarded(error.to_string()))?;
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
                    self.contents
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .apply(batch);
                    self.advance(revision);
                }
                Err(error) => return error.into(),
            }
        }
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
    Guarded(String),
}

impl From<store::Error> for Follow {
    fn from(error: store::Error) -> Self {
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

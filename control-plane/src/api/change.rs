//! Reading, changing and deleting one thing in the store under its etag.
//!
//! **Invariant:** nothing is overwritten that was not read: every write compares the revision it was decided on.

use bytes::Bytes;
use hookfleet_gateway::status::ApiError;
use prost::Message;

use super::status;
use crate::{
    store::{Error, Outcome, Revision, Store, Txn, Write},
    stored,
};

/// How often a change without an etag is decided anew when others were faster.
pub(crate) const ATTEMPTS: usize = 5;

/// A thing and the revision of its last change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Version<T> {
    pub(crate) value: T,
    pub(crate) revision: Revision,
}

/// What is to be changed, and on which conditions.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) key: String,
    /// As the caller knows it.
    pub(crate) name: String,
    /// When not empty, must match.
    pub(crate) etag: String,
    /// Decide, but change nothing.
    pub(crate) validate_only: bool,
}

/// Reads a thing, linearizably.
pub(crate) async fn read<T: Message + Default>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<Version<T>>, ApiError> {
    let (entry, _) = store.get(key).await.map_err(status::of_store)?;
    let Some(entry) = entry else { return Ok(None) };
    Ok(Some(Version {
        value: T::decode(entry.value).map_err(|error| status::undecodable(key, &error))?,
        revision: entry.mod_revision,
    }))
}

/// Reads a thing that must exist.
pub(crate) async fn get<T: Message + Default>(
    store: &dyn Store,
    key: &str,
    name: &str,
) -> Result<Version<T>, ApiError> {
    read(store, key)
        .await?
        .ok_or_else(|| ApiError::not_found(name))
}

/// Changes a thing: `decide` answers what it becomes, or `None` if it is as it should be. Answers the thing as it is
/// now, or as it would be.
pub(crate) async fn update<T: Message + Default>(
    store: &dyn Store,
    subject: &Subject,
    mut decide: impl FnMut(&T) -> Result<Option<T>, ApiError>,
) -> Result<Version<T>, ApiError> {
    let alone = |before: &T| Ok(decide(before)?.map(|value| (value, Vec::new())));
    update_besides(store, subject, alone).await
}

/// Changes a thing and what belongs to it: `decide` answers what is written with it, besides.
pub(crate) async fn update_besides<T: Message + Default>(
    store: &dyn Store,
    subject: &Subject,
    mut decide: impl FnMut(&T) -> Result<Option<(T, Vec<Write>)>, ApiError>,
) -> Result<Version<T>, ApiError> {
    for _ in 0..ATTEMPTS {
        let before = matching::<T>(store, subject).await?;
        let Some((value, besides)) = decide(&before.value)? else {
            return Ok(before);
        };
        let revision = before.revision;
        if subject.validate_only {
            return Ok(Version { value, revision });
        }
        let bytes = Bytes::from(value.encode_to_vec());
        let mut txn = Txn::new()
            .unchanged(&subject.key, revision)
            .put(&subject.key, bytes.clone());
        txn.writes.extend(besides);
        if let Outcome::Committed(revision) = commit(store, txn, &subject.key, &bytes).await? {
            return Ok(Version { value, revision });
        }
    }
    Err(status::contended(&subject.name))
}

/// Deletes a thing.
pub(crate) async fn delete<T: Message + Default>(
    store: &dyn Store,
    subject: &Subject,
) -> Result<(), ApiError> {
    for _ in 0..ATTEMPTS {
        let before = matching::<T>(store, subject).await?;
        if subject.validate_only {
            return Ok(());
        }
        let txn = Txn::new()
            .unchanged(&subject.key, before.revision)
            .delete(&subject.key);
        match store.commit(txn).await.map_err(status::of_store)? {
            Outcome::Committed(_) => return Ok(()),
            Outcome::Conflict => {}
        }
    }
    Err(status::contended(&subject.name))
}

/// Commits a transaction that writes `value`. When the answer is lost, the store is asked whether it has the value:
/// values differ from all others by what is random in them, or say the same.
pub(crate) async fn commit(
    store: &dyn Store,
    txn: Txn,
    key: &str,
    value: &Bytes,
) -> Result<Outcome, ApiError> {
    match store.commit(txn).await {
        Err(Error::Unknown { .. }) => {
            let (entry, _) = store
                .get(key)
                .await
                .map_err(|_| status::outcome_unknown())?;
            match entry.filter(|entry| entry.value == *value) {
                Some(entry) => Ok(Outcome::Committed(entry.mod_revision)),
                None => Err(status::outcome_unknown()),
            }
        }
        other => other.map_err(status::of_store),
    }
}

async fn matching<T: Message + Default>(
    store: &dyn Store,
    subject: &Subject,
) -> Result<Version<T>, ApiError> {
    let found = get::<T>(store, &subject.key, &subject.name).await?;
    if subject.etag.is_empty() || subject.etag == stored::etag(found.revision) {
        Ok(found)
    } else {
        Err(ApiError::etag_mismatch(&subject.name))
    }
}

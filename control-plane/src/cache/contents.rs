//! What a control plane knows of the store: the latest version of every key that agents and lists care about, ordered
//! by key and by revision. Pure; where it comes from is the follower's business, what a value means the readers'.
//!
//! **Invariant:** it shows the store exactly as it was at `revision`, and knows every removal after `horizon`. Where it did
//! not, because a change was never heard of, that is found by comparison, and `mends` says that readers begin anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use hookfleet_contract::{
    digest::{Digests, Part, digest},
    name::TenantId,
};
use hookfleet_proto::fleet::{ResourceType, SlotTable, StoredTenant};
use prost::Message as _;

use super::era::Era;
use crate::{
    keys::{self, Kind},
    store::{Batch, Change, Revision},
    stored,
};

/// How many removals are remembered. An agent that missed more gets everything anew.
const MAX_REMOVALS: usize = 100_000;
/// A list, or a transaction, that lacks more than this part of the subscriptions, and more than [`FEW`], is not believed.
const PART: usize = 5;
/// So many subscriptions may go at once without being looked at.
pub(crate) const FEW: usize = 100;

/// The contents at one revision.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    era: Era,
    revision: Revision,
    horizon: Revision,
    items: BTreeMap<Arc<str>, Item>,
    by_revision: BTreeSet<(Revision, Arc<str>)>,
    removals: VecDeque<(Revision, Arc<str>)>,
    /// What subscriptions a tenant has, by what their keys begin with.
    tallies: HashMap<Box<str>, Tally>,
    /// The tenants with more than one shard, and how many they have.
    shards: BTreeMap<TenantId, u8>,
    /// What agents are told, part by part.
    digests: Digests,
    /// How often something was in here that should not have been, or the other way round.
    mends: u64,
    slot_table: Arc<SlotTable>,
}

/// The latest version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) mod_revision: Revision,
    pub(crate) value: Bytes,
}

/// The subscriptions of a tenant.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    count: usize,
    /// Its part of the digest of its slot.
    digest: u64,
}

/// A list of the store that would remove too much to be true.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{removed} of {held} subscriptions are gone at once")]
pub(crate) struct MassDeletion {
    removed: usize,
    held: usize,
}

/// A version of a key in the store that is not the one in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) key: Arc<str>,
    pub(crate) here: Option<Revision>,
    pub(crate) stored: Option<Revision>,
}

impl Contents {
    /// Nothing yet of the store as it is in this era.
    pub(crate) fn new(era: Era) -> Self {
        Self {
            era,
            ..Self::default()
        }
    }

    /// In which era the revisions count.
    pub(crate) fn era(&self) -> &Era {
        &self.era
    }

    /// What a part of what agents are told comes to.
    pub(crate) fn digest(&self, part: Part) -> u64 {
        self.digests.of(part)
    }

    /// How often these contents were wrong. What was learnt before the last time must be learnt again.
    pub(crate) fn mends(&self) -> u64 {
        self.mends
    }

    /// Something was wrong, and is right now.
    pub(crate) fn mended(&mut self) {
        self.mends += 1;
    }

    /// How many subscriptions there are.
    pub(crate) fn n_subscriptions(&self) -> usize {
        self.tallies.values().map(|it| it.count).sum()
    }

    /// The versions of the keys that begin with `prefix`.
    pub(crate) fn versions(&self, prefix: &str) -> BTreeMap<Arc<str>, Revision> {
        let items = self.with_prefix(prefix);
        let versions = items.map(|(key, item)| (Arc::clone(key), item.mod_revision));
        versions.collect()
    }

    /// Everything up to here is known.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Removals after this are known.
    pub(crate) fn horizon(&self) -> Revision {
        self.horizon
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    /// Who owns which slots; empty before the first placement.
    pub(crate) fn slot_table(&self) -> &Arc<SlotTable> {
        &self.slot_table
    }

    /// The revision at which the slot table last changed; 0 before the first placement.
    pub(crate) fn slots_revision(&self) -> Revision {
        self.get(keys::SLOTS).map_or(0, |item| item.mod_revision)
    }

    /// The keys that begin with `prefix`, in order.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Item)> {
        self.items
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The keys that were changed or removed after `cursor`, each once.
    pub(crate) fn changed_since(&self, cursor: Revision) -> BTreeSet<Arc<str>> {
        let from = (cursor + 1, Arc::from(""));
        let changed = self.by_revision.range(from..).map(|(_, key)| key);
        changed.chain(self.removed_since(cursor)).cloned().collect()
    }

    /// The keys that were removed after `cursor`, even if they are there again.
    pub(crate) fn removed_since(&self, cursor: Revision) -> impl Iterator<Item = &Arc<str>> {
        let first = self.removals.partition_point(|(at, _)| *at <= cursor);
        self.removals.range(first..).map(|(_, key)| key)
    }

    /// How many subscriptions have keys that begin with `prefix`, which is a tenant's.
    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.tallies.get(prefix).map_or(0, |it| it.count)
    }

    /// What the subscriptions come to whose keys begin with `prefix`, which is a tenant's.
    pub(crate) fn digest_of(&self, prefix: &str) -> u64 {
        self.tallies.get(prefix).map_or(0, |it| it.digest)
    }

    /// The tenants with more than one shard, and how many they have.
    pub(crate) fn shards(&self) -> &BTreeMap<TenantId, u8> {
        &self.shards
    }

    /// Looks whether a transaction of a batch removes too much to be true.
    ///
    /// # Errors
    /// [`MassDeletion`].
    pub(crate) fn check(&self, batch: &Batch) -> Result<(), MassDeletion> {
        let mut gone: HashMap<Revision, usize> = HashMap::new();
        for change in &batch.changes {
            if let Change::Delete { key, mod_revision } = change
                && is_subscription(key)
                && self.get(key).is_some()
            {
                *gone.entry(*mod_revision).or_default() += 1;
            }
        }
        self.check_gone(gone.into_values().max().unwrap_or(0))
    }

    fn check_gone(&self, removed: usize) -> Result<(), MassDeletion> {
        let held = self.n_subscriptions();
        if removed > FEW.max(held / PART) {
            return Err(MassDeletion { removed, held });
        }
        Ok(())
    }

    /// Time went on.
    pub(crate) fn apply(&mut self, batch: Batch) {
        for change in batch.changes {
            match change {
                Change::Put(entry) => self.put(&entry.key, entry.mod_revision, entry.value),
                Change::Delete { key, mod_revision } => self.remove(&key, mod_revision),
            }
        }
        self.revision = self.revision.max(batch.revision);
    }

    /// Takes a whole list of the store for the truth, but for one that lacks too much.
    ///
    /// # Errors
    /// [`MassDeletion`]; nothing is changed.
    pub(crate) fn replace(
        &mut self,
        list: BTreeMap<String, Item>,
        revision: Revision,
    ) -> Result<(), MassDeletion> {
        let gone: Vec<Arc<str>> = self
            .items
            .keys()
            .filter(|key| !list.contains_key(&***key))
            .cloned()
            .collect();
        self.check_gone(gone.iter().filter(|key| is_subscription(key)).count())?;
        if self.items.is_empty() {
            self.horizon = revision;
        }
        for key in gone {
            self.remove(&key, revision);
        }
        for (key, item) in list {
            // A restored store can have an older version than was seen; the list is right.
            if self
                .get(&key)
                .is_some_and(|it| it.mod_revision > item.mod_revision)
            {
                self.remove(&key, revision);
            }
            self.put(&key, item.mod_revision, item.value);
        }
        self.revision = revision;
        Ok(())
    }

    fn put(&mut self, key: &str, mod_revision: Revision, value: Bytes) {
        if keys::parse(key).is_none() {
            return;
        }
        let held = self
            .items
            .get_key_value(key)
            .map(|(key, item)| (Arc::clone(key), item.mod_revision));
        if held.as_ref().is_some_and(|(_, held)| *held >= mod_revision) {
            return;
        }
        let key = match held {
            Some((key, before)) => {
                self.by_revision.remove(&(before, Arc::clone(&key)));
                self.count_out(&key, before);
                key
            }
            None => Arc::from(key),
        };
        if &*key == keys::SLOTS {
            self.decode_slot_table(&value);
        }
        if let Some(tenant) = tenant_of(&key) {
            self.decode_shards(tenant, &value);
        }
        if is_for_agents(&key) {
            self.by_revision.insert((mod_revision, Arc::clone(&key)));
        }
        self.count_in(&key, mod_revision);
        self.items.insert(
            key,
            Item {
                mod_revision,
                value,
            },
        );
    }

    fn remove(&mut self, key: &str, mod_revision: Revision) {
        let Some((key, item)) = self.items.remove_entry(key) else {
            return;
        };
        self.by_revision
            .remove(&(item.mod_revision, Arc::clone(&key)));
        self.count_out(&key, item.mod_revision);
        if let Some(tenant) = tenant_of(&key) {
            self.shards.remove(&tenant);
        }
        if is_for_agents(&key) {
            self.removals.push_back((mod_revision, key));
        }
        if self.removals.len() > MAX_REMOVALS
            && let Some((revision, _)) = self.removals.pop_front()
        {
            self.horizon = revision;
        }
    }

    fn count_in(&mut self, key: &str, mod_revision: Revision) {
        let Some(part) = part_of(key) else {
            return;
        };
        let digest = digest(&keys::name(key), mod_revision);
        self.digests.add(part, digest);
        if is_subscription(key) {
            let tally = match self.tallies.get_mut(parent(key)) {
                Some(tally) => tally,
                None => self.tallies.entry(parent(key).into()).or_default(),
            };
            tally.count += 1;
            tally.digest = tally.digest.wrapping_add(digest);
        }
    }

    fn count_out(&mut self, key: &str, mod_revision: Revision) {
        let Some(part) = part_of(key) else {
            return;
        };
        let digest = digest(&keys::name(key), mod_revision);
        self.digests.remove(part, digest);
        if let Some(tally) = self.tallies.get_mut(parent(key)) {
            tally.count -= 1;
            tally.digest = tally.digest.wrapping_sub(digest);
            if tally.count == 0 {
                self.tallies.remove(parent(key));
            }
        }
    }

    fn decode_shards(&mut self, tenant: TenantId, value: &[u8]) {
        let shards = match StoredTenant::decode(value) {
            Ok(stored) => stored::shards(&stored),
            Err(error) => {
                tracing::error!(%tenant, %error, "cannot read a tenant; it is taken for one with one shard");
                1
            }
        };
        if shards > 1 {
            self.shards.insert(tenant, shards);
        } else {
            self.shards.remove(&tenant);
        }
    }

    fn decode_slot_table(&mut self, value: &[u8]) {
        match SlotTable::decode(value) {
            Ok(table) => self.slot_table = Arc::new(table),
            Err(error) => tracing::error!(%error, "cannot read the slot table; the last one stays"),
        }
    }
}

/// Agents are told of everything but one another and how slots are placed; they hear that from the slot table.
fn is_for_agents(key: &str) -> bool {
    !key.starts_with(keys::AGENTS) && !key.starts_with(keys::FLEET)
}

/// The part of what agents are told that a key is in.
pub(crate) fn part_of(key: &str) -> Option<Part> {
    let (kind, slot) = match keys::parse(key)? {
        Kind::Subscription(slot, _) => (ResourceType::Subscription, slot.0),
        Kind::Tenant(_) => (ResourceType::Tenant, 0),
        Kind::Key(_) => (ResourceType::Key, 0),
        Kind::Slots => (ResourceType::SlotTable, 0),
        Kind::Agent(_) | Kind::Fleet => return None,
    };
    Some(Part { kind, slot })
}

fn tenant_of(key: &str) -> Option<TenantId> {
    key.strip_prefix(keys::TENANTS)?.parse().ok()
}

fn is_subscription(key: &str) -> bool {
    key.starts_with(keys::SUBSCRIPTIONS)
}

fn parent(key: &str) -> &str {
    key.rfind('/').map_or("", |slash| &key[..=slash])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    fn put(key: &str, mod_revision: Revision) -> Change {
        Change::Put(Entry {
            key: key.to_owned(),
            value: Bytes::from_static(b""),
            create_revision: mod_revision,
            mod_revision,
        })
    }

    fn delete(key: &str, mod_revision: Revision) -> Change {
        Change::Delete {
            key: key.to_owned(),
            mod_revision,
        }
    }

    fn contents(changes: Vec<Change>) -> Contents {
        let mut contents = Contents::default();
        let revision = changes.last().map_or(0, Change::mod_revision);
        contents.apply(Batch { changes, revision });
        contents
    }

    fn changed(contents: &Contents, cursor: Revision) -> Vec<String> {
        contents
            .changed_since(cursor)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn changes_since_a_revision_name_each_key_once_and_removals_too() {
        let contents = contents(vec![
            put("tenant/a", 1),
            put("tenant/b", 2),
            put("tenant/a", 3),
            delete("tenant/b", 4),
            put("agent/x", 5),
            put("request/y", 6),
        ]);
        assert_eq!(changed(&contents, 0), ["tenant/a", "tenant/b"]);
        assert_eq!(changed(&contents, 3), ["tenant/b"]);
        assert_eq!(changed(&contents, 4), [""; 0]);
        assert_eq!(contents.revision(), 6);
        assert!(contents.get("agent/x").is_some() && contents.get("request/y").is_none());
    }

    #[test]
    fn subscriptions_are_counted_by_tenant() {
        let mut contents = contents(vec![
            put("subscription/0001/a/s1", 1),
            put("subscription/0001/a/s2", 2),
            put("subscription/0001/a/s2", 3),
            put("subscription/0001/b/s1", 4),
        ]);
        assert_eq!(contents.count("subscription/0001/a/"), 2);
        let changes = vec![
            delete("subscription/0001/b/s1", 5),
            delete("subscription/0001/b/s1", 6),
        ];
        contents.apply(Batch {
            changes,
            revision: 6,
        });
        assert_eq!(contents.count("subscription/0001/b/"), 0);
    }

    #[test]
    fn forgotten_removals_raise_the_horizon() {
        let mut changes = Vec::new();
        for revision in (1..=2 * (MAX_REMOVALS as i64 + 1)).step_by(2) {
            changes.push(put("tenant/a", revision));
            changes.push(delete("tenant/a", revision + 1));
        }
        assert_eq!(contents(changes).horizon(), 2);
    }

    #[test]
    fn a_new_list_is_compared_with_the_old_one() {
        let mut contents = contents(vec![put("tenant/a", 1), put("tenant/b", 2)]);
        let item = |mod_revision| Item {
            mod_revision,
            value: Bytes::new(),
        };
        let list = [
            ("tenant/b".to_owned(), item(7)),
            ("tenant/c".to_owned(), item(8)),
        ];
        contents.replace(list.into(), 9).unwrap();
        assert_eq!(changed(&contents, 2), ["tenant/a", "tenant/b", "tenant/c"]);
        assert_eq!(changed(&contents, 7), ["tenant/a", "tenant/c"]);
        assert_eq!((contents.revision(), contents.horizon()), (9, 0));
    }

    #[test]
    fn a_list_that_has_an_older_version_is_right() {
        let mut contents = contents(vec![put("tenant/a", 1), put("tenant/a", 7)]);
        let item = Item {
            mod_revision: 2,
            value: Bytes::new(),
        };
        let list = [("tenant/a".to_owned(), item)];
        contents.replace(list.into(), 9).unwrap();
        assert_eq!(contents.get("tenant/a").map(|it| it.mod_revision), Some(2));
    }

    #[test]
    fn digests_are_those_of_what_agents_are_told() {
        let told = contents(vec![
            put("subscription/0001/a/s1", 1),
            put("subscription/0001/a/s2", 2),
            put("subscription/0001/a/s1", 3),
            put("agent/x", 4),
            delete("subscription/0001/a/s2", 5),
        ]);
        let part = |kind, slot| Part { kind, slot };
        let mut expected = Digests::default();
        let ones = part(ResourceType::Subscription, 1);
        expected.add(ones, digest("tenants/a/subscriptions/s1", 3));
        assert_eq!(told.digests, expected);
        assert_eq!(told.digest(part(ResourceType::Tenant, 0)), 0);
    }

    #[test]
    fn a_batch_that_removes_too_much_is_not_believed() {
        let keys = |n| (0..n).map(|n| format!("subscription/0001/a/s{n}"));
        let contents = contents(keys(200).map(|key| put(&key, 1)).collect());
        let gone = |n| Batch {
            changes: keys(n).map(|key| delete(&key, 2)).collect(),
            revision: 2,
        };
        assert_eq!(contents.check(&gone(100)), Ok(()));
        let (removed, held) = (101, 200);
        let refused = Err(MassDeletion { removed, held });
        assert_eq!(contents.check(&gone(101)), refused);
    }

    #[test]
    fn a_list_that_lacks_too_much_is_not_believed() {
        let keys = (0..200).map(|n| put(&format!("subscription/0001/a/s{n}"), n + 1));
        let mut contents = contents(keys.collect());
        let refused = contents.replace(BTreeMap::new(), 300);
        assert_eq!(
            refused,
            Err(MassDeletion {
                removed: 200,
                held: 200
            })
        );
        assert_eq!(contents.count("subscription/0001/a/"), 200);
        assert_eq!(contents.revision(), 200);
    }
}

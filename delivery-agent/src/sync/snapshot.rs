//! The snapshot on disk: what lets an agent start while the control plane is away. A row for each
//! resource, so that a change costs a row, and one for what they are of. Sealed, because there are
//! signing secrets in it; it knows nothing of what is inside.
//!
//! **Invariant:** at every moment there is a whole snapshot on disk, or none: what an update says is written at
//! once with the revision that it brings, and rows without one are not read.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use hookfleet_contract::{seal::Sealer, target::Rules};
use hookfleet_proto::fleet::{Resource, Snapshot};

use super::mirror::{Applied, Mirror};

const CONTEXT: &[u8] = b"hookfleet agent snapshot 2";
const KEYSPACE: &str = "snapshot";
/// The row of what the resources are of; no resource is named so.
const HEAD: &str = "!";
/// Changes are few, and a first set is large only once.
const MEMTABLE_BYTES: u64 = 8 << 20;

/// A row that has changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A resource is new or has changed.
    Put(Box<Resource>),
    /// The resource with this name is gone.
    Gone(String),
}

/// Where snapshots are kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
    rows: Keyspace,
    sealer: Sealer,
}

impl Store {
    /// The snapshot in `database`, sealed with `sealer`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn open(database: Database, sealer: Sealer) -> Result<Self, fjall::Error> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        Ok(Self {
            rows: database.keyspace(KEYSPACE, options)?,
            database,
            sealer,
        })
    }

    /// What is in the snapshot, and what to put in force, if there is one. A broken one is reported, and removed like what
    /// is left of a set that never was whole.
    ///
    /// # Errors
    /// Those of the database.
    pub fn load(&self, rules: &Rules) -> Result<Option<(Mirror, Applied)>, fjall::Error> {
        if self.rows.is_empty()? {
            return Ok(None);
        }
        let loaded = self.read(rules)?;
        if loaded.is_none() {
            tracing::warn!("the snapshot is not whole, or sealed with another key");
            self.rows.clear()?;
        }
        Ok(loaded)
    }

    fn read(&self, rules: &Rules) -> Result<Option<(Mirror, Applied)>, fjall::Error> {
        let Some(head) = self.rows.get(HEAD)? else {
            return Ok(None);
        };
        let Some(head) = self.unseal::<Snapshot>(HEAD.as_bytes(), &head) else {
            return Ok(None);
        };
        let mut mirror = Mirror::saved(head, rules.clone());
        let mut applied = Applied::default();
        for row in self.rows.iter() {
            let (name, sealed) = row.into_inner()?;
            if *name == *HEAD.as_bytes() {
                continue;
            }
            match self.unseal(&name, &sealed) {
                Some(resource) => mirror.restore(resource, &mut applied),
                None => return Ok(None),
            }
        }
        Ok(Some((mirror, applied)))
    }

    /// Writes rows, and what they are of by now, if they are a whole. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the database; the snapshot before stays.
    pub fn save(&self, rows: &[Row], head: Option<&Snapshot>) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch();
        for row in rows {
            match row {
                Row::Put(resource) => {
                    let sealed = self.seal(&resource.name, resource);
                    batch.insert(&self.rows, resource.name.as_str(), sealed);
                }
                Row::Gone(name) => batch.remove(&self.rows, name.as_str()),
            }
        }
        if let Some(head) = head {
            batch.insert(&self.rows, HEAD, self.seal(HEAD, head));
        }
        batch.commit()
    }

    /// Puts what was saved on stable storage. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the database.
    pub fn sync(&self) -> Result<(), fjall::Error> {
        self.database.persist(PersistMode::SyncData)
    }

    /// Bound to its name, so that no row can stand in for another.
    fn seal(&self, name: &str, message: &impl prost::Message) -> Vec<u8> {
        let context = context(name.as_bytes());
        self.sealer
            .seal(&context, &message.encode_to_vec(), rand::random())
    }

    fn unseal<M: prost::Message + Default>(&self, name: &[u8], sealed: &[u8]) -> Option<M> {
        let plain = self.sealer.open(&context(name), sealed).ok()?;
        M::decode(plain.as_slice()).ok()
    }
}

fn context(name: &[u8]) -> Vec<u8> {
    [CONTEXT, b"\0", name].concat()
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hookfleet_proto::{
        fleet::resource::Body,
        v1::{Tenant, tenant},
    };

    use super::*;
    use crate::directory::Change;

    #[test]
    fn what_was_saved_is_loaded_as_it_was_last() {
        let world = World::new();
        assert!(world.load(7).is_none());
        let store = world.store(7);
        store
            .save(&[put("acme", 1), put("globex", 2)], None)
            .unwrap();
        store.save(&[], Some(&at_revision(2))).unwrap();
        let gone = Row::Gone("tenants/acme".to_owned());
        store
            .save(
                &[gone, put("globex", 3), put("initech", 4)],
                Some(&at_revision(4)),
            )
            .unwrap();
        store.sync().unwrap();

        let (mirror, names) = world.load(7).unwrap();
        assert_eq!(names, ["globex", "initech"]);
        assert_eq!(mirror.snapshot(), Some(at_revision(4)));
    }

    #[test]
    fn rows_of_a_set_that_never_was_whole_are_forgotten() {
        let world = World::new();
        world.store(7).save(&[put("acme", 1)], None).unwrap();
        assert!(world.load(7).is_none());
        world.store(7).save(&[], Some(&at_revision(2))).unwrap();
        assert!(world.load(7).unwrap().1.is_empty());
    }

    #[test]
    fn another_key_opens_nothing() {
        let world = World::new();
        let store = world.store(7);
        store
            .save(&[put("acme", 1)], Some(&at_revision(1)))
            .unwrap();
        assert!(world.load(8).is_none());
    }

    #[test]
    fn a_row_in_the_place_of_another_is_no_snapshot() {
        let world = World::new();
        let store = world.store(7);
        let rows = [put("acme", 1), put("globex", 1)];
        store.save(&rows, Some(&at_revision(1))).unwrap();
        let row = store.rows.get("tenants/acme").unwrap().unwrap();
        store.rows.insert("tenants/globex", row).unwrap();
        assert!(world.load(7).is_none());
    }

    struct World {
        database: Database,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                database: Database::builder(dir.path()).open().unwrap(),
                _dir: dir,
            }
        }

        fn store(&self, key: u8) -> Store {
            Store::open(self.database.clone(), Sealer::new([key; 32])).unwrap()
        }

        /// The copy, and the tenants that are put in force.
        fn load(&self, key: u8) -> Option<(Mirror, Vec<String>)> {
            let (mirror, applied) = self.store(key).load(&Rules::default()).unwrap()?;
            let names = applied.changes.iter().filter_map(|change| match change {
                Change::Tenant { tenant, .. } => Some(tenant.to_string()),
                Change::Spread(..)
                | Change::TenantGone(_)
                | Change::Subscription(_)
                | Change::SubscriptionGone(..) => None,
            });
            Some((mirror, names.collect()))
        }
    }

    fn put(tenant: &str, mod_revision: i64) -> Row {
        let name = format!("tenants/{tenant}");
        Row::Put(Box::new(Resource {
            name: name.clone(),
            mod_revision,
            body: Some(Body::Tenant(Tenant {
                name,
                state: tenant::State::Active.into(),
                ..Tenant::default()
            })),
            shards: 0,
        }))
    }

    fn at_revision(revision: i64) -> Snapshot {
        Snapshot {
            revision,
            ..Snapshot::default()
        }
    }
}

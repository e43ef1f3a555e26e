//! The store of a fleet: an etcd cluster, 3.4 or later.
//!
//! Translates the trait to etcd's API. Refuses to know what a value means and to compact or defragment: that is the
//! operator's. Invariant: what cannot be known after a lost answer is [`Error::Unknown`], never a guess.

mod assembly;
mod endpoints;
mod fault;
mod keys;
#[cfg(test)]
mod tests;
mod watch;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, GetOptions, GetResponse, PutOptions, ResponseHeader,
    Txn as EtcdTxn, TxnOp, TxnResponse,
};
use hookfleet_gateway::tls::peer::PeerTls;
use tonic::Code;
use uuid::Uuid;

use self::{
    assembly::Assembly,
    endpoints::{Answer, Endpoints, Repeat},
    fault::Fault,
    keys::Keys,
    watch::Follower,
};
use super::{
    BoxError, Compare, Entry, Error, Generation, LeaseId, Outcome, Page, Revision, Store, Txn,
    Watch, Write, whole_seconds,
};

/// The root of a cluster's keys unless the configuration says otherwise.
pub const DEFAULT_ROOT: &str = "/hookfleet/v1/";

/// Holds the incarnation's id; nobody else writes it.
const INCARNATION: &str = "meta/incarnation";

/// How to reach the cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The members' client addresses, `http://host:port` or `https`.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub root: String,
    /// Whom to believe at `https` addresses, and what to show there.
    pub tls: PeerTls,
}

/// A store in etcd. Cheap to share, not to make.
pub struct Etcd {
    endpoints: Arc<Endpoints>,
    keys: Keys,
}

// === impl Config ===

impl Config {
    /// The cluster behind these addresses, with [`DEFAULT_ROOT`].
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            root: DEFAULT_ROOT.to_owned(),
            tls: PeerTls::default(),
        }
    }
}

// === impl Etcd ===

impl Etcd {
    /// Makes the clients. Connects when it is first used, so the cluster may come later.
    ///
    /// # Errors
    /// [`Error::Refused`] when an address is not one.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let endpoints = Endpoints::connect(config.endpoints, config.tls).await;
        let endpoints = endpoints.map_err(|error| Fault::from(error).into_error("connect"))?;
        Ok(Self {
            endpoints: Arc::new(endpoints),
            keys: Keys { root: config.root },
        })
    }

    /// Sends the transaction, several times only if that is safe.
    async fn send(&self, txn: &Txn) -> Answer<TxnResponse> {
        let repeat = if txn.guards_itself() {
            Repeat::Safe
        } else {
            Repeat::Unsafe
        };
        let compares: Vec<_> = txn.compares.iter().map(|c| self.compare(c)).collect();
        let writes: Vec<_> = txn.writes.iter().map(|w| self.write(w)).collect();
        let request = EtcdTxn::new().when(compares).and_then(writes);
        self.endpoints
            .call(repeat, |client: Client| {
                let request = request.clone();
                async move { client.kv_client().txn(request).await }
            })
            .await
    }

    fn compare(&self, compare: &Compare) -> EtcdCompare {
        let key = self.keys.full(compare.key());
        match compare {
            Compare::Absent(_) => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
            Compare::Revision(_, revision) => {
                EtcdCompare::mod_revision(key, CompareOp::Equal, *revision)
            }
        }
    }

    fn write(&self, write: &Write) -> TxnOp {
        let key = self.keys.full(write.key());
        match write {
            Write::Put { value, lease, .. } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key, value.as_ref(), options)
            }
            Write::Delete(_) => TxnOp::delete(key, None),
        }
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        let read = read(&self.endpoints, self.keys.full(key), None).await?;
        let response = read.map_err(|fault| fault.into_error("get"))?;
        let revision = revision(response.header());
        let pair = response.0.kvs.into_iter().next();
        let entry = pair.map(|pair| self.keys.entry(pair)).transpose()?;
        Ok((entry, revision))
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let start = match after {
            // The first key that comes after a key is that key and a zero byte.
            Some(after) if after >= prefix => self.keys.full(after) + "\0",
            Some(_) | None => self.keys.full(prefix),
        };
        let options = GetOptions::new()
            .with_range(self.keys.end(prefix))
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .with_revision(at.unwrap_or(0));
        let response = match (read(&self.endpoints, start, Some(options)).await?, at) {
            (Ok(response), _) => response,
            (Err(Fault::Answered(Code::OutOfRange, _)), Some(revision)) => {
                let newest = current_revision(&self.endpoints, &self.keys).await?;
                return Err(if revision > newest {
                    Error::FutureRevision { revision }
                } else {
                    Error::Compacted { revision }
                });
            }
            (Err(fault), _) => return Err(fault.into_error("range")),
        };
        let newest = revision(response.header());
        if let Some(revision) = at.filter(|at| *at > newest) {
            // Old servers answer with the present.
            return Err(Error::FutureRevision { revision });
        }
        let pairs = response.0.kvs.into_iter();
        Ok(Page {
            entries: pairs
                .map(|p| self.keys.entry(p))
                .collect::<Result<_, _>>()?,
            more: response.0.more,
            revision: at.unwrap_or(newest),
        })
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        txn.check()?;
        let Answer { value, doubtful } = self.send(&txn).await;
        let response = match value {
            Ok(response) => response,
            Err(Fault::Lost(source)) => return Err(unknown(source)),
            Err(Fault::NotSent(source) | Fault::Answered(_, source)) if doubtful => {
                return Err(unknown(source));
            }
            Err(fault @ Fault::Answered(Code::NotFound, _)) => {
                let lease = txn.writes.iter().find_map(Write::lease);
                return Err(lease.map_or_else(|| fault.into_error("commit"), Error::LeaseLost));
            }
            Err(fault) => return Err(fault.into_error("commit")),
        };
        self.endpoints.check(response.header())?;
        match (response.succeeded(), doubtful) {
            (true, _) => Ok(Outcome::Committed(revision(response.header()))),
            (false, false) => Ok(Outcome::Conflict),
            // What the repetition collided with may be our own first try.
            (false, true) => Err(Error::Unknown { source: None }),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        Ok(Watch::spawn(|batches| {
            let follower = Follower {
                endpoints: Arc::clone(&self.endpoints),
                keys: self.keys.clone(),
                prefix: prefix.to_owned(),
                assembly: Assembly::new(after),
                batches,
            };
            follower.run()
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let ttl = i64::try_from(whole_seconds(ttl)).unwrap_or(i64::MAX);
        // Granting twice is safe: the lease that nobody knows ends by itself.
        let granted = self
            .endpoints
            .call(Repeat::Safe, |client: Client| async move {
                client.lease_client().grant(ttl, None).await
            });
        let response = granted
            .await
            .value
            .map_err(|fault| fault.into_error("grant"))?;
        self.endpoints.check(response.header())?;
        Ok(LeaseId(response.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let renewed = self
            .endpoints
            .call(Repeat::Safe, |client: Client| async move {
                // The client keeps the answer to the request that opens the stream for itself.
                let (mut keeper, mut answers) = client.lease_client().keep_alive(lease.0).await?;
                let broken = || etcd_client::Error::Internal("the stream broke".to_owned());
                keeper.keep_alive().await.map_err(|_closed| broken())?;
                answers.message().await?.ok_or_else(broken)
            });
        match renewed.await.value {
            Ok(response) => {
                self.endpoints.check(response.header())?;
                match u64::try_from(response.ttl()) {
                    Ok(ttl) if ttl > 0 => Ok(Duration::from_secs(ttl)),
                    Ok(_) | Err(_) => Err(Error::LeaseLost(lease)),
                }
            }
            Err(Fault::Answered(Code::NotFound, _)) => Err(Error::LeaseLost(lease)),
            Err(fault) => Err(fault.into_error("keep alive")),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let revoked = self
            .endpoints
            .call(Repeat::Safe, |client: Client| async move {
                client.lease_client().revoke(lease.0).await
            });
        match revoked.await.value {
            Ok(response) => self.endpoints.check(response.header()),
            Err(Fault::Answered(Code::NotFound, _)) => Ok(()),
            Err(fault) => Err(fault.into_error("revoke")),
        }
    }

    async fn generation(&self) -> Result<Generation, Error> {
        let (mut entry, _) = self.get(INCARNATION).await?;
        if entry.is_none() {
            let id = crate::random::uuid().to_string();
            let make = Txn::new().absent(INCARNATION).put(INCARNATION, id);
            match self.commit(make).await {
                // Whoever was first made it, and all read it.
                Ok(Outcome::Committed(_) | Outcome::Conflict) | Err(Error::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
            (entry, _) = self.get(INCARNATION).await?;
        }
        let text = entry
            .as_ref()
            .and_then(|entry| str::from_utf8(&entry.value).ok());
        let id = text.and_then(|text| text.parse().ok());
        let id: Uuid = id.ok_or_else(|| Error::Corrupt(format!("key {INCARNATION}")))?;
        Ok(Generation::new(self.endpoints.cluster(), id))
    }
}

/// Reads, linearizably, as often as it takes.
async fn read(
    endpoints: &Endpoints,
    key: String,
    options: Option<GetOptions>,
) -> Result<Result<GetResponse, Fault>, Error> {
    let answer = endpoints.call(Repeat::Safe, |client: Client| {
        let (key, options) = (key.clone(), options.clone());
        // A page is as large as its caller asked; the 4 MiB default would make some of them unreadable for ever.
        let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
        async move { kv.get(key, options).await }
    });
    let value = answer.await.value;
    if let Ok(response) = &value {
        endpoints.check(response.header())?;
    }
    Ok(value)
}

/// The revision that the cluster has reached.
async fn current_revision(endpoints: &Endpoints, keys: &Keys) -> Result<Revision, Error> {
    let options = GetOptions::new().with_count_only();
    let read = read(endpoints, keys.full(INCARNATION), Some(options)).await?;
    let response = read.map_err(|fault| fault.into_error("get"))?;
    Ok(revision(response.header()))
}

fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, ResponseHeader::revision)
}

fn unknown(source: BoxError) -> Error {
    Error::Unknown {
        source: Some(source),
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("endpoints", &self.endpoints.urls().collect::<Vec<_>>())
            .field("root", &self.keys.root)
            .finish_non_exhaustive()
    }
}

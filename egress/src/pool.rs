//! Connections that wait for their next request. Never shared between tenants.
//!
//! **Invariant:** what is handed out was made to an address that the asker's resolution allows.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hookfleet_contract::{
    name::TenantId,
    target::{Host, Target},
};
use tokio::time::Instant;

use crate::connection::Connection;

/// A name may point elsewhere by then.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// As many as a subscription may have in flight: whoever needs them has them again in a moment.
const MAX_IDLE_PER_KEY: usize = 1000;
/// Each costs a descriptor and some 20 KiB.
const MAX_IDLE_IN_ALL: usize = 4096;

/// Who may use a connection, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    tenant: TenantId,
    host: Host,
    port: u16,
    is_https: bool,
}

/// Connections that wait.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    by_key: HashMap<Key, Vec<(Connection, Instant)>>,
    n_connections: usize,
}

impl Key {
    pub(crate) fn new(tenant: TenantId, target: &Target) -> Self {
        Self {
            tenant,
            host: target.host().clone(),
            port: target.port(),
            is_https: target.is_https(),
        }
    }
}

impl Pool {
    /// The connection that has waited the shortest, to one of these addresses.
    pub(crate) fn take(
        &self,
        key: &Key,
        addresses: &[SocketAddr],
        now: Instant,
    ) -> Option<Connection> {
        let mut waiting = self.lock();
        let connections = waiting.by_key.get_mut(key)?;
        let mut n_taken = 0;
        let mut found = None;
        while let Some((connection, since)) = connections.pop() {
            n_taken += 1;
            let is_fresh = now.duration_since(since) < MAX_IDLE;
            if is_fresh && connection.is_ready() && addresses.contains(&connection.address) {
                found = Some(connection);
                break;
            }
        }
        if connections.is_empty() {
            waiting.by_key.remove(key);
        }
        waiting.n_connections -= n_taken;
        found
    }

    /// Keeps a connection, unless there are enough.
    pub(crate) fn put(&self, key: Key, mut connection: Connection, now: Instant) {
        // Whoever used it last is not woken any more, nor kept in memory by its waker.
        if !connection.is_alive() {
            return;
        }
        let mut waiting = self.lock();
        if waiting.n_connections >= MAX_IDLE_IN_ALL {
            return;
        }
        let connections = waiting.by_key.entry(key).or_default();
        if connections.len() < MAX_IDLE_PER_KEY {
            connections.push((connection, now));
            waiting.n_connections += 1;
        }
    }

    /// Closes what has waited too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.lock().sweep(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn sweep(&mut self, now: Instant) {
        self.by_key.retain(|_, connections| {
            let waited = |since| now.duration_since(since) >= MAX_IDLE;
            let is_over = |it: &mut (Connection, Instant)| waited(it.1) || !it.0.is_alive();
            let over = connections.extract_if(.., is_over);
            over.for_each(|(connection, _)| connection.close());
            !connections.is_empty()
        });
        self.n_connections = self.by_key.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use hookfleet_contract::target::Rules;
    use tokio::{
        io::{DuplexStream, duplex},
        time::advance,
    };

    use super::*;
    use crate::meter::Budget;

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_does_not_wait_for_ever() {
        let pool = Pool::default();
        let mut peers = Vec::new();
        for number in 0..6000 {
            // All of one key, then one of each.
            let (connection, peer) = connection().await;
            pool.put(key(number.max(2000)), connection, Instant::now());
            peers.push(peer);
        }
        assert_eq!(pool.lock().by_key[&key(2000)].len(), MAX_IDLE_PER_KEY);
        assert_eq!(pool.lock().n_connections, MAX_IDLE_IN_ALL);
        advance(MAX_IDLE / 2).await;
        pool.sweep(Instant::now());
        assert_eq!(pool.lock().n_connections, MAX_IDLE_IN_ALL);
        advance(MAX_IDLE / 2).await;
        assert!(
            pool.take(&key(2000), &[address()], Instant::now())
                .is_none()
        );
        pool.sweep(Instant::now());
        assert_eq!(pool.lock().n_connections, 0);
        assert!(pool.lock().by_key.is_empty());
    }

    #[tokio::test]
    async fn what_its_receiver_closes_leaves_and_what_points_elsewhere_is_not_used() {
        let pool = Pool::default();
        let (kept, closed) = (connection().await, connection().await);
        pool.put(key(1), kept.0, Instant::now());
        pool.put(key(2), closed.0, Instant::now());
        drop(closed.1);
        pool.sweep(Instant::now());
        assert_eq!(pool.lock().n_connections, 1);
        let elsewhere = ["93.184.215.15:443".parse().unwrap()];
        assert!(pool.take(&key(1), &elsewhere, Instant::now()).is_none());
        assert_eq!(pool.lock().n_connections, 0);
    }

    async fn connection() -> (Connection, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let budget = Budget::default();
        budget.refill(64);
        let connection = Connection::begin(ours, budget, address()).await.unwrap();
        (connection, theirs)
    }

    fn address() -> SocketAddr {
        "93.184.215.14:443".parse().unwrap()
    }

    fn key(number: u32) -> Key {
        let url = format!("https://h{number}.example.com/");
        let target = Target::parse(&url, &Rules::default()).unwrap();
        Key::new("acme".parse().unwrap(), &target)
    }
}

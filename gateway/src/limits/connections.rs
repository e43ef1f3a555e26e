//! How many connections there are, all together and from each address.
//!
//! **Invariant:** a connection counts for as long as its [`Place`] is held.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::memory::Memory;

/// So many connections may send far ahead, 128 MiB together; others have the least that HTTP/2 knows. Nobody else counts
/// these bytes.
const MAX_WIDE: usize = 32;

/// Where a connection comes from, as far as it can be told apart: whoever has one address of IPv6 has the other
/// 2^64 of its network, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

/// The connections of a listener; cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    max_per_source: usize,
    max_wide: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<Source, usize>,
}

/// What a connection holds while it lasts.
#[derive(Debug)]
pub(crate) struct Place {
    source: Source,
    connections: Connections,
}

// === impl Source ===

impl From<SocketAddr> for Source {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            it @ IpAddr::V4(_) => Self(it),
            IpAddr::V6(it) => Self(Ipv6Addr::from_bits(it.to_bits() >> 64 << 64).into()),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Connections ===

impl Connections {
    /// Room for `max` connections, `max_per_source` of them from one address.
    #[must_use]
    pub fn new(max: usize, max_per_source: usize) -> Self {
        Self(Arc::new(Inner {
            max,
            max_per_source,
            max_wide: MAX_WIDE,
            counts: Mutex::default(),
        }))
    }

    /// As [`Connections::new`], in so much memory.
    #[must_use]
    pub fn within(memory: Memory, max: usize, max_per_source: usize) -> Self {
        Self(Arc::new(Inner {
            max,
            max_per_source,
            max_wide: memory.share(MAX_WIDE),
            counts: Mutex::default(),
        }))
    }

    /// How many may send far ahead of whoever reads them.
    pub(crate) fn max_wide(&self) -> usize {
        self.0.max_wide
    }

    /// A place, if there is one.
    pub(crate) fn admit(&self, source: Source) -> Option<Place> {
        let mut counts = self.lock();
        let own = counts.of.get(&source).copied().unwrap_or(0);
        if counts.all >= self.0.max || own >= self.0.max_per_source {
            return None;
        }
        counts.all += 1;
        counts.of.insert(source, own + 1);
        Some(Place {
            source,
            connections: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        let counts = &self.0.counts;
        counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.lock();
        counts.all -= 1;
        let own = counts.of.get(&self.source).copied().unwrap_or(0);
        if own > 1 {
            counts.of.insert(self.source, own - 1);
        } else {
            counts.of.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        SocketAddr::new(text.parse().unwrap(), 1).into()
    }

    #[test]
    fn one_address_does_not_take_all_places_and_places_come_back() {
        let connections = Connections::new(3, 2);
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        let first = connections.admit(one).unwrap();
        let _second = connections.admit(one).unwrap();
        assert!(connections.admit(one).is_none(), "two are enough for one");
        let third = connections.admit(other).unwrap();
        assert!(connections.admit(other).is_none(), "three are all");
        drop(third);
        assert_eq!(connections.lock().of.len(), 1);
        drop(first);
        connections.admit(one).unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }
}

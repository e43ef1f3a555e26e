//! What callers of a process may use: the settings, and what they make.

use hookfleet_gateway::{
    clock::Clock,
    limits::{
        connections::Connections,
        limiter::{Limiter, Rates},
        memory::Memory,
    },
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::config::{Delivery, Validate};

/// What anybody may use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// The most connections at once; as far as open files go, of which they have a quarter.
    pub(crate) max_connections: usize,
    /// The most connections of one address.
    pub(crate) max_connections_per_address: usize,
    /// Requests of a credential, or of an address without one, in a second, but those that publish; 0 is no limit.
    pub(crate) requests_per_second: u64,
    /// Requests of an address without a good credential, in a second, after which it is told to wait; 0 is no limit.
    pub(crate) failures_per_second: u64,
    /// How many MiB of memory the process may count on; 0 is what its control group may have.
    pub(crate) memory_mib: u64,
}

// === impl Limits ===

impl Limits {
    /// What counts requests, and events if there is a place for them.
    pub(crate) fn limiter(&self, delivery: Option<&Delivery>) -> Limiter {
        let rates = Rates {
            tenant_events: delivery.map_or(0, |it| it.tenant_events_per_second),
            tenant_bytes: delivery.map_or(0, |it| it.tenant_bytes_per_second),
            requests: self.requests_per_second,
            failures: self.failures_per_second,
        };
        Limiter::new(rates, Clock::system())
    }

    /// What budgets are made of.
    pub(crate) fn memory(&self) -> Memory {
        match self.memory_mib {
            0 => Memory::found(),
            mib => Memory::of(mib.saturating_mul(1 << 20)),
        }
    }

    /// Room for connections.
    pub(crate) fn connections(&self) -> Connections {
        let affordable = (open_files() / 4).max(1);
        Connections::within(
            self.memory(),
            self.max_connections.min(affordable),
            self.max_connections_per_address,
        )
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each costs a descriptor and some 50 KiB.
            max_connections: 10_000,
            max_connections_per_address: 5_000,
            requests_per_second: 2_000,
            failures_per_second: 100,
            memory_mib: 0,
        }
    }
}

impl Validate for Limits {
    fn problems(&self) -> Vec<String> {
        let connections = [
            ("max_connections", self.max_connections),
            (
                "max_connections_per_address",
                self.max_connections_per_address,
            ),
        ];
        let none = connections.into_iter().filter(|(_, it)| *it == 0);
        none.map(|(key, _)| format!("{key}: must be at least 1"))
            .collect()
    }
}

/// Raises the limit of open files as far as it goes.
pub(crate) fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX))
}

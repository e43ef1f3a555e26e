//! What the core asks of the driver, and what it is told. Closed types of plain values, so that a test compares vectors
//! of them and a person reads a delivery's life from a list of them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hookfleet_contract::{
    id::DeliveryId,
    name::TenantId,
    partition::UNORDERED,
    response::Verdict,
    retry::{self, Jitter, Progress},
    shard::Shard,
    time::Timestamp,
};
use hookfleet_proto::v1::{DeadLetterReason, subscription::SuspendReason};

use super::{Uid, health::Hint};

/// What the core needs to know of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whose it is, and which part of it.
    pub shard: Shard,
    /// Scheme, host and port of its callback URL: the endpoint.
    pub endpoint: Arc<str>,
    /// When a failed delivery is tried again.
    pub policy: Arc<retry::Policy>,
    /// The most attempts in flight at once.
    pub max_in_flight: u32,
    /// The most attempts that start in a second.
    pub max_requests_per_second: Option<f64>,
    /// Deliveries wait.
    pub suspended: bool,
}

impl Settings {
    /// What a pause is of: the tenant's endpoint.
    pub(crate) fn place(&self) -> (TenantId, Arc<str>) {
        (self.shard.tenant.clone(), Arc::clone(&self.endpoint))
    }
}

/// A queue: the deliveries of a subscription, or of one partition of an ordered one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId {
    /// Whose.
    pub subscription: Uid,
    /// [`hookfleet_contract::partition::UNORDERED`], or which partition.
    pub partition: u16,
}

impl From<Uid> for QueueId {
    /// The queue of what is not ordered.
    fn from(subscription: Uid) -> Self {
        Self {
            subscription,
            partition: UNORDERED,
        }
    }
}

/// A delivery that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub delivery: DeliveryId,
    /// Where it stands in its schedule.
    pub progress: Progress,
    /// How large its event is.
    pub bytes: u32,
    /// When it may be attempted.
    pub due: Timestamp,
}

/// An effect that the driver performs.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make one attempt, then call [`super::Core::handle_finished`].
    Attempt(Attempt),
    /// Look whether the time to live of a delivery that cannot be attempted now is over, then call
    /// [`super::Core::handle_reviewed`].
    Review {
        /// Whose delivery.
        queue: QueueId,
        /// Which.
        delivery: DeliveryId,
    },
    /// Put a delivery into the queue on disk. `failed` says that an attempt brought it here, so the
    /// log must know; a delivery that merely found its head full is known to the log already.
    Defer {
        /// Whose queue.
        queue: QueueId,
        /// Which delivery.
        waiting: Waiting,
        /// Whether an attempt was made.
        failed: bool,
    },
    /// An attempt failed and the delivery stays where it is, at the head of its partition: the log
    /// must know.
    Postpone {
        /// Which delivery.
        waiting: Waiting,
    },
    /// Take up to `limit` deliveries that are due at `until` from the queue on disk, then call
    /// [`super::Core::handle_loaded`].
    Load {
        /// Whose queue.
        queue: QueueId,
        /// Take those that are due now or before.
        until: Timestamp,
        /// Take at most this many.
        limit: usize,
    },
    /// Give deliveries to the agent that owns their slot now, then call [`super::Core::handle_handed`].
    HandOver {
        /// Whose.
        queue: QueueId,
        /// Which, in order.
        lot: Vec<Waiting>,
    },
    /// The delivery is over.
    Settle {
        /// Which.
        delivery: DeliveryId,
        /// Where it stood in its schedule.
        progress: Progress,
        /// How it ended.
        end: End,
    },
    /// The receiver wants no more, or has been gone for long: tell the control plane.
    Suspend {
        /// Which subscription.
        subscription: Uid,
        /// Why.
        reason: SuspendReason,
    },
}

/// One attempt to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whose delivery.
    pub subscription: Uid,
    /// Which.
    pub delivery: DeliveryId,
    /// Where it stands, without this attempt.
    pub progress: Progress,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The receiver took it.
    Succeeded,
    /// Given up.
    DeadLettered(DeadLetterReason),
    /// Another agent goes on with it.
    HandedOver,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// What it meant.
    pub verdict: Verdict,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// Whether a request may have left: an attempt that was refused beforehand is not counted.
    pub attempted: bool,
    /// How long it took, from the start of the attempt.
    pub duration: Duration,
    /// The address of the public internet that was called, if it was one.
    pub destination: Option<IpAddr>,
    /// When the event was accepted.
    pub accept_time: Timestamp,
    /// The event's own `expirytime`.
    pub expiry: Option<Timestamp>,
    /// Random numbers for the next delay.
    pub jitter: Jitter,
    /// A random number, uniform in 0..1, that spreads a pause of the endpoint.
    pub spread: f64,
}

/// What an earlier run learnt, so that this one does not learn it again at the cost of others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// Of subscriptions.
    pub subscriptions: Vec<(Uid, Hint)>,
    /// Of endpoints.
    pub endpoints: Vec<(Arc<str>, Hint)>,
    /// Until when a tenant's endpoint asked to be left alone.
    pub pauses: Vec<(TenantId, Arc<str>, Timestamp)>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that wait, in memory and on disk.
    pub n_waiting: u64,
    /// Attempts in flight.
    pub n_in_flight: u64,
    /// Deliveries that wait in memory.
    pub n_in_memory: u64,
    /// Bytes of events in flight.
    pub bytes_in_flight: u64,
    /// Addresses to which attempts are in flight of receivers that are not proven.
    pub n_destinations: u64,
    /// Nothing is believed of endpoints, because our own network seems to have failed.
    pub braking: bool,
}

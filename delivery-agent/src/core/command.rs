//! What the core asks of the driver, and what it is told. Closed types of plain values, so that a test compares vectors
//! of them and a person reads a delivery's life from a list of them.

use hookfleet_contract::{
    id::DeliveryId,
    response::Verdict,
    retry::{Jitter, Progress},
    time::Timestamp,
};
use hookfleet_proto::v1::{DeadLetterReason, subscription::SuspendReason};

use super::Uid;

/// An effect that the driver performs.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make one attempt, then call [`super::Core::handle_finished`].
    Attempt(Attempt),
    /// Put a delivery into the queue on disk. `failed` says that an attempt brought it here, so the
    /// log must know; a delivery that merely found its head full is known to the log already.
    Defer {
        /// Whose queue.
        subscription: Uid,
        /// Which delivery.
        delivery: DeliveryId,
        /// Where it stands in its schedule.
        progress: Progress,
        /// When it is due.
        due: Timestamp,
        /// Whether an attempt was made.
        failed: bool,
    },
    /// Take up to `limit` deliveries that are due at `until` from the queue on disk, then call
    /// [`super::Core::handle_loaded`].
    Load {
        /// Whose queue.
        subscription: Uid,
        /// Take those that are due now or before.
        until: Timestamp,
        /// Take at most this many.
        limit: usize,
    },
    /// The delivery is over.
    Settle {
        /// Whose delivery.
        subscription: Uid,
        /// Which.
        delivery: DeliveryId,
        /// Where it stood in its schedule.
        progress: Progress,
        /// How it ended.
        end: End,
    },
    /// The receiver wants no more: tell the control plane.
    Suspend {
        /// Which subscription.
        subscription: Uid,
        /// What the receiver said.
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
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// What it meant.
    pub verdict: Verdict,
    /// Whether a request may have left: an attempt that was refused beforehand is not counted.
    pub attempted: bool,
    /// When the event was accepted.
    pub accept_time: Timestamp,
    /// The event's own `expirytime`.
    pub expiry: Option<Timestamp>,
    /// Random numbers for the next delay.
    pub jitter: Jitter,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that wait, in memory and on disk.
    pub n_waiting: u64,
    /// Attempts in flight.
    pub n_in_flight: u64,
}

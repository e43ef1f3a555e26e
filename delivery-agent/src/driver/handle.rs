//! What others may tell the driver and ask of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use hookfleet_contract::shard::Shard;
use hookfleet_proto::fleet::HealthHints;
use tokio::sync::{mpsc, oneshot};

use crate::{core::Counts, directory::Effect};

/// Changes of subscriptions that wait for the driver; the sync client waits with the next.
const CAPACITY: usize = 16;

/// A cheap handle for those who tell the driver of subscriptions.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    counts: Arc<SharedCounts>,
}

/// What it is told.
#[derive(Debug)]
pub(super) enum Input {
    Effects(Vec<Effect>),
    AllKnown,
    Shards(Asked),
    Leave(BTreeSet<Shard>),
    Learnt(HealthHints),
}

/// A question that is answered once all events before `next_seq` have been handed to the core.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) next_seq: u64,
    pub(super) reply: oneshot::Sender<Option<BTreeSet<Shard>>>,
}

/// What it tells.
#[derive(Debug, Default)]
pub(super) struct SharedCounts {
    n_waiting: AtomicU64,
    n_in_flight: AtomicU64,
    bytes_in_flight: AtomicU64,
    braking: AtomicBool,
}

// === impl Handle ===

impl Handle {
    pub(super) fn new() -> (Self, mpsc::Receiver<Input>, Arc<SharedCounts>) {
        let (inputs, receiver) = mpsc::channel(CAPACITY);
        let counts = Arc::<SharedCounts>::default();
        let handle = Self {
            inputs,
            counts: Arc::clone(&counts),
        };
        (handle, receiver, counts)
    }

    /// A handle of no driver: nobody hears what it is told.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self::new().0
    }

    /// Tells of subscriptions that are new, changed or gone.
    pub async fn effects(&self, effects: Vec<Effect>) {
        if !effects.is_empty() {
            self.tell(Input::Effects(effects)).await;
        }
    }

    /// Tells that every subscription there is has been told of.
    pub async fn all_known(&self) {
        self.tell(Input::AllKnown).await;
    }

    /// The shards that have deliveries of events before `next_seq`, or later ones. Nothing before every subscription
    /// with deliveries is known.
    pub async fn shards(&self, next_seq: u64) -> Option<BTreeSet<Shard>> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Shards(Asked { next_seq, reply })).await;
        answer.await.ok()?
    }

    /// Tells that the deliveries in these shards are to go on at other agents.
    pub async fn leave(&self, shards: BTreeSet<Shard>) {
        self.tell(Input::Leave(shards)).await;
    }

    /// Tells what another agent learnt of what it hands over next.
    pub async fn learn(&self, hints: HealthHints) {
        self.tell(Input::Learnt(hints)).await;
    }

    /// How much there is to do.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            n_waiting: self.counts.n_waiting.load(Ordering::Relaxed),
            n_in_flight: self.counts.n_in_flight.load(Ordering::Relaxed),
            bytes_in_flight: self.counts.bytes_in_flight.load(Ordering::Relaxed),
            braking: self.counts.braking.load(Ordering::Relaxed),
            ..Counts::default()
        }
    }

    async fn tell(&self, input: Input) {
        if self.inputs.send(input).await.is_err() {
            tracing::debug!("the driver has ended");
        }
    }
}

// === impl SharedCounts ===

impl SharedCounts {
    pub(super) fn set(&self, counts: Counts) {
        self.n_waiting.store(counts.n_waiting, Ordering::Relaxed);
        self.n_in_flight
            .store(counts.n_in_flight, Ordering::Relaxed);
        self.bytes_in_flight
            .store(counts.bytes_in_flight, Ordering::Relaxed);
        self.braking.store(counts.braking, Ordering::Relaxed);
    }
}

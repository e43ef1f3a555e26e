//! The only place where the core meets effects: feeds it what happens and performs what it says.
//! It contains no decision of its own but one: to take no new events and to start no attempts while the
//! disk is behind.

mod account;
mod disk_queue;
mod effects;
mod handle;
pub mod hints;
mod perform;

use std::{future::ready, sync::Arc, time::Duration};

use hookfleet_contract::{
    id::DeliveryId, retry::Progress, subscription::Subscription, time::Timestamp,
};
use hookfleet_gateway::limits::memory::Memory;
use hookfleet_proto::v1::{DeadLetterReason, subscription::SuspendReason};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    callback::{Caller, Completed},
    clock::Clock,
    core::{Core, QueueId, Waiting},
    directory::{Directory, Effect},
    history::History,
    journal::{self, Deferred, Recovered, StoredEvent},
    relay::{
        courier::Courier,
        handover::{Handed, Lot},
        parking::{self, PARKED},
    },
};

pub use handle::Handle;

use account::Account;
use disk_queue::{DiskQueue, Loaded};
use handle::{Asked, Input, SharedCounts};

/// New events wait in the journal's channel while more than this waits for the disk, and no attempt starts: each makes
/// an outcome.
const MAX_DISK_BACKLOG: usize = 65_536;
/// How soon to look again whether the disk has caught up.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// How many events are taken from the journal at once, and how many deliveries of them, so that
/// completions never wait long, however many subscriptions an event has.
const ACCEPTED_BATCH: usize = 256;
const DELIVERIES_BATCH: usize = 1024;
/// While another agent cannot take what it is given, we go on with it for so long.
const LEAVE_PAUSE: Duration = Duration::from_secs(5);
/// How often what was learnt of receivers is written down.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// The most bytes of events in flight: each is in memory twice, as an event and as a body.
const MAX_BYTES_IN_FLIGHT: usize = 64 << 20;

/// What the driver works with.
#[derive(Debug)]
pub struct Config {
    /// The most attempts in flight at once.
    pub max_in_flight: usize,
    /// What there is for events in flight.
    pub memory: Memory,
    /// How long attempts in flight may go on after shutdown.
    pub drain_timeout: Duration,
    /// The queue on disk.
    pub deferred: Deferred,
    /// What became of events.
    pub history: History,
    /// What is known of subscriptions.
    pub directory: Directory,
    /// Makes attempts.
    pub caller: Caller,
    /// Sends parked events on.
    pub courier: Courier,
    /// Where lots go that are to be handed over, and where they come back.
    pub handovers: (mpsc::UnboundedSender<Lot>, mpsc::UnboundedReceiver<Handed>),
    /// Where what is learnt of receivers is kept.
    pub hints: hints::Store,
    /// The time.
    pub clock: Clock,
    /// Events, as they become durable.
    pub accepted: mpsc::Receiver<Arc<StoredEvent>>,
    /// Where subscriptions go whose receivers want no more. Each goes there once until it is
    /// resumed, so the channel is bounded by their number.
    pub suspensions: mpsc::UnboundedSender<(Arc<Subscription>, SuspendReason)>,
}

/// The driver cannot go on; the process must end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread of the queue on disk could not start.
    #[error("cannot start the thread of the queue on disk")]
    Thread(#[source] std::io::Error),
    /// The queue on disk failed.
    #[error("the queue on disk failed")]
    DiskQueue(#[source] journal::Error),
    /// The journal ended.
    #[error("the journal has stopped")]
    Journal,
}

/// A delivery that cannot be attempted now, and why it is over, if it is.
#[derive(Debug)]
struct Reviewed {
    queue: QueueId,
    delivery: DeliveryId,
    over: Option<DeadLetterReason>,
}

/// Joins the core and its effects.
#[derive(Debug)]
pub struct Driver {
    core: Core,
    clock: Clock,
    directory: Directory,
    caller: Caller,
    courier: Courier,
    account: Account,
    disk_queue: DiskQueue,
    accepted: mpsc::Receiver<Arc<StoredEvent>>,
    /// Events that are being handed to the core, in reverse.
    accepting: Vec<Arc<StoredEvent>>,
    /// How many deliveries of the last of them the core has.
    n_handed: usize,
    /// The core has the deliveries of all events before this one.
    next_seq: u64,
    asked: Vec<Asked>,
    completions: (
        mpsc::UnboundedSender<Completed>,
        mpsc::UnboundedReceiver<Completed>,
    ),
    reviews: (
        mpsc::UnboundedSender<Reviewed>,
        mpsc::UnboundedReceiver<Reviewed>,
    ),
    loaded: mpsc::UnboundedReceiver<Result<Loaded, journal::Error>>,
    lots: mpsc::UnboundedSender<Lot>,
    handed: mpsc::UnboundedReceiver<Handed>,
    /// Nobody leaves before this, because the other agent could not take what it was given.
    leave_after: Timestamp,
    inputs: mpsc::Receiver<Input>,
    suspensions: mpsc::UnboundedSender<(Arc<Subscription>, SuspendReason)>,
    counts: Arc<SharedCounts>,
    hints: hints::Keeper,
    tasks: TaskTracker,
    drain_timeout: Duration,
}

// === impl Driver ===

impl Driver {
    /// A driver that knows of the deliveries of an earlier run, and of subscriptions from a snapshot.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn new(
        config: Config,
        recovered: Recovered,
        known: Vec<Effect>,
    ) -> Result<(Self, Handle), Error> {
        let (loaded_sender, loaded) = mpsc::unbounded_channel();
        let disk_queue = DiskQueue::start(config.deferred, loaded_sender).map_err(Error::Thread)?;
        let (lots, handed) = config.handovers;
        let (handle, inputs, counts) = Handle::new();
        let max_bytes = config.memory.share(MAX_BYTES_IN_FLIGHT);
        let mut core = Core::new(config.max_in_flight, max_bytes as u64);
        let now = config.clock.now();
        let hints = config.hints.load(now);
        core.handle_hints(hints.clone());
        for summary in recovered.pending {
            core.handle_recovered(summary.queue, summary.count, summary.next_due, now);
        }
        let mut driver = Self {
            core,
            clock: config.clock,
            directory: config.directory,
            account: Account::new(&config.caller, config.history),
            caller: config.caller,
            courier: config.courier,
            disk_queue,
            accepted: config.accepted,
            accepting: Vec::with_capacity(ACCEPTED_BATCH),
            n_handed: 0,
            next_seq: recovered.next_seq,
            asked: Vec::new(),
            completions: mpsc::unbounded_channel(),
            reviews: mpsc::unbounded_channel(),
            loaded,
            lots,
            handed,
            leave_after: Timestamp::default(),
            inputs,
            suspensions: config.suspensions,
            counts,
            hints: hints::Keeper::new(config.hints, hints),
            tasks: TaskTracker::new(),
            drain_timeout: config.drain_timeout,
        };
        driver.handle_input(Input::Effects(known));
        if let Some(settings) = parking::settings() {
            driver.core.handle_subscription(PARKED, settings, now);
        }
        Ok((driver, handle))
    }

    /// Delivers until `shutdown`, then lets attempts in flight end and records what they came to.
    ///
    /// # Errors
    /// When the disk can no longer be trusted; the process must end.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut saving = interval(SAVE_EVERY);
        loop {
            let behind = self.is_disk_behind();
            // New events go on: the thread that writes outcomes hands them over, and must not wait for itself.
            let overfull = behind || self.account.n_unwritten() > MAX_DISK_BACKLOG;
            let now = self.perform(!overfull);
            self.answer();
            let busy = !self.accepting.is_empty();
            let wake = self.core.poll_timeout().map(|at| at.since(now));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // Completions free permits and must not wait behind new work.
                Some(completed) = self.completions.1.recv() => self.handle_completed(completed),
                Some(loaded) = self.loaded.recv() => {
                    self.handle_loaded(loaded.map_err(Error::DiskQueue)?);
                }
                Some(handed) = self.handed.recv() => self.handle_handed(handed),
                // A subscription that is gone must not be called again.
                Some(input) = self.inputs.recv() => self.handle_input(input),
                Some(reviewed) = self.reviews.1.recv() => self.handle_reviewed(&reviewed),
                n_taken = self.accepted.recv_many(&mut self.accepting, ACCEPTED_BATCH),
                    if !behind && !busy =>
                {
                    if n_taken == 0 {
                        return Err(Error::Journal);
                    }
                    self.accepting.reverse();
                    self.accept();
                }
                _ = saving.tick() => drop(self.save_hints()),
                () = ready(()), if busy && !behind => self.accept(),
                () = sleep(wake.unwrap_or(Duration::MAX)), if wake.is_some() => {
                    self.core.handle_timeout(self.clock.now());
                }
                () = sleep(BACKLOG_PAUSE), if overfull => {}
            }
        }
        self.drain().await;
        Ok(())
    }

    async fn drain(&mut self) {
        self.core.handle_stop();
        self.tasks.close();
        if timeout(self.drain_timeout, self.tasks.wait())
            .await
            .is_err()
        {
            let n_left = self.tasks.len();
            tracing::warn!(n_left, "attempts were cut off; they will be made again");
        }
        while let Ok(completed) = self.completions.1.try_recv() {
            self.handle_completed(completed);
            self.perform(false);
        }
        if let Some(saving) = self.save_hints() {
            // It has said what went wrong.
            saving.await.ok();
        }
    }

    /// Writes down what was learnt of receivers.
    fn save_hints(&mut self) -> Option<JoinHandle<()>> {
        self.hints.save(self.core.hints(self.clock.now()))
    }

    fn is_disk_behind(&self) -> bool {
        self.disk_queue.backlog() + self.account.backlog() > MAX_DISK_BACKLOG
    }

    fn handle_completed(&mut self, completed: Completed) {
        let finished = self.account.attempted(completed);
        self.core.handle_finished(finished, self.clock.now());
    }

    fn handle_loaded(&mut self, loaded: Loaded) {
        let now = self.clock.now();
        self.core
            .handle_loaded(loaded.queue, loaded.deliveries, loaded.next_due, now);
    }

    fn handle_input(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Effects(effects) => {
                for effect in effects {
                    self.handle_effect(&effect, now);
                }
            }
            Input::AllKnown => self.core.handle_all_known(now),
            Input::Learnt(hints) => self.core.handle_learnt(hints::read(hints, now), now),
            Input::Shards(asked) => self.asked.push(asked),
            Input::Leave(shards) => {
                if now >= self.leave_after {
                    self.core.handle_leaving(&shards, now);
                }
            }
        }
    }

    fn handle_handed(&mut self, handed: Handed) {
        let now = self.clock.now();
        let Handed { lot, is_taken } = handed;
        if !is_taken {
            self.leave_after = now + LEAVE_PAUSE;
        }
        self.core
            .handle_handed(lot.queue, lot.deliveries, is_taken, now);
    }

    /// Answers who asked about events that the core has all of by now.
    fn answer(&mut self) {
        let next_seq = self.next_seq;
        for asked in self.asked.extract_if(.., |it| it.next_seq <= next_seq) {
            // Whoever asked may have gone.
            asked.reply.send(self.core.shards()).ok();
        }
    }

    fn handle_reviewed(&mut self, reviewed: &Reviewed) {
        let now = self.clock.now();
        let &Reviewed {
            queue,
            delivery,
            over,
        } = reviewed;
        self.core.handle_reviewed(queue, delivery, over, now);
    }

    /// Hands some deliveries of new events to the core.
    fn accept(&mut self) {
        let now = self.clock.now();
        let mut room = DELIVERIES_BATCH;
        while room > 0
            && let Some(event) = self.accepting.last().map(Arc::clone)
        {
            if self.n_handed == 0 {
                self.account.accepted(&event);
            }
            for (delivery, target) in event.deliveries().skip(self.n_handed).take(room) {
                let stand = usize::try_from(delivery.target).ok();
                let stand = stand.and_then(|place| event.stands.get(place));
                let waiting = Waiting {
                    delivery,
                    progress: stand.map_or(Progress::default(), |it| it.progress),
                    bytes: event.n_bytes(),
                    due: stand.map_or(now, |it| it.due),
                };
                let directory = &self.directory;
                let settings = || match target.uid {
                    PARKED => parking::settings(),
                    uid => directory.settings(&uid),
                };
                self.core
                    .handle_accepted(target.queue(), waiting, settings, now);
            }
            let n_left = event.targets.len() - self.n_handed;
            if n_left <= room {
                room -= n_left;
                self.n_handed = 0;
                self.next_seq = event.seq + 1;
                self.accepting.pop();
            } else {
                self.n_handed += room;
                room = 0;
            }
        }
    }
}

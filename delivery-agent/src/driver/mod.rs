//! The only place where the core meets effects: feeds it what happens and performs what it says.
//! It contains no decision of its own but one: to take no new events while the disk is behind.

mod account;
mod disk_queue;
mod handle;

use std::{sync::Arc, time::Duration};

use hookfleet_contract::{
    response::Verdict, retry::Jitter, subscription::Subscription, time::Timestamp,
};
use hookfleet_proto::v1::{DeadLetterReason, subscription::SuspendReason};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    callback::{Caller, Completed},
    clock::Clock,
    core::{Attempt, Command, Core, Finished, Settings},
    directory::{Directory, Effect},
    history::History,
    journal::{self, Deferred, Journal, PendingSummary, StoredEvent},
};

pub use handle::Handle;

use account::Account;
use disk_queue::{DiskQueue, Loaded};
use handle::{Input, SharedCounts};

/// New events wait in the journal's channel while more than this waits for the disk.
const MAX_DISK_BACKLOG: usize = 65_536;
/// How soon to look again whether the disk has caught up.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// How many events are taken from the journal at once, so that completions never wait long.
const ACCEPTED_BATCH: usize = 256;

/// What the driver works with.
#[derive(Debug)]
pub struct Config {
    /// The most attempts in flight at once.
    pub max_in_flight: usize,
    /// How long attempts in flight may go on after shutdown.
    pub drain_timeout: Duration,
    /// The log.
    pub journal: Journal,
    /// The queue on disk.
    pub deferred: Deferred,
    /// What became of events.
    pub history: History,
    /// What is known of subscriptions.
    pub directory: Directory,
    /// Makes attempts.
    pub caller: Caller,
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

/// Joins the core and its effects.
#[derive(Debug)]
pub struct Driver {
    core: Core,
    clock: Clock,
    directory: Directory,
    caller: Caller,
    account: Account,
    disk_queue: DiskQueue,
    accepted: mpsc::Receiver<Arc<StoredEvent>>,
    completions: (
        mpsc::UnboundedSender<Completed>,
        mpsc::UnboundedReceiver<Completed>,
    ),
    loaded: mpsc::UnboundedReceiver<Result<Loaded, journal::Error>>,
    inputs: mpsc::Receiver<Input>,
    suspensions: mpsc::UnboundedSender<(Arc<Subscription>, SuspendReason)>,
    counts: Arc<SharedCounts>,
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
        pending: Vec<PendingSummary>,
        known: Vec<Effect>,
    ) -> Result<(Self, Handle), Error> {
        let (loaded_sender, loaded) = mpsc::unbounded_channel();
        let disk_queue = DiskQueue::start(config.deferred, loaded_sender).map_err(Error::Thread)?;
        let (handle, inputs, counts) = Handle::new();
        let mut core = Core::new(config.max_in_flight);
        let now = config.clock.now();
        for summary in pending {
            core.handle_recovered(summary.subscription, summary.count, summary.next_due, now);
        }
        let mut driver = Self {
            core,
            clock: config.clock,
            directory: config.directory,
            caller: config.caller,
            account: Account::new(config.journal, config.history, config.clock),
            disk_queue,
            accepted: config.accepted,
            completions: mpsc::unbounded_channel(),
            loaded,
            inputs,
            suspensions: config.suspensions,
            counts,
            tasks: TaskTracker::new(),
            drain_timeout: config.drain_timeout,
        };
        driver.handle_input(Input::Effects(known));
        Ok((driver, handle))
    }

    /// Delivers until `shutdown`, then lets attempts in flight end and records what they came to.
    ///
    /// # Errors
    /// When the disk can no longer be trusted; the process must end.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut accepted = Vec::with_capacity(ACCEPTED_BATCH);
        loop {
            let now = self.perform();
            let behind = self.is_disk_behind();
            let wake = self.core.poll_timeout().map(|at| at.since(now));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // Completions free permits and must not wait behind new work.
                Some(completed) = self.completions.1.recv() => self.handle_completed(completed),
                Some(loaded) = self.loaded.recv() => {
                    self.handle_loaded(loaded.map_err(Error::DiskQueue)?);
                }
                // A subscription that is gone must not be called again.
                Some(input) = self.inputs.recv() => self.handle_input(input),
                n_taken = self.accepted.recv_many(&mut accepted, ACCEPTED_BATCH), if !behind => {
                    if n_taken == 0 {
                        return Err(Error::Journal);
                    }
                    for event in accepted.drain(..) {
                        self.handle_accepted(&event);
                    }
                }
                () = sleep(wake.unwrap_or(Duration::MAX)), if wake.is_some() => {
                    self.core.handle_timeout(self.clock.now());
                }
                () = sleep(BACKLOG_PAUSE), if behind => {}
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
            self.perform();
        }
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
            .handle_loaded(loaded.subscription, loaded.deliveries, loaded.next_due, now);
    }

    fn handle_input(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Effects(effects) => {
                for effect in effects {
                    match effect {
                        Effect::Live {
                            subscription,
                            suspended,
                        } => {
                            let settings = settings(&subscription, suspended);
                            self.core
                                .handle_subscription(subscription.uid, settings, now);
                        }
                        Effect::Ended(uid) => self.core.handle_ended(uid, now),
                    }
                }
            }
            Input::AllKnown => self.core.handle_all_known(now),
        }
    }

    fn handle_accepted(&mut self, event: &StoredEvent) {
        self.account.accepted(event);
        let now = self.clock.now();
        for (delivery, target) in event.deliveries() {
            self.core.handle_accepted(target.uid, delivery, now);
        }
    }

    /// Performs everything the core asks for; returns the time it is left at.
    fn perform(&mut self) -> Timestamp {
        let mut now = self.clock.now();
        while let Some(command) = self.core.poll_command(now) {
            if let Command::Attempt(attempt) = command {
                self.start(attempt, now);
            } else {
                self.carry_out(command);
            }
            now = self.clock.now();
        }
        self.counts.set(self.core.counts());
        now
    }

    fn start(&mut self, attempt: Attempt, now: Timestamp) {
        let Some(subscription) = self.directory.subscription(&attempt.subscription) else {
            // Gone since the core was told of it; the word of that is on its way.
            let reason = DeadLetterReason::SubscriptionEnded;
            self.core
                .handle_finished(refused(attempt, reason, now), now);
            return;
        };
        let (caller, completions) = (self.caller.clone(), self.completions.0.clone());
        self.tasks.spawn(async move {
            let completed = caller.call(attempt, subscription).await;
            if completions.send(completed).is_err() {
                tracing::debug!("an attempt ended after the driver");
            }
        });
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Attempt(_) => unreachable!("started by `perform`"),
            Command::Defer {
                subscription,
                delivery,
                progress,
                due,
                failed,
            } => {
                if failed {
                    self.account.deferred(delivery, progress, due);
                }
                self.disk_queue.defer(subscription, due, delivery, progress);
            }
            Command::Load {
                subscription,
                until,
                limit,
            } => self.disk_queue.load(subscription, until, limit),
            Command::Settle {
                subscription: _,
                delivery,
                progress,
                end,
            } => self.account.settled(delivery, progress, end),
            Command::Suspend {
                subscription,
                reason,
            } => {
                let subscription = self.directory.subscription(&subscription);
                if let Some(subscription) = subscription
                    && self.suspensions.send((subscription, reason)).is_err()
                {
                    tracing::debug!("the sync client has ended");
                }
            }
        }
    }
}

fn settings(subscription: &Subscription, suspended: bool) -> Settings {
    Settings {
        policy: Arc::clone(&subscription.policy),
        max_in_flight: subscription.max_in_flight,
        suspended,
    }
}

/// The answer to an attempt that cannot be made.
fn refused(attempt: Attempt, reason: DeadLetterReason, now: Timestamp) -> Finished {
    Finished {
        delivery: attempt.delivery,
        verdict: Verdict::Reject(reason),
        attempted: false,
        accept_time: now,
        expiry: None,
        jitter: Jitter::NONE,
    }
}

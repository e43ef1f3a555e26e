//! The only place where the core meets effects: feeds it what happens and performs what it says.
//! It contains no decision of its own but one: to take no new events while the disk is behind.
//!
//! **Invariant:** an outcome is in the log's queue before anything else learns of it.

mod disk_queue;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hookfleet_contract::{
    event::Event, id::DeliveryId, response::Verdict, retry::Jitter, subscription::Subscription,
    time::Timestamp,
};
use hookfleet_proto::v1::{self, DeadLetterReason, subscription::SuspendReason};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    callback::{Caller, Completed},
    clock::Clock,
    core::{Attempt, Command, Core, Counts, End, Finished, Settings},
    directory::{Directory, Effect},
    history::{DeliveryRow, EventRow, History, Row, Standing, Subject},
    journal::{self, Deferred, Journal, Outcome, PendingSummary, StoredEvent},
};

use disk_queue::{DiskQueue, Loaded};

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

/// A cheap handle for those who tell the driver of subscriptions.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    counts: Arc<SharedCounts>,
}

#[derive(Debug, Default)]
struct SharedCounts {
    n_waiting: AtomicU64,
    n_in_flight: AtomicU64,
}

#[derive(Debug)]
enum Input {
    Effects(Vec<Effect>),
    AllKnown,
}

/// Joins the core and its effects.
#[derive(Debug)]
pub struct Driver {
    config: Config,
    core: Core,
    disk_queue: DiskQueue,
    /// What is still to be said of attempts whose meaning the core has not told yet.
    completed: HashMap<DeliveryId, Told>,
    tasks: TaskTracker,
    completions: (
        mpsc::UnboundedSender<Completed>,
        mpsc::UnboundedReceiver<Completed>,
    ),
    loaded: mpsc::UnboundedReceiver<Result<Loaded, journal::Error>>,
    inputs: mpsc::Receiver<Input>,
    counts: Arc<SharedCounts>,
}

#[derive(Debug)]
struct Told {
    record: Option<v1::Attempt>,
    event: Option<Arc<StoredEvent>>,
}

// === impl Handle ===

impl Handle {
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

    /// How much there is to do.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            n_waiting: self.counts.n_waiting.load(Ordering::Relaxed),
            n_in_flight: self.counts.n_in_flight.load(Ordering::Relaxed),
        }
    }

    async fn tell(&self, input: Input) {
        if self.inputs.send(input).await.is_err() {
            tracing::debug!("the driver has ended");
        }
    }
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
        let disk_queue =
            DiskQueue::start(config.deferred.clone(), loaded_sender).map_err(Error::Thread)?;
        let (inputs_sender, inputs) = mpsc::channel(16);
        let counts = Arc::<SharedCounts>::default();
        let mut core = Core::new(config.max_in_flight);
        let now = config.clock.now();
        for summary in pending {
            core.handle_recovered(summary.subscription, summary.count, summary.next_due, now);
        }
        let mut driver = Self {
            config,
            core,
            disk_queue,
            completed: HashMap::new(),
            tasks: TaskTracker::new(),
            completions: mpsc::unbounded_channel(),
            loaded,
            inputs,
            counts: Arc::clone(&counts),
        };
        driver.handle_input(Input::Effects(known));
        let handle = Handle {
            inputs: inputs_sender,
            counts,
        };
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
                n_taken = self.config.accepted.recv_many(&mut accepted, ACCEPTED_BATCH), if !behind => {
                    if n_taken == 0 {
                        return Err(Error::Journal);
                    }
                    for event in accepted.drain(..) {
                        self.handle_accepted(&event);
                    }
                }
                () = sleep(wake.unwrap_or(Duration::MAX)), if wake.is_some() => {
                    self.core.handle_timeout(self.config.clock.now());
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
        let deadline = self.config.drain_timeout;
        if timeout(deadline, self.tasks.wait()).await.is_err() {
            let n_left = self.tasks.len();
            tracing::warn!(n_left, "attempts were cut off; they will be made again");
        }
        while let Ok(completed) = self.completions.1.try_recv() {
            self.handle_completed(completed);
            self.perform();
        }
    }

    fn is_disk_behind(&self) -> bool {
        self.disk_queue.backlog() + self.config.history.backlog() > MAX_DISK_BACKLOG
    }

    fn handle_completed(&mut self, completed: Completed) {
        let told = Told {
            record: completed.record,
            event: completed.event,
        };
        self.completed.insert(completed.finished.delivery, told);
        self.core
            .handle_finished(completed.finished, self.config.clock.now());
    }

    fn handle_loaded(&mut self, loaded: Loaded) {
        let now = self.config.clock.now();
        self.core
            .handle_loaded(loaded.subscription, loaded.deliveries, loaded.next_due, now);
    }

    fn handle_input(&mut self, input: Input) {
        let now = self.config.clock.now();
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
        let now = self.config.clock.now();
        if event.redelivery_of.is_none() {
            self.config.history.record(Row::Event(EventRow {
                tenant: event.tenant.clone(),
                webhook_id: event.webhook_id,
                accept_time: event.accept_time,
                seq: event.seq,
            }));
        }
        let event_type = event_type(event);
        for (delivery, target) in event.deliveries() {
            self.config
                .history
                .record(Row::Delivery(DeliveryRow::Accepted {
                    id: delivery,
                    accept_time: event.accept_time,
                    subject: subject(event, delivery, &event_type),
                }));
            self.core.handle_accepted(target.uid, delivery, now);
        }
    }

    /// Performs everything the core asks for; returns the time it is left at.
    fn perform(&mut self) -> Timestamp {
        let mut now = self.config.clock.now();
        while let Some(command) = self.core.poll_command(now) {
            if let Command::Attempt(attempt) = command {
                self.start(attempt, now);
            } else {
                self.carry_out(command);
            }
            now = self.config.clock.now();
        }
        let counts = self.core.counts();
        self.counts
            .n_waiting
            .store(counts.n_waiting, Ordering::Relaxed);
        self.counts
            .n_in_flight
            .store(counts.n_in_flight, Ordering::Relaxed);
        now
    }

    fn start(&mut self, attempt: Attempt, now: Timestamp) {
        let Some(subscription) = self.config.directory.subscription(&attempt.subscription) else {
            // Gone since the core was told of it; the word of that is on its way.
            let reason = DeadLetterReason::SubscriptionEnded;
            self.core
                .handle_finished(refused(attempt, reason, now), now);
            return;
        };
        let (caller, completions) = (self.config.caller.clone(), self.completions.0.clone());
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
                    self.config.journal.record(Outcome {
                        delivery,
                        progress,
                        standing: journal::Standing::Deferred { due },
                        at: self.config.clock.now(),
                    });
                    self.tell_history(delivery, |_| Standing::Pending { next: due });
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
            } => {
                let standing = match end {
                    End::Succeeded => journal::Standing::Succeeded,
                    End::DeadLettered(reason) => journal::Standing::DeadLettered(reason),
                };
                self.settle(delivery, end);
                self.config.journal.record(Outcome {
                    delivery,
                    progress,
                    standing,
                    at: self.config.clock.now(),
                });
            }
            Command::Suspend {
                subscription,
                reason,
            } => {
                let subscription = self.config.directory.subscription(&subscription);
                if let Some(subscription) = subscription
                    && self
                        .config
                        .suspensions
                        .send((subscription, reason))
                        .is_err()
                {
                    tracing::debug!("the sync client has ended");
                }
            }
        }
    }

    /// Dead letters keep their event, so that it can be delivered again when the journal forgot it.
    fn settle(&mut self, delivery: DeliveryId, end: End) {
        self.tell_history(delivery, |event| match end {
            End::Succeeded => Standing::Succeeded,
            End::DeadLettered(reason) => Standing::DeadLettered {
                reason,
                event: event.map(|it| it.event.clone()).unwrap_or_default(),
            },
        });
    }

    fn tell_history(
        &mut self,
        delivery: DeliveryId,
        standing: impl FnOnce(Option<&StoredEvent>) -> Standing,
    ) {
        let told = self.completed.remove(&delivery).unwrap_or(Told {
            record: None,
            event: None,
        });
        let event = told
            .event
            .or_else(|| self.config.journal.read(delivery.seq).ok().flatten());
        let Some(event) = event else {
            tracing::error!(%delivery, "the history has a gap: the event cannot be read");
            return;
        };
        let (id, accept_time) = (delivery, event.accept_time);
        let subject = subject(&event, delivery, &event_type(&event));
        let standing = standing(Some(&event));
        let row = match told.record {
            Some(attempt) => DeliveryRow::Attempted {
                id,
                accept_time,
                subject,
                attempt,
                standing,
            },
            None => DeliveryRow::Settled {
                id,
                accept_time,
                subject,
                standing,
                at: self.config.clock.now(),
            },
        };
        self.config.history.record(Row::Delivery(row));
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

fn event_type(event: &StoredEvent) -> Arc<str> {
    let decoded = Event::decode(&event.event);
    decoded.map_or_else(|_| "".into(), |it| it.event_type().into())
}

fn subject(event: &StoredEvent, delivery: DeliveryId, event_type: &Arc<str>) -> Subject {
    let target = usize::try_from(delivery.target).ok();
    let target = target
        .and_then(|it| event.targets.get(it))
        .or(event.targets.first());
    Subject {
        tenant: event.tenant.clone(),
        subscription: match target {
            Some(target) => target.subscription.clone(),
            None => unreachable!("a delivery has a target"),
        },
        webhook_id: event.webhook_id,
        event_type: Arc::clone(event_type),
        redelivery_of: event.redelivery_of,
    }
}

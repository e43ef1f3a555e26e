//! What an attempt that is over means: for its subscription, for its endpoint, for its delivery.

use std::time::Duration;

use hookfleet_contract::{
    response::Verdict,
    retry::{Next, Progress, Retry},
    time::Timestamp,
};
use hookfleet_proto::v1::{FailureKind, subscription::SuspendReason};

use super::{
    Command, Core, End, Finished, Waiting, breaker::Failure, ended, pick::InFlight,
    subscription::Phase,
};

/// The shortest pause of an endpoint that throttles.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// What an attempt says about who was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lesson {
    /// All is well.
    Took,
    /// There is somebody, who did not want this delivery.
    Refused,
    /// There is somebody, to whom it is too much.
    Throttled,
    /// There is somebody, who is ill.
    Failed,
    /// There is somebody, who did not answer.
    Silent,
    /// There is nobody.
    Unreached,
    /// Nobody was called, or it went wrong on our side.
    Nothing,
}

// === impl Lesson ===

impl Lesson {
    fn of(finished: &Finished) -> Self {
        if !finished.attempted {
            return Self::Nothing;
        }
        match &finished.verdict {
            Verdict::Delivered => Self::Took,
            Verdict::Reject(_) | Verdict::Suspend(_) => Self::Refused,
            Verdict::Retry(retry) => match retry.failure {
                FailureKind::TargetUnreachable | FailureKind::Connect | FailureKind::Tls => {
                    Self::Unreached
                }
                FailureKind::Timeout
                | FailureKind::ConnectionReset
                | FailureKind::Protocol
                | FailureKind::ResponseTooLarge => Self::Silent,
                FailureKind::Status if retry.throttled => Self::Throttled,
                FailureKind::Status if finished.status.is_some_and(|it| it >= 500) => Self::Failed,
                FailureKind::Status => Self::Refused,
                FailureKind::Unspecified | FailureKind::Internal | FailureKind::Unsendable => {
                    Self::Nothing
                }
            },
        }
    }
}

// === impl Core ===

impl Core {
    /// An attempt is over.
    pub fn handle_finished(&mut self, finished: Finished, now: Timestamp) {
        let Some(flight) = self.in_flight.remove(&finished.delivery) else {
            debug_assert!(false, "{:?} was not in flight", finished.delivery);
            return;
        };
        self.n_waiting += 1;
        self.release(&flight);
        let lesson = Lesson::of(&finished);
        self.learn_of_endpoint(&flight, lesson, &finished, now);
        self.learn_of_subscription(&flight, lesson, &finished, now);
        self.conclude(&flight, lesson, &finished, now);
        let (key, endpoint) = (flight.subscription, flight.endpoint);
        self.tables.subscriptions[key].sort(flight.partition, now);
        self.refresh(key, now);
        self.wake_endpoint(endpoint, now);
        self.wake_destination(flight.destination, now);
        self.wake_budget(now);
        if self.tables.endpoints.contains(endpoint) {
            let left = self.tables.leave_endpoint(endpoint);
            self.silence(left);
        }
    }

    /// Where the endpoint is, whether it is in reach, and whether it is our network that fails.
    fn learn_of_endpoint(
        &mut self,
        flight: &InFlight,
        lesson: Lesson,
        finished: &Finished,
        now: Timestamp,
    ) {
        let endpoint = &mut self.tables.endpoints[flight.endpoint];
        endpoint.health.destination = finished.destination.or(endpoint.health.destination);
        let generation = flight.endpoint_generation;
        if lesson == Lesson::Nothing {
            endpoint.breaker().said_nothing(generation);
            return;
        }
        let reached = lesson != Lesson::Unreached;
        if endpoint.is_known_good(now) && self.brake.ended(reached, &mut endpoint.counted, now) {
            let is_on = self.brake.is_on();
            tracing::warn!(is_on, "most endpoints that were in reach no longer are");
        }
        if reached {
            endpoint.answered(now);
            endpoint.health.succeeded();
            endpoint.breaker().succeeded(generation, now);
        } else if self.brake.is_on() {
            endpoint.breaker().said_nothing(generation);
        } else {
            endpoint.health.failed(now);
            let failure = Failure {
                // Of those in flight, with this one.
                weight: 1.0 / (endpoint.in_flight as f32 + 1.0),
                is_dead: endpoint.health.is_dead(now),
                longest: Duration::MAX,
                spread: finished.spread,
            };
            if endpoint.breaker().failed(generation, failure, now)
                && let Some(until) = endpoint.open_until(now)
            {
                self.alarm_endpoint(flight.endpoint, until);
            }
        }
    }

    /// How much the receiver takes, and how fast.
    fn learn_of_subscription(
        &mut self,
        flight: &InFlight,
        lesson: Lesson,
        finished: &Finished,
        now: Timestamp,
    ) {
        let subscription = &mut self.tables.subscriptions[flight.subscription];
        let Phase::Live(live) = &mut subscription.phase else {
            return;
        };
        let (in_flight, max) = (subscription.in_flight, live.settings.max_in_flight);
        let health = &mut subscription.health;
        let is_believed = !self.brake.is_on() || lesson != Lesson::Unreached;
        match lesson {
            Lesson::Took => health.answered(finished.duration),
            Lesson::Nothing => {}
            Lesson::Throttled => {}
            Lesson::Refused | Lesson::Failed | Lesson::Silent | Lesson::Unreached => {
                if is_believed {
                    health.failed(now);
                }
            }
        }
        let generation = flight.generation;
        if health.breaker.is_current(generation) {
            let window = health.window.size(max) as f32;
            let failure = |weight| Failure {
                weight,
                is_dead: health.is_dead(now),
                // Whoever wants a retry every second wants to know every second.
                longest: live.settings.policy.schedule.longest(),
                spread: finished.spread,
            };
            match lesson {
                Lesson::Took => {
                    if health.breaker.succeeded(generation, now) {
                        health.window.reset();
                    }
                    health.window.succeeded(in_flight, max);
                }
                Lesson::Refused => {
                    health.breaker.answered(generation);
                }
                Lesson::Throttled => {
                    health.breaker.answered(generation);
                    health.window.throttled();
                }
                Lesson::Failed => {
                    let failure = failure(1.0 / (3.0 * window));
                    health.breaker.failed(generation, failure, now);
                    health.window.failed();
                }
                Lesson::Silent => {
                    let failure = failure(1.0 / window);
                    health.breaker.failed(generation, failure, now);
                    health.window.failed();
                }
                Lesson::Unreached | Lesson::Nothing => health.breaker.said_nothing(generation),
            }
        }
        if is_believed && !live.settings.suspended && health.is_hopeless(now) {
            live.settings.suspended = true;
            self.commands.push_back(Command::Suspend {
                subscription: subscription.uid,
                reason: SuspendReason::NoSuccess,
            });
        }
    }

    /// What becomes of the delivery.
    fn conclude(&mut self, flight: &InFlight, lesson: Lesson, finished: &Finished, now: Timestamp) {
        let mut waiting = flight.waiting;
        waiting.progress.attempts += u32::from(finished.attempted);
        let Waiting {
            delivery, progress, ..
        } = waiting;
        match finished.verdict {
            Verdict::Delivered => self.settle(delivery, progress, End::Succeeded),
            Verdict::Reject(reason) => {
                self.settle(delivery, progress, End::DeadLettered(reason));
            }
            Verdict::Retry(mut retry) => {
                // When it is our network that fails, nobody's attempts are spent.
                retry.throttled |= lesson == Lesson::Unreached && self.brake.is_on();
                self.retry(flight, &retry, progress, finished, now);
            }
            Verdict::Suspend(reason) => {
                let subscription = &mut self.tables.subscriptions[flight.subscription];
                if let Phase::Live(live) = &mut subscription.phase
                    && !live.settings.suspended
                {
                    live.settings.suspended = true;
                    self.commands.push_back(Command::Suspend {
                        subscription: subscription.uid,
                        reason,
                    });
                }
                waiting.due = now;
                self.postpone(flight, waiting, now);
            }
        }
    }

    fn retry(
        &mut self,
        flight: &InFlight,
        retry: &Retry,
        mut progress: Progress,
        finished: &Finished,
        now: Timestamp,
    ) {
        if retry.pause_endpoint {
            // A receiver that asks for no pause, again and again, is not to be called in a loop.
            let pause = retry.retry_after.unwrap_or_default().max(MIN_PAUSE);
            self.tables.pause(flight.subscription, now + pause, now);
        }
        progress.step += u32::from(!retry.throttled);
        let Some(live) = self.tables.subscriptions[flight.subscription].phase.live() else {
            self.settle(finished.delivery, progress, ended());
            return;
        };
        let next = live.settings.policy.after(
            retry,
            progress,
            finished.accept_time,
            finished.expiry,
            now,
            finished.jitter,
        );
        match next {
            Next::At(due) => {
                let waiting = Waiting {
                    progress,
                    due,
                    ..flight.waiting
                };
                self.postpone(flight, waiting, now);
            }
            Next::DeadLetter(reason) => {
                self.settle(finished.delivery, progress, End::DeadLettered(reason));
            }
        }
    }

    /// The delivery waits for its next attempt: on disk, or at the head of its partition, where those
    /// behind it wait too.
    fn postpone(&mut self, flight: &InFlight, waiting: Waiting, now: Timestamp) {
        let (key, partition) = (flight.subscription, flight.partition);
        let subscription = &mut self.tables.subscriptions[key];
        if matches!(subscription.phase, Phase::Ended) {
            self.settle(waiting.delivery, waiting.progress, ended());
            return;
        }
        if partition == hookfleet_contract::partition::UNORDERED {
            self.defer(key, partition, waiting, true);
            return;
        }
        subscription.queue(partition).head.push_front(waiting);
        subscription.sort(partition, now);
        self.n_in_memory += 1;
        self.commands.push_back(Command::Postpone { waiting });
    }
}

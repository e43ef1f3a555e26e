//! After anything has happened to a subscription: where it stands, what it asks of the disk, and when
//! it is to be woken.

use hookfleet_contract::time::Timestamp;

use super::{
    Alarm, Command, Core, HEADS_MAX, QueueId,
    pick::Wait,
    queue::{ALWAYS, LOAD_MAX, LOAD_MIN},
    subscription::{Obstacle, Phase, Place, Review},
    tables::Left,
};

impl Core {
    /// Brings everything about a subscription in line with its state: where it stands, its timer, the
    /// heads of its queues. A subscription that has nothing left is forgotten.
    pub(super) fn refresh(&mut self, key: usize, now: Timestamp) {
        let obstacle = self.obstacle(key, now);
        let subscription = &mut self.tables.subscriptions[key];
        let wake_at = match obstacle {
            Ok(_) | Err(Wait::Endpoint(_) | Wait::Destination(_)) => None,
            Err(Wait::Subscription(Obstacle::Itself(at) | Obstacle::Receiver(at))) => at,
        };
        let is_blocked = matches!(
            obstacle,
            Err(Wait::Endpoint(_)
                | Wait::Destination(_)
                | Wait::Subscription(Obstacle::Receiver(_)))
        );
        if subscription.place == Place::Nowhere {
            match obstacle {
                Ok(lane) => self.enter(key, lane),
                Err(Wait::Endpoint(endpoint)) => {
                    subscription.place = Place::Endpoint;
                    self.tables.endpoints[endpoint].waiters.push_back(key);
                }
                Err(Wait::Destination(address)) => {
                    subscription.place = Place::Destination(address);
                    self.tables.destinations.wait(address, key);
                }
                Err(Wait::Subscription(_)) => {}
            }
        }
        let review_at = self.review(key, is_blocked, now);
        self.fill(key, is_blocked, now);
        self.hand_over(key, now);
        self.alarm(key, [wake_at, review_at].into_iter().flatten().min());
        if self.tables.subscriptions[key].is_over() {
            self.alarm(key, None);
            let left = self.tables.remove(key);
            self.silence(left);
        }
    }

    /// Asks for what the heads want from disk. What cannot be attempted stays there.
    fn fill(&mut self, key: usize, is_blocked: bool, now: Timestamp) {
        let subscription = &mut self.tables.subscriptions[key];
        let until = match subscription.phase {
            Phase::Unknown => return,
            Phase::Live(_) if is_blocked || subscription.leaving => return,
            Phase::Live(_) => now,
            Phase::Ended => ALWAYS,
        };
        let roomy = self.n_in_memory < HEADS_MAX;
        let limit = if roomy { LOAD_MAX } else { LOAD_MIN };
        while let Some(partition) = subscription.next_hungry(until) {
            subscription.queue(partition).loading = true;
            subscription.queue(partition).next_due = None;
            self.commands.push_back(Command::Load {
                queue: QueueId {
                    subscription: subscription.uid,
                    partition,
                },
                until,
                limit,
            });
        }
    }

    /// Looks for deliveries whose time to live ends while they cannot be attempted; returns when to
    /// look next.
    fn review(&mut self, key: usize, is_blocked: bool, now: Timestamp) -> Option<Timestamp> {
        let subscription = &mut self.tables.subscriptions[key];
        if !is_blocked || subscription.waiting_from(0).is_none() {
            if subscription.review != Review::Off {
                subscription.review = Review::Off;
            }
            return None;
        }
        let at = subscription.review_at(now)?;
        let Review::At(_, from) = subscription.review else {
            return None;
        };
        if at > now {
            return Some(at);
        }
        let Some(partition) = subscription.waiting_from(from) else {
            subscription.review = Review::Off;
            return subscription.review_at(now);
        };
        let id = QueueId {
            subscription: subscription.uid,
            partition,
        };
        let queue = subscription.queue(partition);
        if let Some(first) = queue.head.front() {
            let delivery = first.delivery;
            subscription.review = Review::UnderWay(partition);
            let review = Command::Review {
                queue: id,
                delivery,
            };
            self.commands.push_back(review);
        } else if queue.wants(now) {
            self.fill(key, false, now);
        } else if !queue.loading {
            // Nothing in it is due, so nothing in it is late.
            subscription.review = Review::UnderWay(partition);
            subscription.reviewed(partition, false, now);
            return self.review(key, is_blocked, now);
        }
        None
    }

    fn alarm(&mut self, key: usize, at: Option<Timestamp>) {
        let subscription = &mut self.tables.subscriptions[key];
        if at == subscription.timer {
            return;
        }
        let alarm = Alarm::Subscription(key);
        if let Some(before) = std::mem::replace(&mut subscription.timer, at) {
            self.timers.remove(&(before, alarm));
        }
        if let Some(at) = at {
            self.timers.insert((at, alarm));
        }
    }

    /// Takes back the timer of an endpoint that nobody refers to any more.
    pub(super) fn silence(&mut self, left: Option<Left>) {
        if let Some(Left { endpoint, timer }) = left {
            self.timers.remove(&(timer, Alarm::Endpoint(endpoint)));
        }
    }

    pub(super) fn alarm_endpoint(&mut self, key: usize, at: Timestamp) {
        let alarm = Alarm::Endpoint(key);
        if let Some(before) = self.tables.endpoints[key].timer.replace(at) {
            self.timers.remove(&(before, alarm));
        }
        self.timers.insert((at, alarm));
    }
}

//! Which receiver is asked when, and what is reported until it shows. Pure: what is known of subscriptions, answers and time
//! go in; commands come out.
//!
//! **Invariants:** an attempt is made once for as long as this process lives, and reported until the subscription shows it;
//! no tenant has more than its share of the questions that are open at once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use hookfleet_contract::{
    name::TenantId, subscription::Subscription, time::Timestamp, verification::Pending,
};
use hookfleet_proto::{
    fleet::{VerificationReport, verification_report::Outcome},
    v1::verification_status::Failure,
};

use crate::{core::Uid, directory::Effect};

/// The most questions that are open at once, and of one tenant: receivers may take 30 s to answer, and those of one tenant
/// must not keep the others waiting.
const MAX_OPEN: usize = 64;
const MAX_OPEN_OF_TENANT: usize = 8;
/// When to look again at what could not be asked: others have its turn, its slot is another agent's, its tenant is suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// When to report again what does not show: the report was lost, or its change is on its way.
const REPORT_AGAIN: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Ask the subscription's receiver.
    Ask(Ticket, Arc<Subscription>),
    /// Tell a control plane.
    Report(VerificationReport),
}

/// Names a question that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    uid: Uid,
    tenant: TenantId,
    attempt: (String, u32),
}

/// The verifications that go on.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: HashMap<Uid, Entry>,
    /// When to look at an entry; those whose question is open are not here.
    due: BTreeSet<(Timestamp, Uid)>,
    n_open: HashMap<TenantId, usize>,
}

#[derive(Debug)]
struct Entry {
    subscription: Arc<Subscription>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// To be asked, or to be given up.
    Waiting(Timestamp),
    /// Being asked.
    Open,
    /// Asked.
    Answered(Timestamp, VerificationReport),
}

/// What a report says of the verification that goes on, before it says what came of it.
pub(super) fn report(subscription: &Subscription) -> VerificationReport {
    let (verification_id, n_attempts) = attempt(subscription).unwrap_or_default();
    VerificationReport {
        subscription: subscription.name.to_string(),
        verification_id,
        attempt_count: i32::try_from(n_attempts).unwrap_or(i32::MAX),
        ..VerificationReport::default()
    }
}

/// What distinguishes an attempt from all others.
fn attempt(subscription: &Subscription) -> Option<(String, u32)> {
    let pending = subscription.verification.as_ref()?;
    Some((pending.id.clone(), pending.n_attempts))
}

// === impl Agenda ===

impl Agenda {
    /// Subscriptions are new, changed or gone.
    pub(super) fn handle_effects(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Live { subscription, .. } => self.handle_live(subscription),
                Effect::Ended { uid, .. } => self.remove(uid),
            }
        }
    }

    /// A question was answered, or nobody was there to answer it.
    pub(super) fn handle_answered(
        &mut self,
        ticket: Ticket,
        report: VerificationReport,
        now: Timestamp,
    ) {
        if let Some(n_open) = self.n_open.get_mut(&ticket.tenant) {
            *n_open -= 1;
            if *n_open == 0 {
                self.n_open.remove(&ticket.tenant);
            }
        }
        let Ticket { uid, attempt, .. } = ticket;
        // What was asked may be of no interest any more.
        if let Some(entry) = self.entries.get_mut(&uid)
            && matches!(entry.stage, Stage::Open)
            && self::attempt(&entry.subscription) == Some(attempt)
        {
            entry.stage = Stage::Answered(now, report);
            self.due.insert((now, uid));
        }
    }

    /// The next thing to do; `may_ask` says whether a receiver is this agent's to ask.
    pub(super) fn poll_command(
        &mut self,
        now: Timestamp,
        may_ask: impl Fn(&Subscription) -> bool,
    ) -> Option<Command> {
        while let Some(&(at, uid)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, uid));
            let Some(entry) = self.entries.get_mut(&uid) else {
                continue;
            };
            if let Stage::Answered(at, report) = &mut entry.stage {
                *at = now + REPORT_AGAIN;
                self.due.insert((*at, uid));
                return Some(Command::Report(report.clone()));
            }
            let subscription = Arc::clone(&entry.subscription);
            let Some(pending) = subscription.verification.as_deref() else {
                continue;
            };
            let tenant = &subscription.name.tenant;
            let is_open = |n_open: &HashMap<TenantId, usize>| {
                n_open.values().sum::<usize>() < MAX_OPEN
                    && n_open.get(tenant).is_none_or(|n| *n < MAX_OPEN_OF_TENANT)
            };
            if !may_ask(&subscription) || !is_open(&self.n_open) {
                entry.stage = Stage::Waiting(now + LOOK_AGAIN);
                self.due.insert((now + LOOK_AGAIN, uid));
            } else if is_over(pending, now) {
                entry.stage = Stage::Answered(now, expired(&subscription));
                self.due.insert((now, uid));
            } else if let Some(attempt) = attempt(&subscription) {
                entry.stage = Stage::Open;
                *self.n_open.entry(tenant.clone()).or_default() += 1;
                let tenant = tenant.clone();
                let ticket = Ticket {
                    uid,
                    tenant,
                    attempt,
                };
                return Some(Command::Ask(ticket, subscription));
            }
        }
        None
    }

    /// When there is something to do next.
    pub(super) fn poll_timeout(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    fn handle_live(&mut self, subscription: &Arc<Subscription>) {
        let uid = subscription.uid;
        let Some(pending) = subscription.verification.as_deref() else {
            self.remove(&uid);
            return;
        };
        if let Some(entry) = self.entries.get_mut(&uid)
            && attempt(&entry.subscription) == attempt(subscription)
        {
            entry.subscription = Arc::clone(subscription);
            return;
        }
        self.remove(&uid);
        let at = pending.next_attempt.unwrap_or(pending.expiry);
        let entry = Entry {
            subscription: Arc::clone(subscription),
            stage: Stage::Waiting(at),
        };
        self.entries.insert(uid, entry);
        self.due.insert((at, uid));
    }

    fn remove(&mut self, uid: &Uid) {
        let Some(entry) = self.entries.remove(uid) else {
            return;
        };
        match entry.stage {
            Stage::Waiting(at) | Stage::Answered(at, _) => self.due.remove(&(at, *uid)),
            Stage::Open => false,
        };
    }
}

/// Whether nobody is to be asked because time is up.
fn is_over(pending: &Pending, now: Timestamp) -> bool {
    pending.expiry <= now || pending.next_attempt.is_none()
}

fn expired(subscription: &Subscription) -> VerificationReport {
    VerificationReport {
        outcome: Outcome::Expired.into(),
        failure: Failure::NotConfirmed.into(),
        ..report(subscription)
    }
}

#[cfg(test)]
mod tests;

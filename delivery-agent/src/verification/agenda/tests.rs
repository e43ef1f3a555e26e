//! Turns, and reports until they show.

use hookfleet_contract::{shard::Spread, target::Rules, verification::VALIDITY};
use hookfleet_proto::{
    fleet::{SubscriptionSpec, VerificationSpec},
    v1::{self, VerificationStatus, subscription::Verification, verification_status::State},
};

use super::*;

const NOW: Timestamp = Timestamp(1_767_323_045_000);

/// The n-th subscription of a tenant, so many times asked.
fn subscription(
    tenant: &str,
    n: usize,
    attempt_count: i32,
    next: Option<Timestamp>,
) -> Arc<Subscription> {
    let spec = SubscriptionSpec {
        subscription: Some(v1::Subscription {
            name: format!("tenants/{tenant}/subscriptions/s{n}"),
            uid: format!("00000000-0000-4000-8000-{n:012}"),
            callback_url: "https://receiver.acme.com/".to_owned(),
            event_types: vec!["*".to_owned()],
            verification_status: Some(VerificationStatus {
                state: State::Pending.into(),
                callback_url: "https://receiver.acme.com/".to_owned(),
                method: Verification::CeOptions.into(),
                attempt_count,
                next_attempt_time: next.map(Into::into),
                expire_time: Some((NOW + VALIDITY).into()),
                ..VerificationStatus::default()
            }),
            ..v1::Subscription::default()
        }),
        secret_keys: Vec::new(),
        verification: Some(VerificationSpec {
            id: "v1".to_owned(),
            ..VerificationSpec::default()
        }),
    };
    Arc::new(Subscription::try_new(&spec, &Rules::default()).unwrap())
}

fn live(subscription: &Arc<Subscription>) -> Effect {
    Effect::Live {
        subscription: Arc::clone(subscription),
        suspended: false,
        spread: Spread::default(),
    }
}

fn agenda(subscriptions: &[Arc<Subscription>]) -> Agenda {
    let mut agenda = Agenda::default();
    let effects: Vec<_> = subscriptions.iter().map(live).collect();
    agenda.handle_effects(&effects);
    agenda
}

/// The questions that are asked now, and the outcomes that are reported.
fn poll(agenda: &mut Agenda, now: Timestamp) -> (Vec<Ticket>, Vec<Outcome>) {
    let (mut asked, mut reported) = (Vec::new(), Vec::new());
    while let Some(command) = agenda.poll_command(now, |_| true) {
        match command {
            Command::Ask(ticket, _) => asked.push(ticket),
            Command::Report(report) => reported.push(report.outcome()),
        }
    }
    (asked, reported)
}

fn denied(subscription: &Subscription) -> VerificationReport {
    VerificationReport {
        outcome: Outcome::Denied.into(),
        ..report(subscription)
    }
}

#[test]
fn a_receiver_is_asked_when_its_time_has_come_and_once() {
    let later = NOW + Duration::from_secs(60);
    let mut agenda = agenda(&[subscription("a", 1, 0, Some(later))]);
    assert_eq!(poll(&mut agenda, NOW).0.len(), 0);
    assert_eq!(agenda.poll_timeout(), Some(later));
    assert_eq!(poll(&mut agenda, later).0.len(), 1);
    // What changes of the subscription besides asks nobody again.
    agenda.handle_effects(&[live(&subscription("a", 1, 0, Some(later)))]);
    assert_eq!(poll(&mut agenda, later + VALIDITY).0.len(), 0);
}

#[test]
fn an_answer_is_reported_until_it_shows() {
    let first = subscription("a", 1, 0, Some(NOW));
    let mut agenda = agenda(std::slice::from_ref(&first));
    let ticket = poll(&mut agenda, NOW).0.remove(0);
    agenda.handle_answered(ticket, denied(&first), NOW);
    assert_eq!(poll(&mut agenda, NOW).1, [Outcome::Denied]);
    assert_eq!(poll(&mut agenda, NOW).1, []);
    let later = NOW + REPORT_AGAIN;
    assert_eq!(agenda.poll_timeout(), Some(later));
    assert_eq!(poll(&mut agenda, later).1, [Outcome::Denied]);
    let next = later + Duration::from_secs(60);
    agenda.handle_effects(&[live(&subscription("a", 1, 1, Some(next)))]);
    assert_eq!(agenda.poll_timeout(), Some(next));
    let (asked, reported) = poll(&mut agenda, next);
    assert_eq!((asked.len(), reported.len()), (1, 0));
}

#[test]
fn an_answer_that_nobody_waits_for_any_more_is_dropped() {
    let first = subscription("a", 1, 0, Some(NOW));
    for effects in [
        vec![Effect::Ended {
            uid: first.uid,
            shards: 1,
        }],
        vec![live(&subscription("a", 1, 1, None))],
    ] {
        let mut agenda = agenda(std::slice::from_ref(&first));
        let ticket = poll(&mut agenda, NOW).0.remove(0);
        agenda.handle_effects(&effects);
        agenda.handle_answered(ticket, denied(&first), NOW);
        assert_eq!(poll(&mut agenda, NOW).1, []);
        assert!(agenda.n_open.is_empty(), "its turn is over");
    }
}

#[test]
fn what_is_confirmed_by_nobody_is_reported_when_time_is_up() {
    let mut agenda = agenda(&[subscription("a", 1, 1, None)]);
    let end = NOW + VALIDITY;
    assert_eq!(agenda.poll_timeout(), Some(end));
    let (asked, reported) = poll(&mut agenda, end);
    assert_eq!((asked.len(), reported), (0, vec![Outcome::Expired]));
}

#[test]
fn no_tenant_keeps_the_others_waiting() {
    let mut all: Vec<_> = (0..100)
        .map(|n| subscription("greedy", n, 0, Some(NOW)))
        .collect();
    all.push(subscription("modest", 100, 0, Some(NOW)));
    let mut agenda = agenda(&all);
    let (mut asked, _) = poll(&mut agenda, NOW);
    let of = |asked: &[Ticket], tenant: &str| {
        asked
            .iter()
            .filter(|it| it.tenant.as_str() == tenant)
            .count()
    };
    assert_eq!(
        (of(&asked, "greedy"), of(&asked, "modest")),
        (MAX_OPEN_OF_TENANT, 1)
    );
    // A turn that ends is another's.
    let place = asked
        .iter()
        .position(|it| it.tenant.as_str() == "greedy")
        .unwrap();
    let ticket = asked.remove(place);
    let answered = all.iter().find(|it| it.uid == ticket.uid).unwrap();
    agenda.handle_answered(ticket, denied(answered), NOW);
    let (asked, _) = poll(&mut agenda, NOW + LOOK_AGAIN);
    assert_eq!(of(&asked, "greedy"), 1);
}

#[test]
fn there_are_not_more_questions_open_than_fit() {
    let tenants = (0..100).map(|n| subscription(&format!("t{n}"), n, 0, Some(NOW)));
    let mut agenda = agenda(&tenants.collect::<Vec<_>>());
    assert_eq!(poll(&mut agenda, NOW).0.len(), MAX_OPEN);
}

#[test]
fn a_receiver_of_another_agent_is_looked_at_again() {
    let mut agenda = agenda(&[subscription("a", 1, 0, Some(NOW))]);
    assert!(agenda.poll_command(NOW, |_| false).is_none());
    assert_eq!(agenda.poll_timeout(), Some(NOW + LOOK_AGAIN));
    assert_eq!(poll(&mut agenda, NOW + LOOK_AGAIN).0.len(), 1);
}

//! The judge of every ledger: what publishers were told and what receivers got go in, everything that broke a promise
//! comes out. Pure: it touches neither the system nor a clock, and its own tests are logs with a known defect.
//!
//! A pair is an event and a subscription. `received ≤ 1 + answers that were no 2xx or never ended + faults that excuse it`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// An outcome may be forgotten for so long after the answer: the log is synced every 200 ms, and a sync takes time.
const OUTCOME: Duration = Duration::from_millis(700);

/// A signal takes this long to strike.
const STRIKES: Duration = Duration::from_millis(300);

/// An event, and what its publisher was told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    pub tenant: String,
    pub id: String,
    /// Its place among those of its tenant with this key.
    pub keyed: Option<(String, usize)>,
    /// What receivers must get, byte for byte.
    pub data: String,
    /// Where it was published last: agents have numbers.
    pub door: usize,
    /// When it was published first, and when the last answer came.
    pub from: Duration,
    pub until: Duration,
    /// Calls that failed in a way that leaves open whether the event was accepted.
    pub n_unknown: usize,
    pub fate: Fate,
}

/// What a publisher knows in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Acked,
    Rejected,
    Unknown,
}

/// A request that a receiver got.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// For whom: the path says so.
    pub tenant: String,
    pub subscription: String,
    /// What came: the body says so.
    pub event: String,
    pub data: String,
    pub webhook_id: String,
    pub attempt: u32,
    pub from: Duration,
    /// When the answer was complete; never, if the sender was gone.
    pub until: Option<Duration>,
    pub is_success: bool,
}

/// What was done to the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub what: String,
    pub from: Duration,
    pub until: Duration,
    pub excuses: Excuses,
}

/// Which pairs a fault may double, once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuses {
    /// None: what is planned doubles nothing.
    Nothing,
    /// Those whose attempt was under way, or whose outcome was not synced yet.
    InFlight,
    /// Those that waited too: an agent was killed while it handed them over.
    Pending,
}

/// Everything that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The subscriptions of each tenant; each wants every event.
    pub subscriptions: BTreeMap<String, BTreeSet<String>>,
    /// Those of them with order by key.
    pub ordered: BTreeSet<(String, String)>,
    pub published: Vec<Published>,
    pub receipts: Vec<Receipt>,
    pub faults: Vec<Fault>,
    /// (tenant, subscription, event): given up, with a reason.
    pub dead: BTreeSet<Pair>,
}

/// (tenant, subscription, event)
pub type Pair = (String, String, String);

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Acknowledged, and neither received nor dead.
    Lost(Pair),
    /// Received, and never published like this, or refused.
    Invented(Receipt),
    /// Received where it was not published to.
    Strayed(Receipt),
    /// Received more often than excused.
    Doubled {
        pair: Pair,
        n_received: usize,
        n_excused: usize,
    },
    /// One event is two, by their ids.
    Split(Pair),
    /// Received before an earlier event of its key.
    Overtook {
        subscription: String,
        event: Box<Published>,
        received: Duration,
        earlier: Box<Published>,
        received_earlier: Duration,
    },
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub n_acked: usize,
    pub n_unknown: usize,
    /// Requests.
    pub n_received: usize,
    /// Pairs of which a 2xx was given more than once, each excused or in the findings.
    pub n_doubled: usize,
    /// Pairs that faults have excused: no more than these were under way.
    pub n_excused: usize,
}

// === impl Report ===

impl Report {
    /// Panics unless nothing was found, and enough happened for that to mean something.
    pub fn passes(&self, n_acked: usize, n_received: usize) {
        assert!(
            self.findings.is_empty(),
            "{} findings, such as {:#?}",
            self.findings.len(),
            self.findings.iter().take(8).collect::<Vec<_>>()
        );
        assert!(
            self.n_acked >= n_acked && self.n_received >= n_received,
            "this says little: {self:?}"
        );
        eprintln!("LEDGER {self:?}");
    }
}

/// What was acknowledged and has neither been received nor given up.
pub fn missing(history: &History) -> Vec<Pair> {
    let received: BTreeSet<(&str, &str, &str)> = history
        .receipts
        .iter()
        .filter(|it| it.is_success)
        .map(|it| (&*it.tenant, &*it.subscription, &*it.event))
        .collect();
    let mut missing = Vec::new();
    for event in history.published.iter().filter(|it| it.fate == Fate::Acked) {
        for subscription in history
            .subscriptions
            .get(&event.tenant)
            .into_iter()
            .flatten()
        {
            let pair = (&*event.tenant, &**subscription, &*event.id);
            let owned = || (event.tenant.clone(), subscription.clone(), event.id.clone());
            if !received.contains(&pair) && !history.dead.contains(&owned()) {
                missing.push(owned());
            }
        }
    }
    missing
}

/// Judges a run that is over.
pub fn check(history: &History) -> Report {
    let events: BTreeMap<(&str, &str), &Published> = history
        .published
        .iter()
        .map(|it| ((&*it.tenant, &*it.id), it))
        .collect();
    let mut report = Report {
        findings: missing(history).into_iter().map(Finding::Lost).collect(),
        n_acked: count(history, Fate::Acked),
        n_unknown: history.published.iter().map(|it| it.n_unknown).sum(),
        n_received: history.receipts.len(),
        ..Report::default()
    };
    let mut pairs: BTreeMap<Pair, Vec<&Receipt>> = BTreeMap::new();
    for receipt in &history.receipts {
        match events.get(&(&*receipt.tenant, &*receipt.event)) {
            Some(event) if event.fate != Fate::Rejected && event.data == receipt.data => {
                let wants = history.subscriptions.get(&receipt.tenant);
                if !wants.is_some_and(|it| it.contains(&receipt.subscription)) {
                    report.findings.push(Finding::Strayed(receipt.clone()));
                }
                pairs.entry(pair(receipt)).or_default().push(receipt);
            }
            None if is_anothers(history, receipt) => {
                report.findings.push(Finding::Strayed(receipt.clone()));
            }
            _ => report.findings.push(Finding::Invented(receipt.clone())),
        }
    }
    for (pair, receipts) in &pairs {
        let event = events[&(&*pair.0, &*pair.2)];
        check_pair(history, event, pair, receipts, &mut report);
    }
    check_order(history, &events, &pairs, &mut report.findings);
    report
}

/// Whether another tenant has published this.
fn is_anothers(history: &History, receipt: &Receipt) -> bool {
    let is_it = |it: &Published| it.id == receipt.event && it.data == receipt.data;
    history.published.iter().any(is_it)
}

fn check_pair(
    history: &History,
    event: &Published,
    pair: &Pair,
    receipts: &[&Receipt],
    report: &mut Report,
) {
    let ids: BTreeSet<&str> = receipts.iter().map(|it| &*it.webhook_id).collect();
    let faults = history.faults.iter();
    let faults: Vec<&Fault> = faults.filter(|it| it.excuses(event, receipts)).collect();
    if !faults.is_empty() {
        report.n_excused += 1;
    }
    // A publisher whose call was cut off publishes again, and the agent that knew of the first may be gone.
    let is_cut = |fault: &&Fault| {
        let cut = fault.from <= event.until && event.from <= fault.until;
        fault.excuses != Excuses::Nothing && cut
    };
    let n_cut = event
        .n_unknown
        .min(history.faults.iter().filter(is_cut).count());
    if ids.len() > 1 + n_cut {
        report.findings.push(Finding::Split(pair.clone()));
    }
    let n_success = receipts.iter().filter(|it| it.is_success).count();
    // An answer that was cut off leaves the sender in doubt.
    let n_cut_off = receipts
        .iter()
        .filter(|it| it.is_success && it.until.is_none())
        .count();
    let n_excused = n_cut_off + faults.len() + n_cut;
    if n_success > 1 {
        report.n_doubled += 1;
    }
    if n_success > 1 + n_excused {
        report.findings.push(Finding::Doubled {
            pair: pair.clone(),
            n_received: n_success,
            n_excused,
        });
    }
}

/// First receipts of a key come in the order in which its events were published.
fn check_order(
    history: &History,
    events: &BTreeMap<(&str, &str), &Published>,
    pairs: &BTreeMap<Pair, Vec<&Receipt>>,
    findings: &mut Vec<Finding>,
) {
    type Queue<'a> = (&'a str, &'a str, &'a str);
    let mut queues: BTreeMap<Queue<'_>, Vec<(Duration, usize, &Pair)>> = BTreeMap::new();
    for (pair, receipts) in pairs {
        let (tenant, subscription, id) = pair;
        let is_ordered = history
            .ordered
            .contains(&(tenant.clone(), subscription.clone()));
        let first = receipts.iter().map(|it| it.from).min();
        if let (true, Some(first), Some((key, place))) =
            (is_ordered, first, &events[&(&**tenant, &**id)].keyed)
        {
            let queue = queues.entry((tenant, subscription, key)).or_default();
            queue.push((first, *place, pair));
        }
    }
    for mut queue in queues.into_values() {
        queue.sort_unstable();
        for two in queue.windows(2) {
            let ((received, place, pair), (later, next, late)) = (two[0], two[1]);
            if place > next {
                let event = |pair: &Pair| Box::new(events[&(&*pair.0, &*pair.2)].clone());
                findings.push(Finding::Overtook {
                    subscription: pair.1.clone(),
                    event: event(pair),
                    received,
                    earlier: event(late),
                    received_earlier: later,
                });
            }
        }
    }
}

fn pair(receipt: &Receipt) -> Pair {
    let Receipt {
        tenant,
        subscription,
        event,
        ..
    } = receipt;
    (tenant.clone(), subscription.clone(), event.clone())
}

fn count(history: &History, fate: Fate) -> usize {
    history
        .published
        .iter()
        .filter(|it| it.fate == fate)
        .count()
}

// === impl Fault ===

impl Fault {
    /// Whether one of these receipts may have been forgotten because of it.
    fn excuses(&self, event: &Published, receipts: &[&Receipt]) -> bool {
        let was_under_way = |it: &&Receipt| {
            let ended = it.until.is_none_or(|until| until + OUTCOME >= self.from);
            it.is_success && it.from <= self.from + STRIKES && ended
        };
        match self.excuses {
            Excuses::Nothing => false,
            Excuses::InFlight => receipts.iter().any(was_under_way),
            Excuses::Pending => {
                let waited = receipts.iter().any(|it| it.from >= self.from);
                receipts.iter().any(was_under_way) || (event.from <= self.until && waited)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// Two events of one key, each published in its second, received a second later by an ordered subscription and
    /// another.
    fn good() -> History {
        let published = (0..2).map(|n| Published {
            tenant: "acme".to_owned(),
            id: format!("e{n}"),
            keyed: Some(("k".to_owned(), n)),
            data: format!("data {n}"),
            door: 0,
            from: S(10 * n as u64),
            until: S(10 * n as u64),
            n_unknown: 0,
            fate: Fate::Acked,
        });
        let receipts = (0..4).map(|n| Receipt {
            tenant: "acme".to_owned(),
            subscription: ["any", "inorder"][n / 2].to_owned(),
            event: format!("e{}", n % 2),
            data: format!("data {}", n % 2),
            webhook_id: format!("w{}", n % 2),
            attempt: 1,
            from: S(10 * (n % 2) as u64 + 1),
            until: Some(S(10 * (n % 2) as u64 + 2)),
            is_success: true,
        });
        let both = ["any", "inorder"].map(str::to_owned);
        History {
            subscriptions: [("acme".to_owned(), both.into())].into(),
            ordered: [("acme".to_owned(), "inorder".to_owned())].into(),
            published: published.collect(),
            receipts: receipts.collect(),
            ..History::default()
        }
    }

    fn fault(from: Duration, excuses: Excuses) -> Fault {
        Fault {
            what: "kill".to_owned(),
            from,
            until: from,
            excuses,
        }
    }

    fn of(subscription: &str, event: &str) -> Pair {
        ("acme".to_owned(), subscription.to_owned(), event.to_owned())
    }

    #[test]
    fn a_good_run_has_no_findings_and_an_empty_one_does_not_pass() {
        let report = check(&good());
        assert_eq!(report.findings, []);
        assert_eq!((report.n_acked, report.n_received), (2, 4));
        report.passes(2, 4);
        let empty = check(&History::default());
        assert!(std::panic::catch_unwind(|| empty.passes(1, 1)).is_err());
    }

    /// What an acknowledgement before the sync does, and an event that is dropped at a handover.
    #[test]
    fn an_acknowledged_event_that_never_came_is_lost_unless_it_is_a_dead_letter() {
        let mut history = good();
        history.receipts.remove(1);
        assert_eq!(check(&history).findings, [Finding::Lost(of("any", "e1"))]);
        history.dead.insert(of("any", "e1"));
        assert_eq!(check(&history).findings, []);
        history.published[1].fate = Fate::Unknown;
        history.dead.clear();
        assert_eq!(check(&history).findings, []);
    }

    #[test]
    fn an_answer_that_was_no_success_is_no_receipt() {
        let mut history = good();
        history.receipts[1].is_success = false;
        assert_eq!(check(&history).findings, [Finding::Lost(of("any", "e1"))]);
        let again = Receipt {
            is_success: true,
            attempt: 2,
            from: S(14),
            until: Some(S(14)),
            ..history.receipts[1].clone()
        };
        history.receipts.push(again);
        assert_eq!(check(&history).findings, []);
    }

    #[test]
    fn what_was_never_published_or_was_refused_or_was_changed_is_invented() {
        let mut refused = good();
        refused.published[0].fate = Fate::Rejected;
        let mut changed = good();
        changed.receipts[0].data.push('!');
        let mut unheard = good();
        unheard.receipts[0].event = "e9".to_owned();
        for history in [refused, changed, unheard] {
            let findings = check(&history).findings;
            let invented = |it: &Finding| matches!(it, Finding::Invented(_));
            assert!(findings.iter().any(invented), "{findings:?}");
        }
    }

    #[test]
    fn what_another_tenant_published_has_strayed() {
        let mut history = good();
        let mut receipt = history.receipts[0].clone();
        receipt.tenant = "globex".to_owned();
        history.receipts.push(receipt.clone());
        assert_eq!(check(&history).findings, [Finding::Strayed(receipt)]);
    }

    #[test]
    fn a_doubled_delivery_needs_an_excuse_of_its_own() {
        let mut history = good();
        let again = Receipt {
            from: S(8),
            until: Some(S(8)),
            ..history.receipts[0].clone()
        };
        history.receipts.push(again.clone());
        let is_doubled = |history: &History| {
            let findings = check(history).findings;
            findings
                .iter()
                .any(|it| matches!(it, Finding::Doubled { .. }))
        };
        assert!(is_doubled(&history), "nothing happened");
        history.faults = vec![fault(S(2), Excuses::Nothing)];
        assert!(is_doubled(&history), "a planned move is no excuse");
        history.faults = vec![fault(S(4), Excuses::InFlight)];
        assert!(is_doubled(&history), "its outcome had been synced");
        history.faults = vec![fault(S(2), Excuses::InFlight)];
        assert!(!is_doubled(&history));
        assert_eq!(check(&history).n_doubled, 1);
        history.receipts.push(again);
        assert!(is_doubled(&history), "one fault excuses one");
        history.receipts[0].until = None;
        assert!(!is_doubled(&history), "an answer was cut off");
    }

    #[test]
    fn what_waited_is_excused_only_by_a_kill_during_a_handover() {
        let mut history = good();
        let again = history.receipts[1].clone();
        history.receipts.push(again);
        for (excuses, is_excused) in [(Excuses::InFlight, false), (Excuses::Pending, true)] {
            // Published at 10, received at 11.
            history.faults = vec![Fault {
                until: S(10),
                ..fault(S(9), excuses)
            }];
            assert_eq!(check(&history).findings.is_empty(), is_excused);
        }
    }

    #[test]
    fn an_event_with_two_ids_is_two_unless_its_publisher_was_cut_off() {
        let mut history = good();
        history.receipts.remove(3);
        let second = Receipt {
            webhook_id: "w9".to_owned(),
            is_success: false,
            from: S(10),
            ..history.receipts[1].clone()
        };
        history.receipts.push(second);
        history.dead.insert(of("inorder", "e1"));
        assert_eq!(check(&history).findings, [Finding::Split(of("any", "e1"))]);
        history.published[1].n_unknown = 1;
        assert_eq!(check(&history).findings, [Finding::Split(of("any", "e1"))]);
        history.faults = vec![fault(S(10), Excuses::InFlight)];
        assert_eq!(check(&history).findings, []);
    }

    #[test]
    fn a_shuffled_key_is_found_where_order_was_asked_for_only() {
        let mut history = good();
        for receipt in &mut history.receipts {
            receipt.from = S(30) - receipt.from;
            receipt.until = Some(receipt.from);
        }
        let findings = check(&history).findings;
        let [Finding::Overtook { event, earlier, .. }] = &findings[..] else {
            panic!("{findings:?}");
        };
        assert_eq!((&*event.id, &*earlier.id), ("e1", "e0"));
        history.ordered.clear();
        assert_eq!(check(&history).findings, []);
    }
}

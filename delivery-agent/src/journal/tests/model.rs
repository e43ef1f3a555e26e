//! Whatever happens in whatever order, a reopened journal equals a list in memory.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append {
        n_targets: u32,
        n_bytes: usize,
    },
    Repeat(u64),
    Settle {
        seq: u64,
        target: u32,
    },
    Defer {
        seq: u64,
        target: u32,
        attempts: u32,
        due: u64,
    },
    Close,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let (seq, target) = (1_u64..30, 0_u32..3);
    prop_oneof![
        8 => (0_u32..3, 0_usize..1500)
            .prop_map(|(n_targets, n_bytes)| Step::Append { n_targets, n_bytes }),
        2 => (1_u64..30).prop_map(Step::Repeat),
        6 => (seq.clone(), target.clone()).prop_map(|(seq, target)| Step::Settle { seq, target }),
        3 => (seq, target, 1_u32..9, 0_u64..1000)
            .prop_map(|(seq, target, attempts, due)| Step::Defer { seq, target, attempts, due }),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

/// What should be.
#[derive(Debug, Default)]
struct Oracle {
    events: Vec<NewEvent>,
    waiting: BTreeMap<DeliveryId, (Timestamp, Progress)>,
}

fn uid(target: u32) -> [u8; 16] {
    [u8::try_from(target).unwrap(); 16]
}

impl Oracle {
    fn append(&mut self, n_targets: u32, n_bytes: usize) -> NewEvent {
        let seq = self.events.len() as u64 + 1;
        let targets = (0..n_targets).map(|target| Target {
            uid: uid(target),
            partition: UNORDERED,
            subscription: format!("s{target}").parse().unwrap(),
        });
        let event = NewEvent {
            targets: targets.collect(),
            ..large_event(seq, n_bytes)
        };
        for target in 0..n_targets {
            let waits = (event.accept_time, Progress::default());
            self.waiting.insert(DeliveryId { seq, target }, waits);
        }
        self.events.push(event.clone());
        event
    }

    fn check(&self, open: &Open) {
        assert_eq!(open.recovered.damage, []);
        assert_eq!(open.recovered.next_seq, self.events.len() as u64 + 1);
        let mut waiting = BTreeMap::new();
        for target in 0..3 {
            let queue = open.journal.deferred();
            let summary = open
                .recovered
                .pending
                .iter()
                .find(|it| it.queue == uid(target).into());
            assert_eq!(
                summary.map(|it| it.next_due),
                queue.next_due(uid(target).into()).unwrap()
            );
            let mut n_waiting = 0;
            while let Some(due) = queue.next_due(uid(target).into()).unwrap() {
                for it in queue.take_due(uid(target).into(), due, 3).unwrap() {
                    waiting.insert(it.delivery, (due, it.progress));
                    n_waiting += 1;
                }
            }
            assert_eq!(summary.map_or(0, |it| it.count), n_waiting);
        }
        assert_eq!(waiting, self.waiting);
        for (seq, event) in (1..).zip(&self.events) {
            match open.journal.read(seq).unwrap() {
                Some(stored) => assert_eq!(*stored, StoredEvent::new(seq, event.clone())),
                None => assert!(
                    self.waiting.keys().all(|it| it.seq != seq),
                    "event {seq} is gone"
                ),
            }
        }
    }
}

async fn run(home: &Home, steps: Vec<Step>) {
    let mut oracle = Oracle::default();
    let mut open = home.open();
    for step in steps.into_iter().chain([Step::Crash]) {
        match step {
            Step::Append { n_targets, n_bytes } => {
                let appended = open
                    .journal
                    .append(oracle.append(n_targets, n_bytes))
                    .await
                    .unwrap();
                let expected = Appended {
                    seq: oracle.events.len() as u64,
                    n_targets,
                    duplicate: false,
                };
                assert_eq!(appended, expected);
            }
            Step::Repeat(seq) => {
                let index = usize::try_from(seq).unwrap() - 1;
                if let Some(event) = oracle.events.get(index) {
                    let appended = open.journal.append(event.clone()).await.unwrap();
                    let n_targets = event.targets.len().try_into().unwrap();
                    assert_eq!(
                        appended,
                        Appended {
                            seq,
                            n_targets,
                            duplicate: true
                        }
                    );
                }
            }
            Step::Settle { seq, target } => {
                let delivery = DeliveryId { seq, target };
                if oracle.waiting.remove(&delivery).is_some() {
                    open.journal.record(Outcome {
                        delivery,
                        ..settled(seq)
                    });
                }
            }
            Step::Defer {
                seq,
                target,
                attempts,
                due,
            } => {
                let delivery = DeliveryId { seq, target };
                if let Some((at, progress)) = oracle.waiting.get_mut(&delivery) {
                    progress.attempts += attempts;
                    *at = Timestamp(due);
                    let outcome = deferred(seq, progress.attempts, due);
                    open.journal.record(Outcome {
                        delivery,
                        ..outcome
                    });
                }
            }
            Step::Close | Step::Crash => {
                open.journal.flush().await.unwrap();
                if matches!(step, Step::Close) {
                    open.journal.close().await;
                } else {
                    open.journal.abandon().await;
                }
                drop(open);
                open = home.open();
                oracle.check(&open);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_reopened_journal_equals_the_model(
        steps in vec(step(), 1..60),
        max_live_segments in 0_usize..4,
        retention_bytes in prop_oneof![Just(0_u64), Just(9000), Just(u64::MAX)],
        cache_bytes in prop_oneof![Just(0_usize), Just(usize::MAX)],
    ) {
        let home = Home::new().with(|it| {
            it.max_live_segments = max_live_segments;
            it.retention_bytes = retention_bytes;
            it.cache_bytes = cache_bytes;
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&home, steps));
    }
}

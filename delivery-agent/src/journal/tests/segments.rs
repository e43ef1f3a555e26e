//! The life of a segment: retired when it is settled or too old, unlinked when nobody needs it.

use super::{
    duplicates::{First, Recent},
    lingering::Lingering,
    table::Pending,
    *,
};

/// Three events fill a segment.
fn third(number: u64) -> NewEvent {
    large_event(number, 1100)
}

async fn append(journal: &Journal, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        journal.append(third(number)).await.unwrap();
    }
}

#[tokio::test]
async fn settled_segments_retire_oldest_first() {
    let home = Home::new();
    let open = home.open();
    append(&open.journal, 1..=10).await;
    (4..=6).for_each(|seq| open.journal.record(settled(seq)));
    open.journal.flush().await.unwrap();
    until("the outcomes", || open.journal.stats().n_unsettled == 7).await;
    assert_eq!(
        open.journal.stats().n_retired_segments,
        0,
        "the first one is not settled"
    );
    (1..=3).for_each(|seq| open.journal.record(settled(seq)));
    until("retiring", || open.journal.stats().n_retired_segments == 2).await;
    assert_eq!(home.files("retired").len(), 2);
    assert_eq!(open.journal.stats().n_live_segments, 2);
    open.journal.abandon().await;

    let open = home.with(|it| it.cache_bytes = 0).open();
    assert_eq!(waiting_seqs(&open.journal), [7, 8, 9, 10]);
    assert_eq!(open.journal.stats().n_unsettled, 4);
    for seq in 1..=10 {
        assert!(
            open.journal.read(seq).unwrap().is_some(),
            "event {seq} is kept"
        );
    }
    assert!(open.journal.append(third(2)).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_lingering_delivery_pins_no_segment() {
    let home = Home::new().with(|it| {
        it.max_live_segments = 2;
        it.retention_bytes = 0;
        it.cache_bytes = 0;
    });
    let open = home.open();
    append(&open.journal, 1..=3).await;
    open.journal.record(deferred(2, 3, 55));
    open.journal.record(settled(3));
    append(&open.journal, 4..=20).await;
    until("the unlinking", || {
        let stats = open.journal.stats();
        stats.n_retired_segments == 0 && stats.n_live_segments == 3
    })
    .await;
    let n_files = home.files("log").len() + home.files("retired").len();
    assert_eq!(n_files, 3);
    assert_eq!(open.journal.read(2).unwrap().unwrap().event, third(2).event);
    assert_eq!(open.journal.read(3).unwrap(), None, "settled and unlinked");
    open.journal.abandon().await;
    drop(open);

    let open = home.open();
    let waits = waiting(&open.journal);
    assert!(
        waits
            .iter()
            .map(|it| it.0.seq)
            .eq((1..=20).filter(|it| *it != 3))
    );
    assert_eq!(waits[1].1.attempts, 3);
    let summary = open.recovered.pending[0];
    assert_eq!((summary.count, summary.next_due), (19, Timestamp(55)));
    assert!(open.journal.stats().n_lingering > 9);
    assert_eq!(open.journal.read(1).unwrap().unwrap().event, third(1).event);
    until("the housekeeping", || {
        open.journal.stats().n_live_segments == 3
    })
    .await;
    // Outcomes of lingering deliveries reach the database, and outlive a crash.
    let n_lingering = open.journal.stats().n_lingering;
    open.journal.record(deferred(1, 7, 99));
    open.journal.record(settled(2));
    open.journal.flush().await.unwrap();
    until("the settling", || {
        open.journal.stats().n_lingering == n_lingering - 1
    })
    .await;
    assert_eq!(open.journal.read(2).unwrap(), None);
    open.journal.abandon().await;
    drop(open);
    let open = home.open();
    let waits = waiting(&open.journal);
    assert_eq!(
        waits[0],
        (
            delivery(1),
            Progress {
                attempts: 7,
                step: 0
            }
        )
    );
    assert_eq!(waits[1].0, delivery(4));
}

#[tokio::test]
async fn outcomes_of_lingering_deliveries_are_recovered_from_the_log() {
    let home = Home::new().with(|it| it.max_live_segments = 0);
    let open = home.open();
    append(&open.journal, 1..=4).await;
    until("the eviction", || open.journal.stats().n_lingering == 3).await;
    open.journal.abandon().await;
    // As if the database had lost what it did not sync.
    let mut lingering = Lingering::open(&home.database, 4).unwrap();
    let before: Vec<_> = lingering.pending(0..=9).map(Result::unwrap).collect();
    let open = home.open();
    open.journal.record(settled(1));
    open.journal.record(deferred(2, 5, 500));
    open.journal.flush().await.unwrap();
    open.journal.abandon().await;
    lingering.keep(before.into_iter()).unwrap();
    lingering.sync().unwrap();
    let open = home.open();
    let waits = waiting(&open.journal);
    assert!(waits.iter().map(|it| it.0.seq).eq([2, 3, 4]));
    assert_eq!(waits[0].1.attempts, 5);
}

#[tokio::test]
async fn a_crash_while_a_segment_retires_changes_nothing() {
    let home = Home::new();
    let open = home.open();
    append(&open.journal, 1..=4).await;
    open.journal.abandon().await;
    // The deliveries are in the database and the segment has its old name.
    let mut lingering = Lingering::open(&home.database, 0).unwrap();
    let stale = Pending {
        delivery: delivery(1),
        queue: SUBSCRIPTION.into(),
        bytes: 7,
        progress: Progress {
            attempts: 9,
            step: 9,
        },
        due: Timestamp(1),
    };
    lingering.keep([stale].into_iter()).unwrap();
    lingering.sync().unwrap();
    let open = home.open();
    assert_eq!(open.journal.stats().n_lingering, 0);
    let expected = (1..=4).map(|seq| (delivery(seq), Progress::default()));
    assert!(waiting(&open.journal).into_iter().eq(expected));
}

#[tokio::test]
async fn old_segments_are_unlinked() {
    let home = Home::new().with(|it| {
        it.retention = Duration::ZERO;
        it.cache_bytes = 0;
    });
    let open = home.open();
    append(&open.journal, 1..=7).await;
    (1..=7).for_each(|seq| open.journal.record(settled(seq)));
    until("the unlinking", || {
        let stats = open.journal.stats();
        stats.n_retired_segments == 0 && stats.n_live_segments == 1
    })
    .await;
    assert_eq!(home.files("retired").len(), 0);
    assert_eq!(open.journal.read(1).unwrap(), None);
    assert!(open.journal.read(7).unwrap().is_some());
    assert!(
        open.journal.append(third(1)).await.unwrap().duplicate,
        "ids outlive events"
    );
}

#[tokio::test]
async fn ids_of_retired_segments_are_duplicates_within_the_window_only() {
    let home = Home::new();
    let open = home.open();
    append(&open.journal, 1..=4).await;
    (1..=3).for_each(|seq| open.journal.record(settled(seq)));
    until("retiring", || open.journal.stats().n_retired_segments == 1).await;
    open.journal.flush().await.unwrap();
    let again = open.journal.append(third(2)).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (2, true));
    let day = Duration::from_secs(24 * 60 * 60);
    let later = NewEvent {
        accept_time: third(2).accept_time + day,
        ..third(2)
    };
    let again = open.journal.append(later).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (5, false));
}

#[tokio::test]
async fn an_event_is_found_by_its_webhook_id_wherever_it_is() {
    let home = Home::new();
    let handed_over = NewEvent {
        origin: Origin::HandedOver([9; 16]),
        ..third(8)
    };
    let parked = NewEvent {
        origin: Origin::Parked,
        ..third(9)
    };
    let found = |open: &Open, number| {
        let found = open.journal.find(third(number).webhook_id).unwrap();
        found.map(|it| it.seq)
    };
    let open = home.open();
    append(&open.journal, 1..=7).await;
    for event in [handed_over, parked] {
        open.journal.append(event).await.unwrap();
    }
    (1..=6).for_each(|seq| open.journal.record(settled(seq)));
    until("retiring", || open.journal.stats().n_retired_segments == 2).await;
    open.journal.flush().await.unwrap();
    let seqs = |open: &Open| (1..=10).map(|it| found(open, it)).collect::<Vec<_>>();
    let expected: Vec<_> = (1..=8).map(Some).chain([None, None]).collect();
    assert_eq!(seqs(&open), expected);
    let name = open.journal.find(WebhookId([9; 16])).unwrap();
    assert_eq!(name, None, "the name of a handover is no webhook id");
    open.journal.abandon().await;
    assert_eq!(seqs(&home.open()), expected);
}

#[tokio::test]
async fn an_event_is_found_for_as_long_as_its_deliveries_may_take() {
    let home = Home::new();
    let open = home.open();
    let now = Clock::system().now();
    let old = NewEvent {
        accept_time: now - Duration::from_secs(7 * 86_400),
        ..third(1)
    };
    open.journal.append(old).await.unwrap();
    append(&open.journal, 2..=7).await;
    (1..=6).for_each(|seq| open.journal.record(settled(seq)));
    until("retiring", || open.journal.stats().n_retired_segments == 2).await;
    open.journal.abandon().await;
    let found = home.open().journal.find(third(1).webhook_id).unwrap();
    assert_eq!(found.map(|it| it.seq), Some(1));
}

#[tokio::test]
async fn what_is_published_with_the_id_of_a_handed_over_event_is_no_duplicate_of_it() {
    let home = Home::new();
    let open = home.open();
    let handed_over = NewEvent {
        origin: Origin::HandedOver([9; 16]),
        ..event(1)
    };
    open.journal.append(handed_over).await.unwrap();
    assert!(!open.journal.append(event(1)).await.unwrap().duplicate);
}

#[tokio::test]
async fn what_another_agents_clock_says_of_a_handed_over_event_moves_nothing_that_is_due() {
    let home = Home::new();
    let open = home.open();
    let now = Clock::system().now();
    let (hour, years) = (Duration::from_secs(3600), Duration::from_secs(1 << 30));
    open.journal.append(event(1)).await.unwrap();
    open.journal.record(deferred(1, 1, (now + hour).0));
    open.journal.flush().await.unwrap();
    let ahead = NewEvent {
        origin: Origin::HandedOver([9; 16]),
        accept_time: now + years,
        ..event(2)
    };
    open.journal.append(ahead).await.unwrap();
    open.journal.abandon().await;
    let open = home.open();
    let deferred = open.journal.deferred();
    let due = deferred.take_due(SUBSCRIPTION.into(), now + hour / 2, usize::MAX);
    let due: Vec<u64> = due.unwrap().iter().map(|it| it.delivery.seq).collect();
    assert_eq!(due, [2]);
}

#[tokio::test]
async fn a_kill_loop_leaves_few_segments() {
    let home = Home::new();
    for number in 1..=20 {
        let open = home.open();
        assert_eq!(open.recovered.damage, []);
        open.journal.append(event(number)).await.unwrap();
        until("the housekeeping", || {
            open.journal.stats().n_live_segments <= 5
        })
        .await;
        open.journal.abandon().await;
    }
    let open = home.open();
    assert!(waiting_seqs(&open.journal).into_iter().eq(1..=20));
    assert!(
        open.journal.stats().segment_bytes < 40_000,
        "{:?}",
        open.journal.stats()
    );
}

#[test]
fn an_id_that_moves_to_the_disk_while_it_is_asked_for_is_a_duplicate() {
    let home = Home::new();
    let (window, event) = (home.config.duplicate_window, event(1));
    let first = First {
        seq: 1,
        n_targets: 1,
        accept_time: event.accept_time,
    };
    let ids = || [(event.webhook_id, first)].into_iter();
    let older = Older::open(&home.database, window).unwrap();
    let recent = Recent::new(window, ids());
    let generation = older.generation();
    let found = older.first(&event).unwrap();
    assert_eq!(found, None, "it is in memory");
    older
        .keep(&home.database, ids(), event.accept_time)
        .unwrap();
    older.bump_generation();
    recent.forget(vec![(event.webhook_id, 1)]);
    let found = recent.first(&event, found, generation, &older).unwrap();
    assert_eq!(found, Some(first));
}

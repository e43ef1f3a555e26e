//! What callers see of appending and reading.

use super::*;
use crate::core::Waiting;

#[tokio::test]
async fn an_appended_event_is_numbered_read_and_handed_on() {
    let home = Home::new();
    let mut open = home.open();
    for number in 1..=3 {
        let appended = open.journal.append(event(number)).await.unwrap();
        let expected = Appended {
            seq: number,
            n_targets: 1,
            duplicate: false,
        };
        assert_eq!(appended, expected);
        let stored = open.journal.read(number).unwrap().unwrap();
        assert_eq!(stored.event, event(number).event);
        assert_eq!(open.accepted.recv().await.unwrap(), stored);
    }
    assert_eq!(open.journal.read(4).unwrap(), None);
    assert_eq!(open.journal.read(0).unwrap(), None);
}

#[tokio::test]
async fn events_appended_together_have_numbers_in_their_order() {
    let open = Home::new().open();
    let events = (1..=10).map(event).collect();
    let appended = open.journal.append_all(events).await.unwrap();
    assert!(appended.iter().map(|it| it.seq).eq(1..=10));
    assert_eq!(
        open.journal.append_all(Vec::new()).await.unwrap(),
        Vec::new()
    );
}

#[tokio::test]
async fn events_are_read_from_the_disk_when_memory_forgot_them() {
    let home = Home::new().with(|it| it.cache_bytes = 0);
    let open = home.open();
    for number in 1..=30 {
        let n_bytes = if number == 7 { 3000 } else { 700 };
        open.journal
            .append(large_event(number, n_bytes))
            .await
            .unwrap();
    }
    let stats = open.journal.stats();
    let n_segments = stats.n_live_segments + stats.n_retired_segments;
    assert!(n_segments > 5, "segments were filled");
    for number in 1..=30 {
        let stored = open.journal.read(number).unwrap().unwrap();
        assert_eq!(
            (stored.seq, stored.webhook_id),
            (number, event(number).webhook_id)
        );
    }
}

#[tokio::test]
async fn an_event_larger_than_a_segment_is_refused_for_good() {
    let open = Home::new().open();
    let error = open.journal.append(large_event(1, 4096)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(!error.is_retryable());
    open.journal.append(large_event(2, 3900)).await.unwrap();
}

#[tokio::test]
async fn a_repeated_id_is_a_duplicate_of_the_first() {
    let home = Home::new();
    let open = home.open();
    open.journal.append(event(1)).await.unwrap();
    open.journal.append(event(2)).await.unwrap();
    let expected = Appended {
        seq: 1,
        n_targets: 1,
        duplicate: true,
    };
    assert_eq!(open.journal.append(event(1)).await.unwrap(), expected);
    let both = open
        .journal
        .append_all(vec![event(3), event(3)])
        .await
        .unwrap();
    assert_eq!((both[0].seq, both[1].seq, both[1].duplicate), (3, 3, true));
    open.journal.close().await;
    drop(open);
    let open = home.open();
    assert_eq!(open.journal.append(event(1)).await.unwrap(), expected);
    assert_eq!(open.journal.append(event(4)).await.unwrap().seq, 4);
}

#[tokio::test]
async fn an_id_is_forgotten_after_the_window_and_a_redelivery_is_no_duplicate() {
    let open = Home::new().open();
    open.journal.append(event(1)).await.unwrap();
    let redelivery = NewEvent {
        origin: Origin::Redelivery(delivery(1)),
        stands: Vec::new(),
        ..event(1)
    };
    assert_eq!(
        open.journal.append(redelivery.clone()).await.unwrap().seq,
        2
    );
    assert_eq!(open.journal.append(redelivery).await.unwrap().seq, 3);
    assert_eq!(open.journal.append(event(1)).await.unwrap().seq, 1);
    let day = Duration::from_secs(24 * 60 * 60);
    let later = NewEvent {
        accept_time: event(1).accept_time + day,
        ..event(1)
    };
    assert_eq!(open.journal.append(later.clone()).await.unwrap().seq, 4);
    assert_eq!(open.journal.append(later).await.unwrap().seq, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_concurrent_repetitions_one_is_the_first() {
    let open = Home::new().open();
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let journal = open.journal.clone();
            tokio::spawn(async move { journal.append(event(1)).await.unwrap() })
        })
        .collect();
    let mut n_first = 0;
    for task in tasks {
        let appended = task.await.unwrap();
        assert_eq!(appended.seq, 1);
        n_first += usize::from(!appended.duplicate);
    }
    assert_eq!(n_first, 1);
}

#[tokio::test]
async fn a_second_opening_is_refused_until_the_first_is_closed() {
    let home = Home::new();
    let open = home.open();
    let refused = home.open_on(Arc::new(Disk)).err().unwrap();
    assert!(matches!(refused, Error::Locked(_)), "{refused}");
    open.journal.close().await;
    let again = home.open();
    assert!(again.recovered.clean);
}

#[tokio::test]
async fn the_files_of_another_journal_are_refused() {
    let home = Home::new();
    let open = home.open();
    open.journal.append(event(1)).await.unwrap();
    open.journal.close().await;
    let other = home.with(|it| it.id += 1);
    let refused = other.open_on(Arc::new(Disk)).err().unwrap();
    assert!(
        matches!(refused, Error::Foreign { found: JOURNAL, .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_closed_journal_refuses_and_reads() {
    let open = Home::new().open();
    open.journal.append(event(1)).await.unwrap();
    open.journal.close().await;
    open.journal.record(settled(1));
    assert!(matches!(
        open.journal.append(event(2)).await,
        Err(Error::Stopped)
    ));
    assert!(matches!(open.journal.flush().await, Err(Error::Stopped)));
    assert!(open.journal.read(1).unwrap().is_some());
    assert!(!open.fatal.is_cancelled());
}

#[tokio::test]
async fn a_clean_and_an_unclean_end_recover_the_same() {
    for cleanly in [true, false] {
        let home = Home::new();
        let open = home.open();
        open.journal
            .append_all((1..=4).map(event).collect())
            .await
            .unwrap();
        open.journal.record(settled(2));
        open.journal.record(deferred(3, 1, 77));
        open.journal.flush().await.unwrap();
        match cleanly {
            true => open.journal.close().await,
            false => open.journal.abandon().await,
        }
        let open = home.open();
        assert_eq!(open.recovered.clean, cleanly);
        assert_eq!(open.recovered.damage, []);
        assert_eq!(open.recovered.next_seq, 5);
        let summary = PendingSummary {
            queue: SUBSCRIPTION.into(),
            count: 3,
            next_due: Timestamp(77),
        };
        assert_eq!(open.recovered.pending, [summary]);
        let none = Progress::default();
        let one = Progress {
            attempts: 1,
            step: 0,
        };
        let expected = [(delivery(1), none), (delivery(3), one), (delivery(4), none)];
        assert_eq!(waiting(&open.journal), expected);
    }
}

#[tokio::test]
async fn the_queue_gives_what_is_due_in_order() {
    let open = Home::new().open();
    let queue = open.journal.deferred();
    let progress = Progress {
        attempts: 2,
        step: 1,
    };
    let waits = |seq, due| Waiting {
        delivery: delivery(seq),
        progress,
        bytes: 7,
        due: Timestamp(due),
    };
    for (seq, due) in [(1, 30), (2, 10), (3, 20), (4, 20)] {
        queue.defer(SUBSCRIPTION.into(), waits(seq, due)).unwrap();
    }
    queue.defer([2; 16].into(), waits(9, 5)).unwrap();
    assert_eq!(
        queue.next_due(SUBSCRIPTION.into()).unwrap(),
        Some(Timestamp(10))
    );
    let take = |until, limit| {
        let taken = queue
            .take_due(SUBSCRIPTION.into(), Timestamp(until), limit)
            .unwrap();
        assert!(taken.iter().all(|it| it.progress == progress));
        taken.iter().map(|it| it.delivery.seq).collect::<Vec<_>>()
    };
    assert!(take(9, 10).is_empty());
    assert_eq!(take(25, 2), [2, 3]);
    assert_eq!(
        queue.next_due(SUBSCRIPTION.into()).unwrap(),
        Some(Timestamp(20))
    );
    assert_eq!(take(25, 2), [4]);
    assert_eq!(take(100, 2), [1]);
    assert_eq!(queue.next_due(SUBSCRIPTION.into()).unwrap(), None);
    assert!(take(100, 2).is_empty());
    assert_eq!(queue.next_due([2; 16].into()).unwrap(), Some(Timestamp(5)));
}

//! A disk that fails, is slow, or is full.

use tokio::task::JoinHandle;

use super::*;

fn faulty(home: &Home) -> (Open, Arc<Faults>) {
    let faults = Arc::<Faults>::default();
    let storage = Faulty {
        faults: Arc::clone(&faults),
    };
    (home.open_on(Arc::new(storage)).unwrap(), faults)
}

fn append(open: &Open, number: u64) -> JoinHandle<Result<Appended, Error>> {
    let journal = open.journal.clone();
    tokio::spawn(async move { journal.append(event(number)).await })
}

/// The writer has written event 1 and waits for its sync.
async fn is_syncing(home: &Home) {
    let path = home.files("log").pop().unwrap();
    let is_written = || {
        fs::read(&path)
            .unwrap()
            .windows(7)
            .any(|it| it == b"event 1")
    };
    until("the write", is_written).await;
}

#[tokio::test]
async fn nothing_is_answered_read_or_delivered_before_the_sync() {
    let home = Home::new();
    let (mut open, faults) = faulty(&home);
    let syncing = faults.hold_syncs();
    let appends: Vec<_> = (1..=5).map(|number| append(&open, number)).collect();
    is_syncing(&home).await;
    assert!(appends.iter().all(|it| !it.is_finished()));
    assert_eq!(open.journal.read(1).unwrap(), None);
    assert!(open.accepted.try_recv().is_err());
    drop(syncing);
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert!(open.accepted.recv().await.is_some());
}

#[tokio::test]
async fn what_arrives_during_a_sync_shares_the_next() {
    let home = Home::new();
    let (open, faults) = faulty(&home);
    let syncing = faults.hold_syncs();
    let first = append(&open, 1);
    is_syncing(&home).await;
    let n_before = faults.n_syncs.load(Ordering::SeqCst);
    let appends: Vec<_> = (2..=20).map(|number| append(&open, number)).collect();
    let all = 19 * 256;
    until("the queue", || open.journal.stats().waiting_bytes > all).await;
    drop(syncing);
    first.await.unwrap().unwrap();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    let n_syncs = faults.n_syncs.load(Ordering::SeqCst) - n_before;
    assert_eq!(n_syncs, 2, "the first one's and that of the rest");
}

#[tokio::test]
async fn a_failed_sync_ends_everything() {
    let home = Home::new();
    let (mut open, faults) = faulty(&home);
    open.journal.append(event(1)).await.unwrap();
    faults.set(Fault::Sync);
    assert!(matches!(
        open.journal.append(event(2)).await,
        Err(Error::Stopped)
    ));
    faults.set(Fault::None);
    assert!(matches!(
        open.journal.append(event(3)).await,
        Err(Error::Stopped)
    ));
    until("the alarm", || open.fatal.is_cancelled()).await;
    assert_eq!(open.accepted.recv().await.unwrap().seq, 1);
    assert!(
        open.accepted.recv().await.is_none(),
        "event 2 is not delivered"
    );
    open.journal.close().await;
    let open = home.open();
    assert!(!open.recovered.clean);
    assert!(open.journal.append(event(1)).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_failed_write_or_rename_ends_everything() {
    for fault in [Fault::Write, Fault::Names] {
        let (open, faults) = faulty(&Home::new());
        open.journal.append(large_event(1, 3000)).await.unwrap();
        faults.set(fault);
        let answer = open.journal.append(large_event(2, 3000)).await;
        assert!(
            matches!(answer, Err(Error::Stopped)),
            "{fault:?}: {answer:?}"
        );
        until("the alarm", || open.fatal.is_cancelled()).await;
    }
}

#[tokio::test]
async fn a_failed_sync_of_outcomes_ends_everything() {
    let (open, faults) = faulty(&Home::new());
    open.journal.append(event(1)).await.unwrap();
    faults.set(Fault::Sync);
    open.journal.record(settled(1));
    until("the alarm", || open.fatal.is_cancelled()).await;
    assert!(matches!(
        open.journal.append(event(2)).await,
        Err(Error::Stopped)
    ));
}

#[tokio::test]
async fn outcomes_are_synced_without_being_asked_for() {
    let (open, faults) = faulty(&Home::new());
    open.journal.append(event(1)).await.unwrap();
    let n_before = faults.n_syncs.load(Ordering::SeqCst);
    open.journal.record(settled(1));
    until("the sync", || {
        faults.n_syncs.load(Ordering::SeqCst) > n_before
    })
    .await;
}

#[tokio::test]
async fn short_and_interrupted_writes_are_completed() {
    let home = Home::new();
    let (open, faults) = faulty(&home);
    faults.set(Fault::ShortWrites { interrupt: false });
    open.journal
        .append_all((1..=40).map(event).collect())
        .await
        .unwrap();
    open.journal.abandon().await;
    let open = home.open();
    assert_eq!(open.recovered.damage, []);
    assert!(waiting_seqs(&open.journal).into_iter().eq(1..=40));
}

#[tokio::test]
async fn too_many_waiting_bytes_are_refused_at_once() {
    let home = Home::new().with(|it| it.max_waiting_bytes = 4096);
    let (open, faults) = faulty(&home);
    let syncing = faults.hold_syncs();
    let mut appends = Vec::new();
    let refused = loop {
        let mut append = Box::pin(open.journal.append(large_event(appends.len() as u64, 1000)));
        match poll_once(append.as_mut()).await {
            Some(answer) => break answer,
            None => appends.push(append),
        }
        // One group in the writer's hands and one in the queue.
        assert!(appends.len() <= 20, "the queue is bounded");
    };
    assert!(matches!(refused, Err(Error::Overloaded)), "{refused:?}");
    drop(syncing);
    for append in appends {
        append.await.unwrap();
    }
    open.journal.append(event(99)).await.unwrap();
}

async fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_full_disk_refuses_events_and_takes_outcomes() {
    let home = Home::new();
    let (open, faults) = faulty(&home);
    let mut n_taken = 0;
    open.journal.append(large_event(0, 100)).await.unwrap();
    faults.set(Fault::NoSpace);
    let refused = loop {
        match open.journal.append(large_event(n_taken + 1, 1000)).await {
            Ok(_) => n_taken += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, Error::DiskFull) && refused.is_retryable(),
        "{refused}"
    );
    let n_events = n_taken + 1;
    // More than the rest of the segment can hold: the reserved one takes them.
    let n_rounds = 60 / u32::try_from(n_events).unwrap();
    for round in 1..=n_rounds {
        for seq in 1..=n_events {
            open.journal.record(deferred(seq, round, 1));
        }
    }
    open.journal.flush().await.unwrap();
    assert!(matches!(
        open.journal.append(event(50)).await,
        Err(Error::DiskFull)
    ));
    faults.set(Fault::None);
    assert_eq!(
        open.journal.append(event(50)).await.unwrap().seq,
        n_events + 1
    );
    assert!(!open.fatal.is_cancelled());
    open.journal.abandon().await;
    let open = home.open();
    let waiting = waiting(&open.journal);
    assert_eq!(waiting.len() as u64, n_events + 1);
    assert_eq!(waiting[0].1.attempts, n_rounds);
}

#[tokio::test]
async fn too_little_free_space_refuses_events_until_there_is_more() {
    let home = Home::new().with(|it| it.min_free_bytes = Some(1 << 20));
    let (open, faults) = faulty(&home);
    faults.set(Fault::Free(1000));
    until("the refusal", || open.journal.stats().free_bytes == 1000).await;
    assert!(matches!(
        open.journal.append(event(1)).await,
        Err(Error::DiskFull)
    ));
    faults.set(Fault::Free(2 << 20));
    until("the change", || open.journal.stats().free_bytes > 1000).await;
    assert!(!open.journal.append(event(1)).await.unwrap().duplicate);
}

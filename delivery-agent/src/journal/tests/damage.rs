//! What a disk may do to the files, at every byte.

use super::*;

/// A small log of `n_events`, as a crash leaves it; and where its last segment's records end.
async fn small_log(n_events: u64) -> Home {
    let home = Home::new();
    let open = home.open();
    for number in 1..=n_events {
        open.journal.append(event(number)).await.unwrap();
    }
    open.journal.abandon().await;
    home
}

fn last_segment(home: &Home) -> (PathBuf, Vec<u8>) {
    let path = home.files("log").pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

/// Where each event's record begins, and where the last one ends.
fn bounds(path: &Path, bytes: &[u8]) -> Vec<usize> {
    let file_name = path.file_name().unwrap().to_str().unwrap();
    let (name, _) = segment::Name::parse(file_name).unwrap();
    let place = record::Place::new(JOURNAL, name.number);
    let mut bounds = Vec::new();
    let scanned = segment::scan(place, &Bytes::copy_from_slice(bytes), |at, _| {
        bounds.push(segment::index(at));
    });
    bounds.push(segment::index(scanned.end));
    bounds
}

/// Recovers from `bytes` as the only segment; the threads are not started.
fn recover(home: &Home, path: &Path, bytes: &[u8]) -> (Recovered, Vec<u64>) {
    fs::remove_dir_all(&home.config.dir).unwrap();
    fs::create_dir_all(&home.config.dir).unwrap();
    fs::write(path, bytes).unwrap();
    let opened = recovery::recover(Arc::new(Disk), &home.config, &home.database).unwrap();
    let pending = opened.table.pending();
    let seqs: Vec<u64> = pending.map(|it| it.delivery.seq).collect();
    for seq in &seqs {
        let stored = opened.index.read(*seq).unwrap().unwrap();
        assert_eq!(stored.event, event(*seq).event);
    }
    (opened.recovered, seqs)
}

#[tokio::test]
async fn a_log_cut_at_any_byte_has_every_event_before_the_cut() {
    let home = small_log(3).await;
    let (path, bytes) = last_segment(&home);
    let bounds = bounds(&path, &bytes);
    let end = *bounds.last().unwrap();
    for length in 0..=end {
        let (recovered, seqs) = recover(&home, &path, &bytes[..length]);
        let n_whole = bounds[1..].iter().filter(|&&end| end <= length).count() as u64;
        assert!(
            seqs.iter().copied().eq(1..=n_whole),
            "{seqs:?} of a log of {length} bytes"
        );
        assert_eq!(recovered.next_seq, n_whole + 1);
        let has_header = length >= segment::HEADER_BYTES;
        assert_eq!(recovered.damage.is_empty(), has_header, "{recovered:?}");
    }
}

#[tokio::test]
async fn a_flipped_bit_at_any_byte_costs_only_the_record_it_hits() {
    let home = small_log(3).await;
    let (path, bytes) = last_segment(&home);
    let bounds = bounds(&path, &bytes);
    for at in 0..*bounds.last().unwrap() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let (recovered, seqs) = recover(&home, &path, &flipped);
        let n_before = bounds.iter().filter(|&&start| start <= at).count() as u64;
        let segment = || path.clone();
        match n_before {
            0 => {
                assert_eq!(seqs, [1, 2, 3]);
                assert_eq!(recovered.damage, [Damage::Header { segment: segment() }]);
            }
            // Nothing valid follows: it cannot be told from a write that was cut off.
            3 => {
                assert_eq!(seqs, [1, 2]);
                assert!(recovered.torn_bytes > 0 && recovered.damage.is_empty());
            }
            hit => {
                assert!(
                    seqs.iter().copied().eq((1..=3).filter(|it| *it != hit)),
                    "{seqs:?}"
                );
                let index = usize::try_from(hit).unwrap();
                let range = bounds[index - 1] as u64..bounds[index] as u64;
                let lost = Damage::Events { seqs: hit..hit + 1 };
                let gap = Damage::Bytes {
                    segment: segment(),
                    range,
                };
                assert_eq!(recovered.damage, [lost, gap]);
            }
        }
        let n_quarantined =
            fs::read_dir(home.config.dir.join("quarantine")).map_or(0, Iterator::count);
        assert_eq!(n_quarantined, usize::from(!recovered.damage.is_empty()));
    }
}

#[tokio::test]
async fn a_flipped_bit_before_the_marker_of_a_clean_end_is_never_a_torn_write() {
    let home = Home::new();
    let open = home.open();
    open.journal
        .append_all(vec![event(1), event(2)])
        .await
        .unwrap();
    open.journal.close().await;
    let (path, mut bytes) = last_segment(&home);
    let bounds = bounds(&path, &bytes);
    bytes[bounds[1] + 20] ^= 1;
    let (recovered, seqs) = recover(&home, &path, &bytes);
    assert_eq!(seqs, [1]);
    assert!(
        recovered.damage.len() == 1 && recovered.torn_bytes == 0,
        "{recovered:?}"
    );
}

#[tokio::test]
async fn moved_and_zeroed_blocks_are_reported_and_nothing_is_delivered_twice() {
    let home = small_log(30).await;
    let (path, bytes) = last_segment(&home);
    let bounds = bounds(&path, &bytes);
    let block = 512;
    let hit = |bytes: &[u8], at: usize| {
        let (recovered, seqs) = recover(&home, &path, bytes);
        let in_block = |i: usize| bounds[i] < at + block && bounds[i + 1] > at;
        let expected: Vec<u64> = (0..30)
            .filter(|&i| !in_block(i))
            .map(|i| i as u64 + 1)
            .collect();
        assert_eq!(seqs, expected);
        assert_eq!(recovered.damage.len(), 2, "{:?}", recovered.damage);
    };
    let mut zeroed = bytes.clone();
    zeroed[block..2 * block].fill(0);
    hit(&zeroed, block);
    let mut moved = bytes;
    moved.copy_within(2 * block..3 * block, block);
    hit(&moved, block);
}

#[tokio::test]
async fn a_lost_end_of_an_earlier_segment_is_reported() {
    let home = Home::new().with(|it| it.max_live_segments = 10);
    let open = home.open();
    for number in 1..=12 {
        open.journal.append(large_event(number, 900)).await.unwrap();
    }
    open.journal.abandon().await;
    let first = home.files("log").remove(0);
    let mut bytes = fs::read(&first).unwrap();
    let bounds = bounds(&first, &bytes);
    let n_events = bounds.len() as u64 - 1;
    let at = bounds[bounds.len() - 2];
    bytes[at + 30] ^= 4;
    fs::write(&first, &bytes).unwrap();
    let open = home.open();
    let lost = Damage::Events {
        seqs: n_events..n_events + 1,
    };
    assert!(
        open.recovered.damage.contains(&lost),
        "{:?}",
        open.recovered
    );
    assert!(
        waiting_seqs(&open.journal)
            .into_iter()
            .eq((1..=12).filter(|it| *it != n_events))
    );
    // The number after the lost one's segment goes on.
    assert_eq!(open.journal.append(event(13)).await.unwrap().seq, 13);
}

#[tokio::test]
async fn an_event_that_rots_while_the_journal_runs_is_an_error_and_not_an_absence() {
    let home = Home::new().with(|it| it.cache_bytes = 0);
    let open = home.open();
    open.journal
        .append_all(vec![event(1), event(2)])
        .await
        .unwrap();
    let (path, mut bytes) = last_segment(&home);
    let bounds = bounds(&path, &bytes);
    bytes[bounds[0] + 30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        open.journal.read(1),
        Err(Error::Corrupt { seq: 1 })
    ));
    assert!(open.journal.read(2).unwrap().is_some());
}

#[tokio::test]
async fn recovering_twice_changes_nothing() {
    let home = small_log(5).await;
    let mut found = Vec::new();
    for _ in 0..3 {
        let opened = recovery::recover(Arc::new(Disk), &home.config, &home.database).unwrap();
        found.push((
            opened.table.pending().collect::<Vec<_>>(),
            opened.recovered.next_seq,
        ));
    }
    assert_eq!(found[0].0.len(), 5);
    assert!(found.iter().all(|it| *it == found[0]));
}

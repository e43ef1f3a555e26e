//! What every store promises, as one suite that all implementations pass.
//!
//! A case knows the trait and, for the past that is gone, a way to compact. Invariant: a case here runs on every
//! implementation; what only one of them promises is in that one's `tests.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Batch, Change, Entry, Error, MAX_BYTES, MAX_OPERATIONS, Outcome, Revision, Store, Txn, Watch,
};

/// A fresh store and what tests may do to it.
#[async_trait]
pub(super) trait Fixture {
    fn store(&self) -> Arc<dyn Store>;
    /// Forgets what was before `revision`.
    async fn compact(&self, revision: Revision);
}

/// Makes a test of every case for the fixture that `$fixture().await` answers.
macro_rules! conformance {
    ($fixture:path) => {
        conformance! { $fixture =>
            a_key_is_created_once
            a_stale_compare_is_a_conflict_and_changes_nothing
            a_transaction_happens_at_one_revision_or_not_at_all
            a_delete_compares_and_leaves_nothing
            what_changes_nothing_has_no_revision
            a_key_that_comes_again_is_another_one
            a_range_is_in_byte_order_and_stays_in_its_prefix
            a_page_starts_after_any_key
            pages_of_a_pinned_revision_see_no_later_writes
            a_compacted_revision_is_refused
            a_future_revision_is_refused
            a_watch_from_the_past_sees_everything_once_in_order
            a_watch_sees_what_happens_under_its_prefix_only
            a_watch_hands_out_whole_transactions_however_many
            a_watch_that_waits_is_cancel_safe
            an_expired_lease_takes_its_keys_along_and_a_kept_one_does_not
            a_lost_lease_is_told
            a_revoked_lease_takes_only_the_keys_it_still_holds
            every_change_counts_one
            what_is_too_large_is_refused_and_the_limit_is_not
            concurrent_increments_lose_nothing
            the_generation_stays
        }
    };
    ($fixture:path => $($case:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = $fixture().await;
                crate::store::suite::$case(&fixture).await;
            }
        )+
    };
}
pub(super) use conformance;

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn a_key_is_created_once(fixture: &impl Fixture) {
    let store = fixture.store();
    let (nothing, before) = store.get("tenants/a").await.expect("get");
    assert_eq!(nothing, None);

    let create = |value: &'static str| Txn::new().absent("tenants/a").put("tenants/a", value);
    let revision = committed(&*store, create("first")).await;
    assert!(revision > before);
    conflict(&*store, create("second")).await;

    let (entry, now) = store.get("tenants/a").await.expect("get");
    let expected = Entry {
        key: "tenants/a".to_owned(),
        value: "first".into(),
        create_revision: revision,
        mod_revision: revision,
    };
    assert_eq!((entry, now), (Some(expected), revision));
}

pub(super) async fn a_stale_compare_is_a_conflict_and_changes_nothing(fixture: &impl Fixture) {
    let store = fixture.store();
    let first = committed(&*store, Txn::new().put("k", "1")).await;
    let swap = |seen| Txn::new().unchanged("k", seen).put("k", "2");
    let second = committed(&*store, swap(first)).await;
    conflict(&*store, swap(first)).await;
    conflict(&*store, swap(second + 1)).await;
    conflict(&*store, Txn::new().unchanged("none", first).put("none", "")).await;

    let (entry, revision) = store.get("k").await.expect("get");
    let entry = entry.expect("the key");
    assert_eq!((entry.create_revision, entry.mod_revision), (first, second));
    assert_eq!((&*entry.value, revision), (&b"2"[..], second));
}

pub(super) async fn a_transaction_happens_at_one_revision_or_not_at_all(fixture: &impl Fixture) {
    let store = fixture.store();
    committed(&*store, Txn::new().put("gone", "")).await;
    let both = || {
        Txn::new()
            .absent("a")
            .absent("b")
            .put("a", "")
            .put("b", "")
            .delete("gone")
    };
    let revision = committed(&*store, both()).await;
    let page = store.range("", None, 10, None).await.expect("range");
    let found: Vec<_> = page
        .entries
        .iter()
        .map(|e| (&*e.key, e.mod_revision))
        .collect();
    assert_eq!(found, [("a", revision), ("b", revision)]);

    committed(&*store, Txn::new().delete("a")).await;
    conflict(&*store, both()).await;
    let (a, _) = store.get("a").await.expect("get");
    assert_eq!(a, None, "one compare fails, nothing is written");
}

pub(super) async fn a_delete_compares_and_leaves_nothing(fixture: &impl Fixture) {
    let store = fixture.store();
    let first = committed(&*store, Txn::new().put("k", "1")).await;
    let second = committed(&*store, Txn::new().put("k", "2")).await;
    conflict(&*store, Txn::new().unchanged("k", first).delete("k")).await;
    let deleted = committed(&*store, Txn::new().unchanged("k", second).delete("k")).await;
    assert_eq!(store.get("k").await.expect("get"), (None, deleted));
    let page = store.range("", None, 10, None).await.expect("range");
    assert_eq!((page.entries, page.more), (vec![], false));
}

pub(super) async fn what_changes_nothing_has_no_revision(fixture: &impl Fixture) {
    let store = fixture.store();
    let revision = committed(&*store, Txn::new().put("k", "")).await;
    let same = committed(&*store, Txn::new().delete("none")).await;
    let compared = committed(&*store, Txn::new().unchanged("k", revision)).await;
    conflict(&*store, Txn::new().absent("k").put("other", "")).await;
    let (_, now) = store.get("k").await.expect("get");
    assert_eq!([same, compared, now], [revision; 3]);
}

pub(super) async fn a_key_that_comes_again_is_another_one(fixture: &impl Fixture) {
    let store = fixture.store();
    let first = committed(&*store, Txn::new().absent("k").put("k", "")).await;
    committed(&*store, Txn::new().delete("k")).await;
    let second = committed(&*store, Txn::new().absent("k").put("k", "")).await;
    conflict(&*store, Txn::new().unchanged("k", first).put("k", "")).await;
    let (entry, _) = store.get("k").await.expect("get");
    assert_eq!(entry.expect("the key").create_revision, second);
}

pub(super) async fn a_range_is_in_byte_order_and_stays_in_its_prefix(fixture: &impl Fixture) {
    let store = fixture.store();
    let keys = [
        "s",
        "s-",
        "s/",
        "s/B",
        "s/a",
        "s/a/b",
        "s/a0",
        "s/é",
        "s/\u{10ffff}",
        "s0",
        "t",
    ];
    for key in keys.iter().rev() {
        committed(&*store, Txn::new().put(*key, "")).await;
    }
    let page = store.range("s/", None, 100, None).await.expect("range");
    let found: Vec<_> = page.entries.iter().map(|e| &*e.key).collect();
    assert_eq!(
        found,
        ["s/", "s/B", "s/a", "s/a/b", "s/a0", "s/é", "s/\u{10ffff}"]
    );
    assert!(!page.more);

    let everything = store.range("", None, 100, None).await.expect("range");
    assert_eq!(everything.entries.len(), keys.len());
}

pub(super) async fn a_page_starts_after_any_key(fixture: &impl Fixture) {
    let store = fixture.store();
    for key in ["a/1", "a/2", "b/1", "b/2", "b/2x", "b/3", "c/1"] {
        committed(&*store, Txn::new().put(key, "")).await;
    }
    let cases: [(&str, usize, &[&str], bool); 7] = [
        ("a/1", 2, &["b/1", "b/2"], true),
        ("b/1", 2, &["b/2", "b/2x"], true),
        ("b/2", 2, &["b/2x", "b/3"], false),
        ("b/2a", 9, &["b/2x", "b/3"], false),
        ("b/3", 9, &[], false),
        ("b/4", 9, &[], false),
        ("c/1", 9, &[], false),
    ];
    for (after, limit, expected, more) in cases {
        let page = store
            .range("b/", Some(after), limit, None)
            .await
            .expect("range");
        let found: Vec<_> = page.entries.iter().map(|e| &*e.key).collect();
        assert_eq!((&*found, page.more), (expected, more), "after {after}");
    }
}

pub(super) async fn pages_of_a_pinned_revision_see_no_later_writes(fixture: &impl Fixture) {
    let store = fixture.store();
    for i in 0..10 {
        committed(&*store, Txn::new().put(format!("k{i}"), "old")).await;
    }
    let first = store.range("k", None, 3, None).await.expect("range");
    assert!(first.more);
    let mut seen = first.entries;
    while seen.len() < 10 {
        // Between any two pages a key is changed, one deleted, one comes.
        let n = seen.len();
        let disturb = Txn::new()
            .put("k8", "new")
            .delete(format!("k{n}"))
            .put(format!("k{n}x"), "");
        committed(&*store, disturb).await;
        let after = seen.last().map(|entry| entry.key.clone());
        let at = Some(first.revision);
        let page = store
            .range("k", after.as_deref(), 3, at)
            .await
            .expect("range");
        assert_eq!(
            (page.revision, page.entries.is_empty()),
            (first.revision, false)
        );
        assert_eq!(page.more, seen.len() + page.entries.len() < 10);
        seen.extend(page.entries);
    }
    let keys: Vec<_> = seen.iter().map(|e| e.key.clone()).collect();
    assert_eq!(keys, (0..10).map(|i| format!("k{i}")).collect::<Vec<_>>());
    assert!(seen.iter().all(|entry| &*entry.value == b"old"));
}

pub(super) async fn a_compacted_revision_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    let first = committed(&*store, Txn::new().put("k", "1")).await;
    committed(&*store, Txn::new().put("k", "2")).await;
    committed(&*store, Txn::new().put("k", "3")).await;
    let last = committed(&*store, Txn::new().put("k", "4")).await;
    fixture.compact(last - 1).await;

    let page = store.range("", None, 1, Some(first)).await;
    assert!(
        matches!(page, Err(Error::Compacted { revision }) if revision == first),
        "{page:?}"
    );
    let mut watch = store.watch("", first).await.expect("watch");
    let batch = next(&mut watch).await;
    assert!(matches!(batch, Err(Error::Compacted { .. })), "{batch:?}");

    let page = store
        .range("", None, 1, Some(last - 1))
        .await
        .expect("range");
    assert_eq!(
        &*page.entries[0].value, b"3",
        "the compacted revision itself is there"
    );
    let mut watch = store.watch("", last - 1).await.expect("watch");
    let (changes, _) = until(&mut watch, last).await;
    assert_eq!(changes.len(), 1);
}

pub(super) async fn a_future_revision_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    let future = 10 + committed(&*store, Txn::new().put("k", "")).await;
    let page = store.range("", None, 1, Some(future)).await;
    assert!(
        matches!(page, Err(Error::FutureRevision { revision }) if revision == future),
        "{page:?}"
    );
    let mut watch = store.watch("", future).await.expect("watch");
    let batch = next(&mut watch).await;
    assert!(
        matches!(batch, Err(Error::FutureRevision { revision }) if revision == future),
        "{batch:?}"
    );
}

pub(super) async fn a_watch_from_the_past_sees_everything_once_in_order(fixture: &impl Fixture) {
    let store = fixture.store();
    let start = committed(&*store, Txn::new().put("k/0", "before")).await;
    let mut expected = Vec::new();
    for i in 0..50 {
        let key = format!("k/{}", i % 7);
        let revision = committed(&*store, Txn::new().put(&*key, i.to_string())).await;
        expected.push((key, i.to_string(), revision));
    }
    let mut watch = store.watch("k/", start).await.expect("watch");
    for i in 50..100 {
        let key = format!("k/{}", i % 7);
        let revision = committed(&*store, Txn::new().put(&*key, i.to_string())).await;
        expected.push((key, i.to_string(), revision));
    }
    let (changes, _) = until(&mut watch, start + 100).await;
    let seen: Vec<_> = changes
        .into_iter()
        .map(|change| match change {
            Change::Put(entry) => {
                let value = String::from_utf8(entry.value.to_vec()).expect("text");
                (entry.key, value, entry.mod_revision)
            }
            Change::Delete { key, .. } => panic!("{key} was not deleted"),
        })
        .collect();
    assert_eq!(seen, expected);
}

pub(super) async fn a_watch_sees_what_happens_under_its_prefix_only(fixture: &impl Fixture) {
    let store = fixture.store();
    let start = committed(&*store, Txn::new().put("a/0", "").put("b/0", "")).await;
    let mut watch = store.watch("a/", start).await.expect("watch");
    let put = committed(&*store, Txn::new().put("a/1", "v").put("b/1", "v")).await;
    let delete = committed(&*store, Txn::new().delete("a/0").delete("b/0")).await;
    committed(&*store, Txn::new().put("a0", "").put("a", "")).await;
    let again = committed(&*store, Txn::new().put("a/1", "w")).await;

    let (changes, revision) = until(&mut watch, again).await;
    let entry = |value: &'static str, mod_revision| {
        Change::Put(Entry {
            key: "a/1".to_owned(),
            value: value.into(),
            create_revision: put,
            mod_revision,
        })
    };
    let deleted = Change::Delete {
        key: "a/0".to_owned(),
        mod_revision: delete,
    };
    assert_eq!(changes, [entry("v", put), deleted, entry("w", again)]);
    assert_eq!(revision, again);
}

pub(super) async fn a_watch_hands_out_whole_transactions_however_many(fixture: &impl Fixture) {
    // 13 MB to catch up with, more than a message holds, and revisions that do not end where messages do.
    const TXNS: usize = 100;
    let store = fixture.store();
    let (_, start) = store.get("").await.expect("get");
    for _ in 0..TXNS {
        let txn = (0..MAX_OPERATIONS).fold(Txn::new(), |txn, i| {
            txn.put(format!("k/{i:03}"), vec![b'x'; 1000])
        });
        committed(&*store, txn).await;
    }
    let mut watch = store.watch("k/", start).await.expect("watch");
    let mut of_revision: BTreeMap<Revision, usize> = BTreeMap::new();
    let mut last = start;
    while last < start + TXNS as Revision {
        let batch = next(&mut watch).await.expect("watch");
        let mut touched: Vec<_> = batch.changes.iter().map(Change::mod_revision).collect();
        assert!(touched.is_sorted() && touched.iter().all(|r| *r > last && *r <= batch.revision));
        for revision in &touched {
            *of_revision.entry(*revision).or_default() += 1;
        }
        touched.dedup();
        for revision in touched {
            assert_eq!(
                of_revision[&revision], MAX_OPERATIONS,
                "a part of {revision}"
            );
        }
        last = batch.revision;
    }
    assert_eq!(of_revision.len(), TXNS);
}

pub(super) async fn a_watch_that_waits_is_cancel_safe(fixture: &impl Fixture) {
    let store = fixture.store();
    let (_, start) = store.get("").await.expect("get");
    let mut watch = store.watch("k", start).await.expect("watch");
    let mut seen = 0;
    let mut last = start;
    let writer = tokio::spawn(async move {
        for _ in 0..200 {
            committed(&*store, Txn::new().put("k", "")).await;
        }
    });
    while last < start + 200 {
        // Whoever reads gives up again and again.
        if let Ok(batch) = timeout(Duration::from_micros(300), watch.next()).await {
            let batch = batch.expect("watch");
            seen += batch.changes.len();
            last = batch.revision;
        }
    }
    writer.await.expect("the writer");
    assert_eq!(seen, 200);
}

pub(super) async fn an_expired_lease_takes_its_keys_along_and_a_kept_one_does_not(
    fixture: &impl Fixture,
) {
    let store = fixture.store();
    let ttl = Duration::from_secs(1);
    let left = store.grant(ttl).await.expect("grant");
    let kept = store.grant(ttl).await.expect("grant");
    let put = Txn::new()
        .put_leased("left/1", "", left)
        .put_leased("left/2", "", left)
        .put_leased("kept", "", kept);
    let start = committed(&*store, put).await;
    let mut watch = store.watch("", start).await.expect("watch");

    let keeper = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            loop {
                let ttl = store.keep_alive(kept).await.expect("the lease is kept");
                assert!(ttl >= Duration::from_secs(1), "{ttl:?}");
                sleep(ttl / 5).await;
            }
        }
    });
    let (mut changes, revision) = until(&mut watch, start + 1).await;
    changes.sort_by(|a, b| a.key().cmp(b.key()));
    let deleted = ["left/1", "left/2"].map(|key| Change::Delete {
        key: key.to_owned(),
        mod_revision: revision,
    });
    assert_eq!(changes, deleted);
    keeper.abort();
    assert!(keeper.await.expect_err("it never ends").is_cancelled());

    let page = store.range("", None, 9, None).await.expect("range");
    let keys: Vec<_> = page.entries.iter().map(|e| &*e.key).collect();
    assert_eq!(keys, ["kept"]);
    // Now it is not kept any more.
    let (changes, _) = until(&mut watch, revision + 1).await;
    assert_eq!(changes.len(), 1);
    assert_eq!(store.get("kept").await.expect("get").0, None);
}

pub(super) async fn a_lost_lease_is_told(fixture: &impl Fixture) {
    let store = fixture.store();
    let lease = store.grant(Duration::from_secs(60)).await.expect("grant");
    let ttl = store.keep_alive(lease).await.expect("keep alive");
    assert_eq!(ttl, Duration::from_secs(60));
    store.revoke(lease).await.expect("revoke");
    store.revoke(lease).await.expect("what is gone is revoked");

    let lost = |error: &Error| matches!(error, Error::LeaseLost(id) if *id == lease);
    let kept = store.keep_alive(lease).await;
    assert!(kept.as_ref().is_err_and(lost), "{kept:?}");
    let put = Txn::new().put("free", "").put_leased("k", "", lease);
    let put = store.commit(put).await;
    assert!(put.as_ref().is_err_and(lost), "{put:?}");
    let page = store.range("", None, 9, None).await.expect("range");
    assert_eq!(page.entries, []);
}

pub(super) async fn a_revoked_lease_takes_only_the_keys_it_still_holds(fixture: &impl Fixture) {
    let store = fixture.store();
    let minute = Duration::from_secs(60);
    let one = store.grant(minute).await.expect("grant");
    let other = store.grant(minute).await.expect("grant");
    let put = ["held", "freed", "moved", "gone"]
        .into_iter()
        .fold(Txn::new(), |txn, key| txn.put_leased(key, "", one));
    committed(&*store, put).await;
    let change = Txn::new()
        .put("freed", "")
        .put_leased("moved", "", other)
        .delete("gone");
    let start = committed(&*store, change).await;
    store.revoke(one).await.expect("revoke");

    let page = store.range("", None, 9, None).await.expect("range");
    let keys: Vec<_> = page.entries.iter().map(|e| &*e.key).collect();
    assert_eq!((keys, page.revision), (vec!["freed", "moved"], start + 1));
}

pub(super) async fn every_change_counts_one(fixture: &impl Fixture) {
    let store = fixture.store();
    let first = committed(&*store, Txn::new().put("k", "")).await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut revisions = Vec::new();
            for _ in 0..10 {
                revisions.push(committed(&*store, Txn::new().put(format!("k{writer}"), "")).await);
            }
            assert!(revisions.is_sorted());
            revisions
        });
    }
    let mut revisions = writers.join_all().await.concat();
    revisions.sort_unstable();
    assert_eq!(revisions, (first + 1..=first + 80).collect::<Vec<_>>());
}

pub(super) async fn what_is_too_large_is_refused_and_the_limit_is_not(fixture: &impl Fixture) {
    let store = fixture.store();
    let many = |n: usize| {
        (0..n).fold(Txn::new(), |txn, i| {
            txn.absent(format!("k{i}")).put(format!("k{i}"), "v")
        })
    };
    committed(&*store, many(MAX_OPERATIONS)).await;
    let large = |n: usize| Txn::new().put("large", vec![b'x'; n - "large".len()]);
    let revision = committed(&*store, large(MAX_BYTES)).await;

    let too_many = store.commit(many(MAX_OPERATIONS + 1)).await;
    assert!(
        matches!(too_many, Err(Error::TooLarge { .. })),
        "{too_many:?}"
    );
    let too_large = store.commit(large(MAX_BYTES + 1)).await;
    assert!(
        matches!(too_large, Err(Error::TooLarge { .. })),
        "{too_large:?}"
    );
    let twice = store.commit(Txn::new().put("k", "").delete("k")).await;
    assert!(matches!(twice, Err(Error::DuplicateKey(_))), "{twice:?}");

    // Pages are as large as asked for.
    for i in 0..8 {
        let value = vec![b'x'; MAX_BYTES - 10];
        committed(&*store, Txn::new().put(format!("large{i}"), value)).await;
    }
    let page = store.range("large", None, 9, None).await.expect("range");
    assert_eq!((page.entries.len(), page.revision), (9, revision + 8));
}

pub(super) async fn concurrent_increments_lose_nothing(fixture: &impl Fixture) {
    let store = fixture.store();
    committed(&*store, Txn::new().put("n", "0")).await;
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut n_done = 0;
            while n_done < 10 {
                let entry = store.get("n").await.expect("get").0.expect("the key");
                let n: u32 = str::from_utf8(&entry.value)
                    .expect("text")
                    .parse()
                    .expect("n");
                let txn = Txn::new()
                    .unchanged("n", entry.mod_revision)
                    .put("n", (n + 1).to_string());
                match store.commit(txn).await.expect("commit") {
                    Outcome::Committed(_) => n_done += 1,
                    Outcome::Conflict => {}
                }
            }
        });
    }
    writers.join_all().await;
    let (entry, _) = store.get("n").await.expect("get");
    assert_eq!(&*entry.expect("the key").value, b"80");
}

pub(super) async fn the_generation_stays(fixture: &impl Fixture) {
    let store = fixture.store();
    let mut askers = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        askers.spawn(async move { store.generation().await.expect("generation") });
    }
    let answers = askers.join_all().await;
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert!(!answers[0].as_str().is_empty());
}

// --- what the cases, and the tests of the implementations, are written with ---

pub(super) async fn committed(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(txn).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

pub(super) async fn conflict(store: &dyn Store, txn: Txn) {
    let outcome = store.commit(txn).await.expect("commit");
    assert_eq!(outcome, Outcome::Conflict);
}

/// The next batch, soon.
pub(super) async fn next(watch: &mut Watch) -> Result<Batch, Error> {
    timeout(PATIENCE, watch.next())
        .await
        .expect("the watch is silent")
}

/// All changes until the watch has reached `revision`, and where it stands then.
pub(super) async fn until(watch: &mut Watch, revision: Revision) -> (Vec<Change>, Revision) {
    let deadline = Instant::now() + PATIENCE;
    let mut changes = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "not at {revision}: {changes:?}");
        let batch = next(watch).await.expect("watch");
        changes.extend(batch.changes);
        if batch.revision >= revision {
            return (changes, batch.revision);
        }
    }
}

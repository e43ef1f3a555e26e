//! Agents that die, freeze or are not let to end in order (rows F3, F36, F48 and F49 of the fault matrix). What they had
//! is there when they come back; only what was under way is received twice.

use nix::sys::signal::Signal;

use super::fleet::{Fleet, PATIENCE, Size, Temper};
use crate::harness::{checker::Excuses, eventually};

const SIZE: Size = Size {
    n_etcd: 1,
    n_planes: 1,
    hold: 2,
    agent_flags: &[],
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_loses_its_slots_and_brings_its_backlog_when_it_returns() {
    let mut fleet = Fleet::start(SIZE).await;
    for name in ["a", "b", "c"] {
        fleet.join(name);
    }
    let before = fleet.shared_by(&["a", "b", "c"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    let load = ledger.load(&fleet.doors, &fleet.shape("killed"));
    ledger.acknowledged(200).await;
    fleet.receivers(Temper::Fails);
    ledger.acknowledged(100).await;
    ledger.forget_order();
    ledger
        .fault("kill -9 of b", Excuses::InFlight, async { fleet.kill("b") })
        .await;
    fleet.receivers(Temper::Usual);

    let without = fleet.owned_by(&["a", "c"]).await;
    assert_eq!(without.moved_since(&before), before.count("b"));
    ledger.acknowledged(200).await;
    // Everything but what is on the disk of b arrives.
    load.stop().await;
    let waiting = eventually("only b has something left", PATIENCE, || async {
        let agents = fleet.agents().await?;
        let n = agents
            .iter()
            .map(|it| it.pending_delivery_count)
            .sum::<i64>();
        if n > 0 {
            Err(n.to_string())
        } else {
            Ok(ledger.missing().len())
        }
    })
    .await;
    assert!(waiting > 10, "b had a backlog: {waiting}");

    let load = ledger.load(&fleet.doors, &fleet.shape("returned"));
    fleet.join("b");
    let after = fleet.shared_by(&["a", "b", "c"]).await;
    assert_eq!(after.moved_since(&without), after.count("b"));
    ledger.acknowledged(100).await;
    load.stop().await;
    ledger.settle().await.passes(600, 1200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_freezes_past_its_lease_doubles_only_what_it_had_in_hand() {
    let mut fleet = Fleet::start(SIZE).await;
    for name in ["a", "b"] {
        fleet.join(name);
    }
    let before = fleet.shared_by(&["a", "b"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    let load = ledger.load(&fleet.doors, &fleet.shape("frozen"));
    ledger.acknowledged(200).await;
    ledger.forget_order();
    let frozen = async {
        fleet.freeze("b", true);
        let alone = fleet.owned_by(&["a"]).await;
        assert_eq!(alone.moved_since(&before), before.count("b"));
        ledger.acknowledged(100).await;
        fleet.freeze("b", false);
    };
    ledger.fault("b is frozen", Excuses::InFlight, frozen).await;
    fleet.shared_by(&["a", "b"]).await;
    ledger.acknowledged(100).await;
    load.stop().await;
    ledger.settle().await.passes(400, 800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_at_once_and_loses_nothing() {
    cut_short(Signal::SIGTERM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_an_end_loses_nothing() {
    cut_short(Signal::SIGKILL).await;
}

/// Begins to end an agent, and ends it otherwise while it still hands over.
async fn cut_short(how: Signal) {
    let mut fleet = Fleet::start(SIZE).await;
    for name in ["a", "b"] {
        fleet.join(name);
    }
    fleet.shared_by(&["a", "b"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    ledger.forget_order();
    let load = ledger.load(&fleet.doors, &fleet.shape("short"));
    ledger.acknowledged(100).await;
    // What is under way holds up what waits.
    fleet.receivers(Temper::Stalls);
    ledger.acknowledged(200).await;
    let b = fleet.take("b");
    let short = async {
        b.signal(Signal::SIGTERM);
        fleet.owned_by(&["a"]).await;
        b.signal(how);
        b.ended().await
    };
    let ended = ledger.fault(how.as_str(), Excuses::Pending, short).await;
    assert!(!ended.success(), "{ended}");
    fleet.receivers(Temper::Usual);
    fleet.open_doors();
    ledger.acknowledged(50).await;
    fleet.join("b");
    fleet.shared_by(&["a", "b"]).await;
    ledger.acknowledged(100).await;
    load.stop().await;
    ledger.settle().await.passes(400, 800);
}

//! What operators do on purpose: agents that join, end, are drained and restarted, control planes that are replaced.
//! It loses nothing, doubles nothing, and moves as few slots as can be; keys keep their order while slots move.

use std::time::Duration;

use super::fleet::{Fleet, PATIENCE, Size, Temper};
use crate::harness::{checker::Excuses, eventually, ledger::Shape};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_join_and_leave_move_their_share_of_slots_and_nothing_else() {
    let mut fleet = Fleet::start(Size {
        n_etcd: 1,
        n_planes: 1,
        hold: 15,
        agent_flags: &[],
    })
    .await;
    fleet.join("a");
    let alone = fleet.shared_by(&["a"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    // Each event goes to any agent, and keys keep their order all the same.
    let shape = Shape {
        stays: false,
        ..fleet.shape("joining")
    };
    let load = ledger.load(&fleet.doors, &shape);
    ledger.acknowledged(200).await;

    ledger
        .fault("b joins", Excuses::Nothing, async { fleet.join("b") })
        .await;
    let two = fleet.shared_by(&["a", "b"]).await;
    assert_eq!(two.moved_since(&alone), 512);
    ledger.acknowledged(200).await;
    // What waits goes along, and what comes meanwhile goes behind it.
    fleet.receivers(Temper::Fails);
    ledger.acknowledged(100).await;
    fleet.join("c");
    fleet.owned_by(&["a", "b", "c"]).await;
    ledger.acknowledged(50).await;
    fleet.receivers(Temper::Usual);
    let three = fleet.shared_by(&["a", "b", "c"]).await;
    assert_eq!(three.moved_since(&two), three.count("c"));
    assert!((341..=342).contains(&three.count("c")));
    ledger.acknowledged(200).await;

    let ended = ledger.fault("SIGTERM of b", Excuses::Nothing, fleet.terminate("b"));
    assert!(ended.await.success());
    // Nothing of it is needed any more.
    fleet.wipe("b");
    fleet.open_doors();
    let without = fleet.shared_by(&["a", "c"]).await;
    assert_eq!(without.moved_since(&three), three.count("b"));
    ledger.acknowledged(200).await;

    let drain = fleet.command(&["drain", "c", "--wait"]);
    ledger.fault("drain of c", Excuses::Nothing, drain).await;
    let drained = fleet.shared_by(&["a"]).await;
    assert_eq!(drained.moved_since(&without), without.count("c"));
    ledger.acknowledged(100).await;
    assert!(fleet.terminate("c").await.success());
    fleet.wipe("c");
    fleet.open_doors();
    ledger.acknowledged(100).await;
    load.stop().await;
    ledger.settle().await.passes(1000, 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_everything_moves_no_slot() {
    let mut fleet = Fleet::start(Size {
        n_etcd: 1,
        n_planes: 2,
        hold: 60,
        agent_flags: &["--keep-slots"],
    })
    .await;
    for name in ["a", "b", "c"] {
        fleet.join(name);
    }
    let before = fleet.shared_by(&["a", "b", "c"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    // Publishers change agents while owners are away.
    ledger.forget_order();
    let load = ledger.load(&fleet.doors, &fleet.shape("rolling"));
    ledger.acknowledged(200).await;
    for name in ["a", "b", "c"] {
        let restart = async {
            let ended = fleet.terminate(name).await;
            assert!(ended.success(), "{ended}");
            ledger.acknowledged(50).await;
            fleet.join(name);
        };
        ledger.fault(name, Excuses::Nothing, restart).await;
        ledger.acknowledged(150).await;
    }
    for number in 0..2 {
        let restart = async {
            let ended = fleet.take_plane(number).terminate().await;
            assert!(ended.success(), "{ended}");
            ledger.acknowledged(50).await;
            fleet.restart_plane(number);
        };
        ledger
            .fault("a control plane", Excuses::Nothing, restart)
            .await;
        ledger.acknowledged(100).await;
    }
    let placer = eventually("somebody places slots", PATIENCE, || async {
        fleet.placer().ok_or("nobody")
    })
    .await;
    let kill = async { fleet.take_plane(placer).kill() };
    ledger
        .fault("kill -9 of the placer", Excuses::Nothing, kill)
        .await;
    // Nobody places slots until its lease is over, and then the other one does.
    eventually("the other one places slots", PATIENCE, || async {
        fleet.placer().ok_or("nobody")
    })
    .await;
    fleet.outlast(Duration::from_secs(6)).await;
    assert_eq!(fleet.table().await.unwrap(), before);
    fleet.restart_plane(placer);
    ledger.acknowledged(100).await;
    load.stop().await;
    assert_eq!(fleet.shared_by(&["a", "b", "c"]).await, before);
    ledger.settle().await.passes(1000, 2000);
}

//! Tenants that are spread over several slots: each of their shards moves, waits and is handed over by itself, and what
//! waits in one that takes no events any more is delivered all the same.

use super::fleet::{Fleet, Size, Temper};
use crate::harness::{checker::Excuses, ledger::Shape};

const SIZE: Size = Size {
    n_etcd: 1,
    n_planes: 1,
    hold: 15,
    agent_flags: &[],
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_spread_tenants_keep_their_order_while_agents_join_and_leave() {
    let mut fleet = Fleet::start(SIZE).await;
    fleet.join("a");
    fleet.shared_by(&["a"]).await;
    fleet.subscribe().await;
    fleet.spread(4).await;
    // What is created after it is in force after it.
    fleet.subscribe_late("late").await;
    let ledger = fleet.ledger.clone();
    let shape = Shape {
        stays: false,
        ..fleet.shape("spread")
    };
    let load = ledger.load(&fleet.doors, &shape);
    ledger.acknowledged(200).await;

    fleet.receivers(Temper::Fails);
    ledger.acknowledged(100).await;
    ledger
        .fault("b joins", Excuses::Nothing, async { fleet.join("b") })
        .await;
    fleet.owned_by(&["a", "b"]).await;
    ledger.acknowledged(50).await;
    fleet.receivers(Temper::Usual);
    fleet.shared_by(&["a", "b"]).await;
    ledger.acknowledged(100).await;

    fleet.receivers(Temper::Fails);
    ledger.acknowledged(100).await;
    let drain = fleet.command(&["drain", "a"]);
    ledger.fault("drain of a", Excuses::Nothing, drain).await;
    fleet.owned_by(&["b"]).await;
    ledger.acknowledged(50).await;
    fleet.receivers(Temper::Usual);
    fleet.shared_by(&["b"]).await;
    let ended = ledger.fault("SIGTERM of a", Excuses::Nothing, fleet.terminate("a"));
    assert!(ended.await.success());
    // Nothing of it is needed any more.
    fleet.wipe("a");
    fleet.open_doors();
    ledger.acknowledged(100).await;
    load.stop().await;
    ledger.settle().await.passes(600, 1200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_spread_of_tenants_changes() {
    let mut fleet = Fleet::start(SIZE).await;
    for name in ["a", "b", "c"] {
        fleet.join(name);
    }
    fleet.shared_by(&["a", "b", "c"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    ledger.forget_order();
    let shape = Shape {
        stays: false,
        ..fleet.shape("changing")
    };
    let load = ledger.load(&fleet.doors, &shape);
    ledger.acknowledged(100).await;
    let raised = fleet.spread(8);
    ledger.fault("raised to 8", Excuses::Nothing, raised).await;
    ledger.acknowledged(200).await;

    // Something waits in each shard.
    fleet.receivers(Temper::Fails);
    ledger.acknowledged(150).await;
    let lowered = fleet.spread(3);
    ledger
        .fault("lowered to 3", Excuses::Nothing, lowered)
        .await;
    ledger.acknowledged(100).await;
    let restart = async {
        fleet.kill("b");
        fleet.join("b");
    };
    ledger
        .fault("kill -9 of b", Excuses::InFlight, restart)
        .await;
    ledger.acknowledged(50).await;
    fleet.receivers(Temper::Usual);
    ledger.acknowledged(100).await;
    let lowered = fleet.spread(1);
    ledger
        .fault("lowered to 1", Excuses::Nothing, lowered)
        .await;
    ledger.acknowledged(100).await;
    // The slots of shards that take nothing any more can move, too.
    fleet.join("d");
    fleet.shared_by(&["a", "b", "c", "d"]).await;
    let raised = fleet.spread(16);
    ledger.fault("raised to 16", Excuses::Nothing, raised).await;
    ledger.acknowledged(100).await;
    load.stop().await;
    ledger.settle().await.passes(900, 1800);
}

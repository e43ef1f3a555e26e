//! Parts of a fleet that cannot hear each other (rows F28 and F35 of the fault matrix): packets vanish between namespaces.

use std::time::Duration;

use super::fleet::{Fleet, PATIENCE, Size, plane};
use crate::harness::{checker::Excuses, eventually, network::Network};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_cut_off_goes_on_and_nothing_is_lost() {
    let (first, second) = (plane(0), plane(1));
    let Some(network) = Network::new(&[&first, &second, "a", "b"]) else {
        return;
    };
    let size = Size {
        n_etcd: 1,
        n_planes: 2,
        hold: 2,
        agent_flags: &[],
    };
    let mut fleet = Fleet::start_in(size, Some(network)).await;
    for name in ["a", "b"] {
        fleet.join(name);
    }
    let before = fleet.shared_by(&["a", "b"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    let load = ledger.load(&fleet.doors, &fleet.shape("cut"));
    ledger.acknowledged(100).await;

    let apart = async {
        fleet.network().cut("a", "b");
        ledger.acknowledged(300).await;
        fleet.network().heal("a", "b");
    };
    ledger
        .fault(
            "a and b are cut off from each other",
            Excuses::InFlight,
            apart,
        )
        .await;
    ledger.acknowledged(100).await;
    assert_eq!(fleet.table().await.unwrap(), before, "no slot moved");

    // One of the control planes knows nothing any more; agents go to the other one, and keep their slots.
    let blind = async {
        fleet.network().cut_own(&first);
        // Longer than a lease and the hold.
        fleet.outlast(Duration::from_secs(25)).await;
        let table = fleet.table_of(fleet.plane(1).channel()).await;
        assert_eq!(table.unwrap(), before, "no slot moved");
        fleet.network().heal_own(&first);
    };
    ledger
        .fault(
            "a control plane is cut off from etcd",
            Excuses::Nothing,
            blind,
        )
        .await;
    ledger.acknowledged(50).await;

    ledger.forget_order();
    let untold = async {
        for plane in [&first, &second] {
            fleet.network().cut("b", plane);
        }
        let alone = fleet.owned_by(&["a"]).await;
        assert_eq!(alone.moved_since(&before), before.count("b"));
        ledger.acknowledged(100).await;
        for plane in [&first, &second] {
            fleet.network().heal("b", plane);
        }
    };
    ledger
        .fault(
            "b is cut off from all control planes",
            Excuses::InFlight,
            untold,
        )
        .await;
    fleet.shared_by(&["a", "b"]).await;
    ledger.acknowledged(100).await;
    load.stop().await;
    eventually("both live", PATIENCE, || async {
        fleet.agents().await.map(drop)
    })
    .await;
    ledger.settle().await.passes(500, 1000);
}

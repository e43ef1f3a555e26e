//! Control plane and etcd are gone while agents work (rows F25 to F27 of the fault matrix): an hour in the issue, here as
//! long as every lease, hold and patience of the fleet takes to end, because afterwards nothing changes any more.

use std::time::Duration;

use super::fleet::{Fleet, Size};
use crate::harness::checker::Excuses;

/// Of the rate before. Other tests take what they get of the machine; who waits for a control plane delivers nothing.
const AT_WORK: f64 = 0.2;
const WINDOW: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_go_on_and_restart_while_nobody_tells_them_anything() {
    let mut fleet = Fleet::start(Size {
        n_etcd: 1,
        n_planes: 1,
        hold: 10,
        agent_flags: &["--keep-slots"],
    })
    .await;
    for name in ["a", "b"] {
        fleet.join(name);
    }
    let before = fleet.shared_by(&["a", "b"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    // Publishers change agents while owners are away.
    ledger.forget_order();
    let load = ledger.load(&fleet.doors, &fleet.shape("detached"));
    ledger.acknowledged(100).await;
    let usual = rate(&fleet).await;

    let mut best: f64 = 0.0;
    let away = async {
        fleet.take_plane(0).kill();
        fleet.etcd[0].kill();
        // Until the last lease is over.
        for _ in 0..4 {
            best = best.max(rate(&fleet).await);
        }
        let restart = async {
            assert!(fleet.terminate("a").await.success());
            fleet.join("a");
            ledger.acknowledged(50).await;
        };
        ledger
            .fault("restart of a", Excuses::Nothing, restart)
            .await;
        let restart = async {
            fleet.kill("b");
            fleet.join("b");
            ledger.acknowledged(50).await;
        };
        ledger
            .fault("kill -9 of b", Excuses::InFlight, restart)
            .await;
        // They are at work again once they have waited for the control plane.
        fleet.outlast(Duration::from_secs(8)).await;
        let again = rate(&fleet).await;
        eprintln!("RATE {usual:.0} before, {best:.0} detached, {again:.0} after restarts");
        assert!(best >= AT_WORK * usual, "{best} after {usual}");
        assert!(again >= AT_WORK * usual, "{again} after {usual}");
        fleet.etcd[0].restart().await;
        fleet.restart_plane(0);
    };
    ledger
        .fault("nobody tells agents anything", Excuses::Nothing, away)
        .await;
    assert_eq!(fleet.shared_by(&["a", "b"]).await, before, "no slot moved");
    // They listen again.
    fleet.subscribe_late("late").await;
    ledger.acknowledged(100).await;
    load.stop().await;
    assert_eq!(fleet.shared_by(&["a", "b"]).await, before, "no slot moved");
    ledger.settle().await.passes(500, 1000);
}

/// Deliveries in a second.
async fn rate(fleet: &Fleet) -> f64 {
    let (n_before, from) = (fleet.ledger.receiver.count(), fleet.ledger.now());
    fleet.outlast(WINDOW).await;
    let n = fleet.ledger.receiver.count() - n_before;
    n as f64 / (fleet.ledger.now() - from).as_secs_f64()
}

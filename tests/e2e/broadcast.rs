//! Events for all tenants, over all agents.

use std::{collections::BTreeSet, time::Duration};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    ListAgentsRequest, Receipt, fleet_service_client::FleetServiceClient, publish_result,
};
use tonic::{Code, transport::Channel};

use crate::harness::{
    api::{create_tenant, event, publish, subscribe_in_force, to},
    eventually,
    process::{agent, control_plane},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
const N_TENANTS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_for_all_tenants_reaches_each_of_them_once_wherever_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.6:0");
    eventually("both have slots", PATIENCE, || async {
        let mut fleet = FleetServiceClient::new(admin.clone());
        let agents = fleet.list_agents(ListAgentsRequest::default()).await;
        let agents = agents.map_err(|it| it.to_string())?.into_inner().agents;
        let are_ready = agents.len() == 2 && agents.iter().all(|it| it.slot_count == 512);
        are_ready.then_some(()).ok_or(format!("{agents:?}"))
    })
    .await;
    let receiver = Receiver::start().await;
    for number in 0..N_TENANTS {
        let tenant = format!("tenant-{number}");
        create_tenant(&admin, &tenant).await;
        subscribe_in_force(&admin, &tenant, "hook", to(receiver.url(&tenant))).await;
    }
    create_tenant(&admin, "deaf").await;

    let receipt = broadcast(&first.channel(), "1").await;
    assert_eq!(usize::try_from(receipt.delivery_count), Ok(N_TENANTS));
    assert!(!receipt.duplicate);
    received_by(&receiver, "1", N_TENANTS).await;
    let again = broadcast(&second.channel(), "1").await;
    assert!(again.duplicate);
    assert_eq!(received(&receiver, "1").len(), N_TENANTS, "each once");

    // What is for tenants of an agent that is away waits for it.
    let address = second.address.to_string();
    second.kill();
    let receipt = broadcast(&first.channel(), "2").await;
    let n_here = usize::try_from(receipt.delivery_count).unwrap();
    assert!((1..N_TENANTS).contains(&n_here), "both have some: {n_here}");
    assert!(broadcast(&first.channel(), "2").await.duplicate);
    received_by(&receiver, "2", n_here).await;
    let second = agent(&dir.path().join("second"), plane.address, &address);
    received_by(&receiver, "2", N_TENANTS).await;

    let bad = publish(&first.channel(), "-", vec![event("3", "", "{}")]).await;
    let result = bad.unwrap().pop().unwrap();
    assert!(
        matches!(&result, publish_result::Result::Error(it) if it.code == i32::from(Code::InvalidArgument)),
        "{result:?}"
    );
    assert_eq!(received(&receiver, "2").len(), N_TENANTS, "each once");
    drop(second);
}

async fn broadcast(channel: &Channel, id: &str) -> Receipt {
    let event = event(id, "news.everybody", "{}");
    let results = publish(channel, "-", vec![event]).await;
    match results.unwrap().pop() {
        Some(publish_result::Result::Receipt(receipt)) => receipt,
        other => panic!("not accepted: {other:?}"),
    }
}

/// Who received the event, as often as it was.
fn received(receiver: &Receiver, id: &str) -> Vec<String> {
    let received = receiver.received().into_iter();
    let received = received.filter(|it| it.json()["id"] == id);
    received.map(|it| it.path).collect()
}

/// Waits until so many tenants have received the event.
async fn received_by(receiver: &Receiver, id: &str, n: usize) {
    eventually("the event is received", PATIENCE, || async {
        let paths: BTreeSet<String> = received(receiver, id).into_iter().collect();
        (paths.len() == n).then_some(()).ok_or(paths)
    })
    .await;
}

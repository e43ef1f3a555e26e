//! A control plane on a real etcd, and an agent: what one can do without the other.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    GetDeliveryRequest, GetEventRequest, GetPlacementRequest, ListAgentsRequest,
    ListAttemptsRequest, ListDeliveriesRequest, RedeliverDeliveryRequest, RetryPolicy,
    Subscription, agent::State, delivery, delivery_service_client::DeliveryServiceClient,
    fleet_service_client::FleetServiceClient,
};
use tonic::Code;

use crate::harness::{
    api::{create_tenant, deliveries, event, in_force, publish_one, subscribe_in_force, to},
    eventually,
    process::{Process, agent, agent_command, control_plane, hookfleet},
    receiver::Receiver,
    verifier::python,
};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_agent_delivers_and_restarts_while_the_control_plane_and_etcd_are_away() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let plane_address = plane.address;
    let data_dir = dir.path().join("agent");
    let worker = agent(&data_dir, plane_address, "127.0.0.4:0");
    let (admin, data, address) = (
        plane.channel(),
        worker.channel(),
        worker.address.to_string(),
    );
    let receiver = Receiver::start().await;
    create_tenant(&admin, "acme").await;
    let created = subscribe_in_force(&admin, "acme", "hook", to(receiver.url("hook"))).await;
    publish_one(&data, "acme", event("1", "orders.created", "{}")).await;
    // An agent that ends in order has its snapshot on disk.
    assert!(worker.terminate().await.success());
    let worker = agent(&data_dir, plane_address, &address);
    let data = worker.channel();
    in_force(&admin, &created.name).await;

    plane.kill();
    drop(etcd);
    publish_one(&data, "acme", event("2", "orders.created", "{}")).await;
    worker.kill();
    let worker = agent(&data_dir, plane_address, &address);
    let data = worker.channel();
    // It waits a few seconds for the control plane before it goes by its snapshot.
    eventually("events are accepted by the snapshot", PATIENCE, || async {
        let events = vec![event("3", "orders.created", "{}")];
        crate::harness::api::publish(&data, "acme", events)
            .await
            .map_err(|status| status.to_string())
    })
    .await;
    eventually("three callbacks", PATIENCE, || async {
        let ids: BTreeSet<String> = receiver
            .received_at("hook")
            .iter()
            .map(|it| it.json()["id"].as_str().unwrap().to_owned())
            .collect();
        if ids.len() == 3 { Ok(()) } else { Err(ids) }
    })
    .await;
}

#[tokio::test]
async fn the_fleet_shows_its_agents_and_forwards_questions_about_deliveries() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let worker = agent(&dir.path().join("agent"), plane.address, "127.0.0.1:0");
    let (admin, data) = (plane.channel(), worker.channel());
    let mut fleet = FleetServiceClient::new(admin.clone());
    let found = eventually("a live agent", PATIENCE, || {
        let mut fleet = fleet.clone();
        async move {
            let agents = fleet.list_agents(ListAgentsRequest::default()).await;
            let agents = agents
                .map_err(|status| status.to_string())?
                .into_inner()
                .agents;
            let is_live = agents.len() == 1
                && agents[0].state() == State::Live
                && agents[0].slot_count == 1024;
            if is_live {
                Ok(agents)
            } else {
                Err(format!("{agents:?}"))
            }
        }
    })
    .await;
    assert_eq!(found[0].address, format!("http://{}", worker.address));
    let placement = fleet
        .get_placement(GetPlacementRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(placement.slot_count, 1024);
    assert_eq!(placement.ranges.len(), 1);
    assert!(placement.ranges[0].epoch >= 1);

    let receiver = Receiver::start().await;
    create_tenant(&admin, "acme").await;
    subscribe_in_force(&admin, "acme", "hook", to(receiver.url("hook"))).await;
    publish_one(&data, "acme", event("1", "orders.created", "{}")).await;
    eventually(
        "the delivery, asked of the control plane",
        PATIENCE,
        || async {
            let found = deliveries(&admin, "acme", "state = SUCCEEDED").await;
            if found.len() == 1 { Ok(()) } else { Err(found) }
        },
    )
    .await;
}

#[tokio::test]
async fn what_was_delivered_before_a_slot_moved_is_found_and_can_be_delivered_again() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let start = |id: &str| {
        let mut command = agent_command(&dir.path().join(id), plane.address);
        command.args(["--agent-id", id]);
        Process::start(command, "127.0.0.1:0")
    };
    let first = start("first");
    let receiver = Receiver::start().await;
    receiver.answer("hook", 500);
    create_tenant(&admin, "acme").await;
    let wanted = Subscription {
        retry_policy: Some(RetryPolicy {
            non_retryable_status_codes: vec![500],
            ..RetryPolicy::default()
        }),
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&admin, "acme", "hook", wanted).await;
    publish_one(&first.channel(), "acme", event("1", "orders.created", "{}")).await;
    let listed = async |n: usize| {
        eventually("deliveries are listed", PATIENCE, || async {
            let mut found = deliveries(&admin, "acme", "").await;
            found.retain(|it| it.state() != delivery::State::Pending);
            (found.len() == n).then_some(found.clone()).ok_or(found)
        })
        .await
    };
    let dead = listed(1).await.remove(0);
    assert_eq!(dead.state(), delivery::State::DeadLettered);

    let second = start("second");
    let mut drain = hookfleet();
    drain.args(["fleet", "drain", "first", "--wait", "--server"]);
    drain.arg(format!("http://{}", plane.address));
    assert!(drain.status().unwrap().success());
    receiver.answer("hook", 200);
    publish_one(&first.channel(), "acme", event("2", "orders.created", "{}")).await;
    let found = listed(2).await;
    assert_eq!(
        found[1], dead,
        "the older one, of the first agent, is listed last"
    );
    assert_ne!(found[0].name, dead.name);

    let request = RedeliverDeliveryRequest {
        name: dead.name.clone(),
    };
    let mut client = DeliveryServiceClient::new(admin.clone());
    let again = client.redeliver_delivery(request).await.unwrap();
    let again = again.into_inner();
    assert_eq!(again.redelivery_of, dead.name);
    let found = listed(3).await;
    assert_eq!(
        found.iter().map(|it| &it.name).collect::<Vec<_>>(),
        [&again.name, &found[1].name, &dead.name]
    );
    assert_eq!(
        deliveries(&second.channel(), "acme", "").await,
        found[..2],
        "the owner of the slot delivered it again"
    );
    let request = ListAttemptsRequest {
        parent: dead.name.clone(),
        ..ListAttemptsRequest::default()
    };
    let attempts = client.list_attempts(request).await.unwrap().into_inner();
    assert_eq!(attempts.attempts.len(), 1);
    let request = GetEventRequest { name: dead.event };
    assert!(client.get_event(request).await.is_ok());

    // What cannot be asked is told.
    first.kill();
    let request = ListDeliveriesRequest {
        parent: "tenants/acme/subscriptions/-".to_owned(),
        ..ListDeliveriesRequest::default()
    };
    let page = client.list_deliveries(request.clone()).await.unwrap();
    let page = page.into_inner();
    assert_eq!(page.deliveries, found[..2]);
    let request = ListDeliveriesRequest {
        page_token: page.next_page_token,
        ..request
    };
    let page = client.list_deliveries(request).await.unwrap().into_inner();
    assert_eq!(page.unreachable, ["agents/first"]);
    let lost = client.get_delivery(GetDeliveryRequest { name: dead.name });
    assert_eq!(lost.await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_notices_nothing_of_an_agent_that_ends_and_of_one_that_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.7:0");
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    let receiver = Receiver::start().await;
    create_tenant(&admin, "acme").await;
    subscribe_in_force(&admin, "acme", "hook", to(receiver.url("hook"))).await;

    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/client.json");
    let mut publisher = python("publish_grpc.py")
        .arg(config)
        .arg(format!("ipv4:{},{}", first.address, second.address))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let acked = Arc::new(Mutex::new(Vec::new()));
    let (output, ids) = (publisher.stdout.take().unwrap(), Arc::clone(&acked));
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            ids.lock().unwrap().push(line.unwrap());
        }
    });
    let acknowledged = async |n: usize| {
        eventually("events are acknowledged", PATIENCE, || async {
            let n_acked = acked.lock().unwrap().len();
            (n_acked >= n).then_some(n_acked).ok_or(n_acked)
        })
        .await
    };
    let n_acked = acknowledged(100).await;
    let address = first.address.to_string();
    assert!(first.terminate().await.success());
    let n_acked = acknowledged(n_acked + 100).await;
    let first = agent(&dir.path().join("first"), plane.address, &address);
    acknowledged(n_acked + 200).await;
    assert!(second.terminate().await.success());
    let n_acked = acked.lock().unwrap().len();
    acknowledged(n_acked + 100).await;

    drop(publisher.stdin.take());
    assert!(publisher.wait().unwrap().success(), "no call failed");
    reading.join().unwrap();
    let acked: BTreeSet<String> = acked.lock().unwrap().drain(..).collect();
    eventually("everything is received", PATIENCE, || async {
        let received = receiver.received_at("hook").len();
        (received >= acked.len()).then_some(()).ok_or(received)
    })
    .await;
    let received = receiver.received_at("hook").into_iter();
    let received: Vec<String> = received
        .map(|it| it.json()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(received.len(), acked.len(), "each once");
    assert_eq!(received.into_iter().collect::<BTreeSet<_>>(), acked);
    drop(first);
}

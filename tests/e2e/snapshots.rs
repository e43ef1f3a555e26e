//! An agent that comes back without its snapshot, and without the slots of what waits in its journal.

use std::{collections::BTreeSet, fs, time::Duration};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    Agent, ListAgentsRequest, Subscription, agent::State, fleet_service_client::FleetServiceClient,
};
use tonic::transport::Channel;

use crate::harness::{
    api::{create_tenant, event, publish_one, retries, subscribe_in_force, to},
    eventually,
    process::{Process, agent, hookfleet},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(120);
const N_TENANTS: usize = 6;
const N_EVENTS: usize = 5;

/// Waits until the only live agent has all slots.
async fn alone(admin: &Channel) {
    eventually("one agent has every slot", PATIENCE, || async {
        let mut fleet = FleetServiceClient::new(admin.clone());
        let agents = fleet.list_agents(ListAgentsRequest::default()).await;
        let agents = agents.map_err(|it| it.to_string())?.into_inner().agents;
        let is_owner = |it: &&Agent| it.state() == State::Live && it.slot_count == 1024;
        match agents.iter().filter(is_owner).count() {
            1 => Ok(()),
            _ => Err(format!("{agents:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_at_an_agent_that_forgot_whose_it_is_is_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let mut command = hookfleet();
    command.args(["control-plane", "--etcd", etcd.endpoint()]);
    command.args(["--allow-loopback-targets", "--agent-hold-seconds", "1"]);
    command
        .arg("--key-file")
        .arg(dir.path().join("secrets.key"));
    let plane = Process::start(command, "127.0.0.1:0");
    let admin = plane.channel();
    let first_dir = dir.path().join("first");
    let first = agent(&first_dir, plane.address, "127.0.0.1:0");
    alone(&admin).await;
    let receiver = Receiver::start().await;
    let mut published = BTreeSet::new();
    for number in 0..N_TENANTS {
        let tenant = format!("tenant-{number}");
        receiver.answer(&tenant, 503);
        create_tenant(&admin, &tenant).await;
        let wanted = Subscription {
            retry_policy: retries(&[2; 50]),
            ..to(receiver.url(&tenant))
        };
        subscribe_in_force(&admin, &tenant, "hook", wanted).await;
        for number in 0..N_EVENTS {
            let event = event(&number.to_string(), "orders.created", "{}");
            let receipt = publish_one(&first.channel(), &tenant, event).await;
            let id = receipt.event.rsplit('/').next().unwrap().to_owned();
            published.insert((tenant.clone(), id));
        }
    }

    first.kill();
    // What the snapshot was sealed with is gone, and so is what it says.
    fs::remove_file(first_dir.join("agent.key")).unwrap();
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    alone(&admin).await;
    // It owns nothing for as long as the other one has everything.
    let mut freeze = hookfleet();
    freeze.args(["fleet", "freeze", "--server"]);
    freeze.arg(format!("http://{}", plane.address));
    assert!(freeze.status().unwrap().success());
    for number in 0..N_TENANTS {
        receiver.answer(&format!("tenant-{number}"), 200);
    }
    let first = agent(&first_dir, plane.address, "127.0.0.1:0");
    eventually("everything is received", PATIENCE, || async {
        let received = receiver.received().into_iter();
        let received = received.filter(|it| it.status.is_success());
        let received: BTreeSet<_> = received
            .map(|it| (it.path.clone(), it.header("webhook-id").to_owned()))
            .collect();
        let n_missing = published.difference(&received).count();
        if n_missing == 0 {
            Ok(())
        } else {
            Err(n_missing)
        }
    })
    .await;
    drop((first, second));
}

//! A real etcd that is wiped, restored from an older copy, or another one under a running fleet: nothing that agents know
//! is lost before an operator says so.

use std::time::Duration;

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    GetStoreStatusRequest, Subscription, fleet_service_client::FleetServiceClient,
    store_status::State,
};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::harness::{
    api::{create_tenant, event, publish_one, subscribe_in_force, to},
    eventually,
    process::{Process, agent, control_plane, hookfleet},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// A control plane on etcd, an agent, and a receiver that gets the events of `old`.
struct Fleet {
    _dir: TempDir,
    etcd: TestEtcd,
    plane: Process,
    agent: Process,
    receiver: Receiver,
}

impl Fleet {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = TestEtcd::start().await;
        let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
        let agent = agent(&dir.path().join("agent"), plane.address, "127.0.0.1:0");
        let receiver = Receiver::start().await;
        let fleet = Self {
            _dir: dir,
            etcd,
            plane,
            agent,
            receiver,
        };
        fleet.subscribe("old").await;
        fleet
    }

    async fn subscribe(&self, tenant: &str) {
        let admin = self.plane.channel();
        create_tenant(&admin, tenant).await;
        let wanted: Subscription = to(self.receiver.url(tenant));
        subscribe_in_force(&admin, tenant, "hook", wanted).await;
    }

    /// Publishes an event of the tenant. How many subscriptions get it.
    async fn publish(&self, tenant: &str, id: &str) -> u32 {
        let event = event(id, "orders.created", "{}");
        let receipt = publish_one(&self.agent.channel(), tenant, event).await;
        let n_deliveries = receipt.delivery_count;
        eventually("the event is received", PATIENCE, || async {
            let n = self.receiver.received_at(tenant).len();
            if n > 0 || n_deliveries == 0 {
                Ok(())
            } else {
                Err(n)
            }
        })
        .await;
        u32::try_from(n_deliveries).unwrap()
    }

    async fn standing(&self, state: State) {
        standing(&self.plane.channel(), state).await;
    }

    /// The command of operators.
    async fn accept(&self) {
        let mut command = hookfleet();
        command.args(["fleet", "accept-store", "--server"]);
        command.arg(format!("http://{}", self.plane.address));
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = run.await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(text.contains("FOLLOWED"), "{text}");
    }

    fn end(self) {
        // That the store is not believed is said as an error, as somebody must look.
        self.plane.kill_expecting_errors();
    }
}

async fn standing(admin: &Channel, state: State) {
    eventually("the store stands so", PATIENCE, || async {
        let mut fleet = FleetServiceClient::new(admin.clone());
        let status = fleet.get_store_status(GetStoreStatusRequest {}).await;
        let status = status.map_err(|it| it.to_string())?.into_inner();
        if status.state() == state {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_takes_nothing_from_agents_until_it_is_accepted() {
    let mut fleet = Fleet::start().await;
    fleet.etcd.wipe();
    fleet.etcd.restart().await;
    fleet.standing(State::Guarded).await;
    assert_eq!(fleet.publish("old", "while guarded").await, 1);

    fleet.accept().await;
    // What the store lacks is gone now, and it can be used again.
    fleet.subscribe("new").await;
    assert_eq!(fleet.publish("new", "accepted").await, 1);
    fleet.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_restored_from_an_older_copy_takes_nothing_until_it_is_accepted() {
    let mut fleet = Fleet::start().await;
    fleet.etcd.back_up();
    fleet.etcd.restart().await;
    fleet.subscribe("new").await;
    for number in 0..30 {
        create_tenant(&fleet.plane.channel(), &format!("more-{number}")).await;
    }
    fleet.etcd.restore();
    fleet.etcd.restart().await;
    fleet.standing(State::Guarded).await;
    assert_eq!(fleet.publish("new", "while guarded").await, 1);

    fleet.accept().await;
    assert_eq!(fleet.publish("old", "accepted").await, 1);
    // It was made after the copy, so it can be made again.
    fleet.receiver.answer_with("new", |_, _| {
        (200.try_into().unwrap(), Vec::new(), Duration::ZERO)
    });
    fleet.subscribe("new").await;
    assert_eq!(fleet.publish("new", "made again").await, 1);
    fleet.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_etcd_on_the_same_port_is_not_believed_and_the_right_one_is_again() {
    let mut fleet = Fleet::start().await;
    fleet.etcd.back_up();
    fleet.etcd.become_another();
    fleet.etcd.restart().await;
    fleet.standing(State::Guarded).await;
    assert_eq!(fleet.publish("old", "while guarded").await, 1);

    fleet.etcd.become_itself();
    fleet.etcd.restart().await;
    fleet.standing(State::Followed).await;
    fleet.subscribe("new").await;
    fleet.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_found_nobody_better_while_etcd_is_away_is_kept() {
    let fleet = Fleet::start().await;
    fleet.etcd.pause();
    let agent = &fleet.agent;
    let connected = async |n: usize| {
        eventually("connected", PATIENCE, || async {
            let found = agent.n_logged("connected to the control plane");
            (found == n).then_some(()).ok_or(found)
        })
        .await;
    };
    connected(2).await;
    assert_eq!(agent.n_logged("asked to reconnect"), 1);
    let again = eventually("sent elsewhere again", PATIENCE, || async {
        let n_sent = agent.n_logged("asked to reconnect");
        (n_sent > 1).then_some(()).ok_or(n_sent)
    });
    // The first time took ten.
    let again = timeout(Duration::from_secs(13), again).await;
    assert!(again.is_err(), "it stays");
    assert_eq!(fleet.publish("old", "while away").await, 1);
    fleet.etcd.resume();
    fleet.subscribe("new").await;
    assert_eq!(agent.n_logged("asked to reconnect"), 1);
}

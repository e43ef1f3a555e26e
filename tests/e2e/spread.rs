//! A tenant that is spread over several slots, and so over several agents. Agents that come and go meanwhile are in `chaos`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hookfleet_contract::shard::Shard;
use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    Delivery, GetEventRequest, GetPlacementRequest, Receipt, RedeliverDeliveryRequest,
    Subscription, delivery::State, delivery_service_client::DeliveryServiceClient,
    fleet_service_client::FleetServiceClient, publish_result,
};
use tempfile::TempDir;
use tonic::{Code, transport::Channel};

use crate::harness::{
    api::{
        create_tenant, deliveries, event, keyed, publish, publish_one, retries, spread,
        subscribe_in_force, to,
    },
    eventually,
    process::{Process, agent, agent_command, control_plane, hookfleet, standalone},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(90);
const AGENTS: [&str; 3] = ["one", "two", "three"];
const SPREAD: u8 = 8;

/// Three agents that share the slots, and a tenant that has some of its slots at each of them.
struct Fleet {
    agents: Vec<Process>,
    plane: Process,
    tenant: String,
    _etcd: TestEtcd,
    _dir: TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = TestEtcd::start().await;
        let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
        let start = |id: &str| {
            let mut command = agent_command(&dir.path().join(id), plane.address);
            command.args(["--agent-id", id]);
            Process::start(command, "127.0.0.1:0")
        };
        let agents = AGENTS.map(start).into();
        let tenant = tenant_everywhere(&plane.channel()).await;
        create_tenant(&plane.channel(), &tenant).await;
        let mut command = hookfleet();
        command.args(["tenant", "update", &tenant, "--spread", "8", "--server"]);
        command.arg(format!("http://{}", plane.address));
        assert!(command.status().unwrap().success());
        Self {
            agents,
            plane,
            tenant,
            _etcd: etcd,
            _dir: dir,
        }
    }

    fn admin(&self) -> Channel {
        self.plane.channel()
    }

    /// What each agent says of the tenant's deliveries.
    async fn by_agent(&self) -> Vec<Vec<Delivery>> {
        let mut found = Vec::new();
        for agent in &self.agents {
            found.push(deliveries(&agent.channel(), &self.tenant, "").await);
        }
        found
    }
}

/// A tenant, not made yet, that will have slots at all agents, once they have their shares and nothing moves: an owner does
/// not know what another one accepted before it.
async fn tenant_everywhere(admin: &Channel) -> String {
    eventually("all agents have slots", PATIENCE, || async {
        let mut fleet = FleetServiceClient::new(admin.clone());
        let placement = fleet.get_placement(GetPlacementRequest {}).await;
        let placement = placement.map_err(|it| it.to_string())?.into_inner();
        let (mut owners, mut shares) = (BTreeMap::new(), BTreeMap::new());
        for range in &placement.ranges {
            for slot in range.first_slot..=range.last_slot {
                owners.insert(slot, range.agent.clone());
                *shares.entry(&range.agent).or_insert(0) += 1;
            }
        }
        let is_moving = placement
            .ranges
            .iter()
            .any(|it| !it.previous_agent.is_empty());
        let is_shared = shares.len() == AGENTS.len() && shares.values().all(|it| *it >= 341);
        if is_moving || !is_shared {
            return Err(format!("{shares:?}"));
        }
        let is_everywhere = |tenant: &String| {
            let slots = (0..SPREAD).map(|number| {
                let tenant = tenant.parse().unwrap();
                Shard { tenant, number }.slot(1024).0
            });
            let theirs: BTreeSet<_> = slots.map(|it| owners.get(&i32::from(it))).collect();
            theirs.len() == AGENTS.len()
        };
        let mut names = (0..).map(|it| format!("hot-{it}"));
        names.find(is_everywhere).ok_or("no tenant".to_owned())
    })
    .await
}

fn receipts(results: Vec<publish_result::Result>) -> Vec<Receipt> {
    let receipt = |it| match it {
        publish_result::Result::Receipt(receipt) => receipt,
        publish_result::Result::Error(error) => panic!("not accepted: {error:?}"),
    };
    results.into_iter().map(receipt).collect()
}

/// How often each event was received.
fn counts(receiver: &Receiver, path: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for received in receiver.received_at(path) {
        let id = received.json()["id"].as_str().unwrap().to_owned();
        *counts.entry(id).or_default() += 1;
    }
    counts
}

async fn all_received(receiver: &Receiver, n: usize) {
    eventually("everything is received", PATIENCE, || async {
        let n_received = receiver.received_at("hook").len();
        (n_received >= n).then_some(()).ok_or(n_received)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spread_tenant_uses_all_agents_and_looks_like_any_other() {
    let fleet = Fleet::start().await;
    let (admin, tenant) = (fleet.admin(), fleet.tenant.as_str());
    let receiver = Receiver::start().await;
    subscribe_in_force(&admin, tenant, "hook", to(receiver.url("hook"))).await;

    // Batches whose events belong to many slots, with and without keys, by each agent.
    let batch = |number: usize| {
        let events = (0..40).map(|it| {
            let event = event(&format!("{number}-{it}"), "orders.created", "{}");
            match it % 2 {
                0 => event,
                _ => keyed(event, &format!("key-{it}")),
            }
        });
        events.collect::<Vec<_>>()
    };
    let mut published = Vec::new();
    for (number, agent) in fleet.agents.iter().enumerate() {
        let results = publish(&agent.channel(), tenant, batch(number)).await;
        let receipts = receipts(results.unwrap());
        assert!(receipts.iter().all(|it| !it.duplicate), "{receipts:?}");
        assert!(
            receipts.iter().all(|it| it.delivery_count == 1),
            "{receipts:?}"
        );
        published.push(receipts);
    }
    // Whoever hears of them again knows them, and answers in the order of the request.
    for (number, before) in published.iter().enumerate() {
        let other = &fleet.agents[(number + 1) % AGENTS.len()];
        let results = publish(&other.channel(), tenant, batch(number)).await;
        let again = receipts(results.unwrap());
        assert!(again.iter().all(|it| it.duplicate), "{again:?}");
        let names = |receipts: &[Receipt]| {
            let names = receipts.iter().map(|it| it.event.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(&again), names(before));
    }
    all_received(&receiver, 120).await;
    let by_agent = eventually("deliveries are listed", PATIENCE, || async {
        let found = fleet.by_agent().await;
        let mut all = found.iter().flatten();
        let are_settled = all.all(|it| it.state() == State::Succeeded);
        let n = found.iter().map(Vec::len).sum::<usize>();
        let is_all = are_settled && n == 120;
        is_all.then_some(found.clone()).ok_or(found.len())
    })
    .await;
    assert!(by_agent.iter().all(|it| it.len() >= 10), "all have some");
    let names = |deliveries: &[Delivery]| {
        let names = deliveries.iter().map(|it| it.name.clone());
        names.collect::<BTreeSet<_>>()
    };
    let listed = deliveries(&admin, tenant, "").await;
    assert_eq!(listed.len(), 120, "each is listed once");
    assert_eq!(names(&listed), names(&by_agent.concat()));
    assert!(counts(&receiver, "hook").values().all(|it| *it == 1));

    // Wherever it is, it is found, and delivered again.
    let mut client = DeliveryServiceClient::new(admin.clone());
    for deliveries in &by_agent {
        let Delivery { name, event, .. } = deliveries[0].clone();
        client
            .get_event(GetEventRequest { name: event })
            .await
            .unwrap();
        let again = client.redeliver_delivery(RedeliverDeliveryRequest { name: name.clone() });
        assert_eq!(again.await.unwrap().into_inner().redelivery_of, name);
    }
    all_received(&receiver, 123).await;
    let n_twice = counts(&receiver, "hook")
        .into_values()
        .filter(|it| *it == 2);
    assert_eq!(n_twice.count(), 3);

    // One for all tenants is one for this one, and is in the shard where its repetition is looked for.
    for number in 0..10 {
        let news = || vec![event(&format!("news-{number}"), "news", "{}")];
        for (place, agent) in fleet.agents.iter().enumerate() {
            let results = publish(&agent.channel(), "-", news()).await;
            let receipts = receipts(results.unwrap());
            assert_eq!(receipts[0].duplicate, place > 0, "{receipts:?}");
        }
        eventually("the shard has it", PATIENCE, || async {
            let results = publish(&fleet.agents[0].channel(), tenant, news()).await;
            let receipt = receipts(results.map_err(|it| it.to_string())?).remove(0);
            receipt
                .duplicate
                .then_some(())
                .ok_or("accepted anew".to_owned())
        })
        .await;
    }
    all_received(&receiver, 133).await;
    assert_eq!(receiver.received_at("hook").len(), 133, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_of_a_subscription_is_kept_by_all_slots_together() {
    let fleet = Fleet::start().await;
    let receiver = Receiver::start().await;
    let wanted = Subscription {
        max_requests_per_second: 20.0,
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&fleet.admin(), &fleet.tenant, "hook", wanted).await;
    let events = (0..200).map(|it| event(&it.to_string(), "orders.created", "{}"));
    let agent = fleet.agents[0].channel();
    let published = publish(&agent, &fleet.tenant, events.collect()).await;
    receipts(published.unwrap());
    all_received(&receiver, 200).await;
    let mut times: Vec<_> = receiver
        .received_at("hook")
        .iter()
        .map(|it| it.from)
        .collect();
    times.sort_unstable();
    // A second's worth may come at once, and requests that were held up may come together.
    for (number, from) in times.iter().enumerate() {
        let window = *from + Duration::from_secs(2);
        let n_within = times[number..].iter().filter(|it| **it < window).count();
        assert!(n_within <= 3 * 20 + 10, "{n_within} within 2 s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_several_shards_survives_a_kill_and_a_lower_spread() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let data_dir = dir.path().join("agent");
    let worker = agent(&data_dir, plane.address, "127.0.0.8:0");
    let address = worker.address.to_string();
    let receiver = Receiver::start().await;
    receiver.answer("hook", 503);
    create_tenant(&admin, "hot").await;
    spread(&admin, "hot", 8).await.unwrap();
    let wanted = Subscription {
        retry_policy: retries(&[1; 50]),
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&admin, "hot", "hook", wanted).await;
    for number in 0..80 {
        let event = event(&number.to_string(), "orders.created", "{}");
        publish_one(&worker.channel(), "hot", event).await;
    }
    worker.kill();
    let worker = agent(&data_dir, plane.address, &address);
    spread(&admin, "hot", 2).await.unwrap();
    eventually("all of it waits", PATIENCE, || async {
        let found = deliveries(&admin, "hot", "state = PENDING").await;
        (found.len() == 80).then_some(()).ok_or(found.len())
    })
    .await;
    let worker = {
        worker.kill();
        agent(&data_dir, plane.address, &address)
    };
    receiver.answer("hook", 204);
    eventually("all of it is delivered", PATIENCE, || async {
        let found = deliveries(&admin, "hot", "state = SUCCEEDED").await;
        (found.len() == 80).then_some(()).ok_or(found.len())
    })
    .await;
    let taken = receiver.received_at("hook").into_iter();
    let taken = taken.filter(|it| it.status.is_success());
    let ids: Vec<_> = taken.map(|it| it.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 80, "each once");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 80);
    drop(worker);
}

#[tokio::test]
async fn a_spread_is_a_number_of_slots() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let channel = server.channel();
    assert_eq!(create_tenant(&channel, "acme").await.spread, 1);
    assert_eq!(spread(&channel, "acme", 64).await.unwrap().spread, 64);
    for wrong in [-1, 65] {
        let status = spread(&channel, "acme", wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("tenant.spread"), "{status:?}");
    }
}

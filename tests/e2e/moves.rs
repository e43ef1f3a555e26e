//! What waits at an agent while its slots move, or for one that is away; and what operators say about slots. Moves
//! under load are in `chaos`.

use std::{ops::Range, time::Duration};

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    ListAgentsRequest, Subscription, agent::State, fleet_service_client::FleetServiceClient,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::harness::{
    api::{
        create_tenant, deliveries, event, keyed, ordered, publish_one, retries, subscribe_in_force,
        to,
    },
    eventually,
    ledger::{Doors, Ledger, Shape},
    process::{Process, agent, agent_command, control_plane, hookfleet},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(90);
const N_TENANTS: usize = 12;
/// Events of a tenant.
const EACH: usize = 20;

/// Tenants in slots of their own, each with a receiver of everything.
async fn subscribed(admin: &Channel) -> (Ledger, Shape) {
    let ledger = Ledger::start().await;
    let tenants: Vec<String> = (0..N_TENANTS).map(|it| format!("tenant-{it}")).collect();
    for tenant in &tenants {
        create_tenant(admin, tenant).await;
        let policy = |it| Subscription {
            retry_policy: retries(&[1; 50]),
            ..it
        };
        ledger.subscribe(admin, tenant, "hook", policy).await;
    }
    let shape = Shape {
        name: "moves",
        tenants,
        pause: Duration::ZERO,
        n_each: EACH,
        stays: true,
    };
    (ledger, shape)
}

/// A fleet of one agent, which has all slots.
struct Alone {
    first: Process,
    admin: Channel,
    plane: Process,
    _etcd: TestEtcd,
    dir: TempDir,
}

impl Alone {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = TestEtcd::start().await;
        let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
        let admin = plane.channel();
        let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
        shares(&admin, &[1024]).await;
        Self {
            first,
            admin,
            plane,
            _etcd: etcd,
            dir,
        }
    }
}

/// Waits until the live agents have these shares of the slots, from the least.
async fn shares(admin: &Channel, expected: &[i32]) {
    eventually("the slots are shared out", PATIENCE, || async {
        let mut fleet = FleetServiceClient::new(admin.clone());
        let agents = fleet.list_agents(ListAgentsRequest::default()).await;
        let agents = agents.map_err(|it| it.to_string())?.into_inner().agents;
        let live = agents.iter().filter(|it| it.state() == State::Live);
        let mut shares: Vec<i32> = live.map(|it| it.slot_count).collect();
        shares.sort_unstable();
        if shares == expected {
            Ok(())
        } else {
            Err(format!("{agents:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_for_an_agent_that_is_away_wait_at_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let first = agent(&dir.path().join("first"), plane.address, "127.0.0.1:0");
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.5:0");
    shares(&admin, &[512, 512]).await;
    let (ledger, shape) = subscribed(&admin).await;

    let address = second.address.to_string();
    second.kill();
    ledger
        .publish_all(&Doors::of([first.channel()]), &shape)
        .await;
    let waiting = ledger.missing();
    assert!(
        waiting.len() >= 10,
        "some tenants are the second agent's: {waiting:?}"
    );
    let second = agent(&dir.path().join("second"), plane.address, &address);
    ledger
        .settle()
        .await
        .passes(N_TENANTS * EACH, N_TENANTS * EACH);
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_key_arrive_in_order_while_their_slot_moves() {
    let Alone {
        dir,
        plane,
        admin,
        first,
        ..
    } = &Alone::start().await;
    let receiver = Receiver::start().await;
    for number in 0..N_TENANTS {
        let tenant = format!("tenant-{number}");
        create_tenant(admin, &tenant).await;
        // Slow, and now and then it fails, so that there is always something left where the slot was.
        receiver.answer_with(&tenant, |_, n_before| {
            let status: u16 = if n_before % 15 == 3 { 503 } else { 200 };
            (
                status.try_into().unwrap(),
                Vec::new(),
                Duration::from_millis(20),
            )
        });
        subscribe_in_force(admin, &tenant, "hook", ordered(to(receiver.url(&tenant)))).await;
    }
    let publish_all = async |numbers: Range<usize>| {
        for n in numbers {
            for number in 0..N_TENANTS {
                let event = keyed(event(&format!("{n:03}"), "orders.created", "{}"), "one");
                publish_one(&first.channel(), &format!("tenant-{number}"), event).await;
            }
        }
    };
    publish_all(0..75).await;
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    shares(admin, &[512, 512]).await;
    let n_left = 75 * N_TENANTS - receiver.received().len();
    assert!(n_left > 100, "something is left where it was: {n_left}");
    publish_all(75..150).await;
    let expected: Vec<String> = (0..150).map(|n| format!("{n:03}")).collect();
    for number in 0..N_TENANTS {
        let tenant = format!("tenant-{number}");
        let taken = || {
            let received = receiver.received_at(&tenant).into_iter();
            let taken = received.filter(|it| it.status.is_success());
            taken
                .map(|it| it.json()["id"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        eventually("everything is received", PATIENCE, || async {
            let n = taken().len();
            if n >= 150 { Ok(()) } else { Err(n) }
        })
        .await;
        assert_eq!(taken(), expected, "of {tenant}");
    }
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_next_attempt_goes_along_with_its_slot() {
    let Alone {
        dir,
        plane,
        admin,
        first,
        ..
    } = &Alone::start().await;
    let (ledger, shape) = subscribed(admin).await;
    for tenant in &shape.tenants {
        ledger.receiver.answer(&format!("{tenant}/hook"), 503);
    }
    ledger
        .publish_all(&Doors::of([first.channel()]), &shape)
        .await;
    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    shares(admin, &[512, 512]).await;

    // Each is pending at one of them, and nowhere else.
    let pending = async |agent: &Process| {
        let mut counts = Vec::new();
        for number in 0..N_TENANTS {
            let tenant = format!("tenant-{number}");
            let found = deliveries(&agent.channel(), &tenant, "state = PENDING").await;
            counts.push(found.len());
        }
        counts
    };
    let moved = eventually("the second has its share", PATIENCE, || async {
        let (first, second) = (pending(first).await, pending(&second).await);
        let is_apart = first
            .iter()
            .zip(&second)
            .all(|it| matches!(it, (0, 20) | (20, 0)));
        let n_moved = second.iter().filter(|it| **it > 0).count();
        if is_apart && n_moved > 0 {
            Ok(n_moved)
        } else {
            Err((first, second))
        }
    })
    .await;
    assert!(moved < N_TENANTS, "some stay where they were");
    // What the second has it has for good.
    let address = second.address.to_string();
    second.kill();
    let second = agent(&dir.path().join("second"), plane.address, &address);
    for tenant in &shape.tenants {
        ledger.receiver.answer(&format!("{tenant}/hook"), 204);
    }
    ledger
        .settle()
        .await
        .passes(N_TENANTS * EACH, N_TENANTS * EACH);
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_a_receiver_asked_for_goes_along_with_its_slot() {
    let Alone {
        dir,
        plane,
        admin,
        first,
        ..
    } = &Alone::start().await;
    let (busy, other) = (Receiver::start().await, Receiver::start().await);
    busy.answer_with("busy", |_, _| {
        let later = vec![("retry-after", "3600".to_owned())];
        (503.try_into().unwrap(), later, Duration::ZERO)
    });
    create_tenant(admin, "acme").await;
    let busy_only = Subscription {
        event_types: vec!["busy".to_owned()],
        ..to(busy.url("busy"))
    };
    subscribe_in_force(admin, "acme", "busy", busy_only).await;
    let other_only = Subscription {
        event_types: vec!["other".to_owned()],
        ..to(other.url("other"))
    };
    subscribe_in_force(admin, "acme", "other", other_only).await;
    publish_one(&first.channel(), "acme", event("1", "busy", "{}")).await;
    eventually("it asks for a pause", PATIENCE, || async {
        let asked = deliveries(&first.channel(), "acme", "state = PENDING").await;
        let is_counted = asked.iter().any(|it| it.attempt_count == 1);
        is_counted.then_some(()).ok_or(asked)
    })
    .await;
    // It is due at once, and waits for the end of the pause.
    publish_one(&first.channel(), "acme", event("2", "busy", "{}")).await;

    let second = agent(&dir.path().join("second"), plane.address, "127.0.0.1:0");
    shares(admin, &[512, 512]).await;
    first.signal(Signal::SIGTERM);
    shares(admin, &[1024]).await;
    let moved = eventually("both are at the second", PATIENCE, || async {
        let waiting = deliveries(&second.channel(), "acme", "state = PENDING").await;
        (waiting.len() == 2).then_some(()).ok_or(waiting)
    });
    moved.await;
    // What is published after that, and delivered, shows that the second had its time.
    for number in 3..6 {
        let event = event(&number.to_string(), "other", "{}");
        publish_one(&second.channel(), "acme", event).await;
        eventually("it is delivered", PATIENCE, || async {
            let n_received = other.count();
            (n_received == number - 2).then_some(()).ok_or(n_received)
        })
        .await;
    }
    assert_eq!(busy.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_drain_freeze_and_pin() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let plane = control_plane(dir.path(), etcd.endpoint(), "127.0.0.1:0");
    let admin = plane.channel();
    let start = |id: &str| {
        let mut command = agent_command(&dir.path().join(id), plane.address);
        command.args(["--agent-id", id]);
        command.env("HOOKFLEET_ZONE", "north");
        Process::start(command, "127.0.0.1:0")
    };
    let (first, second) = (start("first"), start("second"));
    shares(&admin, &[512, 512]).await;
    let fleet = |arguments: &[&str]| {
        let mut command = hookfleet();
        command.arg("fleet").args(arguments).arg("--server");
        let output = command
            .arg(format!("http://{}", plane.address))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    fleet(&["drain", "second", "--wait"]);
    shares(&admin, &[0, 1024]).await;
    fleet(&["pin", "7", "second"]);
    shares(&admin, &[1, 1023]).await;
    let placement = fleet(&["placement"]);
    assert!(placement.contains("7-7"), "{placement}");

    fleet(&["freeze"]);
    fleet(&["unpin", "7"]);
    fleet(&["undrain", "second"]);
    let third = start("third");
    shares(&admin, &[0, 1, 1023]).await;
    let status = fleet(&["status"]);
    let n_agents = status.matches("http://127.0.0.1").count();
    assert!(n_agents == 3 && status.contains("LEAVING"), "{status}");
    assert!(status.matches("north").count() == 3, "{status}");
    assert!(status.contains("BEHIND") && status.contains("SILENT"));
    fleet(&["unfreeze"]);
    shares(&admin, &[341, 341, 342]).await;
    drop((first, second, third));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_is_down_is_not_waited_for_although_it_is_half_the_fleet() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = TestEtcd::start().await;
    let mut command = hookfleet();
    command.args(["control-plane", "--etcd", etcd.endpoint()]);
    command.args(["--agent-hold-seconds", "1", "--join-ramp-seconds", "1"]);
    let key = dir.path().join("secrets.key");
    command.arg("--key-file").arg(key);
    let plane = Process::start(command, "127.0.0.1:0");
    let admin = plane.channel();
    let start = |id: &str, zone: &str| {
        let mut command = agent_command(&dir.path().join(id), plane.address);
        command.args(["--agent-id", id, "--zone", zone]);
        Process::start(command, "127.0.0.1:0")
    };
    let down = [start("a", "north"), start("b", "north")];
    let up = [start("c", "east"), start("d", "west")];
    shares(&admin, &[256; 4]).await;
    for agent in down {
        agent.kill();
    }
    // Without zones, half of a fleet would be waited for for ten minutes.
    shares(&admin, &[512, 512]).await;
    let mut fleet = FleetServiceClient::new(admin.clone());
    let agents = fleet.list_agents(ListAgentsRequest::default()).await;
    let zones = agents.unwrap().into_inner().agents.into_iter();
    assert_eq!(
        zones.map(|it| it.zone).collect::<Vec<_>>(),
        ["east", "west"]
    );
    drop(up);
}

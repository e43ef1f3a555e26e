//! Three members of etcd that die, freeze, lose their quorum and compact (rows F25, F26, F29 and F30 of the fault matrix).
//! Events do not notice: nothing is doubled, and no slot moves.

use std::time::Duration;

use hookfleet_control_plane::test_support::TestEtcd;
use hookfleet_proto::v1::{
    DeleteSubscriptionRequest, subscription_service_client::SubscriptionServiceClient,
};
use nix::sys::signal::Signal;

use super::fleet::{Fleet, PATIENCE, Size};
use crate::harness::{
    api::{create_tenant, subscribe_in_force, to},
    checker::Excuses,
    eventually,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_etcd_die_freeze_and_lose_their_quorum_and_events_do_not_notice() {
    let mut fleet = Fleet::start(Size {
        n_etcd: 3,
        n_planes: 2,
        hold: 5,
        agent_flags: &[],
    })
    .await;
    for name in ["a", "b"] {
        fleet.join(name);
    }
    let before = fleet.shared_by(&["a", "b"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    let load = ledger.load(&fleet.doors, &fleet.shape("etcd"));
    ledger.acknowledged(100).await;

    let killed = leader(&fleet.etcd, &[]).await;
    ledger
        .fault("kill -9 of etcd's leader", Excuses::Nothing, async {
            fleet.etcd[killed].kill();
            writes(&fleet, "killed").await;
        })
        .await;
    let frozen = leader(&fleet.etcd, &[killed]).await;
    // With two of three that can answer.
    fleet.etcd[killed].restart().await;
    ledger
        .fault("etcd's leader is frozen", Excuses::Nothing, async {
            fleet.etcd[frozen].pause();
            writes(&fleet, "frozen").await;
            leader(&fleet.etcd, &[frozen]).await;
            fleet.etcd[frozen].resume();
        })
        .await;
    ledger
        .fault("two members of etcd are away", Excuses::Nothing, async {
            fleet.etcd[0].kill();
            fleet.etcd[1].kill();
            // Longer than any lease.
            fleet.outlast(Duration::from_secs(22)).await;
            ledger.acknowledged(100).await;
            // A member alone is not ready, so both are told to start before one is waited for.
            let (first, rest) = fleet.etcd.split_at_mut(1);
            tokio::join!(first[0].restart(), rest[0].restart());
        })
        .await;
    writes(&fleet, "back").await;
    fleet.outlast(Duration::from_secs(8)).await;
    assert_eq!(fleet.shared_by(&["a", "b"]).await, before, "no slot moved");
    load.stop().await;
    ledger.settle().await.passes(500, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_was_frozen_while_etcd_compacted_finds_out_what_it_missed() {
    let mut fleet = Fleet::start(Size {
        n_etcd: 1,
        n_planes: 2,
        hold: 30,
        agent_flags: &[],
    })
    .await;
    fleet.join_through("a", &[1]);
    fleet.join_through("b", &[1]);
    let before = fleet.shared_by(&["a", "b"]).await;
    fleet.subscribe().await;
    let ledger = fleet.ledger.clone();
    let admin = fleet.plane(0).channel();
    create_tenant(&admin, "gone").await;
    let gone = to(ledger.receiver.url("gone/any"));
    let gone = subscribe_in_force(&admin, "gone", "any", gone).await;
    let load = ledger.load(&fleet.doors, &fleet.shape("compacted"));
    ledger.acknowledged(100).await;

    let created = ledger
        .fault("compaction", Excuses::Nothing, async {
            fleet.plane(1).signal(Signal::SIGSTOP);
            // Its watch ends, so that it must ask for what came since.
            fleet.etcd[0].restart().await;
            writes(&fleet, "restart").await;
            let mut created = Vec::new();
            for number in 0..20 {
                let tenant = format!("missed-{number}");
                create_tenant(&admin, &tenant).await;
                let url = ledger.receiver.url(&format!("{tenant}/any"));
                let one = crate::harness::api::subscribe(&admin, &tenant, "any", to(url)).await;
                created.push(one.unwrap().name);
            }
            let mut client = SubscriptionServiceClient::new(admin.clone());
            let request = DeleteSubscriptionRequest {
                name: gone.name.clone(),
                ..DeleteSubscriptionRequest::default()
            };
            client.delete_subscription(request).await.unwrap();
            // And that is not to be had any more.
            fleet.etcd[0].compact().await;
            fleet.plane(1).signal(Signal::SIGCONT);
            created
        })
        .await;
    for name in &created {
        crate::harness::api::in_force(&admin, name).await;
    }
    assert!(
        fleet.plane(1).has_logged("the watch was too far behind"),
        "it was told that it is too late"
    );
    eventually("nobody delivers for what is gone", PATIENCE, || async {
        let event = crate::harness::api::event("gone", "orders.created", "{}");
        let channel = fleet.agent("a").channel();
        let published = crate::harness::api::publish(&channel, "gone", vec![event]).await;
        match published.map_err(|it| it.to_string())?.pop() {
            Some(hookfleet_proto::v1::publish_result::Result::Receipt(it))
                if it.delivery_count == 0 =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    ledger.acknowledged(100).await;
    load.stop().await;
    assert_eq!(fleet.shared_by(&["a", "b"]).await, before, "no slot moved");
    ledger.settle().await.passes(200, 400);
}

/// Waits until changes are taken again.
async fn writes(fleet: &Fleet, name: &str) {
    eventually("a tenant is made", PATIENCE, || async {
        let mut client =
            hookfleet_proto::v1::tenant_service_client::TenantServiceClient::new(fleet.admin());
        let request = hookfleet_proto::v1::CreateTenantRequest {
            tenant: Some(hookfleet_proto::v1::Tenant::default()),
            tenant_id: format!("after-{name}"),
            ..hookfleet_proto::v1::CreateTenantRequest::default()
        };
        match client.create_tenant(request).await {
            Ok(_) => Ok(()),
            // The answer to an earlier one was lost.
            Err(status) if status.code() == tonic::Code::AlreadyExists => Ok(()),
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
}

/// The member that leads, which is none of `except`.
async fn leader(etcd: &[TestEtcd], except: &[usize]) -> usize {
    eventually("etcd has a leader", PATIENCE, || async {
        for (number, member) in etcd.iter().enumerate() {
            if !except.contains(&number) && member.is_leader().await {
                return Ok(number);
            }
        }
        Err("no leader")
    })
    .await
}

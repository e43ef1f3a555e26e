//! Agents and a control plane on a real store, without a network between them.

use std::{cell::RefCell, sync::Arc, time::Duration};

use hookfleet_contract::{
    digest::{Digests, Part, digest},
    shard::Shard,
};
use hookfleet_proto::{
    fleet::{
        Ack, Heartbeat, Hello, PartDigest, Rejection, ResourceType, SlotOwner, SlotTable,
        StoredAgent, StoredPolicy, SuspendReport, SyncRequest, SyncResponse, Update,
        resource::Body, sync_request::Message as Said, sync_response::Message as Told,
    },
    v1::{
        self, GetPlacementRequest, ListAgentsRequest, Tenant, UpdateTenantRequest, agent,
        fleet_service_server::FleetService as _,
        subscription::{State, SuspendReason},
        tenant_service_server::TenantService as _,
    },
};
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Request, Status};

use crate::{
    api::{
        fleet::Agents,
        tests::{Plane, eventually, hello, ok, orders, refused, violations},
    },
    clock::Clock,
    keys,
    store::Txn,
};

const NAME: &str = "tenants/a/subscriptions/s";
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent's end of a session.
struct Agent {
    say: mpsc::Sender<SyncRequest>,
    told: mpsc::Receiver<SyncResponse>,
}

impl Agent {
    async fn connect(plane: &Plane, hello: Hello) -> Self {
        let (say, told) = plane.connect(hello).await;
        Self { say, told }
    }

    async fn say(&self, message: Said) {
        let request = SyncRequest {
            message: Some(message),
        };
        self.say.send(request).await.expect("the session is open");
    }

    /// What comes next; `None` when the session is over.
    async fn next(&mut self) -> Option<Told> {
        let next = timeout(PATIENCE, self.told.recv())
            .await
            .expect("told in time");
        next.and_then(|response| response.message)
    }

    /// Answers updates until the first bookmark. Heartbeats are not needed meanwhile.
    async fn sync(&mut self) -> (Vec<Update>, i64) {
        let mut updates = Vec::new();
        loop {
            match self.next().await {
                Some(Told::Update(update)) => {
                    self.ack(&update, Vec::new()).await;
                    updates.push(update);
                }
                Some(Told::Bookmark(bookmark)) => return (updates, bookmark.revision),
                Some(Told::Welcome(_)) => {}
                Some(Told::Goaway(goaway)) => panic!("{goaway:?}"),
                None => panic!("the session is over"),
            }
        }
    }

    async fn next_update(&mut self) -> Update {
        loop {
            match self.next().await {
                Some(Told::Update(update)) => return update,
                Some(Told::Bookmark(_) | Told::Welcome(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Answers updates up to the one that tells of a resource.
    async fn answer_until(&mut self, name: &str) -> Update {
        loop {
            let update = self.next_update().await;
            self.ack(&update, Vec::new()).await;
            if update.upserts.iter().any(|it| it.name == name) {
                return update;
            }
        }
    }

    async fn ack(&self, update: &Update, rejections: Vec<Rejection>) {
        let (nonce, applied_revision) = (update.nonce, update.revision);
        self.say(Said::Ack(Ack {
            nonce,
            applied_revision,
            rejections,
        }))
        .await;
    }
}

async fn plane() -> Plane {
    let plane = Plane::start_with(|config| config.clock = Clock::system()).await;
    plane.tenant("a").await;
    plane
}

async fn agents(plane: &Plane) -> Vec<v1::Agent> {
    let listed = Agents(Arc::clone(&plane.api))
        .list_agents(Request::new(ListAgentsRequest::default()))
        .await;
    ok(listed).agents
}

async fn until_state(plane: &Plane, state: State) {
    eventually("the state", || async {
        let found = plane.get(NAME).await.expect("the subscription");
        (found.state() == state).then_some(())
    })
    .await;
}

fn table(updates: &[Update]) -> SlotTable {
    let bodies = updates
        .iter()
        .flat_map(|update| &update.upserts)
        .map(|it| it.body.clone());
    let mut tables = bodies.filter_map(|body| match body {
        Some(Body::SlotTable(table)) => Some(table),
        Some(Body::Tenant(_) | Body::Subscription(_) | Body::Key(_)) | None => None,
    });
    tables.next_back().expect("a slot table")
}

#[tokio::test]
async fn the_first_agent_gets_every_slot_and_every_subscription_with_its_secrets() {
    let plane = plane().await;
    let created = plane.subscribe("a", "s", orders()).await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    match agent.next().await {
        Some(Told::Welcome(welcome)) => {
            assert_eq!((welcome.slot_count, welcome.heartbeat_millis), (1024, 3000));
            assert!(!welcome.cluster_id.is_empty() && !welcome.store_generation.is_empty());
        }
        other => panic!("{other:?}"),
    }
    let (updates, stand) = agent.sync().await;
    let kinds: Vec<_> = updates
        .iter()
        .map(|update| (update.r#type(), update.full, update.last_chunk))
        .collect();
    let full = |kind| (kind, true, true);
    assert_eq!(
        kinds,
        [
            ResourceType::Key,
            ResourceType::Tenant,
            ResourceType::Subscription,
            ResourceType::SlotTable
        ]
        .map(full)
    );
    assert_eq!(updates[3].revision, stand);
    let resource = &updates[2].upserts[0];
    let Some(Body::Subscription(spec)) = &resource.body else {
        panic!("{resource:?}")
    };
    assert_eq!(
        (
            resource.name.as_str(),
            format!("\"{}\"", resource.mod_revision)
        ),
        (NAME, created.etag)
    );
    assert_eq!(spec.secret_keys[0].secret, created.signing_secret);
    assert_eq!(
        spec.subscription.as_ref().map(|it| it.state()),
        Some(State::Active)
    );
    assert_eq!(table(&updates).slot_owners, vec![1; 1024]);
}

#[tokio::test]
async fn a_subscription_is_active_once_the_owner_has_answered() {
    let plane = plane().await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    agent.sync().await;
    plane.subscribe("a", "s", orders()).await;
    let update = agent.next_update().await;
    assert_eq!(update.upserts[0].name, NAME);
    assert_eq!(plane.get(NAME).await.unwrap().state(), State::Pending);
    agent.ack(&update, Vec::new()).await;
    until_state(&plane, State::Active).await;
    // A control plane that the agent is not connected to goes by what was noted.
    drop(agent);
    eventually("noted", || async {
        let listed = Agents(Arc::clone(&plane.api))
            .list_agents(Request::new(ListAgentsRequest::default()))
            .await;
        let agent = ok(listed).agents.pop().expect("the agent");
        let is_noted = agent.state() == agent::State::Disconnected
            && agent.applied_revision >= update.revision;
        is_noted.then_some(())
    })
    .await;
    assert_eq!(plane.get(NAME).await.unwrap().state(), State::Active);
}

#[tokio::test]
async fn a_subscription_of_a_spread_tenant_is_active_once_every_owner_has_answered() {
    let plane = plane().await;
    let mut one = Agent::connect(&plane, hello("one")).await;
    one.sync().await;
    // Another agent, which is away, has the slot of the second shard.
    let mut table = SlotTable::clone(&plane.api.cache.read(|it| Arc::clone(it.slot_table())));
    let shard = Shard {
        tenant: "a".parse().unwrap(),
        number: 1,
    };
    table.owners.push(SlotOwner {
        agent_id: "two".to_owned(),
        address: "http://two".to_owned(),
        ..SlotOwner::default()
    });
    table.slot_owners[usize::from(shard.slot(1024).0)] = 2;
    table.version += 1;
    let moved = Txn::new().put(keys::SLOTS, table.encode_to_vec());
    plane.api.store.commit(moved).await.unwrap();
    let request = UpdateTenantRequest {
        tenant: Some(Tenant {
            name: "tenants/a".to_owned(),
            spread: 2,
            ..Tenant::default()
        }),
        ..UpdateTenantRequest::default()
    };
    ok(plane.tenants.update_tenant(Request::new(request)).await);
    plane.subscribe("a", "s", orders()).await;

    let update = one.answer_until(NAME).await;
    eventually("its answer is heard", || async {
        let id = "one".parse().unwrap();
        let applied = plane.api.fleet(|fleet| fleet.get(&id).map(|it| it.applied));
        applied.filter(|it| *it >= update.revision)
    })
    .await;
    assert_eq!(plane.get(NAME).await.unwrap().state(), State::Pending);
    let mut two = Agent::connect(&plane, hello("two")).await;
    two.sync().await;
    tokio::select! {
        _ = one.answer_until("nothing") => unreachable!("there is no such resource"),
        _ = two.answer_until("nothing") => unreachable!("there is no such resource"),
        () = until_state(&plane, State::Active) => {}
    }
}

#[tokio::test]
async fn a_subscription_that_the_owner_rejects_stays_pending_until_it_changes() {
    let plane = plane().await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    agent.sync().await;
    plane.subscribe("a", "s", orders()).await;
    let update = agent.next_update().await;
    let rejection = Rejection {
        name: NAME.to_owned(),
        mod_revision: update.upserts[0].mod_revision,
        reason: "no".to_owned(),
    };
    agent.ack(&update, vec![rejection]).await;
    plane.subscribe("a", "t", orders()).await;
    let next = agent.next_update().await;
    assert_eq!(next.upserts.len(), 1, "what was rejected is not sent again");
    agent.ack(&next, Vec::new()).await;
    eventually("the other one is active", || async {
        let other = plane
            .get("tenants/a/subscriptions/t")
            .await
            .expect("the other one");
        (other.state() == State::Active).then_some(())
    })
    .await;
    assert_eq!(plane.get(NAME).await.unwrap().state(), State::Pending);
}

#[tokio::test]
async fn an_agent_that_comes_back_gets_only_what_changed() {
    let plane = plane().await;
    plane.subscribe("a", "s", orders()).await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    let Some(Told::Welcome(welcome)) = agent.next().await else {
        panic!("no welcome")
    };
    let (_, stand) = agent.sync().await;
    drop(agent);
    plane.subscribe("a", "t", orders()).await;
    let back = Hello {
        cluster_id: welcome.cluster_id,
        store_generation: welcome.store_generation,
        revision: stand,
        ..hello("one")
    };
    let mut agent = Agent::connect(&plane, back.clone()).await;
    let update = agent.next_update().await;
    let names: Vec<_> = update.upserts.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        (names.as_slice(), update.full),
        (&["tenants/a/subscriptions/t"][..], false)
    );
    // Revisions of another store count for nothing.
    let other = Hello {
        store_generation: "another".to_owned(),
        ..back
    };
    let (updates, _) = Agent::connect(&plane, other).await.sync().await;
    assert!(updates.iter().all(|update| update.full));
}

#[tokio::test]
async fn the_newer_session_of_an_agent_ends_the_older() {
    let plane = plane().await;
    let mut older = Agent::connect(&plane, hello("one")).await;
    older.sync().await;
    let mut newer = Agent::connect(&plane, hello("one")).await;
    newer.sync().await;
    loop {
        match older.next().await {
            Some(Told::Goaway(goaway)) => {
                assert_eq!(goaway.reason, "the agent has a newer session")
            }
            Some(Told::Welcome(_) | Told::Update(_) | Told::Bookmark(_)) => {}
            None => break,
        }
    }
    newer
        .say(Said::Heartbeat(Heartbeat {
            pending_delivery_count: 7,
            ..Heartbeat::default()
        }))
        .await;
    eventually("the heartbeat is heard", || async {
        let listed = Agents(Arc::clone(&plane.api))
            .list_agents(Request::new(ListAgentsRequest::default()))
            .await;
        let agents = ok(listed).agents;
        let heard =
            agents[0].pending_delivery_count == 7 && agents[0].state() == agent::State::Live;
        (heard && agents.len() == 1 && agents[0].slot_count == 1024).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_second_agent_owns_nothing_while_the_placement_is_frozen_and_hears_of_the_owner() {
    let plane = plane().await;
    plane.subscribe("a", "s", orders()).await;
    let mut first = Agent::connect(&plane, hello("one")).await;
    first.sync().await;
    let frozen = StoredPolicy {
        frozen: true,
        ..StoredPolicy::default()
    };
    let txn = Txn::new().put(keys::POLICY, frozen.encode_to_vec());
    plane.store.commit(txn).await.unwrap();
    eventually("frozen", || async {
        plane
            .api
            .cache
            .read(|contents| contents.get(keys::POLICY).map(drop))
    })
    .await;
    let mut second = Agent::connect(&plane, hello("two")).await;
    let (updates, _) = second.sync().await;
    assert_eq!(updates[1].upserts[0].name, "tenants/a");
    assert_eq!(updates[2].upserts.len(), 0);
    assert_eq!(table(&updates).owners[0].agent_id, "one");
    let placement = ok(Agents(Arc::clone(&plane.api))
        .get_placement(Request::new(GetPlacementRequest {}))
        .await);
    assert_eq!((placement.slot_count, placement.ranges.len()), (1024, 1));
    let range = &placement.ranges[0];
    let found = (
        range.first_slot,
        range.last_slot,
        range.agent.as_str(),
        range.epoch,
    );
    assert_eq!(found, (0, 1023, "agents/one", 1));
    let page = ListAgentsRequest {
        page_size: 1,
        ..ListAgentsRequest::default()
    };
    let one = ok(Agents(Arc::clone(&plane.api))
        .list_agents(Request::new(page.clone()))
        .await);
    let page = ListAgentsRequest {
        page_token: one.next_page_token,
        ..page
    };
    let two = ok(Agents(Arc::clone(&plane.api))
        .list_agents(Request::new(page))
        .await);
    assert_eq!(
        (one.agents[0].name.as_str(), two.agents[0].name.as_str()),
        ("agents/one", "agents/two")
    );
    assert_eq!(
        (two.agents[0].slot_count, two.next_page_token.as_str()),
        (0, "")
    );
}

#[tokio::test]
async fn a_newcomer_gets_its_share_a_quarter_at_a_time() {
    let plane = Plane::start_with(|config| {
        config.clock = Clock::system();
        // Slots are placed once in a second when nothing else happens, so each step is seen.
        config.join_ramp = Duration::from_secs(1);
    })
    .await;
    let mut first = Agent::connect(&plane, hello("one")).await;
    first.sync().await;
    let _second = Agent::connect(&plane, hello("two")).await;
    let shares = RefCell::new(Vec::new());
    eventually("half of the slots", || async {
        let agents = agents(&plane).await;
        let share = agents.iter().find(|it| it.name == "agents/two")?.slot_count;
        shares.borrow_mut().push(share);
        (share == 512).then_some(())
    })
    .await;
    let mut shares = shares.into_inner();
    shares.dedup();
    shares.retain(|share| *share > 0);
    assert_eq!(shares, [128, 256, 384, 512]);
}

#[tokio::test]
async fn an_agent_says_its_zone_and_it_is_known_when_it_is_gone() {
    let plane = plane().await;
    let here = Hello {
        zone: "eu-1".to_owned(),
        ..hello("one")
    };
    let mut agent = Agent::connect(&plane, here.clone()).await;
    let (updates, _) = agent.sync().await;
    assert_eq!(table(&updates).owners[0].zone, "eu-1");
    let elsewhere = Hello {
        zone: "eu/2".to_owned(),
        ..here
    };
    let opened = plane.server.open(elsewhere, tokio_stream::empty()).await;
    let fields = violations(opened.map(drop).map_err(Status::from));
    assert_eq!(fields, ["hello.zone"]);
    drop(agent);
    eventually("gone", || async {
        let agent = agents(&plane).await.pop()?;
        (agent.state() == agent::State::Disconnected).then_some(())
    })
    .await;
    let noted = agents(&plane).await.remove(0);
    assert_eq!((noted.zone.as_str(), noted.silence), ("eu-1", None));
    // Its lease is over.
    plane
        .store
        .commit(Txn::new().delete("agent/one"))
        .await
        .unwrap();
    eventually("silent", || async {
        let agent = agents(&plane).await.remove(0);
        let is_silent = agent.silence.is_some() && agent.last_heartbeat_time.is_some();
        (is_silent && agent.zone == "eu-1" && agent.config_lag.is_none()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_behind_for_everybody_to_see() {
    let plane = plane().await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    agent.sync().await;
    let lag = async || {
        let agent = agents(&plane).await.remove(0);
        Duration::try_from(agent.config_lag.unwrap()).unwrap()
    };
    eventually("up to date", || async {
        lag().await.is_zero().then_some(())
    })
    .await;
    plane.tenant("b").await;
    let update = agent.next_update().await;
    eventually("behind", || async {
        (lag().await >= Duration::from_millis(20)).then_some(())
    })
    .await;
    let noted = async || {
        let (entry, _) = plane.store.get("agent/one").await.unwrap();
        let noted = StoredAgent::decode(entry.unwrap().value).unwrap();
        noted.behind_since.is_some()
    };
    assert!(!noted().await, "not for a moment's sake");
    // It lives, and does not get on.
    eventually("noted", || async {
        agent.say(Said::Heartbeat(Heartbeat::default())).await;
        noted().await.then_some(())
    })
    .await;
    agent.ack(&update, Vec::new()).await;
    eventually("no longer", || async {
        (!noted().await && lag().await.is_zero()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_an_agent_applied_of_another_store_counts_for_nothing() {
    let plane = plane().await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    agent.sync().await;
    drop(agent);
    let era = plane.api.cache.read(|contents| contents.era().to_string());
    let noted = async |store_era: &str, applied_revision| {
        let noted = StoredAgent {
            applied_revision,
            store_era: store_era.to_owned(),
            ..StoredAgent::default()
        };
        eventually("noted", || async {
            // The session that has ended may still be about to write its last note.
            let txn = Txn::new().put("agent/one", noted.encode_to_vec());
            plane.store.commit(txn).await.unwrap();
            let agent = agents(&plane).await.remove(0);
            let is_noted = agent.state() == agent::State::Disconnected
                && agent.applied_revision == applied_revision;
            is_noted.then_some(())
        })
        .await;
    };
    plane.subscribe("a", "s", orders()).await;
    noted("another", 1_000_000).await;
    assert_eq!(plane.get(NAME).await.unwrap().state(), State::Pending);
    noted(&era, 1_000_001).await;
    assert_eq!(plane.get(NAME).await.unwrap().state(), State::Active);
}

#[tokio::test]
async fn a_store_that_is_behind_an_agent_is_not_believed() {
    let plane = Plane::start_with(|config| {
        config.clock = Clock::system();
        config.slot_count = 16;
        config.audit_period = Duration::from_millis(200);
    })
    .await;
    let era = plane.api.cache.read(|contents| contents.era().to_string());
    let ahead = Hello {
        store_generation: era,
        revision: 1_000_000,
        ..hello("one")
    };
    let opened = plane.server.open(ahead, tokio_stream::empty()).await;
    let reason = refused(opened.map(drop).map_err(Status::from)).1;
    assert_eq!(reason, "BEHIND");
    eventually("guarded", || async {
        plane.api.cache.is_guarded().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_report_of_a_receiver_suspends_the_subscription() {
    let plane = plane().await;
    let created = plane.subscribe("a", "s", orders()).await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    agent.sync().await;
    let report = SuspendReport {
        subscription: NAME.to_owned(),
        uid: created.uid,
        reason: SuspendReason::RequestedByEndpoint.into(),
    };
    agent.say(Said::SuspendReport(report)).await;
    until_state(&plane, State::Suspended).await;
    assert_eq!(
        plane.get(NAME).await.unwrap().suspend_reason(),
        SuspendReason::RequestedByEndpoint
    );
    let Some(Body::Subscription(spec)) = agent.next_update().await.upserts.remove(0).body else {
        panic!()
    };
    assert_eq!(
        spec.subscription.map(|it| it.state()),
        Some(State::Suspended)
    );
}

#[tokio::test]
async fn an_agent_of_another_cluster_or_without_a_name_or_address_is_refused() {
    let plane = plane().await;
    let answer = async |hello: Hello| {
        let opened = plane.server.open(hello, tokio_stream::empty()).await;
        refused(opened.map(drop).map_err(Status::from)).0
    };
    assert_eq!(
        answer(Hello {
            cluster_id: "x".to_owned(),
            ..hello("a")
        })
        .await,
        Code::FailedPrecondition
    );
    assert_eq!(answer(hello("A")).await, Code::InvalidArgument);
    assert_eq!(
        answer(Hello {
            address: "nowhere".to_owned(),
            ..hello("a")
        })
        .await,
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_a_drained_server_takes_nobody() {
    let plane = plane().await;
    let mut agent = Agent::connect(&plane, hello("one")).await;
    agent.sync().await;
    let (server, readiness) = (Arc::clone(&plane.server), plane.readiness.clone());
    plane.stop().await;
    let mut told = Vec::new();
    while let Some(message) = agent.next().await {
        told.push(message);
    }
    let reason = match told.pop() {
        Some(Told::Goaway(goaway)) => goaway.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason, "the control plane is shutting down");
    assert_eq!(readiness.unmet(), ["store"]);
    assert_eq!(
        refused(server.check_ready().map_err(Status::from)).1,
        "DRAINING"
    );
}

#[tokio::test]
async fn questions_about_deliveries_need_an_owner() {
    use hookfleet_gateway::peers::Dialer;
    use hookfleet_proto::v1::{GetEventRequest, delivery_service_server::DeliveryService as _};
    let plane = plane().await;
    let deliveries = crate::api::delivery::Deliveries(crate::query::Deliverers::new(
        Arc::clone(&plane.api),
        Dialer::default(),
    ));
    let name = format!(
        "tenants/a/events/{}",
        hookfleet_contract::id::WebhookId([0; 16])
    );
    let ask = async |name: &str| {
        let request = GetEventRequest {
            name: name.to_owned(),
        };
        refused(deliveries.get_event(Request::new(request)).await)
    };
    assert_eq!(ask(&name).await, (Code::Unavailable, "NO_OWNER".to_owned()));
    assert_eq!(ask("tenants/a").await.0, Code::InvalidArgument);
    // Nothing listens there.
    let mut agent = Agent::connect(
        &plane,
        Hello {
            address: "http://127.0.0.1:1".to_owned(),
            ..hello("one")
        },
    )
    .await;
    agent.sync().await;
    assert_eq!(
        ask(&name).await,
        (Code::Unavailable, "AGENT_UNREACHABLE".to_owned())
    );
}

/// What an agent says when its subscription is the only one in its slot.
fn digests(plane: &Plane, name: &str, revision: i64) -> Said {
    let part = Part::of(name, plane.api.slot_count).unwrap();
    let mut digests = Digests::default();
    digests.add(part, digest(name, revision));
    Said::Heartbeat(Heartbeat {
        digests: vec![PartDigest {
            r#type: part.kind.into(),
            slot: part.slot.into(),
            digest: digests.of(part),
        }],
        ..Heartbeat::default()
    })
}

#[tokio::test]
async fn an_agent_that_has_not_what_it_was_told_is_told_everything_again() {
    let plane = plane().await;
    let created = plane.subscribe("a", "s", orders()).await;
    let revision: i64 = created.etag.trim_matches('"').parse().unwrap();
    let mut agent = Agent::connect(&plane, hello("one")).await;
    agent.sync().await;
    // One that has it is told what is new, and nothing else.
    agent.say(digests(&plane, NAME, revision)).await;
    plane.tenant("b").await;
    let update = agent.next_update().await;
    assert!(!update.full, "{update:?}");
    agent.ack(&update, Vec::new()).await;

    agent.say(digests(&plane, NAME, revision - 1)).await;
    let mut told = Vec::new();
    while told.len() < 4 {
        let update = agent.next_update().await;
        assert!(update.full, "{update:?}");
        agent.ack(&update, Vec::new()).await;
        told.push(update);
    }
    assert_eq!(told[2].upserts[0].name, NAME);
    // An agent that cannot have it is not told for ever.
    agent.say(digests(&plane, NAME, revision - 1)).await;
    plane.tenant("c").await;
    let update = agent.next_update().await;
    assert!(!update.full, "{update:?}");
}

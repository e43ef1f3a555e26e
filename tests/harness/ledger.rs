//! The ledger: publishers that write down what they were told, beside receivers that write down what they got. Once
//! everything acknowledged has arrived, the [`checker`](super::checker) judges both.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookfleet_proto::v1::{Subscription, publish_result};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;

use super::{
    api::{create_tenant, event, keyed, ordered, publish, retries, subscribe_in_force, to},
    checker::{self, Excuses, Fate, Fault, History, Pair, Published, Receipt, Report},
    eventually,
    receiver::{Received, Receiver},
};

/// How long everything acknowledged may take to arrive on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(150);
/// A frozen agent answers nothing.
const CALL: Duration = Duration::from_secs(5);
const KEYS: usize = 2;

/// What happened, as far as anybody outside the fleet can tell; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    pub receiver: Receiver,
    started: Instant,
    noted: Arc<Mutex<Noted>>,
    n_acked: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Noted {
    subscriptions: BTreeMap<String, BTreeSet<String>>,
    ordered: BTreeSet<(String, String)>,
    published: Vec<Published>,
    faults: Vec<Fault>,
    dead: BTreeSet<Pair>,
}

/// Publishers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<()>>,
}

/// Where publishers may go; changes while they work.
#[derive(Clone, Default)]
pub struct Doors(Arc<Mutex<Vec<Channel>>>);

/// How a load is made.
#[derive(Clone)]
pub struct Shape {
    /// Makes the ids of events unlike those of other loads.
    pub name: &'static str,
    /// Each has a publisher of its own.
    pub tenants: Vec<String>,
    /// Between the events of a tenant.
    pub pause: Duration,
    /// After so many events of each tenant it ends.
    pub n_each: usize,
    /// A publisher stays at its door for as long as it is open, as one connection does. Else it takes another for each
    /// event, as clients do that balance.
    pub stays: bool,
}

// === impl Ledger ===

impl Ledger {
    pub async fn start() -> Self {
        Self {
            receiver: Receiver::start().await,
            started: Instant::now(),
            noted: Arc::default(),
            n_acked: Arc::default(),
        }
    }

    /// Makes tenants in slots of their own, each with a subscription of everything without order and one with it.
    pub async fn tenants(&self, admin: &Channel, n: usize) -> Vec<String> {
        let names: Vec<String> = (0..n).map(|it| format!("tenant-{it}")).collect();
        for tenant in &names {
            create_tenant(admin, tenant).await;
            self.subscribe(admin, tenant, "any", |it| Subscription {
                retry_policy: retries(&[1; 50]),
                ..it
            })
            .await;
            self.subscribe(admin, tenant, "inorder", ordered).await;
        }
        names
    }

    /// Subscribes a receiver of this ledger to everything of a tenant. Answers the secret.
    pub async fn subscribe(
        &self,
        admin: &Channel,
        tenant: &str,
        id: &str,
        policy: impl FnOnce(Subscription) -> Subscription,
    ) -> String {
        let wanted = policy(to(self.receiver.url(&format!("{tenant}/{id}"))));
        let is_ordered = wanted.ordering() == hookfleet_proto::v1::Ordering::ByPartitionKey;
        let created = subscribe_in_force(admin, tenant, id, wanted).await;
        let mut noted = self.noted();
        let ids = noted.subscriptions.entry(tenant.to_owned()).or_default();
        ids.insert(id.to_owned());
        if is_ordered {
            noted.ordered.insert((tenant.to_owned(), id.to_owned()));
        }
        created.signing_secret
    }

    /// Nobody counts on the order of keys: an agent is away with what it has accepted.
    pub fn forget_order(&self) {
        self.noted().ordered.clear();
    }

    /// Starts publishers.
    pub fn load(&self, doors: &Doors, shape: &Shape) -> Load {
        let stop = Arc::<AtomicBool>::default();
        let start = |(number, tenant): (usize, &String)| {
            let (ledger, doors, shape) = (self.clone(), doors.clone(), shape.clone());
            let (tenant, stop) = (tenant.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut door = number;
                for place in 0..shape.n_each {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    door = ledger
                        .publish(&doors, &tenant, shape.name, place, door)
                        .await;
                    door += usize::from(!shape.stays);
                    sleep(shape.pause).await;
                }
            })
        };
        let publishers = shape.tenants.iter().enumerate().map(start).collect();
        Load { stop, publishers }
    }

    /// Publishes everything there is to publish in a load, and returns when it is acknowledged.
    pub async fn publish_all(&self, doors: &Doors, shape: &Shape) {
        self.load(doors, shape).done().await;
    }

    /// Publishes one event through one door after another, until it is acknowledged; answers by which. Two of three
    /// events have a key.
    async fn publish(
        &self,
        doors: &Doors,
        tenant: &str,
        name: &str,
        place: usize,
        first: usize,
    ) -> usize {
        let id = format!("{name}-{tenant}-{place}");
        let key = (place % (KEYS + 1) < KEYS).then(|| format!("{name}-{}", place % (KEYS + 1)));
        let data = format!(r#"{{"id":"{id}","text":"é"}}"#);
        let mut event = event(&id, "orders.created", &data);
        if let Some(key) = &key {
            event = keyed(event, key);
        }
        let mut published = Published {
            tenant: tenant.to_owned(),
            id,
            keyed: key.map(|key| (key, place)),
            data,
            door: first,
            from: self.now(),
            until: self.now(),
            n_unknown: 0,
            fate: Fate::Unknown,
        };
        let number = {
            // Noted before the call: whatever becomes of it, its receivers are not surprised.
            let mut noted = self.noted();
            noted.published.push(published.clone());
            noted.published.len() - 1
        };
        for door in first.. {
            let channel = doors.door(door);
            let called = timeout(CALL, publish(&channel, tenant, vec![event.clone()])).await;
            published.until = self.now();
            published.door = door;
            published.fate = match called.map(|it| it.map(|mut results| results.pop())) {
                Ok(Ok(Some(publish_result::Result::Receipt(_)))) => Fate::Acked,
                Ok(Ok(_)) => Fate::Rejected,
                // Killed, restarting, frozen, or not in sync yet.
                Ok(Err(_)) | Err(_) => Fate::Unknown,
            };
            if published.fate == Fate::Unknown {
                published.n_unknown += 1;
            }
            self.noted().published[number] = published.clone();
            match published.fate {
                Fate::Acked => {
                    self.n_acked.fetch_add(1, Ordering::Relaxed);
                    return door;
                }
                Fate::Rejected => panic!("a good event was refused: {published:?}"),
                Fate::Unknown => sleep(Duration::from_millis(20)).await,
            }
        }
        unreachable!("doors are tried for ever")
    }

    /// Notes what somebody else has published.
    pub fn note(&self, published: Published) {
        if published.fate == Fate::Acked {
            self.n_acked.fetch_add(1, Ordering::Relaxed);
        }
        self.noted().published.push(published);
    }

    /// Notes dead letters: (tenant, subscription, webhook id).
    pub fn note_dead(&self, dead: impl IntoIterator<Item = (String, String, String)>) {
        let events: HashMap<String, String> = self.receiver.with(|all| {
            let named = all
                .iter()
                .map(|it| (it.header("webhook-id").to_owned(), self.receipt(it).event));
            named.collect()
        });
        let dead = dead.into_iter().map(|(tenant, subscription, id)| {
            let event = events.get(&id).expect("it was tried");
            (tenant, subscription, event.clone())
        });
        self.noted().dead.extend(dead);
    }

    /// Does something to the fleet, and notes when.
    pub async fn fault<T>(&self, what: &str, excuses: Excuses, does: impl Future<Output = T>) -> T {
        let from = self.now();
        let done = does.await;
        let until = self.now();
        eprintln!("FAULT {what} at {from:?}, for {:?}", until - from);
        self.noted().faults.push(Fault {
            what: what.to_owned(),
            from,
            until,
            excuses,
        });
        done
    }

    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn n_acked(&self) -> usize {
        self.n_acked.load(Ordering::Relaxed)
    }

    /// Waits until so many events more are acknowledged.
    pub async fn acknowledged(&self, n: usize) {
        let n_before = self.n_acked();
        eventually("events are acknowledged", PATIENCE, || async {
            let n_acked = self.n_acked() - n_before;
            if n_acked >= n { Ok(()) } else { Err(n_acked) }
        })
        .await;
    }

    /// What has been acknowledged and not received yet.
    pub fn missing(&self) -> Vec<Pair> {
        checker::missing(&self.history())
    }

    /// Waits until everything acknowledged has been received, and judges.
    pub async fn settle(&self) -> Report {
        let mut n_before = usize::MAX;
        eventually("everything acknowledged is received", PATIENCE, || {
            let missing = self.missing();
            async move {
                if missing.is_empty() {
                    return Ok(());
                }
                // Looking is not free, and others need the machine.
                sleep(Duration::from_millis(200)).await;
                Err((
                    missing.len(),
                    missing.into_iter().take(3).collect::<Vec<_>>(),
                ))
            }
        })
        .await;
        // What is doubled comes late; it has come when nothing more comes.
        loop {
            let n = self.receiver.count();
            if n == n_before {
                break;
            }
            n_before = n;
            sleep(Duration::from_millis(1500)).await;
        }
        checker::check(&self.history())
    }

    fn history(&self) -> History {
        let receipts = self
            .receiver
            .with(|all| all.iter().map(|it| self.receipt(it)).collect());
        let noted = self.noted();
        History {
            subscriptions: noted.subscriptions.clone(),
            ordered: noted.ordered.clone(),
            published: noted.published.clone(),
            receipts,
            faults: noted.faults.clone(),
            dead: noted.dead.clone(),
        }
    }

    fn receipt(&self, received: &Received) -> Receipt {
        let (tenant, subscription) = received.path.split_once('/').expect("one of our paths");
        let body = received.json();
        let since = |at: Instant| at.saturating_duration_since(self.started);
        Receipt {
            tenant: tenant.to_owned(),
            subscription: subscription.to_owned(),
            event: body["id"].as_str().unwrap_or_default().to_owned(),
            data: data_of(std::str::from_utf8(&received.body).expect("text")),
            webhook_id: received.header("webhook-id").to_owned(),
            attempt: received.header("hookfleet-attempt").parse().unwrap_or(0),
            from: since(received.from),
            until: received.until().map(since),
            is_success: received.status.is_success(),
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().expect("no panic")
    }
}

/// The data of a CloudEvent in JSON, as it stands there: it is the last member.
fn data_of(body: &str) -> String {
    let after = body.split_once(r#""data":"#).map(|it| it.1);
    let data = after.and_then(|it| it.strip_suffix('}'));
    data.unwrap_or(body).to_owned()
}

// === impl Load ===

impl Load {
    /// Waits until everything is published.
    pub async fn done(self) {
        for publisher in self.publishers {
            publisher.await.expect("no panic");
        }
    }

    /// Lets publishers end with the event that they are at.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.done().await;
    }
}

// === impl Doors ===

impl Doors {
    pub fn of(channels: impl IntoIterator<Item = Channel>) -> Self {
        Self(Arc::new(Mutex::new(channels.into_iter().collect())))
    }

    pub fn set(&self, channels: Vec<Channel>) {
        *self.0.lock().expect("no panic") = channels;
    }

    fn door(&self, number: usize) -> Channel {
        let doors = self.0.lock().expect("no panic");
        doors[number % doors.len()].clone()
    }
}

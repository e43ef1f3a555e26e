//! The services on a real embedded store, called as tonic calls them.

mod creations;
mod keys;
mod secrets;
mod subscriptions;
mod tenants;
mod verifications;

use std::{sync::Arc, time::Duration};

use hookfleet_contract::{target::Rules, time::Timestamp};
use hookfleet_gateway::{auth::keyring::Keyring, readiness::Readiness};
use hookfleet_proto::{
    fleet::{Hello, SyncRequest},
    v1::{
        self, CreateSubscriptionRequest, CreateTenantRequest, GetSubscriptionRequest, Tenant,
        subscription_service_server::SubscriptionService as _,
        tenant_service_server::TenantService as _,
    },
};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::{key::Keys, subscription::Subscriptions, tenant::Tenants};
use crate::{
    Config, ControlPlane,
    clock::Clock,
    store::{Embedded, Store, embedded::Retention},
    sync::server::Server,
};

pub(crate) const NOW: Timestamp = Timestamp(1_767_323_045_000);
const PATIENCE: Duration = Duration::from_secs(20);

/// A control plane that runs on a store of its own.
pub(crate) struct Plane {
    pub(crate) api: Arc<super::Api>,
    pub(crate) server: Arc<Server>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) tenants: Tenants,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) keys: Keys,
    pub(crate) keyring: Keyring,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: CancellationToken,
    running: JoinHandle<()>,
    _dir: Option<TempDir>,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Embedded::open(dir.path(), Retention::default()).await;
        let store: Arc<dyn Store> = Arc::new(store.expect("the store opens"));
        let mut plane = Self::start_on(store, adjust).await;
        plane._dir = Some(dir);
        plane
    }

    pub(crate) async fn start_on(store: Arc<dyn Store>, adjust: impl FnOnce(&mut Config)) -> Self {
        let readiness = Readiness::new(&[]);
        let mut config = Config::new(
            Arc::clone(&store),
            [7; 32],
            Rules::default(),
            readiness.clone(),
        );
        config.clock = Clock::fixed(NOW);
        adjust(&mut config);
        let clock = config.clock.clone();
        let plane = ControlPlane::start(config)
            .await
            .expect("the control plane starts");
        let (api, server) = plane.parts();
        let keyring = plane.keyring();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(plane.run(shutdown.clone()));
        let plane = Self {
            tenants: Tenants(Arc::clone(&api)),
            subscriptions: Subscriptions(Arc::clone(&api)),
            keys: Keys(Arc::clone(&api)),
            keyring,
            api,
            server,
            store,
            clock,
            readiness,
            shutdown,
            running,
            _dir: None,
        };
        eventually("ready", || async {
            plane.readiness.unmet().is_empty().then_some(())
        })
        .await;
        plane
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.expect("the control plane ends");
    }

    pub(crate) async fn tenant(&self, id: &str) -> Tenant {
        let request = CreateTenantRequest {
            tenant: Some(Tenant::default()),
            tenant_id: id.to_owned(),
            ..CreateTenantRequest::default()
        };
        ok(self.tenants.create_tenant(Request::new(request)).await)
    }

    pub(crate) async fn create(
        &self,
        request: CreateSubscriptionRequest,
    ) -> Result<v1::Subscription, Status> {
        let created = self
            .subscriptions
            .create_subscription(Request::new(request))
            .await;
        created.map(Response::into_inner)
    }

    pub(crate) async fn subscribe(
        &self,
        tenant: &str,
        id: &str,
        asked: v1::Subscription,
    ) -> v1::Subscription {
        self.create(asking(tenant, id, asked))
            .await
            .expect("created")
    }

    pub(crate) async fn get(&self, name: &str) -> Result<v1::Subscription, Status> {
        let request = GetSubscriptionRequest {
            name: name.to_owned(),
        };
        self.subscriptions
            .get_subscription(Request::new(request))
            .await
            .map(Response::into_inner)
    }

    /// Begins a session of an agent: what it says goes into the sender, what it is told comes out of the receiver.
    pub(crate) async fn connect(
        &self,
        hello: Hello,
    ) -> (
        mpsc::Sender<SyncRequest>,
        mpsc::Receiver<hookfleet_proto::fleet::SyncResponse>,
    ) {
        let (say, said) = mpsc::channel(16);
        let told = self.server.open(hello, ReceiverStream::new(said)).await;
        (say, told.map_err(Status::from).expect("a session"))
    }

    /// Every key and value in the store.
    pub(crate) async fn dump(&self) -> Vec<(String, Vec<u8>)> {
        let page = self
            .store
            .range("", None, 10_000, None)
            .await
            .expect("range");
        page.entries
            .into_iter()
            .map(|entry| (entry.key, entry.value.to_vec()))
            .collect()
    }
}

pub(crate) fn hello(agent_id: &str) -> Hello {
    Hello {
        agent_id: agent_id.to_owned(),
        incarnation: "1".to_owned(),
        address: "http://127.0.0.1:7000".to_owned(),
        version: "test".to_owned(),
        ..Hello::default()
    }
}

/// A subscription of `orders`.
pub(crate) fn orders() -> v1::Subscription {
    v1::Subscription {
        callback_url: "https://receiver.acme.com/hooks".to_owned(),
        event_types: vec!["orders".to_owned()],
        ..v1::Subscription::default()
    }
}

pub(crate) fn asking(tenant: &str, id: &str, asked: v1::Subscription) -> CreateSubscriptionRequest {
    CreateSubscriptionRequest {
        parent: format!("tenants/{tenant}"),
        subscription: Some(asked),
        subscription_id: id.to_owned(),
        ..CreateSubscriptionRequest::default()
    }
}

pub(crate) fn ok<T>(answer: Result<Response<T>, Status>) -> T {
    answer.expect("no error").into_inner()
}

/// The code and reason of an error, which every error has.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("an error");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "hookfleet.dev");
    (status.code(), info.reason)
}

/// The fields that an INVALID_ARGUMENT names.
#[track_caller]
pub(crate) fn violations<T: std::fmt::Debug>(answer: Result<T, Status>) -> Vec<String> {
    let status = answer.expect_err("an error");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.get_details_error_info().is_some());
    let details = status.get_details_bad_request().expect("a BadRequest");
    details
        .field_violations
        .into_iter()
        .map(|it| it.field)
        .collect()
}

/// Waits for a condition.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let waiting = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

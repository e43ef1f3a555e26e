//! Tenants do not see each other: every method of the descriptors, called by gRPC with every name in its request somebody
//! else's, answers as if there was nothing, byte for byte. Who shows nothing learns nothing.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use hookfleet_proto::{
    DESCRIPTORS,
    v1::{
        ListDeliveriesRequest, ListSubscriptionsRequest, ListSubscriptionsResponse,
        delivery_service_client::DeliveryServiceClient,
        subscription_service_client::SubscriptionServiceClient,
    },
};
use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value, prost::Message as _,
};
use serde_json::json;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};

use crate::harness::{
    api::SCOPES_OF_TENANTS,
    eventually,
    http::Http,
    process::{Process, hookfleet},
    raw::Raw,
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Names of things, by the variables of their patterns.
#[derive(Clone, Debug)]
struct Names {
    tenant: &'static str,
    subscription: &'static str,
    event: String,
    delivery: String,
}

/// A field of a request that names what belongs to a tenant, and how.
#[derive(Clone, Debug)]
struct Place {
    path: Vec<FieldDescriptor>,
    pattern: String,
}

/// Two tenants with a subscription, an event and a delivery each.
struct World {
    server: Process,
    http: Http,
    operator: String,
    _dir: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = hookfleet();
        command.args(["standalone", "--authentication", "--data-dir"]);
        let server = Process::start(with_arg(command, dir.path()), "127.0.0.1:0");
        let operator = std::fs::read_to_string(dir.path().join("first.key")).unwrap();
        Self {
            http: Http::to(server.address),
            operator: format!("Bearer {}", operator.trim()),
            server,
            _dir: dir,
        }
    }

    /// What an operator does.
    async fn operate(
        &self,
        method: Method,
        path: &str,
        body: serde_json::Value,
    ) -> serde_json::Value {
        let headers = [
            ("authorization", self.operator.as_str()),
            ("content-type", "application/json"),
        ];
        let has_body = method == Method::POST;
        let body = if has_body {
            body.to_string()
        } else {
            String::new()
        };
        let answer = self.http.call(method, path, &headers, body.into()).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        answer.json()
    }

    /// A key of a tenant that may do all that tenants may.
    async fn key_of(&self, tenant: &str) -> String {
        let key = json!({"tenant": format!("tenants/{tenant}"), "scopes": SCOPES_OF_TENANTS});
        let made = self.operate(Method::POST, "/v1/keys", key).await;
        let secret = made["secret"].as_str();
        secret.unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// Makes a tenant with everything that a tenant can have.
    async fn fill(&self, tenant: &'static str, receiver: &Receiver) -> Names {
        let path = format!("/v1/tenants?tenantId={tenant}");
        self.operate(Method::POST, &path, json!({})).await;
        for id in ["hook", "other"] {
            let path = format!("/v1/tenants/{tenant}/subscriptions?subscriptionId={id}");
            let body = json!({"callbackUrl": receiver.url(id), "eventTypes": ["orders"]});
            self.operate(Method::POST, &path, body).await;
        }
        let path = format!("/v1/tenants/{tenant}/subscriptions/hook/deliveries");
        let delivery = eventually("there is a delivery", PATIENCE, || async {
            let event = json!({"type": "orders", "data": {}});
            let publish = format!("/v1/tenants/{tenant}/events");
            self.operate(Method::POST, &publish, event).await;
            let listed = self.operate(Method::GET, &path, json!({})).await;
            listed["deliveries"].get(0).cloned().ok_or(listed)
        })
        .await;
        let last = |name: &str| {
            let name = delivery[name]
                .as_str()
                .unwrap_or_else(|| panic!("{delivery}"));
            name.rsplit('/').next().unwrap().to_owned()
        };
        Names {
            tenant,
            subscription: "hook",
            event: last("event"),
            delivery: last("name"),
        }
    }
}

fn with_arg(mut command: std::process::Command, argument: &Path) -> std::process::Command {
    command.arg(argument);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_called_what_others_have_looks_like_nothing() {
    let (world, receiver) = (World::start(), Receiver::start().await);
    let own = world.fill("acme", &receiver).await;
    let foreign = world.fill("globex", &receiver).await;
    let key = world.key_of("acme").await;
    let nothing = Names {
        subscription: "none",
        event: "msg_AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        delivery: "dlv_0000000000000001-0".to_owned(),
        ..foreign.clone()
    };
    let nobody = Names {
        tenant: "nobody",
        ..nothing.clone()
    };
    let channel = world.server.channel();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let (mut n_methods, mut n_calls) = (0, 0);
    let mut ours = Vec::new();
    for method in methods(&pool) {
        let name = method.full_name().to_owned();
        n_methods += 1;
        let places = places(&pool, &method.input(), &mut Vec::new());
        let scope = scope(&pool, &method);
        if places.is_empty() {
            assert!(!SCOPES_OF_TENANTS.contains(&scope.as_str()), "{name}");
            let denied = call(&channel, &key, &method, &[]).await.unwrap_err();
            assert_eq!(denied.code(), Code::PermissionDenied, "{name}: {denied:?}");
        }
        // All names are of another; and each alone, with all others one's own.
        let all = (0..places.len()).collect::<Vec<_>>();
        let each = (0..places.len()).map(|it| vec![it]);
        for others in each.chain((places.len() > 1).then_some(all)) {
            let mut answers = Vec::new();
            for names in [&foreign, &nothing, &nobody] {
                let request = request(&method, &places, |at| {
                    if others.contains(&at) { names } else { &own }
                });
                let denied = call(&channel, &key, &method, &request).await.unwrap_err();
                answers.push((
                    denied.code(),
                    denied.message().to_owned(),
                    Bytes::copy_from_slice(denied.details()),
                ));
                n_calls += 1;
            }
            assert_eq!(answers[0].0, Code::PermissionDenied, "{name} {others:?}");
            assert_eq!(answers[0], answers[1], "{name} {others:?}");
            assert_eq!(answers[0], answers[2], "{name} {others:?}");
        }
        if SCOPES_OF_TENANTS.contains(&scope.as_str()) {
            ours.push((method, places));
        }
    }
    assert!(
        n_methods > 30 && n_calls >= 75,
        "{n_methods} methods, {n_calls} calls"
    );
    // With one's own names nobody is turned away: it is not that all is refused.
    assert!(ours.len() > 12, "{}", ours.len());
    for (method, places) in ours {
        let request = request(&method, &places, |_| &own);
        let answer = call(&channel, &key, &method, &request).await;
        let code = answer.map_or_else(|it| it.code(), |_| Code::Ok);
        let name = method.full_name();
        assert!(
            ![Code::PermissionDenied, Code::Unauthenticated].contains(&code),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_token_is_of_no_use_to_anybody_else() {
    let (world, receiver) = (World::start(), Receiver::start().await);
    world.fill("acme", &receiver).await;
    world.fill("globex", &receiver).await;
    let (acme, globex) = (world.key_of("acme").await, world.key_of("globex").await);
    let channel = world.server.channel();
    let list =
        async |key: &str, tenant: &str, token: &str| -> Result<ListSubscriptionsResponse, Code> {
            let request = ListSubscriptionsRequest {
                parent: format!("tenants/{tenant}"),
                page_size: 1,
                page_token: token.to_owned(),
                ..ListSubscriptionsRequest::default()
            };
            let mut client = SubscriptionServiceClient::new(channel.clone());
            let listed = client.list_subscriptions(as_(key, request)).await;
            listed
                .map(tonic::Response::into_inner)
                .map_err(|it| it.code())
        };
    let first = list(&acme, "acme", "").await.unwrap();
    let token = first.next_page_token;
    assert!(!token.is_empty());
    let second = list(&acme, "acme", &token).await.unwrap();
    assert_ne!(second.subscriptions[0].name, first.subscriptions[0].name);

    let refused = list(&globex, "globex", &token).await;
    assert_eq!(refused.unwrap_err(), Code::InvalidArgument);
    let refused = list(&globex, "acme", &token).await;
    assert_eq!(refused.unwrap_err(), Code::PermissionDenied);
    for at in 0..token.len() {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        let refused = list(&acme, "acme", &forged).await;
        assert_eq!(refused.unwrap_err(), Code::InvalidArgument, "{forged}");
    }
    // Another list.
    let request = ListDeliveriesRequest {
        parent: "tenants/acme/subscriptions/hook".to_owned(),
        page_token: token,
        ..ListDeliveriesRequest::default()
    };
    let mut client = DeliveryServiceClient::new(channel.clone());
    let refused = client.list_deliveries(as_(&acme, request)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_tell_of_no_tenant() {
    let (world, receiver) = (World::start(), Receiver::start().await);
    world.fill("globex", &receiver).await;
    let key = world.key_of("globex").await;
    let channel = world.server.channel();
    let check = async |service: &str| {
        let request = [
            &[0x0a, u8::try_from(service.len()).unwrap()],
            service.as_bytes(),
        ]
        .concat();
        let answer = call_path(&channel, None, "/grpc.health.v1.Health/Check", &request).await;
        answer.map_err(|it| (it.code(), it.message().to_owned()))
    };
    // SERVING, and nothing else.
    assert_eq!(check("").await.unwrap(), [0x08, 0x01][..]);
    let (there, nowhere) = (check("tenants/globex").await, check("tenants/nobody").await);
    assert_eq!(there, nowhere);
    assert_eq!(there.unwrap_err().0, Code::NotFound);

    let reflect = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let list_services = [0x3a, 1, b'*'];
    let refused = call_path(&channel, None, reflect, &list_services).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let listed = call_path(&channel, Some(&key), reflect, &list_services).await;
    let listed = listed.unwrap();
    let has = |text: &str| listed.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(has("hookfleet.v1.TenantService") && !has("globex"));
    for path in ["/livez", "/readyz"] {
        assert_eq!(&world.http.get(path).await.body[..], b"ok\n");
    }
}

/// Every method of ours.
fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    let services = pool.services();
    let methods = services.flat_map(|it| it.methods().collect::<Vec<_>>());
    let ours = methods.filter(|it| it.full_name().starts_with("hookfleet."));
    ours.collect()
}

fn scope(pool: &DescriptorPool, method: &MethodDescriptor) -> String {
    let extension = pool.get_extension_by_name("hookfleet.v1.scope").unwrap();
    let options = method.options();
    let scope = options.get_extension(&extension);
    scope.as_str().unwrap().to_owned()
}

/// The fields of a message, and of those in it, that name what belongs to a tenant.
fn places(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    above: &mut Vec<FieldDescriptor>,
) -> Vec<Place> {
    let mut found = Vec::new();
    for field in message.fields() {
        above.push(field.clone());
        let kind = field.kind();
        let inner = kind.as_message();
        let inner = inner.filter(|it| it.full_name().starts_with("hookfleet.") && above.len() < 6);
        if let Some(inner) = inner {
            found.extend(places(pool, inner, above));
        } else if kind == Kind::String {
            let pattern = pattern(pool, message, &field);
            found.extend(pattern.map(|pattern| Place {
                path: above.clone(),
                pattern,
            }));
        }
        above.pop();
    }
    found
}

/// How the name in a field looks, if it is one of something that belongs to a tenant.
fn pattern(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    field: &FieldDescriptor,
) -> Option<String> {
    let text = |options: &DynamicMessage, extension: &str, name: &str| {
        let extension = pool.get_extension_by_name(extension)?;
        let value = options.get_extension(&extension).into_owned();
        let value = value.as_message()?.get_field_by_name(name)?.into_owned();
        let first = value.as_list().and_then(<[Value]>::first);
        let text = first.unwrap_or(&value).as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    let of_type = |wanted: &str| {
        let mut types = pool.all_messages().map(|it| it.options());
        types.find_map(|it| {
            let is_it = text(&it, "google.api.resource", "type").as_deref() == Some(wanted);
            is_it.then(|| text(&it, "google.api.resource", "pattern"))?
        })
    };
    let reference = "google.api.resource_reference";
    let options = field.options();
    let pattern = if let Some(child) = text(&options, reference, "child_type") {
        let pattern = of_type(&child)?;
        let (parent, _) = pattern.rsplit_once('/')?;
        parent.rsplit_once('/')?.0.to_owned()
    } else if let Some(own) = text(&options, reference, "type") {
        of_type(&own)?
    } else if field.name() == "name" {
        text(&message.options(), "google.api.resource", "pattern")?
    } else {
        return None;
    };
    pattern.starts_with("tenants/").then_some(pattern)
}

/// A request with a name in each place.
fn request<'a>(
    method: &MethodDescriptor,
    places: &[Place],
    names: impl Fn(usize) -> &'a Names,
) -> Vec<u8> {
    let mut message = DynamicMessage::new(method.input());
    for (at, place) in places.iter().enumerate() {
        let names = names(at);
        let name = place.pattern.replace("{tenant}", names.tenant);
        let name = name.replace("{subscription}", names.subscription);
        let name = name.replace("{event}", &names.event);
        let name = name.replace("{delivery}", &names.delivery);
        assert!(!name.contains('{'), "{name}");
        set(&mut message, &place.path, name);
    }
    message.encode_to_vec()
}

fn set(message: &mut DynamicMessage, path: &[FieldDescriptor], name: String) {
    let (field, rest) = path.split_first().unwrap();
    assert!(!field.is_map(), "{field:?}");
    let present = message.get_field(field).into_owned();
    let mut value = match present.as_list() {
        Some(values) => values.first().cloned(),
        None => Some(present),
    };
    if rest.is_empty() {
        value = Some(Value::String(name));
    } else {
        let Kind::Message(kind) = field.kind() else {
            panic!("{field:?}");
        };
        let inner = value.as_ref().and_then(Value::as_message).cloned();
        let mut inner = inner.unwrap_or_else(|| DynamicMessage::new(kind));
        assert_eq!(inner.descriptor(), rest[0].parent_message().clone());
        set(&mut inner, rest, name);
        value = Some(Value::Message(inner));
    }
    let value = value.unwrap();
    let value = if field.is_list() {
        Value::List(vec![value])
    } else {
        value
    };
    message.set_field(field, value);
}

async fn call(
    channel: &Channel,
    key: &str,
    method: &MethodDescriptor,
    request: &[u8],
) -> Result<Bytes, Status> {
    let service = method.parent_service().full_name().to_owned();
    let path = format!("/{service}/{}", method.name());
    call_path(channel, Some(key), &path, request).await
}

/// Sends one message, and gets the first that comes back, if the call ends well.
async fn call_path(
    channel: &Channel,
    key: Option<&str>,
    path: &str,
    request: &[u8],
) -> Result<Bytes, Status> {
    let mut client = Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|it| Status::unavailable(it.to_string()))?;
    let messages = tokio_stream::once(Bytes::copy_from_slice(request));
    let request = match key {
        Some(key) => as_(key, messages),
        None => Request::new(messages),
    };
    let path = path.parse().unwrap();
    let mut answer = client.streaming(request, path, Raw).await?.into_inner();
    let first = answer.message().await?.unwrap_or_default();
    // A stream may say something before it has read what it is sent.
    while answer.message().await?.is_some() {}
    Ok(first)
}

fn as_<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

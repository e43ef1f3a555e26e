//! Calls of the API's methods in each of its dialects, made of their descriptors: requests and answers are JSON here.

use bytes::{Buf as _, BufMut as _, Bytes};
use hookfleet_proto::DESCRIPTORS;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use serde_json::{Map, Value};
use tonic::{Code, Status, client::Grpc, transport::Channel};

use super::{http::Http, raw::Raw};

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Grpc,
    Web,
    Rest,
}

pub const DIALECTS: [Dialect; 3] = [Dialect::Grpc, Dialect::Web, Dialect::Rest];

/// What differs from call to call, whatever the dialect.
const VOLATILE: [&str; 21] = [
    "uid",
    "etag",
    "createTime",
    "updateTime",
    "rotateTime",
    "expireTime",
    "acceptTime",
    "startTime",
    "settleTime",
    "nextAttemptTime",
    "durationMillis",
    "keyId",
    "publicKey",
    "nextPageToken",
    "secret",
    "signingSecret",
    "lastHeartbeatTime",
    "appliedRevision",
    "revision",
    "pendingDeliveryCount",
    "version",
];

/// What is the HTTP body of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    All,
    Field(String),
}

/// A unary method.
#[derive(Clone, Debug)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: String,
    descriptor: MethodDescriptor,
    verb: String,
    template: String,
    pub body: Body,
    /// The field that the path binds, and its pattern.
    pub variable: Option<(String, String)>,
    /// Where in a request the version of its resource is, as a pointer.
    pub etag: Option<String>,
}

/// Why a call failed, as each dialect says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    pub details: Value,
}

pub type Answer = Result<Value, Failure>;

/// Calls a server.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
    http: Http,
}

/// Every unary method of the public API.
pub fn methods() -> Vec<Method> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services = pool
        .services()
        .filter(|it| it.full_name().starts_with("hookfleet.v1."));
    let methods = services.flat_map(|it| it.methods().collect::<Vec<_>>());
    let unary = methods.filter(|it| !it.is_client_streaming() && !it.is_server_streaming());
    unary.map(|it| Method::new(&pool, it)).collect()
}

/// Panics unless all dialects have answered alike.
pub fn same(what: &str, answers: &[Answer]) {
    let plain: Vec<_> = answers.iter().map(plain).collect();
    for (dialect, answer) in DIALECTS.iter().zip(&plain) {
        assert_eq!(plain[0], *answer, "{what} by {dialect:?}");
    }
}

impl Dialect {
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Web => "web",
            Self::Rest => "rest",
        }
    }
}

impl Method {
    fn new(pool: &DescriptorPool, descriptor: MethodDescriptor) -> Self {
        let http = pool.get_extension_by_name("google.api.http").unwrap();
        let options = descriptor.options();
        let rule = options.get_extension(&http);
        let rule = rule.as_message().expect("every method has a rule");
        let text = |name: &str| {
            rule.get_field_by_name(name)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        };
        let verbs = ["get", "post", "put", "patch", "delete"];
        let verb = verbs.into_iter().find(|it| !text(it).is_empty()).unwrap();
        let template = text(verb);
        let variable = template.split_once('{').map(|(_, rest)| {
            let (variable, _) = rest.split_once('}').unwrap();
            let (field, pattern) = variable.split_once('=').unwrap();
            (field.to_owned(), pattern.to_owned())
        });
        let body = match text("body").as_str() {
            "" => Body::None,
            "*" => Body::All,
            field => Body::Field(field.to_owned()),
        };
        let input = descriptor.input();
        let in_resource = || {
            let Body::Field(field) = &body else {
                return None;
            };
            let kind = input.get_field_by_name(field)?.kind();
            kind.as_message()?.get_field_by_name("etag")?;
            let json_name = input.get_field_by_name(field)?.json_name().to_owned();
            // A new one has no version.
            (verb != "post").then(|| format!("/{json_name}/etag"))
        };
        let own = input.get_field_by_name("etag").map(|_| "/etag".to_owned());
        Self {
            path: format!(
                "/{}/{}",
                descriptor.parent_service().full_name(),
                descriptor.name()
            ),
            etag: own.or_else(in_resource),
            verb: verb.to_uppercase(),
            template,
            body,
            variable,
            descriptor,
        }
    }

    /// Whether its request has such a field.
    pub fn has(&self, field: &str) -> bool {
        self.descriptor.input().get_field_by_name(field).is_some()
    }

    /// A request as HTTP has it: method, path with query, body.
    pub fn rest(&self, request: &Value) -> (String, String, String) {
        let mut request = request.clone();
        let mut path = self.template.clone();
        if let Some((field, pattern)) = &self.variable {
            let members: Vec<_> = field.split('.').collect();
            let (last, before) = members.split_last().unwrap();
            let within = before
                .iter()
                .fold(&mut request, |it, member| &mut it[*member]);
            let name = within.as_object_mut().unwrap().remove(*last).unwrap();
            let segments = name.as_str().unwrap().split('/').map(escaped);
            let name = segments.collect::<Vec<_>>().join("/");
            path = path.replace(&format!("{{{field}={pattern}}}"), &name);
        }
        let members = request.as_object_mut().unwrap();
        let body = match &self.body {
            Body::None => String::new(),
            Body::All => Value::Object(std::mem::take(members)).to_string(),
            Body::Field(field) => {
                let field = self.descriptor.input().get_field_by_name(field).unwrap();
                members
                    .remove(field.json_name())
                    .unwrap_or_default()
                    .to_string()
            }
        };
        let query: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(&text(value))))
            .collect();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        (self.verb.clone(), path, body)
    }
}

impl Caller {
    pub fn new(channel: Channel, http: Http) -> Self {
        Self { channel, http }
    }

    /// Makes a call.
    pub async fn call(&self, dialect: Dialect, method: &Method, request: &Value) -> Answer {
        let message = || {
            let input = method.descriptor.input();
            let message =
                DynamicMessage::deserialize(input, request).expect("a request of this method");
            Bytes::from(message.encode_to_vec())
        };
        let answered = match dialect {
            Dialect::Grpc => self.grpc(method, message()).await,
            Dialect::Web => self.web(method, &message()).await,
            Dialect::Rest => {
                let (verb, path, body) = method.rest(request);
                return self.rest(&verb, &path, body).await;
            }
        };
        let answer = answered.map_err(|status| failure(&status))?;
        let message = DynamicMessage::decode(method.descriptor.output(), answer).unwrap();
        Ok(as_json(&message))
    }

    async fn grpc(&self, method: &Method, message: Bytes) -> Result<Bytes, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let path = method.path.parse().unwrap();
        let answered = client.unary(tonic::Request::new(message), path, Raw).await;
        answered.map(tonic::Response::into_inner)
    }

    async fn web(&self, method: &Method, message: &Bytes) -> Result<Bytes, Status> {
        let mut frame = vec![0];
        frame.put_u32(u32::try_from(message.len()).unwrap());
        frame.put_slice(message);
        let headers = [
            ("content-type", "application/grpc-web+proto"),
            ("x-grpc-web", "1"),
        ];
        let answer = self.http.post(&method.path, &headers, frame).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let (mut body, mut message, mut trailers) = (answer.body, Bytes::new(), answer.headers);
        while body.has_remaining() {
            let is_trailers = body.get_u8() & 0x80 != 0;
            let length = body.get_u32();
            let part = body.split_to(usize::try_from(length).unwrap());
            match is_trailers {
                true => trailers.extend(parsed(&part)),
                false => message = part,
            }
        }
        match Status::from_header_map(&trailers) {
            Some(status) if status.code() != Code::Ok => Err(status),
            Some(_) => Ok(message),
            None => panic!("there is no status: {trailers:?}"),
        }
    }

    /// Makes a call of HTTP/JSON.
    pub async fn rest(&self, verb: &str, path: &str, body: String) -> Answer {
        let answer = self
            .http
            .call(verb.parse().unwrap(), path, &[], body.into())
            .await;
        assert_eq!(
            answer.header("content-type"),
            "application/json",
            "{verb} {path}"
        );
        let mut json = answer.json();
        if answer.status == 200 {
            return Ok(json);
        }
        let mut error = json["error"].take();
        assert_eq!(error["code"], answer.status.as_u16(), "{error}");
        let code = (0..17)
            .map(Code::from)
            .find(|it| name(*it) == error["status"]);
        Err(Failure {
            code: code.unwrap_or_else(|| panic!("{error}")),
            message: text(&error["message"]),
            details: error["details"].take(),
        })
    }
}

fn failure(status: &Status) -> Failure {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name("google.rpc.Status").unwrap();
    let details = DynamicMessage::decode(descriptor, status.details()).unwrap();
    Failure {
        code: status.code(),
        message: status.message().to_owned(),
        details: serde_json::to_value(&details).unwrap()["details"].take(),
    }
}

fn as_json(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().skip_default_fields(false);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options);
    json.unwrap()
}

/// Trailers in the body of gRPC-Web.
fn parsed(block: &[u8]) -> HeaderMap {
    let lines = std::str::from_utf8(block).unwrap().split("\r\n");
    let pairs = lines.filter_map(|it| it.split_once(':'));
    let pairs = pairs.map(|(name, value)| {
        let value = HeaderValue::from_str(value.trim()).unwrap();
        (name.parse::<HeaderName>().unwrap(), value)
    });
    pairs.collect()
}

/// The name of a code: `NOT_FOUND`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_uppercase());
    }
    name
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A text with everything escaped that RFC 3986 reserves.
fn escaped(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    });
    bytes.collect()
}

/// An answer without what differs from call to call.
fn plain(answer: &Answer) -> Answer {
    match answer {
        Ok(value) => Ok(blank(value)),
        Err(failure) => Err(Failure {
            message: blank_text(&failure.message),
            details: blank(&failure.details),
            code: failure.code,
        }),
    }
}

fn blank(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| {
                let is_volatile = VOLATILE.contains(&name.as_str());
                let value = if is_volatile {
                    kind(value).into()
                } else if name == "state" && value == "PENDING" {
                    // A moment later its agents have it.
                    "ACTIVE".into()
                } else {
                    blank(value)
                };
                (name.clone(), value)
            });
            Value::Object(members.collect::<Map<_, _>>())
        }
        Value::Array(values) => values.iter().map(blank).collect(),
        Value::String(text) => blank_text(text).into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// What is alike of values that differ: of which type they are, and whether there is anything.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A text without ids that are made, and without the dialect's name.
fn blank_text(text: &str) -> String {
    let mut text = text.to_owned();
    for dialect in DIALECTS {
        text = text.replace(&format!("t-{}", dialect.name()), "t-DIALECT");
    }
    for prefix in ["msg_", "dlv_", "keys/"] {
        let mut parts = text.split(prefix);
        let first = parts.next().unwrap_or_default().to_owned();
        text = parts.fold(first, |text, part| {
            let end = part.find(|it: char| !(it.is_ascii_alphanumeric() || "-_".contains(it)));
            format!("{text}{prefix}*{}", &part[end.unwrap_or(part.len())..])
        });
    }
    text
}

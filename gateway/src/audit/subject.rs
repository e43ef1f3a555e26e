//! What a call is about: the names of resources in its messages, found by what the descriptors say of their fields. Pure.

use std::collections::HashMap;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, Value};

use crate::{
    auth::{
        methods::{Method, Methods},
        scope::Scope,
    },
    transcode::annotation,
};

/// A flag and a length stand before a message.
const HEAD_BYTES: usize = 5;
/// What agents send each other may be long.
const PUBLIC: &str = "/hookfleet.v1.";
const TENANTS: &str = "tenants/";

/// Every method of ours, by its path.
#[derive(Debug)]
pub(crate) struct Subjects(HashMap<String, Subject>);

/// What is noted of the calls of a method.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Whether its calls are written down although nobody was refused: they change something, or read an event's data.
    pub(crate) is_recorded: bool,
    /// Whether its requests are so short that they may be read before it is known whether anybody answers them: those that
    /// have no events.
    pub(crate) is_short: bool,
    /// Whether its answers go on after they have begun.
    pub(crate) is_stream: bool,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

// === impl Subjects ===

impl Subjects {
    pub(crate) fn new(pool: &DescriptorPool, methods: &Methods) -> Self {
        let services = pool.services();
        let all = services.flat_map(|it| it.methods().collect::<Vec<_>>());
        let subjects = all.filter_map(|it| {
            let path = format!("/{}/{}", it.parent_service().full_name(), it.name());
            let Method {
                is_change, scope, ..
            } = methods.get(&path)?;
            let subject = Subject {
                is_recorded: *is_change || *scope == Scope::AttemptsReadPayload,
                is_short: path.starts_with(PUBLIC)
                    && !it.is_client_streaming()
                    && *scope != Scope::EventsPublish,
                is_stream: it.is_server_streaming(),
                input: it.input(),
                output: it.output(),
            };
            Some((path, subject))
        });
        Self(subjects.collect())
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Subject> {
        self.0.get(path)
    }
}

// === impl Subject ===

impl Subject {
    /// The resources that a request names, in a frame of gRPC.
    pub(crate) fn of_request(&self, frame: &Bytes) -> Vec<String> {
        resources(&self.input, frame)
    }

    /// The resource that an answer is, if it is one: a new one has its name from the service.
    pub(crate) fn of_answer(&self, frame: &Bytes) -> Option<String> {
        let of_itself = self.output.fields().find(is_identifier)?;
        let message = decode(&self.output, frame)?;
        let name = message.get_field(&of_itself);
        name.as_str().filter(|it| !it.is_empty()).map(str::to_owned)
    }
}

/// The tenant that one of the names is of.
pub(crate) fn tenant(names: &[String]) -> Option<String> {
    let ids = names.iter().filter_map(|it| it.strip_prefix(TENANTS));
    let mut ids = ids.filter_map(|it| it.split('/').next());
    ids.next().map(str::to_owned)
}

fn resources(descriptor: &MessageDescriptor, frame: &Bytes) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(message) = decode(descriptor, frame) {
        collect(&message, &mut found);
    }
    found
}

fn decode(descriptor: &MessageDescriptor, frame: &Bytes) -> Option<DynamicMessage> {
    let message = frame.get(HEAD_BYTES..)?;
    DynamicMessage::decode(descriptor.clone(), message).ok()
}

fn collect(message: &DynamicMessage, found: &mut Vec<String>) {
    for (field, value) in message.fields() {
        if let Value::Message(inner) = value {
            collect(inner, found);
        }
        let name = value.as_str().filter(|it| !it.is_empty());
        found.extend(name.filter(|_| is_name(&field)).map(str::to_owned));
    }
}

/// Whether a field names a resource.
fn is_name(field: &FieldDescriptor) -> bool {
    let refers = || {
        let name = "google.api.resource_reference";
        let extension = field.parent_pool().get_extension_by_name(name)?;
        Some(field.options().has_extension(&extension))
    };
    is_identifier(field) || refers().unwrap_or(false)
}

fn is_identifier(field: &FieldDescriptor) -> bool {
    annotation::has_behavior(field, "IDENTIFIER")
}

#[cfg(test)]
mod tests {
    use hookfleet_proto::{
        DESCRIPTORS,
        v1::{CreateSubscriptionRequest, RotateKeyRequest, Subscription},
    };
    use prost::Message;

    use super::*;
    use crate::descriptors;

    fn frame(message: &impl Message) -> Bytes {
        [&[0; HEAD_BYTES], message.encode_to_vec().as_slice()]
            .concat()
            .into()
    }

    fn subject(path: &str) -> Subject {
        let methods = Methods::read(DESCRIPTORS).unwrap();
        let subjects = Subjects::new(descriptors::pool(), &methods);
        subjects.get(path).unwrap().clone()
    }

    #[test]
    fn a_call_is_about_the_resources_that_it_names_and_nothing_else_is_told() {
        let create = subject("/hookfleet.v1.SubscriptionService/CreateSubscription");
        let subscription = Subscription {
            name: "tenants/acme/subscriptions/hook".to_owned(),
            callback_url: "https://example.com/?token=secret".to_owned(),
            signing_secret: "whsec_secret".to_owned(),
            ..Subscription::default()
        };
        let answer = frame(&subscription);
        let request = CreateSubscriptionRequest {
            parent: "tenants/acme".to_owned(),
            subscription: Some(subscription),
            ..CreateSubscriptionRequest::default()
        };
        let named = create.of_request(&frame(&request));
        assert_eq!(named, ["tenants/acme", "tenants/acme/subscriptions/hook"]);
        assert_eq!(tenant(&named).as_deref(), Some("acme"));
        assert_eq!(
            create.of_answer(&answer).as_deref(),
            Some("tenants/acme/subscriptions/hook")
        );

        let rotate = subject("/hookfleet.v1.KeyService/RotateKey");
        let request = RotateKeyRequest {
            name: "keys/a".to_owned(),
            ..RotateKeyRequest::default()
        };
        assert_eq!(rotate.of_request(&frame(&request)), ["keys/a"]);
        assert_eq!(
            rotate.of_request(&Bytes::from_static(b"\0\0\0\0\x09\xff")),
            [""; 0]
        );
    }

    #[test]
    fn changes_and_reads_of_data_are_recorded_and_publishes_are_not() {
        for (path, is_recorded) in [
            ("/hookfleet.v1.TenantService/DeleteTenant", true),
            ("/hookfleet.v1.KeyService/CreateKey", true),
            ("/hookfleet.v1.FleetService/UpdateFleetPolicy", true),
            ("/hookfleet.v1.DeliveryService/RedeliverDelivery", true),
            ("/hookfleet.v1.DeliveryService/GetEvent", true),
            ("/hookfleet.v1.TenantService/GetTenant", false),
            ("/hookfleet.v1.PublisherService/Publish", false),
            ("/hookfleet.v1.PublisherService/PublishStream", false),
        ] {
            assert_eq!(subject(path).is_recorded, is_recorded, "{path}");
        }
    }
}

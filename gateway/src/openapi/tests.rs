//! The document says what the descriptors say.

use std::collections::BTreeSet;

use hookfleet_proto::DESCRIPTORS;

use super::*;
use crate::descriptors;

const SERVICES: [&str; 6] = [
    "hookfleet.v1.TenantService",
    "hookfleet.v1.SubscriptionService",
    "hookfleet.v1.PublisherService",
    "hookfleet.v1.DeliveryService",
    "hookfleet.v1.FleetService",
    "hookfleet.v1.KeyService",
];

fn made(is_guarded: bool) -> Value {
    let methods = Methods::read(DESCRIPTORS).unwrap();
    document(descriptors::pool(), &methods, &SERVICES, is_guarded).unwrap()
}

/// Every operation with its path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().unwrap().iter();
        operations.map(move |(verb, it)| (format!("{verb} {path}"), it))
    });
    operations.collect()
}

#[test]
fn every_unary_method_is_an_operation_with_its_scope() {
    let document = made(true);
    let operations = operations(&document);
    let ids: BTreeSet<_> = operations
        .iter()
        .map(|(_, it)| it["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), operations.len(), "each has an id of its own");
    let services = descriptors::pool().services();
    for service in services.filter(|it| SERVICES.contains(&it.full_name())) {
        for method in service.methods().filter(|it| !it.is_client_streaming()) {
            let id = format!("{}_{}", service.name(), method.name());
            assert!(ids.contains(id.as_str()), "{id}");
        }
    }
    for (path, operation) in &operations {
        let scope = operation["security"][0]["bearer"][0].as_str();
        assert!(scope.is_some_and(|it| it.contains('.')), "{path}");
        let said = operation["summary"].as_str().unwrap_or_default();
        assert!(said.len() > 5, "{path} has a comment");
        assert!(operation["responses"]["401"].is_object(), "{path}");
    }
    let get = &document["paths"]["/v1/tenants/{tenant}"]["get"];
    assert_eq!(get["security"][2]["basic"][0], "subscriptions.read");
}

#[test]
fn nobody_is_asked_for_a_credential_where_nobody_checks_it() {
    for (path, operation) in operations(&made(false)) {
        assert!(operation.get("security").is_none(), "{path}");
        assert!(operation["responses"].get("401").is_none(), "{path}");
    }
}

#[test]
fn fields_are_as_their_comments_and_behaviours_say() {
    let document = made(false);
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let subscription = schema("Subscription");
    assert_eq!(
        subscription["required"],
        json!(["callbackUrl", "eventTypes"])
    );
    let properties = &subscription["properties"];
    assert_eq!(properties["uid"]["readOnly"], true);
    assert_eq!(properties["createTime"]["format"], "date-time");
    assert_eq!(properties["maxInFlight"]["format"], "int32");
    assert_eq!(properties["headers"]["items"], reference("Header"));
    let comment = properties["callbackUrl"]["description"].as_str().unwrap();
    assert!(
        comment.starts_with("Where callbacks go: an absolute https URL"),
        "{comment}"
    );
    let patched = schema("Subscription.Patch");
    assert!(
        patched.get("required").is_none(),
        "only what is there is changed"
    );
    let names = schema("Subscription.State");
    assert!(
        names["enum"]
            .as_array()
            .unwrap()
            .contains(&"SUSPENDED".into())
    );
    let rotate = schema("RotateSecretRequest");
    assert!(
        rotate["properties"].get("name").is_none(),
        "the path says it"
    );
    let wish = schema("Subscribe");
    assert!(wish["properties"].get("secret").is_some());
    assert!(
        wish["properties"].get("state").is_none(),
        "its owner does not set it"
    );
}

#[test]
fn what_is_not_served_is_not_there() {
    let methods = Methods::read(DESCRIPTORS).unwrap();
    let agent = &SERVICES[2..4];
    let document = document(descriptors::pool(), &methods, agent, false).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/v1/tenants/{tenant}/events"));
    assert!(!paths.contains_key("/v1/tenants"));
    assert!(!paths.contains_key("/{resource}/subscribe"));
}

//! What a path of the facade asks for: a resource, and what to do with it. Pure.

use hookfleet_contract::pattern::Pattern;

/// What to do with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `POST /{resource}/subscribe`.
    Subscribe,
    /// `POST /{resource}/unsubscribe`.
    Unsubscribe,
    /// `GET /{resource}/subscriptions`.
    List,
}

/// A resource: the prefix of event types that it stands for. `orders/items` is `orders.items`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource(Pattern);

/// What a path asks for: an action, and its resource as it was written. `None` if it is not one of the facade's; those
/// that begin with a version such as `v1` are the API's.
pub(super) fn route(path: &str) -> Option<(Action, &str)> {
    let (resource, action) = path.strip_prefix('/')?.rsplit_once('/')?;
    let action = match action {
        "subscribe" => Action::Subscribe,
        "unsubscribe" => Action::Unsubscribe,
        "subscriptions" => Action::List,
        _ => return None,
    };
    let first = resource.split('/').next().unwrap_or_default();
    let is_version = first.strip_prefix('v').is_some_and(|rest| {
        let mut bytes = rest.bytes();
        !rest.is_empty() && bytes.all(|it| it.is_ascii_digit())
    });
    (!is_version).then_some((action, resource))
}

impl Action {
    /// Its HTTP method.
    pub(super) fn method(self) -> http::Method {
        match self {
            Self::Subscribe | Self::Unsubscribe => http::Method::POST,
            Self::List => http::Method::GET,
        }
    }
}

impl Resource {
    /// Reads a resource as it stands in a path.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let pattern: Pattern = path.replace('/', ".").parse().ok()?;
        (pattern.as_str() != "*").then_some(Self(pattern))
    }

    /// The prefix of event types.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether events of this type, or of this prefix of types, are the resource's.
    pub(super) fn covers(&self, event_type: &str) -> bool {
        self.0.covers(event_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for_actions() {
        for (path, expected) in [
            ("/orders/subscribe", Some((Action::Subscribe, "orders"))),
            (
                "/orders/items/unsubscribe",
                Some((Action::Unsubscribe, "orders/items")),
            ),
            ("/a/b/c/subscriptions", Some((Action::List, "a/b/c"))),
            (
                "/subscribe/subscribe",
                Some((Action::Subscribe, "subscribe")),
            ),
            ("/v/subscribe", Some((Action::Subscribe, "v"))),
            ("/subscribe", None),
            ("/orders/subscribe/", None),
            ("/orders", None),
            ("/v1/tenants/acme/subscriptions", None),
            ("/v2/subscribe", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn a_resource_is_a_prefix_of_event_types() {
        let resource = Resource::parse("orders/items").unwrap();
        assert_eq!(Some(resource.clone()), Resource::parse("orders.items"));
        assert!(resource.covers("orders.items.added"));
        assert!(!resource.covers("orders"));
        for path in ["", "*", "a//b", "a/", "a b", "%61", "a/*", "ö"] {
            assert_eq!(Resource::parse(path), None, "{path}");
        }
    }
}

//! Names of resources and the ids that they are made of. They only name: whether a thing exists is
//! for others to know.
//!
//! **Invariant:** a name that was parsed prints exactly as it was.

use std::{fmt, str::FromStr, sync::Arc};

use crate::id::{DeliveryId, WebhookId};

/// The text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not the collections of this resource.
    #[error("must have the form {0}")]
    Form(&'static str),
    /// One of the ids is not legal.
    #[error("id {0:?} must be 1 to 63 of a-z, 0-9 and -, start with a letter and not end with -")]
    Id(String),
    /// An identifier that Hookfleet makes is not as it makes them.
    #[error(transparent)]
    Made(#[from] crate::id::Error),
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                if is_label(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(Error::Id(text.to_owned()))
                }
            }
        }
    )*};
}

ids! {
    /// The id of a tenant.
    TenantId,
    /// The id of a subscription within its tenant.
    SubscriptionId,
    /// The id of an agent within its fleet.
    AgentId,
    /// The id of a control plane within its fleet.
    ControlPlaneId,
    /// The id of a key that callers prove themselves with.
    KeyId,
}

/// `tenants/{tenant}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName {
    /// The tenant.
    pub tenant: TenantId,
}

/// `tenants/{tenant}/subscriptions/{subscription}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionName {
    /// The tenant.
    pub tenant: TenantId,
    /// The subscription.
    pub subscription: SubscriptionId,
}

/// `tenants/{tenant}/subscriptions/{subscription}`, or `-` in place of the subscription for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionScope {
    /// The tenant.
    pub tenant: TenantId,
    /// The subscription; all if absent.
    pub subscription: Option<SubscriptionId>,
}

/// `tenants/{tenant}/events/{event}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventName {
    /// The tenant.
    pub tenant: TenantId,
    /// The event.
    pub event: WebhookId,
}

/// `tenants/{tenant}/subscriptions/{subscription}/deliveries/{delivery}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryName {
    /// The tenant.
    pub tenant: TenantId,
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The delivery.
    pub delivery: DeliveryId,
}

/// `agents/{agent}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName {
    /// The agent.
    pub agent: AgentId,
}

/// `keys/{key}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// The key.
    pub key: KeyId,
}

/// An RFC 1123 label that starts with a letter: no `:`, which starts a custom verb, and no `-` alone,
/// which means all.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes
            .iter()
            .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || *it == b'-')
}

/// The ids of a name whose collections are as `form` says.
fn split<'a, const N: usize>(
    text: &'a str,
    collections: [&str; N],
    form: &'static str,
) -> Result<[&'a str; N], Error> {
    let mut parts = text.split('/');
    let mut ids = [""; N];
    for (id, collection) in ids.iter_mut().zip(collections) {
        if parts.next() != Some(collection) {
            return Err(Error::Form(form));
        }
        *id = parts.next().ok_or(Error::Form(form))?;
    }
    match parts.next() {
        None => Ok(ids),
        Some(_) => Err(Error::Form(form)),
    }
}

// === impl TenantName ===

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}", self.tenant)
    }
}

impl FromStr for TenantName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let [tenant] = split(text, ["tenants"], "tenants/{tenant}")?;
        Ok(Self {
            tenant: tenant.parse()?,
        })
    }
}

// === impl SubscriptionName ===

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tenants/{}/subscriptions/{}",
            self.tenant, self.subscription
        )
    }
}

impl FromStr for SubscriptionName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const FORM: &str = "tenants/{tenant}/subscriptions/{subscription}";
        let [tenant, subscription] = split(text, ["tenants", "subscriptions"], FORM)?;
        Ok(Self {
            tenant: tenant.parse()?,
            subscription: subscription.parse()?,
        })
    }
}

// === impl SubscriptionScope ===

impl fmt::Display for SubscriptionScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscription = self
            .subscription
            .as_ref()
            .map_or("-", SubscriptionId::as_str);
        write!(f, "tenants/{}/subscriptions/{subscription}", self.tenant)
    }
}

impl FromStr for SubscriptionScope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const FORM: &str = "tenants/{tenant}/subscriptions/{subscription}";
        let [tenant, subscription] = split(text, ["tenants", "subscriptions"], FORM)?;
        Ok(Self {
            tenant: tenant.parse()?,
            subscription: match subscription {
                "-" => None,
                id => Some(id.parse()?),
            },
        })
    }
}

// === impl EventName ===

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}/events/{}", self.tenant, self.event)
    }
}

impl FromStr for EventName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let [tenant, event] = split(
            text,
            ["tenants", "events"],
            "tenants/{tenant}/events/{event}",
        )?;
        Ok(Self {
            tenant: tenant.parse()?,
            event: event.parse()?,
        })
    }
}

// === impl DeliveryName ===

impl fmt::Display for DeliveryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tenant,
            subscription,
            delivery,
        } = self;
        write!(
            f,
            "tenants/{tenant}/subscriptions/{subscription}/deliveries/{delivery}"
        )
    }
}

impl FromStr for DeliveryName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const FORM: &str = "tenants/{tenant}/subscriptions/{subscription}/deliveries/{delivery}";
        let collections = ["tenants", "subscriptions", "deliveries"];
        let [tenant, subscription, delivery] = split(text, collections, FORM)?;
        Ok(Self {
            tenant: tenant.parse()?,
            subscription: subscription.parse()?,
            delivery: delivery.parse()?,
        })
    }
}

// === impl KeyName ===

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys/{}", self.key)
    }
}

impl FromStr for KeyName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let [key] = split(text, ["keys"], "keys/{key}")?;
        Ok(Self { key: key.parse()? })
    }
}

// === impl AgentName ===

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agents/{}", self.agent)
    }
}

impl FromStr for AgentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let [agent] = split(text, ["agents"], "agents/{agent}")?;
        Ok(Self {
            agent: agent.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_print_as_they_were_written() {
        let subscription = "tenants/acme/subscriptions/a-1";
        assert_eq!(
            subscription
                .parse::<SubscriptionName>()
                .unwrap()
                .to_string(),
            subscription
        );
        let all: SubscriptionScope = "tenants/acme/subscriptions/-".parse().unwrap();
        assert_eq!(all.subscription, None);
        let delivery = "tenants/acme/subscriptions/a/deliveries/dlv_00000000000000ff-a";
        let parsed: DeliveryName = delivery.parse().unwrap();
        assert_eq!((parsed.delivery.seq, parsed.delivery.target), (255, 10));
    }

    #[test]
    fn other_texts_are_not_names() {
        for text in [
            "",
            "tenants",
            "tenants/",
            "tenants/-",
            "tenants/A",
            "tenants/1a",
            "tenants/a-",
            "tenants/a/b",
            "tenant/a",
            "/tenants/a",
            "tenants/a/",
            "tenants/a:b",
            "tenants/ä",
            &format!("tenants/{}", "a".repeat(64)),
        ] {
            assert!(text.parse::<TenantName>().is_err(), "{text:?}");
        }
        for id in [
            "dlv_ff-a",
            "dlv_00000000000000FF-a",
            "dlv_00000000000000ff-+a",
            "dlv_00000000000000ff-0a",
        ] {
            assert!(id.parse::<DeliveryId>().is_err(), "{id:?}");
        }
    }

    proptest! {
        /// Whatever can be parsed prints the same, and nothing panics.
        #[test]
        fn parsing_and_printing_are_inverse(text in "(tenants|agents|[a-z]{0,3})/[a-z0-9-]{0,65}(/(subscriptions|events|x)/(-|msg_[A-Za-z0-9_-]{20,23}|[a-z0-9-]{0,8}))?(/deliveries/dlv_[0-9a-f]{15,17}-[0-9a-f]{0,3})?") {
            fn check<T: FromStr + fmt::Display>(text: &str) {
                if let Ok(name) = text.parse::<T>() {
                    assert_eq!(name.to_string(), text);
                }
            }
            check::<TenantName>(&text);
            check::<SubscriptionName>(&text);
            check::<SubscriptionScope>(&text);
            check::<EventName>(&text);
            check::<DeliveryName>(&text);
            check::<AgentName>(&text);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _checked = text.parse::<DeliveryName>();
            let _checked = text.parse::<EventName>();
        }
    }
}

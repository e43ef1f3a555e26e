//! What makes two requests the same. Pure.
//!
//! **Invariant:** one tenant, resource and callback URL are one subscription: its id is derived from them, so that two
//! requests at once, to any two servers, meet at it.

use sha2::{Digest as _, Sha256};
use url::Url;
use uuid::Uuid;

use super::resource::Resource;

/// The id of the subscription of a resource to a callback URL. The first half says which resource.
pub(super) fn subscription_id(resource: &Resource, callback_url: &str) -> String {
    // Spellings of one URL are one URL; what is none is refused by the service.
    let url = Url::parse(callback_url).map_or_else(|_| callback_url.to_owned(), String::from);
    format!("{}{:x}", prefix(resource), half(&[url.as_bytes()]))
}

/// What the ids of the subscriptions of a resource begin with.
pub(super) fn prefix(resource: &Resource) -> String {
    format!("r{:015x}-", half(&[resource.as_str().as_bytes()]) >> 68)
}

/// The id of a request that names itself by its key, within its tenant and path.
pub(super) fn request_id(tenant: &str, resource: &Resource, key: &str) -> Uuid {
    let parts = [tenant, "POST subscribe", resource.as_str(), key];
    let bytes = half(&parts.map(str::as_bytes)).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Half of the digest of all parts, each apart from its neighbours.
fn half(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use hookfleet_contract::name::SubscriptionId;

    use super::*;

    fn resource(path: &str) -> Resource {
        Resource::parse(path).unwrap()
    }

    #[test]
    fn spellings_of_one_subscription_have_one_id() {
        let id = subscription_id(&resource("orders"), "https://a.example.com/x");
        id.parse::<SubscriptionId>().unwrap();
        assert!(id.starts_with(&prefix(&resource("orders"))));
        let same = subscription_id(&resource("orders"), "https://A.example.com:443/x");
        assert_eq!(id, same);
        for (path, url) in [
            ("orders", "https://a.example.com/y"),
            ("orders/items", "https://a.example.com/x"),
        ] {
            assert_ne!(id, subscription_id(&resource(path), url));
        }
    }
}

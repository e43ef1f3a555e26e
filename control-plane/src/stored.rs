//! The forms that things have in the store, and the way there and back. Where they lie is not its business.
//!
//! **Invariant:** no secret is in a stored form in clear.

use hookfleet_contract::{
    name::{KeyId, KeyName, SubscriptionName, TenantId},
    shard::MAX_SPREAD,
    signature,
    time::Timestamp,
    verification::key::Key,
};
use hookfleet_gateway::auth::key::{ApiKey, Digest};
use hookfleet_proto::{
    fleet::{
        KeyDigest, KeySpec, StoredApiKey, StoredDigest, StoredHeaderValue, StoredKey,
        StoredSubscription, StoredTenant, StoredVerification,
    },
    v1::{self, SigningKey, subscription::State},
};

use crate::{
    model::subscription::{Confirmation, Subscription, Verification},
    store::Revision,
    vault::{Place, Vault},
};

/// A stored form that cannot be read: damaged, or sealed with another key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} cannot be opened: {what}")]
pub(crate) struct Unreadable {
    name: String,
    what: &'static str,
}

/// The etag of a version.
pub(crate) fn etag(revision: Revision) -> String {
    format!("\"{revision}\"")
}

/// Seals a subscription.
pub(crate) fn seal(
    vault: &Vault,
    name: &SubscriptionName,
    mut subscription: Subscription,
) -> StoredSubscription {
    let (tenant, uid) = (&name.tenant, subscription.resource.uid.clone());
    let uid = uid.as_str();
    let mut header_values = Vec::new();
    for (index, header) in (0..).zip(&mut subscription.resource.headers) {
        if header.secret {
            let value = std::mem::take(&mut header.value);
            let place = Place::Header {
                tenant,
                uid,
                name: &header.name,
            };
            let sealed_value = vault.seal(place, value.as_bytes());
            header_values.push(StoredHeaderValue {
                index,
                sealed_value,
            });
        }
    }
    let keys = subscription.keys.iter().map(|key| StoredKey {
        key: Some(SigningKey {
            key_id: key.id.clone(),
            algorithm: key.secret.algorithm().into(),
            create_time: Some(key.create_time.into()),
            expire_time: key.expire_time.map(Into::into),
            public_key: key.secret.public_key().unwrap_or_default(),
        }),
        sealed_secret: {
            let place = Place::SigningKey {
                tenant,
                uid,
                key_id: &key.id,
            };
            vault.seal(place, key.secret.reveal().as_bytes())
        },
    });
    let verification = subscription.verification.as_ref();
    let verification = verification.map(|it| seal_verification(vault, tenant, it));
    StoredSubscription {
        keys: keys.collect(),
        header_values,
        verification,
        subscription: Some(subscription.resource),
    }
}

fn seal_verification(
    vault: &Vault,
    tenant: &TenantId,
    verification: &Verification,
) -> StoredVerification {
    let place = Place::Confirmation {
        tenant,
        id: &verification.id,
    };
    let confirmation = verification.confirmation.as_ref();
    StoredVerification {
        id: verification.id.clone(),
        origin: verification.origin.clone(),
        sealed_key: confirmation.map_or_else(Vec::new, |it| vault.seal(place, it.key.as_bytes())),
        public_url: confirmation.map_or_else(String::new, |it| it.public_url.clone()),
    }
}

fn open_verification(
    vault: &Vault,
    tenant: &TenantId,
    stored: StoredVerification,
) -> Option<Verification> {
    let place = Place::Confirmation {
        tenant,
        id: &stored.id,
    };
    let confirmation = match stored.sealed_key.as_slice() {
        [] => None,
        sealed => Some(Confirmation {
            key: Key::new(vault.open(place, sealed).ok()?.try_into().ok()?),
            public_url: stored.public_url,
        }),
    };
    Some(Verification {
        confirmation,
        id: stored.id,
        origin: stored.origin,
    })
}

/// Opens a subscription.
///
/// # Errors
/// [`Unreadable`].
pub(crate) fn open(
    vault: &Vault,
    name: &SubscriptionName,
    stored: StoredSubscription,
) -> Result<Subscription, Unreadable> {
    let unreadable = |what| Unreadable {
        name: name.to_string(),
        what,
    };
    let mut resource = stored
        .subscription
        .ok_or_else(|| unreadable("it is empty"))?;
    let (tenant, uid) = (&name.tenant, resource.uid.as_str());
    for value in stored.header_values {
        let index = usize::try_from(value.index).unwrap_or(usize::MAX);
        let header = resource.headers.get_mut(index);
        let header = header.ok_or_else(|| unreadable("a header is missing"))?;
        let place = Place::Header {
            tenant,
            uid,
            name: &header.name,
        };
        let opened = vault.open_text(place, &value.sealed_value);
        header.value = opened.map_err(|_| unreadable("the value of a header"))?;
    }
    let keys = stored.keys.into_iter().map(|stored| {
        let key = stored.key?;
        let place = Place::SigningKey {
            tenant,
            uid,
            key_id: &key.key_id,
        };
        let secret = vault.open_text(place, &stored.sealed_secret).ok()?;
        Some(signature::Key {
            secret: secret.parse().ok()?,
            id: key.key_id,
            create_time: key.create_time.map(Timestamp::from).unwrap_or_default(),
            expire_time: key.expire_time.map(Timestamp::from),
        })
    });
    let keys = keys
        .collect::<Option<_>>()
        .ok_or_else(|| unreadable("a signing key"))?;
    let verification = stored.verification.map(|stored| {
        let opened = open_verification(vault, tenant, stored);
        opened.ok_or_else(|| unreadable("the key of its verification"))
    });
    Ok(Subscription {
        verification: verification.transpose()?,
        resource,
        keys,
    })
}

/// A subscription as callers see it. Nothing has to be opened for that.
pub(crate) fn view(
    stored: StoredSubscription,
    revision: Revision,
    is_applied: bool,
    now: Timestamp,
) -> v1::Subscription {
    let mut resource = stored.subscription.unwrap_or_default();
    if resource.state() == State::Active && !is_applied {
        resource.set_state(State::Pending);
    }
    let keys = stored.keys.into_iter().filter_map(|stored| stored.key);
    let signs = |key: &SigningKey| {
        key.expire_time
            .is_none_or(|expire| Timestamp::from(expire) > now)
    };
    resource.signing_keys = keys.filter(signs).collect();
    resource.etag = etag(revision);
    resource
}

/// A tenant as callers see it.
pub(crate) fn view_tenant(stored: StoredTenant, revision: Revision) -> v1::Tenant {
    let mut tenant = stored.tenant.unwrap_or_default();
    tenant.etag = etag(revision);
    // It is not said by earlier versions.
    tenant.spread = tenant.spread.max(1);
    tenant
}

/// In how many shards deliveries of a tenant may be.
pub(crate) fn shards(stored: &StoredTenant) -> u8 {
    let spread = stored.tenant.as_ref().map_or(1, |it| it.spread);
    let shards = u8::try_from(stored.shards.max(spread)).unwrap_or(1);
    shards.clamp(1, MAX_SPREAD)
}

/// Seals what is kept of the secret of a caller's key.
pub(crate) fn seal_digest(vault: &Vault, key: &KeyId, digest: Digest) -> StoredDigest {
    StoredDigest {
        sealed_digest: vault.seal(Place::ApiKey(key), digest.as_bytes()),
        expire_time: None,
    }
}

/// A new key of a caller with its one secret.
pub(crate) fn new_key(vault: &Vault, key: v1::Key, made: &ApiKey) -> StoredApiKey {
    StoredApiKey {
        secrets: vec![seal_digest(vault, made.id(), made.digest())],
        key: Some(key),
    }
}

/// Opens a caller's key.
///
/// # Errors
/// [`Unreadable`].
pub(crate) fn open_key(
    vault: &Vault,
    id: &KeyId,
    stored: StoredApiKey,
) -> Result<KeySpec, Unreadable> {
    let secrets = stored.secrets.into_iter().map(|it| {
        let digest = vault.open(Place::ApiKey(id), &it.sealed_digest);
        let digest = digest.map_err(|_| Unreadable {
            name: KeyName { key: id.clone() }.to_string(),
            what: "a digest",
        })?;
        Ok(KeyDigest {
            digest,
            expire_time: it.expire_time,
        })
    });
    Ok(KeySpec {
        secrets: secrets.collect::<Result<_, _>>()?,
        key: stored.key,
    })
}

/// A caller's key as others see it.
pub(crate) fn view_key(stored: StoredApiKey, revision: Revision) -> v1::Key {
    let mut key = stored.key.unwrap_or_default();
    key.etag = etag(revision);
    key
}

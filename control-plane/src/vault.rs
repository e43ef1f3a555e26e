//! Seals what must not lie in the store in clear, and opens it again. Where things are kept is not its business.
//!
//! **Invariant:** what was sealed for one place cannot be opened in another.

use hookfleet_contract::{
    name::{KeyId, TenantId},
    seal,
};
use uuid::Uuid;

use crate::random;

/// Seals and opens with the cluster's key.
#[derive(Clone, Debug)]
pub(crate) struct Vault(seal::Sealer);

/// Where a secret belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// The secret part of a signing key.
    SigningKey {
        tenant: &'a TenantId,
        uid: &'a str,
        key_id: &'a str,
    },
    /// The value of a header.
    Header {
        tenant: &'a TenantId,
        uid: &'a str,
        name: &'a str,
    },
    /// The key that confirms a verification.
    Confirmation { tenant: &'a TenantId, id: &'a str },
    /// What is kept of the secret of a caller's key.
    ApiKey(&'a KeyId),
    /// The digest of a request.
    Request(Uuid),
    /// The proof that two control planes have the same key.
    Cluster(&'a str),
}

// === impl Vault ===

impl Vault {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self(seal::Sealer::new(key))
    }

    pub(crate) fn seal(&self, place: Place<'_>, plain: &[u8]) -> Vec<u8> {
        self.0
            .seal(place.context().as_bytes(), plain, random::nonce())
    }

    pub(crate) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, seal::Error> {
        self.0.open(place.context().as_bytes(), sealed)
    }

    pub(crate) fn open_text(&self, place: Place<'_>, sealed: &[u8]) -> Result<String, seal::Error> {
        String::from_utf8(self.open(place, sealed)?).map_err(|_| seal::Error)
    }
}

// === impl Place ===

impl Place<'_> {
    fn context(self) -> String {
        match self {
            Self::SigningKey {
                tenant,
                uid,
                key_id,
            } => {
                format!("subscription|{tenant}|{uid}|key/{key_id}")
            }
            Self::Header { tenant, uid, name } => {
                let name = name.to_ascii_lowercase();
                format!("subscription|{tenant}|{uid}|header/{name}")
            }
            Self::Confirmation { tenant, id } => format!("confirmation|{tenant}|{id}"),
            Self::ApiKey(id) => format!("api-key|{id}"),
            Self::Request(id) => format!("request|{id}"),
            Self::Cluster(id) => format!("cluster|{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_in_its_own_place_only() {
        let vault = Vault::new([1; 32]);
        let tenant: TenantId = "acme".parse().unwrap();
        let (tenant, name) = (&tenant, "x-key");
        let here = Place::Header {
            tenant,
            uid: "u1",
            name,
        };
        let sealed = vault.seal(here, b"secret");
        assert_eq!(vault.open_text(here, &sealed), Ok("secret".to_owned()));
        let there = [
            Place::Header {
                tenant,
                uid: "u2",
                name,
            },
            Place::SigningKey {
                tenant,
                uid: "u1",
                key_id: name,
            },
            Place::Cluster("u1"),
        ];
        for place in there {
            assert_eq!(vault.open(place, &sealed), Err(seal::Error));
        }
    }
}

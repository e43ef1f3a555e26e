//! Drafts of updates as agents get them, with secrets in clear.

use std::sync::Arc;

use hookfleet_contract::name::KeyName;
use hookfleet_proto::fleet::{
    Goaway, Resource, SlotTable, StoredApiKey, StoredSubscription, StoredTenant, SyncResponse,
    Update, resource::Body, sync_response::Message as Told,
};
use prost::Message as _;

use super::session::Draft;
use crate::{
    cache::Item,
    keys::{self, Kind},
    store::Revision,
    stored,
    vault::Vault,
};

/// How reconnections after a shutdown are spread, in milliseconds.
const RECONNECT: (i32, i32) = (200, 2000);

/// A resource of a draft that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) name: String,
    pub(crate) mod_revision: Revision,
    pub(crate) reason: String,
}

/// The update, and what had to be left out of it.
pub(crate) fn update(vault: &Vault, draft: Draft) -> (Update, Vec<Unreadable>) {
    let mut unreadable = Vec::new();
    let mut upserts = Vec::with_capacity(draft.upserts.len());
    for (key, item) in draft.upserts {
        let mod_revision = item.mod_revision;
        match resource(vault, &key, item) {
            Ok(resource) => upserts.push(resource),
            Err(reason) => unreadable.push(Unreadable {
                name: keys::name(&key),
                mod_revision,
                reason,
            }),
        }
    }
    let update = Update {
        nonce: draft.nonce,
        r#type: draft.kind.into(),
        revision: draft.revision,
        full: draft.full,
        last_chunk: draft.last_chunk,
        upserts,
        removals: draft.removals.iter().map(|key| keys::name(key)).collect(),
    };
    (update, unreadable)
}

fn resource(vault: &Vault, key: &Arc<str>, item: Item) -> Result<Resource, String> {
    let undecodable = |error: prost::DecodeError| error.to_string();
    let mut shards = 0;
    let (name, body) = match keys::parse(key) {
        Some(Kind::Tenant(name)) => {
            let stored = StoredTenant::decode(item.value).map_err(undecodable)?;
            shards = stored::shards(&stored).into();
            (
                name.to_string(),
                Body::Tenant(stored.tenant.unwrap_or_default()),
            )
        }
        Some(Kind::Subscription(_, name)) => {
            let stored = StoredSubscription::decode(item.value).map_err(undecodable)?;
            let opened = stored::open(vault, &name, stored).map_err(|error| error.to_string())?;
            (name.to_string(), Body::Subscription(opened.into_spec()))
        }
        Some(Kind::Key(key)) => {
            let stored = StoredApiKey::decode(item.value).map_err(undecodable)?;
            let spec = stored::open_key(vault, &key, stored).map_err(|error| error.to_string())?;
            (KeyName { key }.to_string(), Body::Key(spec))
        }
        Some(Kind::Slots) => {
            let table = SlotTable::decode(item.value).map_err(undecodable)?;
            (keys::SLOTS.to_owned(), Body::SlotTable(table))
        }
        Some(Kind::Agent(_) | Kind::Fleet) | None => {
            return Err("agents are not told of it".to_owned());
        }
    };
    Ok(Resource {
        name,
        mod_revision: item.mod_revision,
        body: Some(body),
        shards,
    })
}

/// The session is about to end.
pub(crate) fn goaway(reason: &str) -> SyncResponse {
    let (reconnect_min_millis, reconnect_max_millis) = RECONNECT;
    SyncResponse {
        message: Some(Told::Goaway(Goaway {
            reason: reason.to_owned(),
            reconnect_min_millis,
            reconnect_max_millis,
        })),
    }
}

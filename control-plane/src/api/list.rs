//! Pages of a range of the store. All pages of one list show the store at the revision of the first.
//!
//! **Invariant:** a call looks at a bounded number of entries, whatever the filter lets through.

use hookfleet_gateway::{page, status::ApiError};

use super::{Api, status};
use crate::{
    random,
    store::{Entry, Revision},
};

/// Entries per read while filtering.
const CHUNK: usize = 1000;
/// Entries per call: a filter that lets nothing through gets a short page and a token.
const SCANNED: usize = 10_000;

/// Which list, and which page of it.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) list: &'static str,
    /// What must not change between pages.
    pub(crate) scope: &'a [&'a str],
    pub(crate) prefix: String,
    pub(crate) page_size: i32,
    pub(crate) page_token: &'a str,
    /// Whether `view` leaves entries out.
    pub(crate) is_filtered: bool,
}

/// A page, and the token of the next one.
pub(crate) async fn page<T>(
    api: &Api,
    ask: Ask<'_>,
    mut view: impl FnMut(Entry) -> Result<Option<T>, ApiError>,
) -> Result<(Vec<T>, String), ApiError> {
    let page_size = page::page_size(ask.page_size)?;
    let cursor = api.pages.open(ask.list, ask.scope, ask.page_token)?;
    let (mut at, mut after) = cursor.as_deref().and_then(decode).unzip();
    let chunk = if ask.is_filtered { CHUNK } else { page_size };
    let (mut found, mut n_scanned, mut more) = (Vec::new(), 0, true);
    while more && found.len() < page_size && n_scanned < SCANNED {
        let range = api
            .store
            .range(&ask.prefix, after.as_deref(), chunk, at)
            .await;
        let page = range.map_err(status::of_store)?;
        at = Some(at.unwrap_or(page.revision));
        more = page.more;
        let mut entries = page.entries.into_iter();
        while found.len() < page_size
            && let Some(entry) = entries.next()
        {
            n_scanned += 1;
            after = Some(entry.key.clone());
            found.extend(view(entry)?);
        }
        more |= entries.next().is_some();
    }
    let next = match (at, after) {
        (Some(at), Some(after)) if more => {
            api.pages
                .seal(ask.list, ask.scope, &encode(at, &after), random::nonce())
        }
        _ => String::new(),
    };
    Ok((found, next))
}

fn encode(at: Revision, after: &str) -> Vec<u8> {
    [&at.to_be_bytes(), after.as_bytes()].concat()
}

fn decode(cursor: &[u8]) -> Option<(Revision, String)> {
    let (at, after) = cursor.split_first_chunk()?;
    Some((
        Revision::from_be_bytes(*at),
        String::from_utf8(after.to_vec()).ok()?,
    ))
}

//! What a record says. Pure.
//!
//! **Invariant:** whatever callers send, a record is one line, and of bounded length.

use serde::Serialize;

/// The longest text that callers have a say in, in characters.
const MAX_TEXT: usize = 256;
/// The most resources that a record names.
const MAX_RESOURCES: usize = 8;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decision {
    /// The caller may. The code says what came of it.
    Allowed,
    /// The caller may not.
    Denied,
    /// Calls were refused that nobody wrote down, because there were too many.
    Unrecorded,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Record {
    pub(crate) time: String,
    pub(crate) decision: Decision,
    /// The name of the gRPC code.
    pub(crate) code: &'static str,
    /// The reason of the `ErrorInfo`; empty if there is none.
    pub(crate) reason: String,
    /// Who calls: `keys/…`, `agents/…`, issuer and subject of a token. Empty if nobody knows.
    pub(crate) actor: String,
    /// The key that an unknown caller says to have.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) claimed: String,
    /// The tenant whose things it is about, or who calls.
    pub(crate) tenant: String,
    /// The path of the gRPC method; of a caller who was stopped before that, the HTTP method and the path.
    pub(crate) method: String,
    /// The names of what it is about.
    pub(crate) resources: Vec<String>,
    /// The address that it comes from.
    pub(crate) source: String,
    /// What the caller calls it, in `x-request-id`.
    pub(crate) request_id: String,
    /// So many refusals before this one were not written down.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unrecorded: u64,
}

// === impl Record ===

impl Record {
    /// A record of calls that were not recorded.
    pub(crate) fn unrecorded(time: String, count: u64) -> Self {
        Self {
            time,
            decision: Decision::Unrecorded,
            code: "RESOURCE_EXHAUSTED",
            reason: "TOO_MANY_REFUSALS".to_owned(),
            actor: String::new(),
            claimed: String::new(),
            tenant: String::new(),
            method: String::new(),
            resources: Vec::new(),
            source: String::new(),
            request_id: String::new(),
            unrecorded: count,
        }
    }

    /// The record with texts that harm nobody who prints them.
    pub(crate) fn cleaned(mut self) -> Self {
        self.resources.truncate(MAX_RESOURCES);
        let texts = [
            &mut self.reason,
            &mut self.actor,
            &mut self.claimed,
            &mut self.tenant,
            &mut self.method,
            &mut self.request_id,
        ];
        for text in texts.into_iter().chain(&mut self.resources) {
            *text = clean(text);
        }
        self
    }
}

/// A text without what terminals and readers of lines act upon: control characters, and all that is not ASCII, are escaped.
fn clean(text: &str) -> String {
    let mut cleaned = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == MAX_TEXT {
            cleaned.push_str("...");
            break;
        }
        match character {
            ' '..='~' => cleaned.push(character),
            other => cleaned.extend(other.escape_unicode()),
        }
    }
    cleaned
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_callers_send_breaks_a_line_or_a_terminal() {
        let record = Record {
            method: "GET /\r\n{\"decision\":\"allowed\"}".to_owned(),
            resources: vec!["tenants/\u{1b}[2J\u{202e}\u{85}".to_owned(); 20],
            request_id: "x".repeat(1000),
            ..Record::unrecorded(String::new(), 0)
        };
        let record = record.cleaned();
        assert_eq!(record.method, "GET /\\u{d}\\u{a}{\"decision\":\"allowed\"}");
        assert_eq!(record.resources, ["tenants/\\u{1b}[2J\\u{202e}\\u{85}"; 8]);
        assert_eq!(record.request_id.len(), 259);
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.bytes().all(|it| (b' '..=b'~').contains(&it)), "{line}");
    }
}

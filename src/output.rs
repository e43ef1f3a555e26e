//! What commands say: tables for people, JSON for scripts, errors with all that the server told.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
use hookfleet_proto::DESCRIPTORS;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use tonic_types::StatusExt as _;

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table.
    Table,
    /// The API's message in its JSON form.
    Json,
}

/// Prints a line; a closed pipe is the reader's way of saying enough.
pub(crate) fn line(text: impl std::fmt::Display) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// Says how far something is, where it is in nobody's way.
pub(crate) fn progress(text: impl std::fmt::Display) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Prints rows under a header.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    table.add_rows(rows);
    for text in table.lines() {
        line(text.trim_end());
    }
}

/// Prints a message of the API, named in full, as JSON.
pub(crate) fn json(full_name: &str, message: &impl prost::Message) -> anyhow::Result<()> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let descriptor = pool
        .get_message_by_name(full_name)
        .ok_or_else(|| anyhow::anyhow!("{full_name} is not a message of the API"))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message)?;
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut text);
    let options = SerializeOptions::new().skip_default_fields(true);
    dynamic.serialize_with_options(&mut serializer, &options)?;
    line(String::from_utf8_lossy(&text));
    Ok(())
}

/// Prints an error with its causes and, if the server refused, every field it complains of.
pub(crate) fn error(error: &anyhow::Error) {
    let mut stderr = io::stderr().lock();
    let Some(status) = error.downcast_ref::<tonic::Status>() else {
        drop(writeln!(stderr, "error: {error:#}"));
        return;
    };
    drop(writeln!(stderr, "error: {}", status.message()));
    let details = status.get_error_details();
    if let Some(bad_request) = details.bad_request() {
        for violation in &bad_request.field_violations {
            let (field, description) = (&violation.field, &violation.description);
            drop(writeln!(stderr, "  {field}: {description}"));
        }
    }
    if let Some(info) = details.error_info() {
        drop(writeln!(stderr, "  reason: {}", info.reason));
    }
}

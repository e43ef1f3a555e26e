//! `hookfleet publish`: publish events from the command line or from a file.

use std::{
    io::{BufRead, BufReader, stdin},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::Args;
use hookfleet_contract::format::json;
use hookfleet_proto::{
    cloudevents::{CloudEvent, CloudEventAttributeValue, cloud_event, cloud_event_attribute_value},
    v1::{
        PublishRequest, PublishResponse, publish_result,
        publisher_service_client::PublisherServiceClient,
    },
};

use crate::{
    client::Client,
    output::{self, Output},
};

/// Events of one request of a file.
const BATCH: usize = 100;

/// Publish events.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The tenant's id.
    tenant: String,
    /// The event's type, such as `orders.created`.
    #[arg(required_unless_present = "file")]
    event_type: Option<String>,
    /// The event's data, JSON.
    #[arg(default_value = "{}")]
    data: String,
    /// The event's id; a UUID if absent.
    #[arg(long)]
    id: Option<String>,
    /// Where the event happened.
    #[arg(long, default_value = "urn:hookfleet:command")]
    source: String,
    /// Publish a file instead: one CloudEvent in JSON a line; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event_type", "id"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let events = self.events()?;
        let mut client = PublisherServiceClient::new(self.client.connect().await?);
        let mut n_refused = 0;
        for events in events.chunks(BATCH) {
            let request = PublishRequest {
                parent: format!("tenants/{}", self.tenant),
                events: events.to_vec(),
            };
            let response = client.publish(request).await?.into_inner();
            n_refused += print(self.client.output, events, &response)?;
        }
        if n_refused > 0 {
            bail!("{n_refused} of {} events were refused", events.len());
        }
        Ok(())
    }

    fn events(&self) -> anyhow::Result<Vec<CloudEvent>> {
        match &self.file {
            Some(file) => read(file),
            None => Ok(vec![self.event()?]),
        }
    }

    fn event(&self) -> anyhow::Result<CloudEvent> {
        serde_json::from_str::<serde::de::IgnoredAny>(&self.data)
            .context("the data is not JSON")?;
        let content_type = CloudEventAttributeValue {
            attr: Some(cloud_event_attribute_value::Attr::CeString(
                "application/json".to_owned(),
            )),
        };
        Ok(CloudEvent {
            id: self.id.clone().unwrap_or_else(|| {
                uuid::Builder::from_random_bytes(rand::random())
                    .into_uuid()
                    .to_string()
            }),
            source: self.source.clone(),
            spec_version: "1.0".to_owned(),
            r#type: self.event_type.clone().unwrap_or_default(),
            attributes: [("datacontenttype".to_owned(), content_type)].into(),
            data: Some(cloud_event::Data::TextData(self.data.clone())),
        })
    }
}

/// Reads a file of one JSON CloudEvent a line.
pub(crate) fn read(file: &PathBuf) -> anyhow::Result<Vec<CloudEvent>> {
    let lines: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(BufReader::new(stdin()))
    } else {
        let file =
            std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        Box::new(BufReader::new(file))
    };
    parse(lines)
}

/// Parses one JSON CloudEvent a line; blank lines are passed over.
pub(crate) fn parse(lines: impl BufRead) -> anyhow::Result<Vec<CloudEvent>> {
    let mut events = Vec::new();
    for (index, text) in lines.lines().enumerate() {
        let text = text.context("cannot read")?;
        if !text.trim().is_empty() {
            let event = json::parse(text.as_bytes());
            events.push(event.with_context(|| format!("line {}", index + 1))?);
        }
    }
    Ok(events)
}

fn print(
    output: Output,
    events: &[CloudEvent],
    response: &PublishResponse,
) -> anyhow::Result<usize> {
    let refused = |it: &publish_result::Result| matches!(it, publish_result::Result::Error(_));
    let results = || response.results.iter().filter_map(|it| it.result.as_ref());
    match output {
        Output::Table => output::table(
            &["ID", "EVENT", "DELIVERIES", "RESULT"],
            events
                .iter()
                .zip(results())
                .map(|(event, result)| match result {
                    publish_result::Result::Receipt(it) => {
                        let result = if it.duplicate {
                            "duplicate"
                        } else {
                            "accepted"
                        };
                        let n_deliveries = it.delivery_count.to_string();
                        vec![
                            event.id.clone(),
                            it.event.clone(),
                            n_deliveries,
                            result.to_owned(),
                        ]
                    }
                    publish_result::Result::Error(it) => {
                        vec![
                            event.id.clone(),
                            String::new(),
                            String::new(),
                            it.message.clone(),
                        ]
                    }
                }),
        ),
        Output::Json => output::json("hookfleet.v1.PublishResponse", response)?,
    }
    Ok(results().filter(|it| refused(it)).count())
}

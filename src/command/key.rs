//! `hookfleet key`: what callers prove themselves with.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hookfleet_proto::v1::{
    CreateKeyRequest, DeleteKeyRequest, Key, ListKeysRequest, RotateKeyRequest,
    key_service_client::KeyServiceClient,
};

use crate::{
    client::Client,
    output::{self, Output},
};

/// Manage the API keys of callers.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a key and print it, this once.
    Create {
        /// What it allows, such as `events.publish`; repeat for each.
        #[arg(long, required = true)]
        scope: Vec<String>,
        /// The tenant whose key it is; absent, it is an operator's.
        #[arg(long)]
        tenant: Option<String>,
        /// A name for people.
        #[arg(long, default_value = "")]
        display_name: String,
    },
    /// List the keys, without what opens.
    List {
        /// For example `tenant = "tenants/acme"`.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Give a key a new secret and print it, this once. The old one goes on opening for a while.
    Rotate {
        /// Its id.
        key: String,
        /// How many seconds the old one goes on opening.
        #[arg(long, default_value_t = 86_400)]
        overlap_seconds: u64,
    },
    /// Revoke a key.
    Delete {
        /// Its id.
        key: String,
    },
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.client.output;
        let mut client = KeyServiceClient::new(self.client.connect().await?);
        match self.verb {
            Verb::Create {
                scope,
                tenant,
                display_name,
            } => {
                let key = Key {
                    display_name,
                    tenant: tenant.map(|it| format!("tenants/{it}")).unwrap_or_default(),
                    scopes: scope,
                    ..Key::default()
                };
                let created = client
                    .create_key(CreateKeyRequest { key: Some(key) })
                    .await?;
                secret(output, &created.into_inner())
            }
            Verb::List { filter } => {
                let mut request = ListKeysRequest {
                    filter,
                    ..ListKeysRequest::default()
                };
                let mut found = Vec::new();
                loop {
                    let page = client.list_keys(request.clone()).await?.into_inner();
                    found.extend(page.keys);
                    if page.next_page_token.is_empty() {
                        return print(output, &found);
                    }
                    request.page_token = page.next_page_token;
                }
            }
            Verb::Rotate {
                key,
                overlap_seconds,
            } => {
                let overlap = Duration::from_secs(overlap_seconds);
                let request = RotateKeyRequest {
                    name: name(&key),
                    overlap: Some(overlap.try_into().context("overlap_seconds")?),
                    etag: String::new(),
                };
                secret(output, &client.rotate_key(request).await?.into_inner())
            }
            Verb::Delete { key } => {
                let (name, etag) = (name(&key), String::new());
                client.delete_key(DeleteKeyRequest { name, etag }).await?;
                Ok(())
            }
        }
    }
}

fn name(key: &str) -> String {
    format!("keys/{key}")
}

/// The key itself, so that it can go into a file.
fn secret(output: Output, key: &Key) -> anyhow::Result<()> {
    match output {
        Output::Table => output::line(&key.secret),
        Output::Json => output::json("hookfleet.v1.Key", key)?,
    }
    Ok(())
}

fn print(output: Output, keys: &[Key]) -> anyhow::Result<()> {
    match output {
        Output::Table => output::table(
            &["NAME", "TENANT", "SCOPES", "EXPIRES", "DISPLAY NAME"],
            keys.iter().map(|it| {
                let expires = it.expire_time.as_ref();
                vec![
                    it.name.clone(),
                    it.tenant.clone(),
                    it.scopes.join(" "),
                    expires.map(ToString::to_string).unwrap_or_default(),
                    it.display_name.clone(),
                ]
            }),
        ),
        Output::Json => {
            for key in keys {
                output::json("hookfleet.v1.Key", key)?;
            }
        }
    }
    Ok(())
}

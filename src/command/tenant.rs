//! `hookfleet tenant`: manage tenants.

use clap::{Args, Subcommand};
use hookfleet_gateway::peers::Peer;
use hookfleet_proto::v1::{
    CreateTenantRequest, DeleteTenantRequest, GetTenantRequest, ListTenantsRequest,
    ResumeTenantRequest, SuspendTenantRequest, Tenant, UpdateTenantRequest,
    tenant_service_client::TenantServiceClient,
};
use prost_types::FieldMask;

use crate::{
    client::Client,
    output::{self, Output},
};

/// Manage tenants.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a tenant.
    Create {
        /// Its id; generated if absent.
        tenant: Option<String>,
        /// A name for people.
        #[arg(long, default_value = "")]
        display_name: String,
        /// Over how many slots its events are spread.
        #[arg(long, default_value_t = 1)]
        spread: i32,
    },
    /// Change a tenant: what is given.
    Update {
        /// Its id.
        tenant: String,
        /// A name for people.
        #[arg(long)]
        display_name: Option<String>,
        /// Over how many slots its events are spread.
        #[arg(long)]
        spread: Option<i32>,
    },
    /// Show a tenant.
    Get {
        /// Its id.
        tenant: String,
    },
    /// List tenants.
    List {
        /// For example `state = SUSPENDED`.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Delete a tenant.
    Delete {
        /// Its id.
        tenant: String,
        /// Delete its subscriptions too.
        #[arg(long)]
        force: bool,
    },
    /// Refuse a tenant's events and let its deliveries wait.
    Suspend {
        /// Its id.
        tenant: String,
    },
    /// Let a suspended tenant go on.
    Resume {
        /// Its id.
        tenant: String,
    },
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.client.output;
        let mut tenants = TenantServiceClient::new(self.client.connect().await?);
        let one = match self.verb {
            Verb::Create {
                tenant,
                display_name,
                spread,
            } => {
                let request = CreateTenantRequest {
                    tenant: Some(Tenant {
                        display_name,
                        spread,
                        ..Tenant::default()
                    }),
                    tenant_id: tenant.unwrap_or_default(),
                    ..CreateTenantRequest::default()
                };
                tenants.create_tenant(request).await?
            }
            Verb::Update {
                tenant,
                display_name,
                spread,
            } => {
                let given = [
                    (display_name.is_some(), "display_name"),
                    (spread.is_some(), "spread"),
                ];
                let paths = given.into_iter().filter(|(is_given, _)| *is_given);
                let paths: Vec<String> = paths.map(|(_, path)| path.to_owned()).collect();
                anyhow::ensure!(!paths.is_empty(), "nothing to change is given");
                let request = UpdateTenantRequest {
                    tenant: Some(Tenant {
                        name: name(&tenant),
                        display_name: display_name.unwrap_or_default(),
                        spread: spread.unwrap_or_default(),
                        ..Tenant::default()
                    }),
                    update_mask: Some(FieldMask { paths }),
                    ..UpdateTenantRequest::default()
                };
                tenants.update_tenant(request).await?
            }
            Verb::Get { tenant } => {
                let name = name(&tenant);
                tenants.get_tenant(GetTenantRequest { name }).await?
            }
            Verb::Suspend { tenant } => {
                let (name, etag) = (name(&tenant), String::new());
                let request = SuspendTenantRequest { name, etag };
                tenants.suspend_tenant(request).await?
            }
            Verb::Resume { tenant } => {
                let (name, etag) = (name(&tenant), String::new());
                let request = ResumeTenantRequest { name, etag };
                tenants.resume_tenant(request).await?
            }
            Verb::Delete { tenant, force } => {
                let request = DeleteTenantRequest {
                    name: name(&tenant),
                    force,
                    ..DeleteTenantRequest::default()
                };
                tenants.delete_tenant(request).await?;
                return Ok(());
            }
            Verb::List { filter } => return list(&mut tenants, filter, output).await,
        };
        print(output, &[one.into_inner()])
    }
}

async fn list(
    tenants: &mut TenantServiceClient<Peer>,
    filter: String,
    output: Output,
) -> anyhow::Result<()> {
    let mut request = ListTenantsRequest {
        filter,
        ..ListTenantsRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page = tenants.list_tenants(request.clone()).await?.into_inner();
        found.extend(page.tenants);
        if page.next_page_token.is_empty() {
            return print(output, &found);
        }
        request.page_token = page.next_page_token;
    }
}

fn name(tenant: &str) -> String {
    format!("tenants/{tenant}")
}

fn print(output: Output, tenants: &[Tenant]) -> anyhow::Result<()> {
    match output {
        Output::Table => output::table(
            &["NAME", "STATE", "SPREAD", "DISPLAY NAME"],
            tenants.iter().map(|it| {
                let state = it.state().as_str_name().to_owned();
                let spread = it.spread.to_string();
                vec![it.name.clone(), state, spread, it.display_name.clone()]
            }),
        ),
        Output::Json => {
            for tenant in tenants {
                output::json("hookfleet.v1.Tenant", tenant)?;
            }
        }
    }
    Ok(())
}

//! The commands, one file each.

mod agent;
mod audit;
mod control_plane;
mod deliveries;
mod descriptor_set;
mod fleet;
mod key;
pub(crate) mod publish;
mod standalone;
mod subscription;
mod tenant;

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process on embedded storage.
    Standalone(standalone::Arguments),
    /// Run a control plane, which owns the subscriptions in etcd.
    ControlPlane(control_plane::Arguments),
    /// Run a delivery agent.
    Agent(agent::Arguments),
    /// Show the whole flow live: a server, receivers good and bad, and events.
    Demo(crate::demo::Arguments),
    /// Measure the whole path on this machine, beside a bare HTTP client.
    Bench(crate::bench::Arguments),
    #[command(hide = true)]
    BenchPart(crate::bench::Part),
    /// Manage the API keys of callers.
    Key(key::Arguments),
    /// Manage tenants.
    Tenant(tenant::Arguments),
    /// Manage subscriptions.
    Subscription(subscription::Arguments),
    /// Publish events.
    Publish(publish::Arguments),
    /// Look at deliveries and their attempts, and deliver again.
    Deliveries(deliveries::Arguments),
    /// Check audit logs.
    Audit(audit::Arguments),
    /// Look at the agents and say how slots are placed.
    Fleet(fleet::Arguments),
    /// Write the API's descriptor set, for gateways and clients.
    DescriptorSet(descriptor_set::Arguments),
}

impl Command {
    /// Whether the command runs until it is told to stop.
    pub(crate) fn is_service(&self) -> bool {
        matches!(
            self,
            Self::Standalone(_) | Self::ControlPlane(_) | Self::Agent(_)
        )
    }

    /// Does it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Standalone(arguments) => arguments.run().await,
            Self::ControlPlane(arguments) => arguments.run().await,
            Self::Agent(arguments) => arguments.run().await,
            Self::Demo(arguments) => arguments.run().await,
            Self::Bench(arguments) => arguments.run().await,
            Self::BenchPart(part) => part.run().await,
            Self::Key(arguments) => arguments.run().await,
            Self::Tenant(arguments) => arguments.run().await,
            Self::Subscription(arguments) => arguments.run().await,
            Self::Publish(arguments) => arguments.run().await,
            Self::Deliveries(arguments) => arguments.run().await,
            Self::Audit(arguments) => arguments.run().await,
            Self::Fleet(arguments) => arguments.run().await,
            Self::DescriptorSet(arguments) => arguments.run(),
        }
    }
}

/// What every service is asked.
#[derive(Debug, Args)]
struct Common {
    /// A TOML file with settings.
    #[arg(long, env = "HOOKFLEET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force and exit.
    #[arg(long)]
    print_config: bool,
}

/// A flag that is not given must not hide what the layers below it say.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(crate) fn is_false(flag: &bool) -> bool {
    !flag
}

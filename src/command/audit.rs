//! `hookfleet audit`: whether an audit log is whole.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hookfleet_gateway::audit::check::{self, Report};

use crate::output;

/// Look at audit logs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Follow the chain of an audit log and say where it breaks.
    ///
    /// Prints the number and the hash of the last record. That records are missing at the end shows only when these are
    /// compared with what was printed before, or logged by the server when it started.
    Verify {
        /// The directory of the log, or one of its files.
        path: PathBuf,
        /// The record that the directory begins with, if earlier ones have been put away.
        #[arg(long, default_value_t = 1)]
        first: u64,
    },
}

impl Arguments {
    #[expect(clippy::unused_async, reason = "all commands are run alike")]
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Verb::Verify { path, first } = self.verb;
        let report = check::check(&path, first).context("the audit log is not whole")?;
        let Report {
            head,
            first,
            n_torn,
        } = report;
        output::line(format_args!("records  {first} to {}", head.sequence));
        output::line(format_args!("head     {}", head.hash));
        if n_torn > 0 {
            output::line(format_args!(
                "torn     {n_torn}, cut off by crashes before they were records"
            ));
        }
        Ok(())
    }
}

//! `hookfleet descriptor-set`: the API as other gateways read it.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, ensure};
use clap::Args;
use hookfleet_proto::DESCRIPTORS;

/// Write the API's descriptor set, a `google.protobuf.FileDescriptorSet` with everything it imports, to standard output.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        ensure!(
            !stdout.is_terminal(),
            "it is binary: `hookfleet descriptor-set > hookfleet.binpb`"
        );
        stdout
            .write_all(DESCRIPTORS)
            .context("cannot write the descriptor set")
    }
}

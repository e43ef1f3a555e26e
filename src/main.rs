//! The one binary: reads the command line, sets up logs, runs the command. Composition only.

mod access;
mod bench;
mod client;
mod command;
mod config;
mod demo;
mod issuers;
mod key_file;
mod limits;
mod member;
mod output;
mod process;
mod running;
mod spans;
mod telemetry;
mod tls;
mod verification;

use std::process::ExitCode;

use clap::Parser;

use command::Command;

/// LSM trees and HTTP bodies make many short-lived allocations on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Webhooks at fleet scale: durable, signed, retried, isolated per endpoint.
#[derive(Debug, Parser)]
#[command(name = "hookfleet", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: telemetry::Logs,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.log.start(arguments.command.is_service());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hookfleet")
        .build();
    let ran = match runtime {
        Ok(runtime) => runtime.block_on(arguments.command.run()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

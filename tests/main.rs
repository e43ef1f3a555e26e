//! The package's integration tests: the real binary, real sockets, a real etcd, `kill -9`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failing test is a panic, and nobody calls these from outside"
)]

mod chaos;
mod e2e;
mod harness;
mod simulation;
#[path = "tidy.rs"]
mod tidy;

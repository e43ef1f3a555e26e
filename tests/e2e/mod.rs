//! From a publisher's call to a receiver's request, through the real binary.

mod bench;
mod broadcast;
mod command;
mod deploy;
mod door;
mod engine;
mod events;
mod facade;
mod faults;
mod first_callback;
mod fleet;
mod isolation;
mod ledger;
mod moves;
mod power;
mod readme;
mod safety;
mod tls;
mod tokens;

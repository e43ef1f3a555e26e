//! From a publisher's call to a receiver's request, through the real binary.

mod abuse;
mod audit;
mod bench;
mod broadcast;
mod clients;
mod command;
mod deploy;
mod dialects;
mod disks;
mod door;
mod engine;
mod events;
mod facade;
mod faults;
mod first_callback;
mod fleet;
mod ledger;
mod limits;
mod moves;
mod openapi;
mod power;
mod readme;
mod safety;
mod surroundings;
mod tls;
mod verification;

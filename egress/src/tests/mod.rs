//! The way out against the case table and against receivers that misbehave.

mod behaviour;
mod cases;
mod dns;
mod receiver;
mod reuse;
mod tls;

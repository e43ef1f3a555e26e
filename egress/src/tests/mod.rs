//! The way out against the case table and against receivers that misbehave.

mod behaviour;
mod cases;
mod certificates;
mod dns;
mod hostile;
mod receiver;
mod reuse;
mod tls;

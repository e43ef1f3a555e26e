//! What agents are told, and what they tell. [`session`] decides, [`server`] and [`connection`] act, [`presence`] notes in
//! the store that an agent is there, [`reports`] does what receivers asked for and notes what they answered.

mod connection;
pub(crate) mod presence;
pub(crate) mod reports;
pub(crate) mod server;
pub(crate) mod session;
mod wire;

#[cfg(test)]
mod tests;

//! What agents are told, and what they tell. [`session`] decides, [`server`] acts, [`presence`] notes in the store that
//! an agent is there, [`suspensions`] does what receivers asked for.

pub(crate) mod presence;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod suspensions;
mod wire;

#[cfg(test)]
mod tests;

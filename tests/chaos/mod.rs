//! Chaos: a fleet of real processes on a real etcd, under load, while somebody does things to it. Publishers and receivers
//! write down what they see, and a checker that knows nothing of the fleet judges it.
//!
//! Nothing acknowledged is lost; planned moves double nothing; unplanned ones only what was under way; keys keep their
//! order where that is promised; and no more slots move than must.

mod deaths;
mod detached;
mod fleet;
mod partitions;
mod planned;
mod spread;
mod store;

//! The real core in virtual time: isolation at the scale of the design, and many seeds of everything
//! that can happen to it.

mod isolation;
mod seeds;
mod world;

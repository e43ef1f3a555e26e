//! Who may call what.
//!
//! - [`scope`], [`methods`]: what there is to allow, and what each method asks.

pub mod methods;
pub mod scope;

//! The wire: messages, clients and services generated from the `.proto` files beside this folder.
//!
//! No behaviour lives here. What a message must satisfy is checked where it becomes a domain type.
//!
//! - [`v1`]: the public API, `hookfleet.v1`.
//! - [`fleet`]: what the control plane and its agents say to each other, `hookfleet.fleet.v1`.
//! - [`cloudevents`], [`rpc`]: the interfaces of others that the API is made of.

pub use generated::google::rpc;
pub use generated::hookfleet::fleet::v1 as fleet;
pub use generated::hookfleet::v1;
pub use generated::io::cloudevents::v1 as cloudevents;

/// The encoded `FileDescriptorSet` of everything above, imports and extension options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));

/// The modules are nested as the packages are, because generated code refers to others that way.
#[allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    clippy::wildcard_enum_match_arm,
    clippy::allow_attributes_without_reason,
    clippy::str_to_string,
    clippy::unwrap_used,
    reason = "generated code"
)]
mod generated {
    pub mod hookfleet {
        pub mod v1 {
            tonic::include_proto!("hookfleet.v1");
        }
        pub mod fleet {
            pub mod v1 {
                tonic::include_proto!("hookfleet.fleet.v1");
            }
        }
    }
    pub mod io {
        pub mod cloudevents {
            pub mod v1 {
                tonic::include_proto!("io.cloudevents.v1");
            }
        }
    }
    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
}

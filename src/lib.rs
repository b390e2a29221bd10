//! usher keeps an application's users, their sessions, and the messages in them,
//! and serves them over gRPC.
//!
//! A call takes three steps: **edge → rules → store**. The edge (`grpc`)
//! decodes, finds the caller and shapes errors. The rules (`users`,
//! `sessions`) parse the request into checked types, authorise, and say what
//! happens. The store (`store`) speaks SQL. The generated messages ([`pb`]) are
//! the API's model, the entities under `store` are the rows, and there is no
//! third family of types.

mod auth;
pub mod config;
mod error;
mod fields;
mod grpc;
#[cfg(test)]
mod isolation;
mod mask;
mod metadata;
mod page;
pub mod server;
mod sessions;
mod store;
pub mod telemetry;
mod users;

/// The contract, generated from `proto/`: messages, servers and clients.
#[allow(missing_docs, clippy::pedantic)]
pub mod pb {
    pub mod error {
        pub mod v1 {
            tonic::include_proto!("usher.error.v1");
        }
    }
    pub mod session {
        pub mod v1 {
            tonic::include_proto!("usher.session.v1");
        }
    }
    pub mod user {
        pub mod v1 {
            tonic::include_proto!("usher.user.v1");
        }
    }

    /// A `google.protobuf.FileDescriptorSet` of all of the above, with comments.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

//! Compiles the protos with protox, so that no protoc is needed, and keeps the descriptor set with
//! its extensions for reflection and transcoding.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 10] = [
    "hookfleet/v1/tenant.proto",
    "hookfleet/v1/subscription.proto",
    "hookfleet/v1/publisher.proto",
    "hookfleet/v1/delivery.proto",
    "hookfleet/v1/fleet.proto",
    "hookfleet/v1/key.proto",
    "hookfleet/fleet/v1/sync.proto",
    "hookfleet/fleet/v1/stored.proto",
    "hookfleet/fleet/v1/relay.proto",
    "google/rpc/error_details.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for root in ["hookfleet", "io", "google"] {
        println!("cargo:rerun-if-changed={root}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("descriptors.binpb"),
        compiler.encode_file_descriptor_set(),
    )?;
    // prost's own descriptor types drop the extension options, which code generation does not need.
    let descriptors = prost_types_of(&compiler)?;
    tonic_prost_build::configure()
        .bytes(".io.cloudevents.v1")
        .compile_fds(descriptors)?;
    Ok(())
}

fn prost_types_of(
    compiler: &protox::Compiler,
) -> Result<prost_types::FileDescriptorSet, prost::DecodeError> {
    prost_types::FileDescriptorSet::decode(compiler.encode_file_descriptor_set().as_slice())
}

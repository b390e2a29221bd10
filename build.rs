//! Turns the protos into Rust, and into the descriptors that reflection serves.
//! protox compiles them, so that a build needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

const ROOT: &str = "proto";
const FILES: [&str; 5] = [
    "usher/error/v1/reason.proto",
    "usher/session/v1/session.proto",
    "usher/session/v1/session_service.proto",
    "usher/user/v1/user.proto",
    "usher/user/v1/user_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

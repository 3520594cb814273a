//! Compiles `proto/` with a compiler written in Rust, so that no `protoc` needs to be installed.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = [
        "tidemark/v1/common.proto",
        "tidemark/v1/record.proto",
        "tidemark/v1/log.proto",
        "tidemark/v1/worker.proto",
        "tidemark/v1/admin.proto",
        "tidemark/kv/v1/kv.proto",
    ];
    let descriptors = protox::compile(files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}

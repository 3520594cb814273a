//! Compiles the host's own service, without an installed `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::compile_fds(protox::compile(["fleet.proto"], ["proto"])?)?;
    Ok(())
}

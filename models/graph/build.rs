//! Compiles ONNX's own message definitions. protox stands in for `protoc`, which a build machine need not have.

use std::error::Error;

const PROTO: &str = "proto/onnx.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    prost_build::Config::new()
        // `Bytes` for bytes fields: weights stay slices of the file.
        .bytes(["."])
        // ONNX's comments hold indented text, which rustdoc would take for code to test.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

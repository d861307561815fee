//! The checked-in protobuf code is what the `.proto` files say. After a change of them:
//! `UPDATE_GENERATED=1 cargo test -p flagship-wire --test generated`.

use std::path::Path;

#[test]
fn generated_code_is_not_stale() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = crate_dir.join("../../proto");
    let descriptors =
        protox::compile([protos.join("flagship/v1/fleet.proto")], [&protos]).expect("proto compiles");
    let out = tempfile::tempdir().unwrap();
    // The service carries the frames of this crate, which its codec turns into those messages where it must.
    tonic_prost_build::configure()
        .proto_path("crate")
        .codec_path("crate::FrameCodec")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code is generated");
    let fresh = std::fs::read_to_string(out.path().join("flagship.v1.rs")).unwrap();
    let checked_in = crate_dir.join("src/generated/flagship.v1.rs");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&checked_in, &fresh).unwrap();
    }
    let present = std::fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(
        fresh == present,
        "{} differs from the .proto files: run UPDATE_GENERATED=1 cargo test -p flagship-wire --test generated",
        checked_in.display()
    );
}

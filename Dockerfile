# The image of the daemon: the static binary and nothing else. For a build without a registry see
# deploy/Dockerfile.scratch. Works without BuildKit, too.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
# The image has this version; rust-toolchain.toml would have it fetch clippy and rustfmt as well.
ENV RUSTUP_TOOLCHAIN=1.95.0 RUSTFLAGS="-C target-feature=+crt-static"
COPY . .
# A target that is named, be it the machine's own, keeps the flags away from procedural macros, which cannot be static.
RUN host=$(rustc -vV | sed -n 's/^host: //p') \
 && cargo build --release --locked --target "$host" --bin flagship \
 && cp "target/$host/release/flagship" /flagship

FROM scratch
COPY --from=build /flagship /flagship
# A number, so that the kubelet can see that it is not root.
USER 65532:65532
ENTRYPOINT ["/flagship"]
CMD ["run"]

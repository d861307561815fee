#!/usr/bin/env bash
# Runs each fuzz target for a while: fuzz/run.sh [seconds] [target...]
# Installs cargo-fuzz if it is missing. Works with the workspace's stable toolchain; what was found lies in
# fuzz/artifacts/<target>, what was learnt in fuzz/corpus/<target>.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(frame core)

cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked

# libFuzzer's instrumentation is a nightly option; the compiler is the pinned one all the same.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/fuzz/target}

status=0
for target in "${targets[@]}"; do
    length=8192
    [ "$target" = core ] && length=1024
    mkdir -p "fuzz/corpus/$target"
    # Without a sanitizer: there is no unsafe code here to watch, and it costs half the speed.
    cargo fuzz run --sanitizer none "$target" -- \
        -max_total_time="$seconds" -max_len="$length" -len_control=0 -timeout=30 -rss_limit_mb=2048 -print_final_stats=1 || status=1
done
exit "$status"

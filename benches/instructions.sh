#!/usr/bin/env bash
# Instructions per message in fleets of 2 to 10,000: the same on every run and on a busy machine. About two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null; then
  echo "installing valgrind" >&2
  run=()
  if [ "$(id -u)" != 0 ]; then run=(sudo); fi
  "${run[@]}" apt-get update -qq
  "${run[@]}" apt-get install -y -qq valgrind >/dev/null
fi
exec cargo run --release --quiet -p flagship-bench --bin instructions

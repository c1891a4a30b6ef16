#!/usr/bin/env bash
# Builds all targets on the stable compiler, with the coverage that libFuzzer follows: fuzz/build.sh [OPTIONS OF CARGO]; prints their folder.
# Safe Rust needs no sanitizer. `--target` keeps the flags away from build scripts.
set -euo pipefail
cd "$(dirname "$0")"
flags=(--cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions)
for part in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$part")
done
host="$(rustc -vV | sed -n 's/^host: //p')"
RUSTFLAGS="${flags[*]}" cargo build --release --locked --target "$host" "$@" >&2
echo "${CARGO_TARGET_DIR:-target}/$host/release"

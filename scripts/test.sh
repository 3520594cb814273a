#!/usr/bin/env bash
# Sets up what the tests need and runs all of them: unit tests, the conformance suites, and the integration tests
# with real processes, which include the demo in a small size.
#
#   scripts/test.sh                 everything
#   scripts/test.sh -- FILTER...    arguments after `--` go to the test runner
#
# Works from any folder and as often as you like. Uses cargo-nextest when it is installed, else `cargo test`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
-h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit ;;
--) shift ;;
'') ;;
*) die "unknown argument $1 (arguments for the test runner come after --)" ;;
esac

set_up() {
    need_build_tools
    need_promtool
    need_store_servers
    need_nats_server
    need_reader_python
}

# One selection for binary and tests: cargo would otherwise compile what they share twice, with different features.
build() { build_tidemark --workspace --all-targets; }

run_tests() {
    if command -v cargo-nextest >/dev/null; then
        in_root cargo nextest run --locked --workspace --no-fail-fast "$@" </dev/null
    else
        in_root cargo test --locked --workspace --lib --bins --tests --no-fail-fast "$@" </dev/null
    fi
}

run_doc_tests() { in_root cargo test --locked --workspace --doc --quiet </dev/null; }

phase "setting up" set_up
phase "RocksDB" use_rocksdb_archive
phase "building" build
# The examples come first, so that the summary of all tests is the last thing to read.
[ "$#" -gt 0 ] || phase "examples in the documentation" run_doc_tests
phase "tests" run_tests "$@"
phase_report
say "all tests passed"

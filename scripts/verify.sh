#!/usr/bin/env bash
# Checks everything that needs no running: formatting, lints, documentation, dependencies, spelling. Writes nothing
# into the tree. Run as `just verify`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

lint() { in_root cargo clippy --locked --workspace --all-targets --quiet -- -D warnings </dev/null; }

document() {
    RUSTDOCFLAGS="-D warnings" in_root cargo doc --locked --workspace --no-deps --quiet </dev/null
}

need_build_tools
need_verify_tools
use_rocksdb_archive
phase "formatting" in_root cargo fmt --all --check
phase "spelling" in_root typos
phase "unused dependencies" in_root cargo machete
# The database of advisories is a live source: `just audit` asks it, a reproducible check does not.
phase "licences, sources, bans" in_root cargo deny --log-level warn check bans licenses sources
phase "lints" lint
phase "documentation" document
phase_report
say "verified"

#!/usr/bin/env bash
# Changes the decisions and parsers (.cargo/mutants.toml) one place at a time, and says which changes no test notices.
#
#   scripts/mutants.sh                    all of them: hours
#   scripts/mutants.sh trim.rs delete.rs  those in files with these names
#   scripts/mutants.sh --list [NAME...]   what would be changed
#
# It changes the files in place and puts them back: on a clean tree only, so that git can put back what an interrupted
# run leaves. A mutant is tried against the tests of its own crate that are about decisions and formats, which take
# seconds; what only the simulation, the models or other crates notice counts as not noticed. The results lie below the target folder.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Package, and its tests that are about decisions and formats.
TESTS=(
    "snapshot-store --lib --test core_trim --test core_pointer --test core_recover --test golden"
    "snapshot-worker --lib --test core_properties"
    "snapshot-scheduler --lib --test scheduler"
    "tidemark --lib"
)

list=()
if [ "${1:-}" = --list ]; then list=(--list) && shift; fi
files=()
for name in "$@"; do files+=(--file "**/${name##*/}"); done

need_build_tools
with_lock tools install_cargo_tool cargo-mutants "$CARGO_MUTANTS_VERSION"
use_rocksdb_archive
cd "$TIDEMARK_ROOT"
if [ "${#list[@]}" = 0 ] && ! git diff --quiet HEAD -- crates; then
    die "commit or stash your changes below crates/ first: files there are changed and put back"
fi

missed=0
for line in "${TESTS[@]}"; do
    read -r package tests <<<"$line"
    if [ "${#list[@]}" = 0 ] && [ -z "$(cargo mutants --list --package "$package" "${files[@]}")" ]; then continue; fi
    # Without a baseline: the tests are known to pass, and the limit of time stands below.
    # shellcheck disable=SC2086
    cargo mutants --in-place --baseline skip --timeout 300 --build-timeout 1200 --no-shuffle --colors never \
        --output "$CARGO_TARGET_DIR/mutants/$package" --package "$package" "${list[@]}" "${files[@]}" -- $tests ||
        missed=$?
done
exit "$missed"

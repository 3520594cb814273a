#!/usr/bin/env bash
# Builds what the tests build, and runs one of the programs among it.
#
#   scripts/run-tool.sh protocol-model [--long] [--steps] [WORDS...]
#   scripts/run-tool.sh fuzz-targets [EXECUTIONS] [TARGET]
#   scripts/run-tool.sh sim SEEDS [--first SEED] [--counters] [--keep FILE] [--plant WORD] [--optimised]
#
# --optimised, for runs of hours, builds the simulation alone once more: slower to compile, faster to run, and equal in
# what it checks and in what a seed does.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
protocol-model | fuzz-targets | sim) tool=$1 && shift ;;
*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 2 ;;
esac

build_simulation() {
    claim_target
    in_root cargo build --locked --profile simulation -p simulation --bins </dev/null >&2
}

optimised=
arguments=()
for argument; do
    case $argument in
    --optimised) optimised=1 ;;
    *) arguments+=("$argument") ;;
    esac
done

need_build_tools
use_rocksdb_archive
if [ -n "$optimised" ]; then
    [ "$tool" = sim ] || die "only the simulation has an optimised build"
    with_lock build build_simulation
    exec "$CARGO_TARGET_DIR/simulation/$tool" "${arguments[@]}"
fi
# The selection of the tests: another one would compile what they share again, with other features.
build_tidemark --workspace --all-targets
exec "$CARGO_TARGET_DIR/debug/$tool" "${arguments[@]}"

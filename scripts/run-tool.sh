#!/usr/bin/env bash
# Builds what the tests build, and runs one of the programs among it.
#
#   scripts/run-tool.sh protocol-model [--long] [--steps] [WORDS...]
#   scripts/run-tool.sh fuzz-targets [EXECUTIONS] [TARGET]
#   scripts/run-tool.sh sim SEEDS [--first SEED] [--counters] [--keep FILE] [--plant WORD]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
protocol-model | fuzz-targets | sim) tool=$1 && shift ;;
*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 2 ;;
esac

need_build_tools
use_rocksdb_archive
# The selection of the tests: another one would compile what they share again, with other features.
build_tidemark --workspace --all-targets
exec "$CARGO_TARGET_DIR/debug/$tool" "$@"

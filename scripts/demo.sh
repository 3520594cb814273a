#!/usr/bin/env bash
# Shows the main job on this machine: a real cluster that applies, snapshots, trims, loses nodes and comes back.
#
#   scripts/demo.sh                       about 60,000 generated records
#   scripts/demo.sh FILE.jsonl[.gz]       each line a JSON object with `key` and `value`
#   scripts/demo.sh FILE --output json    further flags go to `tidemark demo`
#
# Installs what is missing (system packages with apt when it may), builds, and runs `tidemark demo`. Works from any
# folder and as often as you like; interrupting it leaves nothing running.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in -h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit ;;
esac

need_build_tools
use_rocksdb_archive
say "building tidemark"
build_tidemark
say "tidemark demo $*"
exec "$TIDEMARK_BIN" demo "$@"

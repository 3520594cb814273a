#!/usr/bin/env bash
# Shows the main job on this machine: a real cluster that applies, snapshots, trims, loses nodes and comes back.
#
#   scripts/demo.sh                       about 60,000 generated records
#   scripts/demo.sh FILE.jsonl[.gz]       each line a JSON object with `key` and `value`
#   scripts/demo.sh --store s3            snapshots in an S3 server that it starts on loopback, with its data in
#                                         the folder of the demo; uploads are incremental there
#   scripts/demo.sh --store s3://BUCKET/PREFIX --store-option endpoint=URL
#                                         snapshots below a new prefix of any store that there is (s3, az, gs, file);
#                                         credentials come from the usual variables (AWS_*, AZURE_*, GOOGLE_*)
#   scripts/demo.sh --engine nats         the logs on three NATS servers, with two admins, and snapshots in that S3 server
#                                         unless another store is given; one of the NATS servers is killed as well.
#                                         Fetches the server, at the version of scripts/nats-server, and keeps it
#   scripts/demo.sh --keep DIR            keeps configuration, data and bucket, and prints how to start all of it again
#   scripts/demo.sh FILE --output json    further flags go to `tidemark demo`; `tidemark demo --help` lists them
#
# Installs what is missing (system packages with apt when it may), builds, and runs `tidemark demo`. Works from any
# folder and as often as you like; interrupting it leaves nothing running.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in -h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit ;;
esac

# Takes `--store s3` out of the arguments: the demo is told which server to start instead. Of NATS it is told, too.
arguments=()
local_s3=
on_nats=
own_nats=
store_given=
while [ "$#" -gt 0 ]; do
    case $1 in
    --store=s3)
        local_s3=1
        store_given=1
        ;;
    --store=*)
        store_given=1
        arguments+=("$1")
        ;;
    --engine=nats)
        on_nats=1
        arguments+=("$1")
        ;;
    --engine)
        [ "${2:-}" != nats ] || on_nats=1
        arguments+=("$1")
        ;;
    --nats-server | --nats-server=*)
        own_nats=1
        arguments+=("$1")
        ;;
    --store)
        store_given=1
        if [ "${2:-}" = s3 ]; then
            local_s3=1
            shift
        else
            arguments+=("$1")
        fi
        ;;
    *) arguments+=("$1") ;;
    esac
    shift
done

# A cluster of more than one machine has no folder that all its nodes reach.
[ -z "$on_nats" ] || [ -n "$store_given" ] || local_s3=1

need_build_tools
use_rocksdb_archive
say "building tidemark"
if [ -n "$local_s3" ]; then
    build_tidemark -p tidemark -p integration-tests --bin tidemark --bin s3-server
    use_local_s3
    arguments+=(--s3-server "$TIDEMARK_S3_SERVER")
else
    build_tidemark
fi
if [ -n "$on_nats" ] && [ -z "$own_nats" ]; then
    need_nats_server
    arguments+=(--nats-server "$TIDEMARK_NATS_SERVER")
fi
say "tidemark demo ${arguments[*]-}"
exec "$TIDEMARK_BIN" demo ${arguments[@]+"${arguments[@]}"}

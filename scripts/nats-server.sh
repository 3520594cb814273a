#!/usr/bin/env bash
# Makes sure the NATS server that the tests need is in this user's cache, at the version of scripts/nats-server, and
# prints where. Works as often as you like.
#
# scripts/test.sh does this by itself; it is for running single tests with cargo.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_nats_server
printf '%s\n' "$TIDEMARK_NATS_SERVER"

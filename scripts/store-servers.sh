#!/usr/bin/env bash
# Makes sure the object store servers that the tests need are in this user's cache: a second S3 server and an Azure
# server, at the versions of scripts/store-servers. Works as often as you like.
#
# scripts/test.sh does this by itself; it is for running single tests with cargo.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_store_servers

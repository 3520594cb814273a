#!/usr/bin/env bash
# Makes sure the RocksDB archive is in this user's cache, and prints the variables that let cargo use it:
#
#   eval "$(scripts/rocksdb-cache.sh)"
#
# The other scripts do this by themselves; it is for working with cargo directly.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
use_rocksdb_archive
printf 'export CARGO_TARGET_DIR=%q ROCKSDB_LIB_DIR=%q ROCKSDB_STATIC=1\n' "$CARGO_TARGET_DIR" "$ROCKSDB_LIB_DIR"

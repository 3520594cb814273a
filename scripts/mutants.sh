#!/usr/bin/env bash
# Changes the decisions and parsers one place at a time, and says which changes no test notices.
#
#   scripts/mutants.sh                    all of them: hours
#   scripts/mutants.sh trim.rs delete.rs  those in files with these names; snapshot-worker/src/core/*.rs names a folder's
#   scripts/mutants.sh --list [FILE...]   what would be changed
#
# A change is tried against those tests of its own crate that are about the file, which take seconds; what only the
# simulation, the models or another crate would notice counts as not noticed. Files are changed in place and put back: on
# a clean tree only, so that git can put back what an interrupted run leaves. The results lie below the target folder.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Package | its tests, the most telling first: what these notice, the next ones are not asked about | its files.
TRIALS=(
    "snapshot-store | --test core_trim | core/trim.rs"
    "snapshot-store | --test core_pointer | core/delete.rs core/replace.rs core/retention.rs"
    "snapshot-store | --test core_recover | core/recover.rs"
    "snapshot-store | --lib core:: | core/reuse.rs"
    "snapshot-store | --test formats, --test golden, --test core_pointer, --test repository | format/*.rs"
    "snapshot-store | --test repository | repository/read.rs"
    "snapshot-worker | --lib core::, --test core_properties | core/*.rs"
    "snapshot-worker | --lib processor::metadata | processor/metadata.rs"
    "snapshot-scheduler | --test scheduler, --lib core:: | core/*.rs"
    "tidemark | --lib config:: | config/load.rs config/schema.rs"
)

# Without a first run of the unchanged tests: they are known to pass, and the limits of time stand here, in seconds.
OPTIONS=(--in-place --no-shuffle --colors never --baseline skip --timeout 60 --build-timeout 1200)

# files_of PACKAGE PATTERN...: prints those of the files below the package's src/ that the command line names, or all.
files_of() {
    local package=$1 pattern file name
    shift
    for pattern in "$@"; do
        # shellcheck disable=SC2086
        for file in crates/$package/src/$pattern; do
            [ "${#NAMES[@]}" -gt 0 ] || printf '%s\n' "$file"
            # shellcheck disable=SC2053
            for name in "${NAMES[@]}"; do [[ /$file != */$name ]] || printf '%s\n' "$file"; done
        done
    done
}

# try_files PACKAGE TESTS FILE...: adds what comes of each change to the lists in $RESULTS.
try_files() {
    local package=$1 tests=$2 file selection status select=() again=() passes words
    shift 2
    for file in "$@"; do select+=(--file "$file"); done
    rm -rf "$RESULTS/run"
    IFS=, read -ra passes <<<"$tests"
    for selection in "${passes[@]}"; do
        read -ra words <<<"$selection"
        status=0
        # Line numbers of the crate that is linked again and again would cost a third of the time.
        cargo mutants "${OPTIONS[@]}" "${again[@]}" --output "$RESULTS/run" --package "$package" "${select[@]}" \
            --cargo-arg="--config=profile.dev.package.$package.debug=false" -- "${words[@]}" || status=$?
        case $status in 0 | 2 | 3) ;; *) die "cargo mutants ended with exit code $status" ;; esac
        add caught timeout unviable
        # The next pass leaves out what was caught; what made a loop endless was noticed, too.
        cat "$RESULTS/run/mutants.out/timeout.txt" >>"$RESULTS/run/mutants.out/caught.txt"
        again=(--iterate)
    done
    add missed
}

# add LIST...: adds the lists of the last pass to those of the whole run.
add() {
    local list
    for list in "$@"; do cat "$RESULTS/run/mutants.out/$list.txt" >>"$RESULTS/$list"; done
}

# The figures of each file: all, caught, out of time (noticed, too: the change makes a loop endless), those that do not
# compile, and missed.
report() {
    local file list
    printf '%-52s %7s %7s %7s %7s %7s\n' file changes noticed endless invalid missed
    cat "$RESULTS"/{caught,timeout,unviable,missed} | cut -d : -f 1 | sort -u | while read -r file; do
        printf '%-52s' "$file"
        for list in {caught,timeout,unviable,missed}; do cat "$RESULTS/$list"; done | grep -c "^$file:" | xargs printf ' %7s'
        for list in caught timeout unviable missed; do
            printf ' %7s' "$(grep -c "^$file:" "$RESULTS/$list" || true)"
        done
        printf '\n'
    done
    [ ! -s "$RESULTS/missed" ] || { say "no test noticed:" && cat "$RESULTS/missed"; }
}

list=false
if [ "${1:-}" = --list ]; then list=true && shift; fi
# Whatever fails fails because of the change: nothing to keep.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=1
NAMES=("$@")
RESULTS=$CARGO_TARGET_DIR/mutants

need_build_tools
with_lock tools install_cargo_tool cargo-mutants "$CARGO_MUTANTS_VERSION"
cd "$TIDEMARK_ROOT"
if ! $list; then
    git diff --quiet HEAD -- crates || die "commit or stash what you changed below crates/: files there are changed and put back"
    use_rocksdb_archive
    rm -rf "$RESULTS"
    mkdir -p "$RESULTS"
    touch "$RESULTS"/{caught,timeout,unviable,missed}
fi
for trial in "${TRIALS[@]}"; do
    IFS='|' read -r package tests patterns <<<"$trial"
    read -r package <<<"$package"
    read -ra patterns <<<"$patterns"
    mapfile -t files < <(files_of "$package" "${patterns[@]}")
    [ "${#files[@]}" -gt 0 ] || continue
    if $list; then
        cargo mutants --list --colors never --package "$package" "${files[@]/#/--file=}"
    else
        try_files "$package" "$tests" "${files[@]}"
    fi
done
if ! $list; then
    report
    [ ! -s "$RESULTS/missed" ]
fi

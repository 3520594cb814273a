# Every recipe sets up what it needs; `just verify` writes nothing into the tree.

# Lists the recipes.
default:
    @just --list

# Formatting, lints, documentation, dependencies, spelling.
verify:
    ./scripts/verify.sh

# Repairs what can be repaired by a program: formatting, lints, spelling.
fix:
    #!/usr/bin/env bash
    source scripts/lib.sh
    need_build_tools
    need_verify_tools
    use_rocksdb_archive
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all
    typos --write-changes

# Writes the references that are generated from the code: docs/reasons.md and docs/metrics.md.
generate-docs:
    #!/usr/bin/env bash
    source scripts/lib.sh
    need_build_tools
    use_rocksdb_archive
    cargo run -p tidemark -- docs docs

# All tests; arguments go to the test runner.
test *args:
    ./scripts/test.sh -- {{ args }}

# The main job on this machine; see `scripts/demo.sh --help`.
demo *args:
    ./scripts/demo.sh {{ args }}

# 50 rounds of each chaos run, 200 of kill -9 of a worker, 20,000 cases per property where no number is fixed; then the large
# configurations of the models, ten million changed inputs for every reader, and the bugs that can be planted.

# The long forms of the randomised tests, of the models and of the fuzz runs.
soak: && (model "--long") fuzz sim-planted
    TIDEMARK_CHAOS_ROUNDS=50 TIDEMARK_KILL_ROUNDS=200 PROPTEST_CASES=20000 ./scripts/test.sh

# Clusters of real processes that are killed, stopped, cut off and filled up: so many rounds of each of the two runs.
chaos rounds="20":
    TIDEMARK_CHAOS_ROUNDS={{ rounds }} NEXTEST_SUCCESS_OUTPUT=immediate RUST_TEST_NOCAPTURE=1 \
        ./scripts/test.sh -- no_acknowledged_write

# Simulated clusters, one seed each: `just sim 1000 --first 5000 --counters`; hours: `just sim 20000 --optimised --keep FILE`.
sim seeds="150" *args:
    ./scripts/run-tool.sh sim {{ seeds }} {{ args }}

# How many simulated storms it takes to find each of the bugs that can be planted.
sim-planted seeds="2000" *args:
    ./scripts/run-tool.sh sim {{ seeds }} --plant all {{ args }}

# One seed again; says where its trace and the logs of its nodes are.
sim-replay seed log="info":
    #!/usr/bin/env bash
    source scripts/lib.sh
    need_build_tools
    use_rocksdb_archive
    build_tidemark --workspace --all-targets
    folder=$CARGO_TARGET_DIR/replays/{{ seed }}
    mkdir -p "$folder"
    say "trace and log are in $folder"
    "$CARGO_TARGET_DIR/debug/sim-seed" {{ seed }} --trace "$folder/trace" --log {{ log }} 2>"$folder/log"

# Explores the protocol's models; `--long` adds the large configurations, `--steps` shows counterexamples, words select.
model *args:
    ./scripts/run-tool.sh protocol-model {{ args }}

# Feeds changed inputs to everything that reads stored objects and records: [EXECUTIONS] [TARGET].
fuzz *args:
    ./scripts/run-tool.sh fuzz-targets {{ args }}

# Changes the decisions and parsers one place at a time, and says what no test notices: [--list] [FILE...]. All take hours.
mutants *args:
    ./scripts/mutants.sh {{ args }}

# Known vulnerabilities among the dependencies; needs the network.
audit:
    #!/usr/bin/env bash
    source scripts/lib.sh
    need_verify_tools
    cargo deny check advisories

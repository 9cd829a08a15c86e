# The menu: ./just. Everything runs from .venv, which ./just makes.

python := quote(justfile_directory() / ".venv/bin/python")
hello := quote(justfile_directory() / "examples/hello")
here := quote(justfile_directory())
# Without bytecode pytest would compile every test anew, for each of its processes.
pytest := "PYTHONDONTWRITEBYTECODE= exec " + python + " -P -m pytest"

[private]
menu:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} --list --unsorted --list-heading ''

# Run an OCI bundle under gVisor, e.g. ./just run examples/hello
[no-cd]
[no-exit-message]
[positional-arguments]
run BUNDLE *OPTIONS: (_parts "run")
    @[ ! "$1" -ef {{ hello }} ] || [ -e {{ hello }}/rootfs ] || {{ python }} -P {{ here }}/tools/make_rootfs.py {{ hello }}/rootfs
    @[ "$(id -u)" = 0 ] || case " $* " in *" --rootless "* | *" --dry-run "*) ;; *) \
        echo "run: you are not root, so runsc will most likely refuse; add --rootless, or use sudo ./just run" >&2 ;; esac
    @exec {{ python }} -P -m engine run "$@"

# Run the unit tests; with PATHS or OPTIONS for pytest only those, e.g. ./just unit -k secure_root
[no-exit-message]
[positional-arguments]
unit *PATHS_AND_OPTIONS: (_parts "test") _rootfs
    @[ $# -gt 0 ] || set -- -n 2; {{ pytest }} -o testpaths=tests/unit "$@"

# Check style, types and the spec, then run every test; with PATHS or OPTIONS for pytest only those tests
[no-exit-message]
[positional-arguments]
test *PATHS_AND_OPTIONS: (_parts "test") _rootfs
    @[ $# -gt 0 ] || {{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} lint check
    @[ $# -gt 0 ] || [ "$(id -u)" != 0 ] || {{ python }} -P -m tests.kubernetes.modules critest || :  # its test says why not
    @[ $# -eq 0 ] || {{ pytest }} "$@"
    @[ $# -gt 0 ] || { ({{ pytest }} -n 2) && exec {{ python }} -P -m tests.matrix --part; }

# Run the tests with each kind of runsc: of 2022, of 2024 and of several files, as since 2026 (as root, an hour)
[no-exit-message]
matrix: (_parts "test") _rootfs
    @exec {{ python }} -P -m tests.matrix

# Check style, types and which part imports which
[no-exit-message]
lint:
    @{{ python }} -P -m ruff check
    @{{ python }} -P -m ruff format --check
    @{{ python }} -P -m mypy
    @{{ quote(justfile_directory() / ".venv/bin/lint-imports") }} --no-cache --no-logo

# Check the spec with TLC: every property, every reachable state, every mutant
[no-exit-message]
[positional-arguments]
check *OPTIONS: (_parts "test")
    @exec {{ python }} -P -m engine check --mutants "$@"

# Run the test suites of crun, runtime-tools and podman, and write docs/oci-conformance.md (as root, half an hour)
[no-exit-message]
[positional-arguments]
oci-suites *SUITE: (_parts "oci-suites")
    @exec {{ python }} -P -m tests.others "$@"

# Run Kubernetes' tests of a container runtime on containerd with engine-oci (as root; builds critest with Go 1.26)
[no-exit-message]
[positional-arguments]
critest *OPTIONS: (_parts "test")
    @exec {{ python }} -P -m tests.kubernetes.critest "$@"

# Run a real kubelet's pods with engine-oci: probes, hooks, limits, restarts, 20 pods (as root; builds it with Go 1.26)
[no-exit-message]
[positional-arguments]
kubelet *OPTIONS: (_parts "test")
    @exec {{ python }} -P -m tests.kubernetes.kubelet "$@"

# Compile for the engine: the spec, and what runsc enforces; after each change of specs/GVisorRuntime.tla or known/*.toml
[no-exit-message]
compile: (_parts "test")
    @{{ python }} -P {{ here }}/tools/compile_enforcement.py
    @exec {{ python }} -P {{ here }}/tools/compile_spec.py

# Redraw what is stale in diagrams/ (as root, with runsc)
[no-exit-message]
diagrams: (_parts "test") _rootfs
    @exec {{ python }} -P {{ here }}/tools/make_diagrams.py

# Change the code one place at a time, check that a test notices, and write docs/mutants.md (as root, twenty minutes)
[no-exit-message]
mutants: (_parts "test")
    @[ "$(id -u)" = 0 ] || { echo "mutants: without root many tests are skipped, and notice nothing: use sudo" >&2; exit 1; }
    @{{ python }} -Pc 'import mutmut' 2>/dev/null || \
        {{ python }} -P -m pip install --quiet --disable-pip-version-check -e {{ here }}'[mutants]'
    rm -rf {{ here }}/mutants
    PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 nice {{ python }} -m mutmut run
    @{{ python }} -P {{ here }}/tests/mutation/report.py

# Measure starts beside bare runsc and podman, and write docs/performance.md (as root; --quick only prints)
[no-exit-message]
[positional-arguments]
bench *OPTIONS: (_parts "test")
    @{{ python }} -Pc 'import gvisor' 2>/dev/null || {{ python }} -P -m pip install --quiet --disable-pip-version-check -e '.[bench]'
    @exec {{ python }} -P -m benchmarks.starts "$@"

# Measure trace verify on ten million records, and write docs/fleet.md (5 GB of disk, 15 minutes)
[no-exit-message]
bench-fleet: (_parts "test")
    @exec {{ python }} -P -m benchmarks.fleet

# Format the code, and repair simple findings
[no-exit-message]
fix:
    @{{ python }} -P -m ruff check --fix
    @{{ python }} -P -m ruff format

# Show what this machine can do, and how to get what is missing
[no-exit-message]
[positional-arguments]
doctor *OPTIONS:
    @exec {{ python }} -P -m engine doctor "$@"

# Install all that the recipes need
setup: (_parts "test") _rootfs

# Remove .venv, caches and the example's files; system packages stay
clean:
    rm -rf .venv examples/*/rootfs .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist mutants
    find . -name __pycache__ -type d -prune -exec rm -rf {} +

[no-exit-message]
_parts GOAL:
    @{{ python }} -P {{ here }}/tools/system_parts.py {{ GOAL }}

[no-exit-message]
_rootfs:
    @{{ python }} -P {{ here }}/tools/make_rootfs.py {{ hello }}/rootfs

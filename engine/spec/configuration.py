"""Read, change and write TLC model configurations (`.cfg`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from engine.errors import Reason
from engine.spec.errors import ManifestError

_REINSTALL = "restore the specs' directory, or install the engine again"
_COMMENT = re.compile(r"\\\*.*$", re.MULTILINE)
_SECTION = re.compile(
    r"^(SPECIFICATION|CONSTANTS?|INVARIANTS?|PROPERTY|PROPERTIES|SYMMETRY|VIEW|CHECK_DEADLOCK)\b",
    re.MULTILINE,
)
_ASSIGNMENT = re.compile(r"(\w+)\s*=\s*(\{[^}]*\}|\S+)")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A TLC model configuration, restricted to the keywords used here."""

    specification: str
    constants: Mapping[str, str]
    invariants: tuple[str, ...]
    properties: tuple[str, ...]
    symmetry: str | None = None
    view: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All properties, invariants first."""
        return self.invariants + self.properties

    def only(self, names: Iterable[str]) -> Configuration:
        """The same configuration with only the properties `names`."""
        wanted = set(names)
        return replace(
            self,
            invariants=tuple(name for name in self.invariants if name in wanted),
            properties=tuple(name for name in self.properties if name in wanted),
        )

    def assign(self, constants: Mapping[str, str]) -> Configuration:
        """The same configuration with some constants changed."""
        return replace(self, constants={**self.constants, **constants})

    def text(self) -> str:
        """The text of the `.cfg` file."""
        parts = [f"SPECIFICATION {self.specification}"]
        if self.symmetry:
            parts.append(f"SYMMETRY {self.symmetry}")
        if self.view:
            parts.append(f"VIEW {self.view}")
        if self.constants:
            parts += ["CONSTANTS", *(f"    {name} = {value}" for name, value in self.constants.items())]
        if self.invariants:
            parts.append(f"INVARIANTS {' '.join(self.invariants)}")
        if self.properties:
            parts.append(f"PROPERTIES {' '.join(self.properties)}")
        return "\n".join(parts) + "\n"


def parse_configuration(text: str, name: str) -> Configuration:
    """Parse a `.cfg`. Raises `ManifestError` for keywords that are not used here."""
    text = _COMMENT.sub("", text)
    found = list(_SECTION.finditer(text))
    if not found or text[: found[0].start()].strip():
        raise ManifestError(f"{name} is not a model configuration", reason=Reason.MALFORMED, hint=_REINSTALL)
    words: dict[str, list[str]] = {
        "SPECIFICATION": [],
        "INVARIANTS": [],
        "PROPERTIES": [],
        "SYMMETRY": [],
        "VIEW": [],
    }
    assigned: dict[str, str] = {}
    for match, following in zip(found, [*found[1:], None], strict=True):
        body = text[match.end() : following.start() if following else len(text)]
        keyword = {"CONSTANT": "CONSTANTS", "INVARIANT": "INVARIANTS", "PROPERTY": "PROPERTIES"}.get(
            match[1], match[1]
        )
        if not body.strip():  # TLC accepts this silently
            raise ManifestError(
                f"{name}: {match[1]} is empty",
                reason=Reason.MALFORMED,
                hint=f"list a name, or remove {match[1]}",
            )
        if keyword == "CONSTANTS":
            assigned.update(
                (constant, " ".join(value.split())) for constant, value in _ASSIGNMENT.findall(body)
            )
            if left := _ASSIGNMENT.sub("", body).strip():
                raise ManifestError(
                    f"{name}: cannot read {left!r} under CONSTANTS",
                    reason=Reason.MALFORMED,
                    hint="write NAME = value",
                )
        elif keyword in words:
            words[keyword] += body.split()
        else:
            raise ManifestError(
                f"{name}: {keyword} is not used here", reason=Reason.MALFORMED, hint=f"remove {keyword}"
            )
    if len(words["SPECIFICATION"]) != 1 or len(words["SYMMETRY"]) > 1 or len(words["VIEW"]) > 1:
        raise ManifestError(
            f"{name} must have one SPECIFICATION and at most one SYMMETRY and one VIEW",
            reason=Reason.MALFORMED,
            hint=_REINSTALL,
        )
    return Configuration(
        specification=words["SPECIFICATION"][0],
        constants=assigned,
        invariants=tuple(words["INVARIANTS"]),
        properties=tuple(words["PROPERTIES"]),
        symmetry=words["SYMMETRY"][0] if words["SYMMETRY"] else None,
        view=words["VIEW"][0] if words["VIEW"] else None,
    )

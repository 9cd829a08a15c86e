"""One part of the system, as `engine doctor` reports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """`missing`: not there; `degraded`: there, and of limited or no use."""

    OK = "ok"
    MISSING = "missing"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the system. `found` is for people, `detail` for programs (plain JSON values).

    `hint` is empty if and only if `status` is ok.
    """

    name: str
    status: Status
    found: str
    enables: str
    hint: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

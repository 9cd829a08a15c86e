"""Known faults of gVisor's releases, from public CVE records, and which of them a version has.

Each `source` is the record's own file at github.com/CVEProject/cvelistV5. Where a record names a commit instead of a
release, `since` and `fixed` are what `git describe` says of it in github.com/google/gvisor. A distribution may have
mended its build without another version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: How to get a current gVisor, for hints: gVisor's own page, whose first way is its apt repository.
INSTALL_PAGE = "https://gvisor.dev/docs/user_guide/install/"

_RECORDS = "https://github.com/CVEProject/cvelistV5/blob/main/cves/"
#: `release-20260817.0-70-g3c5eee17d`, or Debian's `0.0~20240729.0`.
_LABEL = re.compile(r"(?:release-|0\.0~)(\d{8})\.(\d+)(?:-(\d+)-g[0-9a-f]+)?(?![\w.-])")

#: A release's date as YYYYMMDD, its number on that day, and how many commits a build is past it.
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """Builds from `since` on and before `fixed` have it."""

    name: str
    what: str
    since: Version
    fixed: Version
    source: str


FAULTS: tuple[Fault, ...] = (
    Fault(
        "CVE-2023-7258",
        "root in the container that may mount volumes can stop the sandbox",
        (20221026, 0, 0),
        (20231204, 0, 0),
        _RECORDS + "2023/7xxx/CVE-2023-7258.json",
    ),
    Fault(
        "CVE-2024-10026",
        "gVisor's network tells a remote host a local address and an identifier of this boot",
        (0, 0, 0),
        (20241028, 0, 0),
        _RECORDS + "2024/10xxx/CVE-2024-10026.json",
    ),
    Fault(
        "CVE-2024-10603",
        "gVisor's network has predictable ports and header values",
        (0, 0, 0),
        (20241028, 0, 0),
        _RECORDS + "2024/10xxx/CVE-2024-10603.json",
    ),
    Fault(
        "CVE-2025-2713",
        "an unprivileged user reads files that only root may read",
        (0, 0, 0),
        (20250319, 0, 0),
        _RECORDS + "2025/2xxx/CVE-2025-2713.json",
    ),
    Fault(
        "CVE-2026-96812",
        "an image with a /dev/cuse node becomes root on a host that has CUSE",
        (0, 0, 0),
        (20260817, 0, 7),
        _RECORDS + "2026/96xxx/CVE-2026-96812.json",
    ),
)


def parse_version(text: str) -> Version | None:
    """The version in what `runsc --version` prints, or in a release's label; None if there is none that is known."""
    if (found := _LABEL.search(text)) is None:
        return None
    date, number, commits = found.groups(default="0")
    return int(date), int(number), int(commits)


def faults_of(version: Version) -> tuple[Fault, ...]:
    """The known faults of builds of that version, oldest first."""
    return tuple(fault for fault in FAULTS if fault.since <= version < fault.fixed)


def fault_line(text: str) -> str:
    """One line on the known faults of the build whose version is in `text`."""
    if (version := parse_version(text)) is None:
        return "not known: the version is not that of a release"
    names = ", ".join(fault.name for fault in faults_of(version))
    return f"{names} (by its version; a distribution may have mended it)" if names else "none in the list"

"""A picture as DOT text, rendered by Graphviz as SVG, PNG or PDF."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import zlib
from dataclasses import dataclass
from enum import StrEnum

from engine.audit.svg import finish
from engine.audit.walk import DiagramError
from engine.errors import Reason, hint_for
from engine.linux.regular_files import write_output

#: Time limit for Graphviz, in seconds.
TIMEOUT = 60

#: The creation date that cairo writes into a PDF.
_DATE = re.compile(rb"/CreationDate \(D:[^)]*\)")


class Format(StrEnum):
    """The output formats."""

    SVG = "svg"
    PNG = "png"
    PDF = "pdf"
    DOT = "dot"
    MERMAID = "mermaid"

    @property
    def is_binary(self) -> bool:
        return self in {Format.PNG, Format.PDF}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: its `dot` text and its description in words. `name` begins the ids of its SVG."""

    name: str
    title: str
    description: str
    dot: str
    mermaid: str | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of the DOT text. SVG and PNG contain it; if it differs, they are stale."""
        return hashlib.sha256(self.dot.encode()).hexdigest()

    def svg(self) -> str:
        """One `<svg>` element without an XML declaration, for an HTML page. Raises `DiagramError`."""
        return finish(
            _draw(self.dot, "svg"),
            name=self.name,
            title=self.title,
            description=self.description,
            source=self.digest,
        )

    def render(self, form: Format) -> bytes:
        """Render the picture. Raises `DiagramError`."""
        match form:
            case Format.SVG:
                return self.svg().encode()
            case Format.PNG:
                return _with_text(_draw(self.dot, "png", "-Gdpi=144"), "Source-SHA256", self.digest)
            case Format.PDF:
                return _DATE.sub(_no_date, _draw(self.dot, "pdf"))
            case Format.DOT:
                return self.dot.encode()
        if self.mermaid is None:
            raise DiagramError(
                f"{self.name} has no Mermaid form",
                reason=Reason.UNSUPPORTED,
                hint="use svg, png, pdf or dot",
            )
        return self.mermaid.encode()


def write(drawn: bytes, path: str) -> None:
    """Write it, as a whole to a regular file. Raises `DiagramError`."""
    try:
        write_output(path, drawn)
    except OSError as error:
        hint = hint_for(error, "give a file in a directory that you can write")
        raise DiagramError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint) from None


def _draw(dot: str, form: str, *more: str) -> bytes:
    """Render the text with `dot`. Raises `DiagramError`."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(  # noqa: S603 - the text goes to its stdin
            ["dot", f"-T{form}", *more],  # noqa: S607 - the user's, as any tool is
            input=dot.encode(),
            capture_output=True,
            check=False,
            timeout=TIMEOUT,
            env=environment,
        )
    except FileNotFoundError:
        raise DiagramError(
            "dot is not installed",
            reason=Reason.UNAVAILABLE,
            hint="install graphviz, or use --format dot or mermaid",
        ) from None
    except subprocess.TimeoutExpired:
        raise DiagramError(
            f"dot did not finish in {TIMEOUT} s", reason=Reason.TIME_LIMIT, hint="use --format dot"
        ) from None
    if done.returncode or not done.stdout:
        why = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise DiagramError(
            f"dot: {why.splitlines()[0]}",
            reason=Reason.PROGRAM_FAILED,
            hint="install graphviz again, with its plugins",
        )
    return done.stdout


def _no_date(date: re.Match[bytes]) -> bytes:
    """Spaces of the same length, since a PDF refers to its parts by offset."""
    return b" " * len(date[0])


def _with_text(png: bytes, key: str, text: str) -> bytes:
    """`png` with a tEXt chunk behind its header (PNG, section 11.3.4.3)."""
    chunk = b"tEXt" + key.encode("latin-1") + b"\0" + text.encode("latin-1")
    header = 8 + 25  # the signature and IHDR
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:header] + whole + png[header:]

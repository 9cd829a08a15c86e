"""A line of a trace, read strictly: the keys and types that docs/trace.md promises, and no others.

Two readings of one line would be two traces, so a key that is given twice is refused. msgspec does not see
those, but it reads ten times as fast as json: it is trusted only with lines that it writes back byte for byte,
as nearly all lines of the engine are. Every other line is read again by json, which decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from typing import Any, TypeVar

import msgspec

from engine.traces.move import FORMAT
from engine.traces.schema import ERRORS, FACTS, Header, Record

_Kind = TypeVar("_Kind")


class BadLineError(Exception):
    """A line is not what it should be; `what` says why, in one phrase."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


_LETTERS = 3
_read_header = msgspec.json.Decoder(Header).decode
#: By format, and then by the first letters of the trigger, which tell one from another; that it is the whole word is
#: looked at after.
_read: Mapping[int, Mapping[bytes, tuple[Callable[[bytes], Record[Any, Any]], str]]] = {
    number: {
        trigger[:_LETTERS].encode(): (msgspec.json.Decoder(Record[facts, error]).decode, str(trigger))  # type: ignore[valid-type]
        for trigger, facts in FACTS.items()
    }
    for number, error in ERRORS.items()
}
_write = msgspec.json.Encoder().encode
_TRIGGER = b'"trigger":"'


def read_header(line: bytes) -> Header:
    """Read a first line, without its newline. Raises `BadLineError`."""
    try:
        header = _read_header(line)
        if _write(header) == line and header.time.tzinfo is UTC and header.format in ERRORS:
            return header
    except (ValueError, RecursionError):  # a ValueError is also what msgspec raises
        pass
    given = _read_object(line)
    if given.get("format", FORMAT) not in ERRORS:
        raise BadLineError(f"format {given['format']!r} is not known here, 1 to {FORMAT} are")
    return _converted(given, Header)


def read_record(line: bytes, form: int = FORMAT) -> Record[Any, Any]:
    """Read a line that is not the first, without its newline, of a trace of the format `form`. Raises `BadLineError`.

    The facts of a trigger that there is not are taken as they are.
    """
    start = line.find(_TRIGGER) + len(_TRIGGER)
    if (found := _read[form].get(line[start : start + _LETTERS])) is not None:
        read, trigger = found
        try:
            record = read(line)
            if _write(record) == line and record.trigger == trigger and record.time.tzinfo is UTC:
                return record
        except (ValueError, RecursionError):
            pass
    given = _read_object(line)
    facts = FACTS.get(str(given.get("trigger")), dict)
    return _converted(given, Record[facts, ERRORS[form]])  # type: ignore[valid-type]


def _read_object(line: bytes) -> dict[str, Any]:
    from engine.bundle.strict_json import MismatchError, NotJsonError, read  # few lines come here

    try:
        given = read(line, any_text=True)
    except NotJsonError as error:
        raise BadLineError(f"it {error}") from None
    except MismatchError as error:
        raise BadLineError(str(error)) from None
    if not isinstance(given, dict):
        raise BadLineError("not a JSON object")
    return given


def _converted(given: dict[str, Any], kind: type[_Kind]) -> _Kind:
    """`given` as a `kind`, which must have every key that `given` has. Raises `BadLineError`."""
    try:
        converted = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise BadLineError(str(error)) from None
    if (key := _unknown(given, msgspec.to_builtins(converted))) is not None:
        raise BadLineError(f"key {key!r} is not known")
    if isinstance(converted, Header | Record) and converted.time.tzinfo is not UTC:
        raise BadLineError("the time is not in UTC")
    return converted


def _unknown(given: Any, converted: Any) -> str | None:
    """The first key in `given`, at any depth, that `converted` does not have."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(given, dict):
        for key in given:
            if key not in converted:
                return str(key)
        pairs = ((value, converted[key]) for key, value in given.items())
    elif isinstance(given, list):
        pairs = zip(given, converted, strict=True)
    return next((key for one, other in pairs if (key := _unknown(one, other)) is not None), None)

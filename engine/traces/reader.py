"""Parse a line of a trace strictly: exactly the keys and types in docs/trace.md.

A duplicate key is refused, since readers could disagree about it. msgspec does not detect duplicates but is ten times
as fast as json, so its result is used only if it encodes back to the same bytes, as nearly every line of the engine
does. Any other line is parsed again with json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from typing import Any, TypeVar

import msgspec

from engine.traces.move import FORMAT
from engine.traces.schema import ERRORS, FACTS, Header, Record

_Kind = TypeVar("_Kind")


class LineFault:
    """Why a line cannot be read, as a code that never changes: text may be reworded, programs compare this."""

    #: It is not JSON in UTF-8, or it is nested too deeply.
    NOT_JSON = "not_json"
    #: It has what two parsers could read differently: a key twice, NaN, a number of more than 100 characters.
    AMBIGUOUS_JSON = "ambiguous_json"
    #: It is JSON, but no object.
    NOT_AN_OBJECT = "not_an_object"
    #: Its format is not one that this engine reads.
    UNKNOWN_FORMAT = "unknown_format"
    #: A field is missing, unknown at the top, or has a value that the schema does not allow.
    NOT_OF_SCHEMA = "not_of_schema"
    #: An object in it has a key that the schema does not have.
    UNKNOWN_KEY = "unknown_key"
    #: Its time is not in UTC.
    NOT_UTC = "not_utc"


class BadLineError(Exception):
    """A line is bad; `code` says why to programs, `what` to people, in one phrase."""

    def __init__(self, code: str, what: str) -> None:
        self.code = code
        self.what = what
        super().__init__(what)


_LETTERS = 3
_read_header = msgspec.json.Decoder(Header).decode
#: Decoders by the error of a format and by the first letters of the trigger, which are unique; the whole trigger is
#: checked afterwards.
_by_error: Mapping[type, Mapping[bytes, tuple[Callable[[bytes], Record[Any, Any]], str]]] = {
    error: {
        trigger[:_LETTERS].encode(): (msgspec.json.Decoder(Record[facts, error]).decode, str(trigger))  # type: ignore[valid-type]
        for trigger, facts in FACTS.items()
    }
    for error in set(ERRORS.values())
}
_read = {number: _by_error[error] for number, error in ERRORS.items()}
_write = msgspec.json.Encoder().encode
_TRIGGER = b'"trigger":"'


def read_header(line: bytes) -> Header:
    """Parse a first line, without its newline. Raises `BadLineError`."""
    try:
        header = _read_header(line)
        if _write(header) == line and header.time.tzinfo is UTC and header.format in ERRORS:
            return header
    except (ValueError, RecursionError):  # ValueError includes msgspec's errors
        pass
    given = _read_object(line)
    if given.get("format", FORMAT) not in ERRORS:
        raise BadLineError(
            LineFault.UNKNOWN_FORMAT,
            f"format {given['format']!r} is unknown; this engine reads 1 to {FORMAT}",
        )
    return _converted(given, Header)


def read_record(line: bytes, form: int = FORMAT) -> Record[Any, Any]:
    """Parse a further line, without its newline, of a trace in the format `form`. Raises `BadLineError`.

    The facts of an unknown trigger are not checked.
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
    from engine.bundle.strict_json import MismatchError, NotJsonError, read  # rarely needed

    try:
        given = read(line, any_text=True)
    except NotJsonError as error:
        raise BadLineError(LineFault.NOT_JSON, f"it {error}") from None
    except MismatchError as error:
        raise BadLineError(LineFault.AMBIGUOUS_JSON, str(error)) from None
    if not isinstance(given, dict):
        raise BadLineError(LineFault.NOT_AN_OBJECT, "not a JSON object")
    return given


def _converted(given: dict[str, Any], kind: type[_Kind]) -> _Kind:
    """Convert `given` to `kind`, which must have all its keys. Raises `BadLineError`."""
    try:
        converted = msgspec.convert(given, kind)
    # UnicodeEncodeError: half of a surrogate pair for a word of a list.
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise BadLineError(LineFault.NOT_OF_SCHEMA, str(error)) from None
    if (key := _unknown(given, msgspec.to_builtins(converted))) is not None:
        raise BadLineError(LineFault.UNKNOWN_KEY, f"key {key!r} is unknown")
    if isinstance(converted, Header | Record) and converted.time.tzinfo is not UTC:
        raise BadLineError(LineFault.NOT_UTC, "the time is not in UTC")
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

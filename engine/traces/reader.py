"""A line of a trace, read strictly: the keys and types that docs/trace.md promises, and no others.

Two readings of one line would be two traces, so a key that is given twice is refused. msgspec does not see
those, but it reads ten times as fast as json: it is trusted only with lines that it writes back byte for byte,
as nearly all lines of the engine are. Every other line is read again by json, which decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec

from engine.bundle import strict_json
from engine.bundle.strict_json import MismatchError, NotJsonError
from engine.errors import Reason
from engine.traces.move import PolicyOutcome, Trigger
from engine.traces.writer import FORMAT

#: RFC 3339; that it is UTC is asked apart.
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Options(TypedDict):
    network: str
    platform: str
    rootless: bool
    ignore_cgroups: bool
    exec_policy: str
    require_exec_policy: bool
    runsc: str | None


class Bundle(TypedDict):
    path: str
    sha256: str
    rootfs: str
    hooks: int


class Host(TypedDict):
    kernel: str
    machine: str
    user: int


class Identity(TypedDict):
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class ResolveFacts(TypedDict):
    path: str
    found_by: Literal["option", "trusted path", "PATH"]


class ValidateFacts(TypedDict):
    path: str
    wrapper: str | None
    identity: Identity
    owner: int
    mode: str
    trusted_owners: list[int]
    immutable_store: bool
    platforms: list[str]
    platform: str


class Directory(TypedDict):
    path: str
    owner: int
    mode: str
    created: bool


class Sandbox(TypedDict):
    id: str
    directories: list[Directory]
    sha256: str


class SecureRootFacts(TypedDict):
    user: int
    directories: list[Directory]
    lock: str
    cleaned: list[str]
    sandbox: NotRequired[Sandbox]
    programs: NotRequired[Directory]


class StageFacts(TypedDict):
    path: str
    sha256: str
    size: int
    mode: str
    pinned: Identity
    from_store: bool
    made_from: Identity
    shared: bool
    hashed: bool
    compared: bool


class ApplyPolicyFacts(TypedDict):
    outcome: PolicyOutcome
    mechanism: str | None
    strength: Literal["host", "sealed"] | None
    allowed: list[str]
    open: list[str]
    ids: Literal["all", "subordinate", "single"] | None
    reason: str | None


class ExecFacts(TypedDict):
    argv: list[str]
    environment: dict[str, str]
    bundle: Bundle


class RefuseFacts(TypedDict):
    cleaned: list[str]
    left: list[str]


class Error(TypedDict):
    step: str
    reason: Reason
    what: str
    hint: str


class Error1(TypedDict):
    """Of format 1."""

    step: str
    what: str
    remedy: str


_FACTS: Mapping[str, type] = {
    Trigger.RESOLVE: ResolveFacts,
    Trigger.VALIDATE: ValidateFacts,
    Trigger.SECURE_ROOT: SecureRootFacts,
    Trigger.STAGE: StageFacts,
    Trigger.APPLY_POLICY: ApplyPolicyFacts,
    Trigger.EXEC: ExecFacts,
    Trigger.REFUSE: RefuseFacts,
}


class Header(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The first line of a trace. The fields are in the order in which the engine writes them."""

    seq: int
    time: Time
    container: str
    previous: None
    format: int
    engine: str
    spec: str
    options: Options
    bundle: Bundle
    host: Host

    def known(self) -> Mapping[str, Any]:
        """What the machine's guards know of it."""
        return {"options": self.options, "bundle": self.bundle, "host": self.host}


_Facts = TypeVar("_Facts")
_Error = TypeVar("_Error", Error, Error1)


class Record(msgspec.Struct, Generic[_Facts, _Error], forbid_unknown_fields=True, gc=False):
    """A move. `facts` are those of its trigger."""

    seq: int
    time: Time
    container: str
    previous: str
    state: str
    trigger: str
    next: str
    facts: _Facts
    error: _Error | None

    @property
    def refusal(self) -> Refusal | None:
        """Why the run was refused; None of any other move."""
        return None if self.error is None else Refusal.of(self.error)


class Refusal(NamedTuple):
    """Why a run was refused: the step that did, the code (None in format 1, which had none), and the text."""

    step: str
    reason: str | None
    what: str
    hint: str

    @classmethod
    def of(cls, error: Mapping[str, Any]) -> Refusal:
        """From the `error` of a trace of either format."""
        said = {"hint": error.get("remedy"), **error}
        step, what, hint = (str(said.get(key) or "not said") for key in ("step", "what", "hint"))
        reason = said.get("reason")
        return cls(step, None if reason is None else str(reason), what, hint)


_Kind = TypeVar("_Kind")


class BadLineError(Exception):
    """A line is not what it should be; `what` says why, in one phrase."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


_LETTERS = 3
_read_header = msgspec.json.Decoder(Header).decode
_ERRORS: Mapping[int, type] = {1: Error1, FORMAT: Error}
#: By format, and then by the first letters of the trigger, which tell one from another; that it is the whole word is
#: looked at after.
_read: Mapping[int, Mapping[bytes, tuple[Callable[[bytes], Record[Any, Any]], str]]] = {
    number: {
        trigger[:_LETTERS].encode(): (msgspec.json.Decoder(Record[facts, error]).decode, str(trigger))  # type: ignore[valid-type]
        for trigger, facts in _FACTS.items()
    }
    for number, error in _ERRORS.items()
}
_write = msgspec.json.Encoder().encode
_TRIGGER = b'"trigger":"'


def read_header(line: bytes) -> Header:
    """Read a first line, without its newline. Raises `BadLineError`."""
    try:
        header = _read_header(line)
        if _write(header) == line and header.time.tzinfo is UTC and header.format in _ERRORS:
            return header
    except (ValueError, RecursionError):  # a ValueError is also what msgspec raises
        pass
    given = _read_object(line)
    if given.get("format", FORMAT) not in _ERRORS:
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
    facts = _FACTS.get(str(given.get("trigger")), dict)
    return _converted(given, Record[facts, _ERRORS[form]])  # type: ignore[valid-type]


def _read_object(line: bytes) -> dict[str, Any]:
    try:
        given = strict_json.read(line, any_text=True)
    except (NotJsonError, MismatchError) as error:
        raise BadLineError(f"it {error}" if isinstance(error, NotJsonError) else str(error)) from None
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

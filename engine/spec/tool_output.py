"""Parse TLC's `-tool` output by message code (tlc2/output/EC.java), never by its English.

From a message's text only names, numbers and source locations are taken, by position. So TLC 2.15 and the later 1.7 and
1.8 releases, whose sentences differ, are parsed alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from engine.spec.values import Value, flatten, parse_state


class Code(IntEnum):
    """The message codes that are handled; others are ignored unless they are errors."""

    GENERAL = 1000
    OUT_OF_MEMORY = 1001
    OUT_OF_MEMORY_INIT = 1002
    OUT_OF_MEMORY_LIVENESS = 1003
    ASSUMPTION_FALSE = 2104
    INVARIANT_VIOLATED_INITIAL = 2107
    PROPERTY_VIOLATED_INITIAL = 2108
    INVARIANT_VIOLATED = 2110
    ACTION_PROPERTY_VIOLATED = 2112
    DEADLOCK = 2114
    TEMPORAL_PROPERTY_VIOLATED = 2116
    BEHAVIOR_UP_TO_HERE = 2121
    BACK_TO_STATE = 2122
    ASSERT_FAILED = 2132
    PARSING_FAILED_WHERE = 2171
    FINISHED = 2186
    SUCCESS = 2193
    SEARCH_DEPTH = 2194
    STATS = 2199
    PROGRESS = 2200
    COVERAGE_START = 2201
    COVERAGE_END = 2202
    STATE = 2217
    STUTTERING = 2218
    SANY_END = 2219
    SANY_START = 2220
    COVERAGE_VALUE = 2221
    CONFIG_FIRST = 2222
    CONFIG_LAST = 2245
    VERSION = 2262
    COUNTEREXAMPLE = 2264
    COVERAGE_NEXT = 2772
    COVERAGE_INIT = 2773
    COVERAGE_PROPERTY = 2774
    COVERAGE_VALUE_COST = 2775
    COVERAGE_END_OVERHEAD = 2777
    COVERAGE_CONSTRAINT = 2778
    PARSING_FAILED = 3002
    CONFIG_FILE_FIRST = 5001
    CONFIG_FILE_LAST = 5006


class Severity(IntEnum):
    """Message classes, from MP.java."""

    NONE = 0
    ERROR = 1
    BUG = 2
    WARNING = 3
    STATE = 4


VIOLATIONS = frozenset(
    {
        Code.ASSUMPTION_FALSE,
        Code.INVARIANT_VIOLATED_INITIAL,
        Code.PROPERTY_VIOLATED_INITIAL,
        Code.INVARIANT_VIOLATED,
        Code.ACTION_PROPERTY_VIOLATED,
        Code.DEADLOCK,
        Code.TEMPORAL_PROPERTY_VIOLATED,
        Code.ASSERT_FAILED,
    }
)
_OUT_OF_MEMORY = frozenset({Code.OUT_OF_MEMORY, Code.OUT_OF_MEMORY_INIT, Code.OUT_OF_MEMORY_LIVENESS})
_PART_OF_A_COUNTEREXAMPLE = frozenset({Code.BEHAVIOR_UP_TO_HERE, Code.COUNTEREXAMPLE})
_COVERAGE_ENDS = frozenset({Code.COVERAGE_END, Code.COVERAGE_END_OVERHEAD})
_COVERAGE_SECTIONS = frozenset(
    {Code.COVERAGE_NEXT, Code.COVERAGE_INIT, Code.COVERAGE_PROPERTY, Code.COVERAGE_CONSTRAINT}
)

_DELIMITER = "@!@!@"
_START = re.compile(rf"{_DELIMITER}STARTMSG (-?\d+)(?::(\d+))? {_DELIMITER}\s*$")
_END = re.compile(rf"{_DELIMITER}ENDMSG (-?\d+) {_DELIMITER}\s*$")

_LOCATION = r"line (\d+), col (\d+) to line (\d+), col (\d+) of module (\w+)"
_HEADER = re.compile(rf"<\s*(\w+)(?:\([^<>]*\))?\s+{_LOCATION}[^>]*>(?::\s*(\d+):(\d+))?")
_VALUE = re.compile(rf"^\s*(\|*){_LOCATION}: (\d+)")
_STATE_HEADER = re.compile(rf"^(\d+):\s*(?:<\s*(\w+)(?:\(.*?\))?(?:\s+{_LOCATION})?[^>]*>)?\s*$")
_NUMBER = re.compile(r"\d[\d,]*")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Message:
    """One message: `text` without delimiters. `code` is None for text outside of any message."""

    code: int | None
    severity: int
    text: str


@dataclass(frozen=True, slots=True)
class Location:
    """A range of a module; lines and columns count from 1, the end is included."""

    module: str
    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Step:
    """One state of a counterexample and the action that led to it.

    `changed`: each part that the action changed; empty for the first step.
    """

    number: int
    action: str
    location: Location | None
    state: Mapping[str, Value]
    changed: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A behaviour that breaks a property. It ends, loops to step `back_to`, or `stutters`."""

    steps: tuple[Step, ...]
    back_to: int | None = None
    stutters: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """A violated property. `text` is TLC's message; `names`: its words, which include the property's name."""

    code: int
    text: str
    names: frozenset[str]
    counterexample: Counterexample | None


@dataclass(frozen=True, slots=True)
class Expression:
    """How often TLC evaluated an expression of an action; `depth`: its nesting level."""

    location: Location
    depth: int
    count: int


@dataclass(frozen=True, slots=True)
class ActionCoverage:
    """How often an action was taken, the number of new states it found, and its expressions in order."""

    name: str
    location: Location
    distinct: int
    taken: int
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """The size of the search so far: states generated, distinct states, states in the queue."""

    generated: int = 0
    distinct: int = 0
    queue: int = 0


@dataclass(slots=True)
class Output:
    """The parsed output of one run of TLC."""

    version: str = ""
    succeeded: bool = False
    finished: bool = False
    counts: Counts = field(default_factory=Counts)
    depth: int = 0
    violations: list[Violation] = field(default_factory=list)
    coverage: tuple[ActionCoverage, ...] = ()
    parse_failed: bool = False
    config_error: str | None = None
    out_of_memory: bool = False
    errors: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """Split TLC's output lines into messages; a nested message precedes the one that contains it.

    A message that is cut off at the end of the output is returned as text without a code.
    """
    open_messages: list[tuple[int, int, list[str]]] = []
    for line in lines:
        text = line.rstrip("\n")
        if start := _START.search(text):
            if before := text[: start.start()].rstrip(" :"):
                if open_messages:
                    open_messages[-1][2].append(before)
                else:
                    yield Message(None, Severity.NONE, before)
            open_messages.append((int(start[1]), int(start[2] or 0), []))
        elif _END.search(text) and open_messages:
            code, severity, body = open_messages.pop()
            if open_messages:
                open_messages[-1][2].extend(body)
            yield Message(code, severity, "\n".join(body))
        elif open_messages:
            open_messages[-1][2].append(text)
        else:
            yield Message(None, Severity.NONE, text)
    for _, _, body in reversed(open_messages):
        yield from (Message(None, Severity.NONE, line) for line in body)


class OutputReader:
    """Takes messages one by one; `output` is the result so far."""

    def __init__(self) -> None:
        self.output = Output()
        self._steps: list[Step] = []
        self._violation: Message | None = None
        self._back_to: int | None = None
        self._stutters = False
        self._coverage: list[ActionCoverage] = []
        self._section: tuple[str, Location, int, int] | None = None
        self._expressions: list[Expression] = []

    def take(self, message: Message) -> None:
        """Read one message."""
        match message.code:
            case None:
                self.output.loose.append(message.text)
            case Code.VERSION:
                self.output.version = message.text.strip()
            case Code.SUCCESS:
                self.output.succeeded = True
            case Code.FINISHED:
                self._close_violation()
                self.output.finished = True
            case Code.PROGRESS | Code.STATS:
                self.output.counts = read_counts(message.text)
            case Code.SEARCH_DEPTH:
                self.output.depth = _numbers(message.text)[0]
            case Code.PARSING_FAILED | Code.PARSING_FAILED_WHERE:
                self.output.parse_failed = True
            case Code.STATE | Code.BACK_TO_STATE | Code.STUTTERING:
                self._take_state(message)
            case code if code in VIOLATIONS:
                self._close_violation()
                self._violation = message
            case code if self._take_coverage(code, message.text):
                pass
            case _:
                self._take_error(message)

    def _take_error(self, message: Message) -> None:
        code = message.code or 0
        if code in _OUT_OF_MEMORY:
            self.output.out_of_memory = True
        elif (
            Code.CONFIG_FILE_FIRST <= code <= Code.CONFIG_FILE_LAST
            or Code.CONFIG_FIRST <= code <= Code.CONFIG_LAST
        ) and message.severity in (Severity.ERROR, Severity.NONE):
            self.output.config_error = message.text
        elif message.severity in (Severity.ERROR, Severity.BUG) and code not in _PART_OF_A_COUNTEREXAMPLE:
            self._close_violation()  # the states that follow led to the error
            self.output.errors.append(message.text)

    def _take_state(self, message: Message) -> None:
        head, _, body = message.text.strip().partition("\n")
        number = int(_numbers(head)[0])
        if self._violation is None:
            return
        if message.code == Code.BACK_TO_STATE:
            self._back_to = number
            return
        if message.code == Code.STUTTERING:
            self._stutters = True
            return
        header = _STATE_HEADER.match(head)
        state = parse_state(body)
        before = flatten(self._steps[-1].state) if self._steps else None
        after = flatten(state)
        self._steps.append(
            Step(
                number=number,
                action=header[2] if header and header[3] else "",
                location=_location(header.groups()[2:]) if header and header[3] else None,
                state=state,
                changed={}
                if before is None
                else {name: value for name, value in after.items() if before.get(name) != value},
            )
        )

    def _close_violation(self) -> None:
        if self._violation is None:
            return
        message = self._violation
        if not self._steps and "\n/\\ " in message.text:  # an initial state: it is in the message itself
            state = parse_state(message.text.partition("\n")[2])
            self._steps.append(Step(number=1, action="", location=None, state=state, changed={}))
        self.output.violations.append(
            Violation(
                code=message.code or 0,
                text=message.text.strip(),
                names=frozenset(_WORD.findall(message.text.partition("\n")[0])),
                counterexample=Counterexample(tuple(self._steps), self._back_to, self._stutters)
                if self._steps
                else None,
            )
        )
        self._violation, self._steps, self._back_to, self._stutters = None, [], None, False

    def _take_coverage(self, code: int, text: str) -> bool:
        """Parse one line of the coverage report; False if `code` is not one."""
        if code == Code.COVERAGE_START:
            self._coverage, self._section, self._expressions = [], None, []
        elif code in _COVERAGE_SECTIONS:
            self._close_section()
            header = _HEADER.search(text)
            if header and header[7] and code in (Code.COVERAGE_NEXT, Code.COVERAGE_INIT):
                self._section = (header[1], _location(header.groups()[1:6]), int(header[7]), int(header[8]))
        elif code in (Code.COVERAGE_VALUE, Code.COVERAGE_VALUE_COST):
            if self._section and (value := _VALUE.match(text)):
                location = _location(value.groups()[1:6])
                self._expressions.append(Expression(location, len(value[1]), int(value[7])))
        elif code in _COVERAGE_ENDS:
            self._close_section()
            self.output.coverage = tuple(self._coverage)
        else:
            return False
        return True

    def _close_section(self) -> None:
        if self._section:
            self._coverage.append(ActionCoverage(*self._section, expressions=tuple(self._expressions)))
        self._section, self._expressions = None, []


def read(lines: Iterable[str]) -> Output:
    """Parse the complete output `lines`."""
    reader = OutputReader()
    for message in messages(lines):
        reader.take(message)
    return reader.output


def read_counts(text: str) -> Counts:
    """The last three numbers outside parentheses: states generated, distinct states, states in the queue."""
    generated, distinct, queue = _numbers(re.sub(r"\([^)]*\)", "", text))[-3:]
    return Counts(generated, distinct, queue)


def _numbers(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in _NUMBER.findall(text)]


def _location(groups: tuple[str | None, ...]) -> Location:
    line, column, end_line, end_column, module = (group or "0" for group in groups[:5])
    return Location(module, int(line), int(column), int(end_line), int(end_column))

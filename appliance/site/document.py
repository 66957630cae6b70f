"""The site file as plain values, with the place of every key and value.

Scalars stay text (the schema types them: YAML 1.1 would read the MAC address 52:54:00:12:34:56 as
an integer and `on` as a boolean). The parser's events are walked here, not its nodes, so that
duplicate keys are seen, and anchors, aliases and deep nesting are refused before they cost time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import ReaderError

from appliance.plan.model import Origin
from appliance.site.words import quote

Loc = tuple[str | int, ...]
Value = str | None | dict[str, "Value"] | list["Value"]

DEEPEST = 12
LARGEST = 1 << 20

# YAML 1.1 ends lines with these too, which editors do not: no line number would be right.
_OTHER_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake with its place in the file, before it has the file's name."""

    origin: Origin
    what: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content. `keys` and `values` tell where things stand.

    Of a document from which something was taken out, `torn` are the mappings and lists that lost an
    item of their own, and `damaged` those that did anywhere inside.
    """

    data: Value
    keys: Mapping[Loc, Origin]
    values: Mapping[Loc, Origin]
    torn: frozenset[Loc] = frozenset()
    damaged: frozenset[Loc] = frozenset()

    def origin(self, loc: Loc, *, key: bool = False) -> Origin:
        """Where `loc` stands, or else the nearest thing around it that the file has."""
        if key and loc in self.keys:
            return self.keys[loc]
        return self.values.get(self.existing(loc), Origin(1, 1))

    def existing(self, loc: Loc) -> Loc:
        """The longest beginning of `loc` that the file has."""
        while loc and loc not in self.values:
            loc = loc[:-1]
        return loc

    def without(self, dropped: set[Loc]) -> Document:
        """The document less these parts; lists close up."""
        copy = _Copy(self, dropped)
        data = copy.value(self.data, (), ())
        torn, damaged = frozenset(copy.torn), frozenset(copy.damaged)
        return Document(data, copy.keys, copy.values, torn, damaged)


class _Copy:
    """One pass over a document that leaves out some parts."""

    def __init__(self, source: Document, dropped: set[Loc]) -> None:
        self.source = source
        self.dropped = dropped
        self.parents = {loc[:-1] for loc in dropped} | source.torn
        self.around = source.damaged | {loc[:n] for loc in dropped for n in range(len(loc))}
        self.keys: dict[Loc, Origin] = {}
        self.values: dict[Loc, Origin] = {}
        self.torn: set[Loc] = set()
        self.damaged: set[Loc] = set()

    def value(self, value: Value, old: Loc, new: Loc) -> Value:
        self.values[new] = self.source.values[old]
        if old in self.source.keys:
            self.keys[new] = self.source.keys[old]
        if old in self.parents:
            self.torn.add(new)
        if old in self.around:
            self.damaged.add(new)
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if (*old, k) not in self.dropped}
            return {k: self.value(v, (*old, k), (*new, k)) for k, v in kept.items()}
        if isinstance(value, list):
            left = [(i, v) for i, v in enumerate(value) if (*old, i) not in self.dropped]
            return [self.value(v, (*old, i), (*new, n)) for n, (i, v) in enumerate(left)]
        return value


class UnreadableError(Exception):
    """The file cannot be read any further than this."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__(faults)


def parse(content: bytes) -> tuple[Document, list[Fault]]:
    """The document in `content` and the mistakes on the way; UnreadableError where reading ends."""
    if len(content) > LARGEST:
        raise UnreadableError([Fault(Origin(1, 1), f"the file is larger than {LARGEST >> 20} MiB")])
    text = _decode(content)
    if odd := _OTHER_LINE_ENDS.search(text):
        what = f"character U+{ord(odd[0]):04X} has no place in a site file"
        raise UnreadableError([Fault(_place(text, odd.start()), what)])
    reader = _Reader()
    try:
        return reader.document(text), reader.faults
    except _StopError as stop:
        raise UnreadableError([*reader.faults, stop.fault]) from None
    except yaml.YAMLError as error:
        raise UnreadableError([*reader.faults, _syntax(error, text)]) from None
    except (ValueError, OverflowError):
        # PyYAML 6 lets these out for "\UFFFFFFFF" and for a %YAML version of thousands of digits.
        fault = Fault(reader.last, "not YAML: a number or an escaped character is out of range")
        raise UnreadableError([*reader.faults, fault]) from None


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(errors="replace")
        what = f"byte 0x{content[error.start]:02x} is not UTF-8"
        hint = "save the file with the encoding UTF-8"
        raise UnreadableError([Fault(_place(before, len(before)), what, hint)]) from None


def _place(text: str, index: int) -> Origin:
    line = text.count("\n", 0, index) + 1
    return Origin(line, index - (text.rfind("\n", 0, index) + 1) + 1)


class _StopError(Exception):
    """A fault after which the rest cannot be understood."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


@dataclass(slots=True)
class _Reader:
    """Builds the values from the parser's events."""

    faults: list[Fault] = field(default_factory=list)
    keys: dict[Loc, Origin] = field(default_factory=dict)
    values: dict[Loc, Origin] = field(default_factory=dict)
    last: Origin = field(default_factory=lambda: Origin(1, 1))

    def document(self, text: str) -> Document:
        events = yaml.parse(text, Loader=yaml.BaseLoader)
        next(events)  # the start of the stream
        if not isinstance(next(events), yaml.DocumentStartEvent):
            raise _StopError(Fault(Origin(1, 1), "the file is empty"))
        data = self.value(next(events), events, ())
        while isinstance(event := next(events), DocumentEndEvent):
            pass
        if isinstance(event, yaml.DocumentStartEvent):
            what = "a second document begins here: a file is one site"
            raise _StopError(Fault(_start(event), what))
        if data is None:
            raise _StopError(Fault(Origin(1, 1), "the file is empty"))
        return Document(data, self.keys, self.values)

    def value(self, event: Event, events: Iterator[Event], loc: Loc) -> Value:
        self.last = self.values[loc] = _start(event)
        if len(loc) > DEEPEST:
            raise _StopError(Fault(self.last, f"nested deeper than {DEEPEST} levels"))
        self._refuse_properties(event)
        if isinstance(event, MappingStartEvent):
            return self._mapping(events, loc)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(events, loc)
        return self._scalar(event)

    def _mapping(self, events: Iterator[Event], loc: Loc) -> Value:
        found: dict[str, Value] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            start = _start(event)
            name = self._key(event, start)
            if name in found:
                hint = f"first in line {self.keys[*loc, name].line}"
                self.faults.append(Fault(start, f"key {quote(name)} is given twice", hint))
                # The second value is read for its own faults only, and in a place of its own.
                self.value(next(events), events, (*loc, f"{name} (again)"))
            else:
                self.keys[*loc, name] = start
                found[name] = self.value(next(events), events, (*loc, name))
        return found

    def _sequence(self, events: Iterator[Event], loc: Loc) -> Value:
        found: list[Value] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            found.append(self.value(event, events, (*loc, len(found))))
        return found

    def _key(self, event: Event, start: Origin) -> str:
        self._refuse_properties(event)
        if not isinstance(event, ScalarEvent):
            hint = "quote text that begins with [ or {"
            raise _StopError(Fault(start, "a key must be a plain word", hint))
        return self._scalar(event, allowed="") or ""

    def _scalar(self, event: Event, allowed: str = "\n") -> str | None:
        """The text of a scalar. Line ends are `allowed` where they stand as such (style |): whether
        a value may have several lines, its type says.
        """
        assert isinstance(event, ScalarEvent)
        text: str = event.value
        if event.style is None and text in ("", "~", "null"):
            return None
        if event.style in ("|", ">"):
            text = text.rstrip("\n")
        fits = str.isprintable if event.style != "|" else lambda c: c.isprintable() or c in allowed
        odd = next((c for c in text if not fits(c)), None)
        if odd is not None:
            what = f"character U+{ord(odd):04X} has no place in a site file"
            self.faults.append(Fault(_start(event), what))
            return "".join(filter(fits, text))
        return text

    def _refuse_properties(self, event: Event) -> None:
        """Aliases (which can make a small file huge), anchors and tags: things are said once."""
        if isinstance(event, AliasEvent):
            what = f"alias {quote(f'*{event.anchor}')}: aliases are not supported"
            raise _StopError(Fault(_start(event), what))
        assert isinstance(event, NodeEvent)
        if event.anchor is not None:
            what = f"anchor {quote('&' + event.anchor)}: anchors are not supported"
            self.faults.append(Fault(_start(event), what))
        if getattr(event, "tag", None) is not None:
            self.faults.append(Fault(_start(event), "YAML tags (!…) are not supported"))


def _start(event: Event) -> Origin:
    mark = event.start_mark
    assert mark is not None, "the parser marks every event"
    return Origin(mark.line + 1, mark.column + 1)


def _syntax(error: yaml.YAMLError, text: str) -> Fault:
    """The parser's complaint, in our words where we know what a person did."""
    if isinstance(error, ReaderError):
        where = _place(text, error.position)
        return Fault(where, f"character U+{ord(text[error.position]):04X} is not allowed in YAML")
    assert isinstance(error, yaml.MarkedYAMLError)
    mark = error.problem_mark or error.context_mark
    assert mark is not None, "the parser always marks its complaint"
    problem = (error.problem or error.context or "not understood").replace("\n", " ")
    return Fault(Origin(mark.line + 1, mark.column + 1), *_explained(problem))


# What a person did, by words of the parser's complaint.
_EXPLAINED: Sequence[tuple[str, str, str | None]] = (
    ("'\\t' that cannot start", "a tab stands where only spaces may", "indent with spaces"),
    ("'@' that cannot start", "text that begins with '@' needs quotes", None),
    (
        "mapping values are not allowed here",
        "a second ':' in one line, or an indentation that does not fit",
        "indent keys of one level alike; quote text that holds ': '",
    ),
    (
        "expected <block end>",
        "this does not fit the indentation of the lines above",
        "items of one level begin in one column",
    ),
    ("could not find expected ':'", "a key without ':'", "write 'key: value'"),
    ("<stream end>", "the file ends too early", "is a bracket left open?"),
    ("end of stream", "the file ends too early", "is a quote left open?"),
)


def _explained(problem: str) -> tuple[str, str | None]:
    for words, what, hint in _EXPLAINED:
        if words in problem:
            return f"not YAML: {what}", hint
    return f"not YAML: {problem}", None

"""Where mistakes are gathered while a site file is understood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.errors import Problem, SiteError
from appliance.plan.model import Origin
from appliance.site.document import Document, Fault, Loc


class Faults:
    """The mistakes of one file, each once, and what is known about the file's places."""

    def __init__(self, file: Path, document: Document, before: Sequence[Fault] = ()) -> None:
        self.file = file
        self.whole = document
        self.document = document
        self._found = {(fault.origin, fault.what): fault for fault in before}
        self._warned: dict[tuple[Origin, str], Fault] = {}

    def add(self, loc: Loc, what: str, hint: str | None = None, *, key: bool = False) -> None:
        """Note a mistake at `loc`; `key` points at the key instead of its value."""
        fault = Fault(self.document.origin(loc, key=key), what, hint)
        self._found.setdefault((fault.origin, what), fault)

    def warn(self, loc: Loc, what: str, hint: str | None = None) -> None:
        """Note what works, but hardly as it is meant."""
        fault = Fault(self.document.origin(loc), what, hint)
        self._warned.setdefault((fault.origin, what), fault)

    def warnings(self) -> tuple[Problem, ...]:
        """What was warned of, in the order of the file."""
        faults = sorted(self._warned.values(), key=lambda fault: fault.origin)
        return tuple(_problem(self.file, fault) for fault in faults)

    def origin(self, loc: Loc) -> Origin:
        """Where `loc` stands in the file."""
        return self.document.origin(loc)

    def intact(self, *loc: str | int) -> bool:
        """Whether all at `loc` was understood: only then does a thing's absence mean anything."""
        if loc in self.document.values:
            return loc not in self.document.damaged
        return self.document.existing(loc) not in self.document.torn

    def networks_intact(self, *keys: str) -> bool:
        """Whether these keys were understood in every network that the file has."""
        names = self.names("networks")
        return all(self.intact("networks", name, key) for name in names for key in keys)

    def stated(self, *loc: str | int) -> bool:
        """Whether the file says anything at `loc`, right or wrong."""
        return loc in self.whole.values

    def names(self, section: str) -> list[str]:
        """The names in a section of the file, also those that have mistakes inside."""
        data = self.whole.data
        named = data.get(section) if isinstance(data, dict) else None
        return list(named) if isinstance(named, dict) else []

    def raise_any(self) -> None:
        """SiteError with every mistake, if there is one."""
        if self._found:
            raise site_error(self.file, list(self._found.values()))


def site_error(file: Path, faults: Sequence[Fault]) -> SiteError:
    """The failure of a whole file."""
    return SiteError([_problem(file, fault) for fault in faults])


def _problem(file: Path, fault: Fault) -> Problem:
    at = fault.origin
    return Problem(str(file), at.line, at.column, fault.what, fault.hint)

"""The three kinds of failure: the user's file, a tool or machine, and any other: our own bug."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a site file, or a warning; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    what: str
    hint: str | None = None

    def __str__(self) -> str:
        return self._text("")

    def as_warning(self) -> str:
        """The same for what is no mistake, but worth a second look."""
        return self._text("warning: ")

    def _text(self, kind: str) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {kind}{self.what}"
        return f"{text}\n    hint: {self.hint}" if self.hint else text

    def as_json(self) -> dict[str, Any]:
        """The form that `appliance check --json` prints."""
        fields = ("file", "line", "column", "what", "hint")
        return {name: getattr(self, name) for name in fields}


class SiteError(Exception):
    """The user's file is wrong. Carries every problem found, in file order; exit code 2."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.what)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ToolError(Exception):
    """A program or the machine failed us, with what to do about it where we know; exit code 1."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}\n    hint: {hint}" if hint else what)

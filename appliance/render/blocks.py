"""Text in nested braces, as keepalived and conntrackd read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import indent


@dataclass(frozen=True, slots=True)
class Block:
    """A head, and between its braces lines and further blocks."""

    head: str
    lines: tuple[str | Block, ...]

    def __str__(self) -> str:
        body = "\n".join(str(line) for line in self.lines)
        return f"{self.head} {{\n{indent(body, '    ')}\n}}"


def text(all_of: Sequence[Block]) -> str:
    """A whole file, its blocks set off by blank lines."""
    return "\n\n".join(str(block) for block in all_of) + "\n"

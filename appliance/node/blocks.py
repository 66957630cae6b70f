"""Text in nested braces read again, as `appliance.render.blocks` has written it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """A head, and between its braces lines and further blocks."""

    head: str
    lines: tuple[str | Block, ...]

    def blocks(self, begin: str) -> Iterator[Block]:
        """Those directly in it whose head begins so."""
        for each in self.lines:
            if isinstance(each, Block) and each.head.startswith(begin):
                yield each

    def values(self, word: str) -> list[str]:
        """The lines directly in it that begin with this word."""
        return [each for each in self.lines if isinstance(each, str) and _first(each) == word]

    def without(self, *words: str) -> Block:
        """The same without its own lines and blocks that begin with one of these words."""
        kept = (each for each in self.lines if _first(each) not in words)
        return Block(self.head, tuple(kept))


def _first(line: str | Block) -> str:
    return (line if isinstance(line, str) else line.head).split(" ", 1)[0]


def parse(text: str) -> list[Block]:
    """The blocks of a file: each head and each closing brace ends a line of its own."""
    lines = (line.strip() for line in text.splitlines())
    return [each for each in _inside(lines) if isinstance(each, Block)]


def _inside(lines: Iterator[str]) -> Iterator[str | Block]:
    """What comes until the block is closed, or the file ends."""
    for line in lines:
        if line == "}":
            return
        if line.endswith(" {"):
            yield Block(line.removesuffix(" {"), tuple(_inside(lines)))
        elif line:
            yield line

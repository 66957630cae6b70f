"""How messages speak: names in quotes, cut to a length, and what the writer may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 60


def shorten(text: str) -> str:
    """`text` cut to what fits into a message."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def quote(text: str) -> str:
    """`text` as messages show what stands in the file."""
    return f"'{shorten(' '.join(text.splitlines()))}'"


def meant(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word most like `word`, if one is close."""
    close = get_close_matches(word[:LONGEST].lower(), sorted(known), n=1)
    return f"did you mean {quote(close[0])}?" if close else None

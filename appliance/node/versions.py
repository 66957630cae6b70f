"""Which of two versions is the newer one, as systemd-boot and systemd-sysupdate see it.

The UAPI Group's Version Format Specification, for versions without "+" and "_", which no image has.
"""

from __future__ import annotations

import re

_PARTS = re.compile(r"[0-9]+|[A-Za-z]+|[~^.-]")

# "~" is before everything, the end of the version included.
_END = 1
_RANKS = {"~": 0, "-": 2, "^": 3, ".": 4}
_WORD, _NUMBER = 5, 6

Key = tuple[tuple[int, int, str], ...]


def key(version: str) -> Key:
    """What to sort versions by."""
    return (*map(_part, _PARTS.findall(version)), (_END, 0, ""))


def older(one: str, other: str) -> bool:
    """Whether the first is the older one."""
    return key(one) < key(other)


def _part(text: str) -> tuple[int, int, str]:
    if text[0].isdigit():
        return _NUMBER, int(text), ""
    return _RANKS.get(text, _WORD), 0, text

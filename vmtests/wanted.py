"""The pair that a test wants; all tests that want the same have one after another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True, slots=True)
class Wanted:
    """The pair of a site, given as text, with so many `clients` on some of its networks."""

    text: str
    clients: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The site's."""
        found = re.search(r"^site: *(\S+)", self.text, re.MULTILINE)
        assert found
        return found[1]


def on(text: str, clients: Mapping[str, int] | None = None) -> pytest.MarkDecorator:
    """The mark of a test that wants this pair; without one it is the usual one."""
    wanted = Wanted(text, clients or {})
    return pytest.mark.parametrize("lab", [wanted], ids=[wanted.name], indirect=True)

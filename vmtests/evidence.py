"""What is kept of a test that fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.lab.artefacts import collect
from appliance.lab.pair import Lab
from vmtests.installed import CLONE

ARTEFACTS = CLONE / "artefacts"
FAILED = pytest.StashKey[str]()  # why the test did
# What tells of roles and of state that moves, in a node's journal; how many lines of it are shown.
TELLING = re.compile(r"Keepalived|conntrack|python3|watchdog|SIGKILL")
LINES = 30


@contextmanager
def of(request: pytest.FixtureRequest, *labs: Lab) -> Iterator[None]:
    """Keep that of a test when it fails in these labs, in a folder of its own."""
    yield
    if not (failure := request.node.stash.get(FAILED, "")):
        return
    seed = request.config.getoption("--seed")
    test = request.node.nodeid.partition("@")[0]  # behind it pytest-xdist puts the group
    again = f"python -m pytest --seed {seed} '{test}'"
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    for lab in labs:
        where = collect(lab, ARTEFACTS / name / (lab.plan.site if labs[1:] else ""), again)
        (where / "failure.txt").write_text(failure)
        for node in lab.nodes:
            print(latest(where / f"{node}.journal.txt"))
    print(f"evidence: {ARTEFACTS / name}\nagain:    {again}")


def latest(journal: Path) -> str:
    """The end of a node's journal, where it tells of the pair: for who has the report alone."""
    if not journal.exists():
        return f"{journal.stem}: nothing"
    told = filter(TELLING.search, journal.read_text().splitlines())
    return "\n".join([f"{journal.stem}:", *list(told)[-LINES:]])

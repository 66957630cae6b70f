"""What is kept of a test that fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from appliance.lab.artefacts import collect
from appliance.lab.pair import Lab
from vmtests.installed import CLONE

ARTEFACTS = CLONE / "artefacts"
FAILED = pytest.StashKey[str]()  # why the test did


@contextmanager
def of(request: pytest.FixtureRequest, *labs: Lab) -> Iterator[None]:
    """Keep that of a test when it fails in these labs, in a folder of its own."""
    yield
    if not (failure := request.node.stash.get(FAILED, "")):
        return
    seed = request.config.getoption("--seed")
    again = f"python -m pytest --seed {seed} '{request.node.nodeid}'"
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    for lab in labs:
        where = collect(lab, ARTEFACTS / name / (lab.plan.site if labs[1:] else ""), again)
        (where / "failure.txt").write_text(failure)
    print(f"evidence: {ARTEFACTS / name}\nagain:    {again}")

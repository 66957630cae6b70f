"""The soak: random faults, one after another, under traffic that lives as long as it."""

from __future__ import annotations

import pytest

from appliance.lab import load
from appliance.lab.drill import undergo
from appliance.lab.errors import LabAssertion
from appliance.lab.faults import Fault, catalogue
from appliance.lab.load import Load
from appliance.lab.pair import Lab
from vmtests.expected import wrong
from vmtests.observe import SELDOM
from vmtests.soak import Growth, sequence, unsound
from vmtests.wanted import on
from vmtests.ways import FEW, PLAN, SITE

FAULTS = 200

pytestmark = [on(SITE), pytest.mark.long]


def test_soak(pair: Lab, seed: int) -> None:
    """One active node after each, equal tables, no failed unit, and not one session lost."""
    drawn = sequence(catalogue(PLAN), seed, FAULTS)
    growth = Growth()
    with load.start(pair, FEW, interval=SELDOM) as traffic:
        for step, fault in enumerate(drawn, 1):
            where = f"seed {seed}, step {step} of {len(drawn)}: {fault.name}"
            print(where, flush=True)
            troubles = undergone(pair, fault, traffic, growth)
            assert not troubles, where
        assert not wrong("soak", traffic.stop()), f"seed {seed}, at the end"
    print(f"grown by {growth.largest} KiB at most")


def undergone(pair: Lab, fault: Fault, traffic: Load, growth: Growth) -> list[str]:
    """Have the pair undergo a fault; what does not hold afterwards, in words."""
    try:
        undergo(pair, fault, traffic)
        traffic.moves()
    except LabAssertion as failed:
        return [str(failed)]
    return unsound(pair, growth)

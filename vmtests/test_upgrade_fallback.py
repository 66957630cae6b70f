"""Whatever is wrong with a new image: there is always a way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.lab.pair import Lab
from vmtests.observe import typing
from vmtests.operator import Operator
from vmtests.updates import BAD, Payloads, images, roles, version, versions

# What an upgrade says of a version that could tell why it is not good.
SAYS = {
    "does not run": "keepalived.service is",
    "has no role": "it is neither active nor standby: its role is INIT",
}

# Where the root of a version that was written is spoiled, in 512 byte sectors of its slot.
SPOILT = {"superblock": (0, 8), "middle": (40_000, 40_000)}


@pytest.mark.parametrize(
    "what",
    [
        "does not run",
        *(pytest.param(each, marks=pytest.mark.long) for each in BAD if each != "does not run"),
    ],
)
def test_a_version_falls_back_that(
    pair: Lab, operator: Operator, payloads: Payloads, what: str
) -> None:
    """One of them is older than what runs: the loader would not take it by itself."""
    said = fallen_back(pair, operator, payloads.bad(what, "0" if what == "does not run" else "9"))
    assert SAYS.get(what, "it did not get as far as to say why") in said


@pytest.mark.long
def test_a_version_without_its_site_falls_back(
    pair: Lab, operator: Operator, payloads: Payloads
) -> None:
    fallen_back(pair, operator, payloads.without_its_site("9"))


@pytest.mark.long
@pytest.mark.parametrize("where", SPOILT)
def test_a_root_that_was_altered_falls_back(
    pair: Lab, operator: Operator, payloads: Payloads, where: str
) -> None:
    """On the disk, after it was found to be what was signed."""
    good, standby = payloads.good("9"), pair.standby()
    operator.run("upgrade", str(good), "--stage")
    begin, count = SPOILT[where]
    slot = f"/dev/disk/by-partlabel/root_{version(good)}"
    standby.succeed(f"dd if=/dev/urandom of={slot} seek={begin} count={count} conv=fsync,notrunc")
    fallen_back(pair, operator, good)


def fallen_back(pair: Lab, operator: Operator, bad: Path) -> str:
    """What the upgrade to this version says; the standby has tried it in vain, a session went on,
    and the pair is as before.
    """
    before, ran, beside = roles(pair), versions(pair), images(pair.active())["other"]
    with typing(pair) as session:
        said = operator.fails("upgrade", str(bad), "--allow-older")
        assert f"{before[1]} has gone back to its old image: " in said
        assert versions(pair) == ran
        assert roles(pair) == before
        tried = images(pair.standby())["other"]
        assert (tried["version"], tried["left"]) == (version(bad), 0)
        assert images(pair.active())["other"] == beside
        assert session.stop().survived
    assert not operator.problems()
    return said

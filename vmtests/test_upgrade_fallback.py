"""Whatever is wrong with a new image, and whenever the power is cut: there is always a way back."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from appliance.lab.pair import Lab
from appliance.node.images import Boot
from vmtests.observe import moves, typing, until
from vmtests.operator import Operator
from vmtests.updates import BAD, Payloads, images, roles, version, versions

DECIDED = (Boot.CLEAN, Boot.GOOD)
BACK_WITHIN = 300  # seconds from power on to a decided boot, on a slow machine
CUTS = 100
CUT_WITHIN = 130  # seconds after an upgrade of one node begins: all of its phases

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
    said = fallen_back(pair, operator, payloads.bad(what, "9"))
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
        said = operator.fails("upgrade", str(bad))
        assert f"{before[1]} has gone back to its old image: " in said
        assert versions(pair) == ran
        assert roles(pair) == before
        tried = images(pair.standby())["other"]
        assert (tried["version"], tried["left"]) == (version(bad), 0)
        assert images(pair.active())["other"] == beside
        assert session.stop().survived
    assert not operator.problems()
    return said


@pytest.fixture
def moments(seed: int) -> list[tuple[float, bool]]:
    """When the power is cut, in seconds, and whether that of the node that is upgraded."""
    drawn = random.Random(seed)
    return [(drawn.uniform(0, CUT_WITHIN), drawn.random() < 0.75) for _ in range(CUTS)]


@pytest.mark.long
def test_a_power_cut_at_any_moment_leaves_a_node_that_boots(
    pair: Lab, operator: Operator, payloads: Payloads, moments: list[tuple[float, bool]]
) -> None:
    """The operator's machine dies with the node, and whoever calls next goes on. The last of this
    pair's tests: its nodes end with images of two versions.
    """
    for after, own in moments:
        active, node = pair.active(), pair.standby()
        with typing(pair) as session:
            carried = cut(pair, operator, payloads.another(node), after, own=own)
            whole(pair)
            told = {each.name: images(each)["version"] for each in (active, node)}
            print(f"cut after {after:.1f} s: {(node if own else active).name} of {told}")
            if carried:
                moves(session)
                assert session.stop().survived
        with typing(pair) as another:
            moves(another)
    node = pair.standby()
    goal = payloads.another(pair.active())
    operator.run("upgrade", str(goal), "--node", node.name, "--allow-older")
    assert images(node)["version"] == version(goal)
    assert pair.standby() is node


def cut(pair: Lab, operator: Operator, payload: Path, after: float, *, own: bool) -> bool:
    """Begin an upgrade of the standby; after so many seconds the operator is gone, and its power or
    else that of the active one. Whether a router was there at every moment.
    """
    active, node = pair.active(), pair.standby()
    options = ("--node", node.name, "--allow-older")
    with operator.start("upgrade", str(payload), *options) as command:
        threading.Event().wait(after)
        victim, other = (node, active) if own else (active, node)
        there = own or other.trouble() is None
        victim.kill()
        command.kill()
    if there:
        pair.wait_active(other)
    victim.start()
    return there


def whole(pair: Lab) -> None:
    """Both nodes have booted, what they run was found good, and they are a pair."""
    pair.wait_ready(timeout=BACK_WITHIN)
    for node in pair.nodes.values():
        until(lambda node=node: images(node)["boot"] in DECIDED, BACK_WITHIN, "a decided boot")

"""A pair changes its own system under traffic, and always has a way back."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.image import keys as image_keys
from appliance.lab import load
from appliance.lab.flows import Report
from appliance.lab.load import Cell, Kind, Mode
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab
from appliance.node.images import Boot
from vmtests.controls import without_conntrackd
from vmtests.figures import Figures
from vmtests.observe import moves, typing, until
from vmtests.operator import Operator
from vmtests.updates import Payloads
from vmtests.wanted import Wanted, on
from vmtests.ways import SNAT, USUAL

SITE = USUAL.replace("site: testcase", "site: upgraded")
DECIDED = (Boot.CLEAN, Boot.GOOD)

# Busy and idle sessions, FTP in every phase, and a probe each 5 ms that measures the gap.
FLOWS: tuple[Cell, ...] = (
    *load.cells((SNAT,), (Kind.SSH, Kind.SSH_IDLE, Kind.UDP, Kind.FTP_IDLE)),
    *load.cells((SNAT,), (Kind.DOWNLOAD, Kind.NEXT, Kind.HELD), (Mode.PORT,)),
)
LONGEST_GAP = 1.0  # seconds
BACK_WITHIN = 300  # seconds from power on to a decided boot, on a slow machine
CUT_WITHIN = 100  # seconds after an upgrade of one node begins: all of its phases

Rounds = Callable[[int, int], range]

# Too long for the short form.
pytestmark = [on(SITE), pytest.mark.long]


@pytest.fixture(scope="module")
def second(build: Callable[..., Path]) -> Path:
    """Version 2 of the same site, as a user builds it."""
    return build(Wanted(SITE), version="2") / "upgraded_2.update"


@pytest.fixture(scope="module")
def third(build: Callable[..., Path]) -> Path:
    """Version 3, which differs from it in its name alone."""
    return build(Wanted(SITE), version="3") / "upgraded_3.update"


@pytest.fixture
def others(second: Path, third: Path) -> tuple[Path, Path]:
    """Two payloads, of which one is always another version than what runs."""
    return second, third


@pytest.fixture
def payloads(pair: Lab, keys: Path, tmp_path: Path) -> Payloads:
    return Payloads(pair.plan, image_keys.load(keys), tmp_path)


def images(node: Appliance) -> dict[str, Any]:
    """What a node says of its images."""
    told: dict[str, Any] = json.loads(node.succeed("appliance-update status", timeout=120))
    return told


def versions(pair: Lab) -> dict[str, str]:
    return {name: images(node)["version"] for name, node in pair.nodes.items()}


def version(payload: Path) -> str:
    """The one that a payload's name ends with."""
    return payload.stem.rpartition("_")[2]


def roles(pair: Lab) -> tuple[str, str]:
    return pair.active().name, pair.standby().name


def kept(pair: Lab) -> dict[str, str]:
    """What makes a node this one, whatever its image: its host key, and what lies in its state."""
    state = "/var/lib/appliance"
    ask = (
        f"cat {state}/ssh/ssh_host_ed25519_key.pub; cat {state}/mark || date +%N | tee {state}/mark"
    )
    return {name: node.succeed(ask) for name, node in pair.nodes.items()}


def test_what_is_not_as_it_was_signed_is_refused(
    pair: Lab, operator: Operator, payloads: Payloads, second: Path
) -> None:
    kernel = "upgraded_2.efi"
    (root,) = (path.name for path in second.glob("*.root.*"))
    bad = {
        "not signed": payloads.without_a_signature(second),
        "signed by another key": payloads.signed_by_another(second),
        "altered: SHA256SUMS is not": payloads.with_another_sum(second),
        f"altered: {kernel} is not what was signed": payloads.altered(second, kernel),
        f"truncated: {root} has": payloads.truncated(second, root),
    }
    with typing(pair) as session:
        before = {name: images(node) for name, node in pair.nodes.items()}
        for words, payload in bad.items():
            assert words in operator.fails("upgrade", str(payload))
        after = {name: images(node) for name, node in pair.nodes.items()}
        for told in (*before.values(), *after.values()):
            told.pop("role")
        assert after == before
        assert session.stop().survived


@pytest.mark.figures(beside=True)
def test_an_upgrade_of_the_pair_loses_no_session(
    pair: Lab, operator: Operator, others: tuple[Path, Path], figures: Figures, rounds: Rounds
) -> None:
    """There and back again: each of them is a version that does not run."""
    identity, gaps, lost = kept(pair), [], []
    for number in rounds(1, 5):
        new = others[number % 2]
        reports = upgraded_under_load(pair, operator, new)
        gaps += [r.longest_stall for cell, r in reports.items() if cell.kind is Kind.UDP]
        lost += [f"{cell}: {r}" for cell, r in reports.items() if not r.survived]
        assert versions(pair) == dict.fromkeys(pair.nodes, version(new))
        assert {images(node)["boot"] for node in pair.nodes.values()} == {Boot.GOOD}
        assert kept(pair) == identity
    what = f"sessions lost in a rolling upgrade, of {len(FLOWS)}"
    figures.add(what, "", len(lost), goal="0")
    gap = figures.add("longest gap in a rolling upgrade", "s", *gaps, goal="at most 1 s")
    assert not lost
    assert gap.worst <= LONGEST_GAP


def upgraded_under_load(pair: Lab, operator: Operator, new: Path) -> Mapping[Cell, Report]:
    """What became of the flows while both nodes got another image."""
    active, standby = roles(pair)
    options = (str(new), "--allow-older")
    steps = operator.run("upgrade", *options, "--dry-run").splitlines()
    assert [line.split()[1] for line in steps] == [*[f"{standby}:"] * 2, *[f"{active}:"] * 3]
    with load.start(pair, FLOWS) as everything:
        told = json.loads(operator.run("upgrade", *options, "--json"))
        everything.moves()
        reports = everything.stop()
    print(json.dumps(told, indent=1))
    assert [(each["giver"], each["taker"]) for each in told["handovers"]] == [(active, standby)]
    return reports


def test_called_again_there_is_nothing_to_do(operator: Operator, second: Path) -> None:
    again = operator.run("upgrade", str(second))
    assert again == "version 2 runs already: nothing to do\n"


def test_without_state_the_same_handover_loses_the_session(pair: Lab) -> None:
    """The negative control: what survives above, survives because old and new exchange state."""
    with without_conntrackd(pair), typing(pair) as session:
        heir = pair.standby()
        pair.active().succeed("appliance-handover --force")
        pair.wait_active(heir)
        with pytest.raises(AssertionError, match="to go on"):
            moves(session, count=1)
        assert not session.stop().survived


def test_a_version_that_does_not_run_falls_back_by_itself(
    pair: Lab, operator: Operator, payloads: Payloads
) -> None:
    broken, before = payloads.that_does_not_run("9"), roles(pair)
    ran, beside = versions(pair), images(pair.active())["other"]
    with typing(pair) as session:
        said = operator.fails("upgrade", str(broken))
        assert f"{before[1]} has gone back to its old image: " in said
        assert "keepalived.service is" in said
        assert versions(pair) == ran
        assert roles(pair) == before
        tried = images(pair.standby())["other"]
        assert (tried["version"], tried["left"]) == ("9", 0)
        assert images(pair.active())["other"] == beside
        report = session.stop()
    assert report.survived
    assert not operator.problems()


@pytest.fixture
def moments(rounds: Rounds, seed: int) -> list[float]:
    """When the power is cut, in seconds."""
    drawn = random.Random(seed)
    return [drawn.uniform(0, CUT_WITHIN) for _ in rounds(1, 100)]


def test_a_power_cut_at_any_moment_leaves_a_node_that_boots(
    pair: Lab,
    operator: Operator,
    others: tuple[Path, Path],
    moments: list[float],
) -> None:
    """The operator's machine dies with the node, and whoever calls next goes on."""
    second, third = others
    with typing(pair) as session:
        for after in moments:
            active, node = pair.active(), pair.standby()
            cut(operator, node, third if images(node)["version"] == "2" else second, after)
            assert pair.active() is active
            moves(session)
            node.start()
            pair.wait_ready(timeout=BACK_WITHIN)
            until(lambda node=node: images(node)["boot"] in DECIDED, BACK_WITHIN, "a decided boot")
            print(f"cut after {after:.1f} s: {node.name} runs {images(node)['version']}")
            assert pair.active() is active
            moves(session)
        assert session.stop().survived


def test_after_a_power_cut_an_upgrade_goes_on(
    pair: Lab, operator: Operator, others: tuple[Path, Path]
) -> None:
    second, third = others
    node = pair.standby()
    goal = third if images(node)["version"] == "2" else second
    operator.run("upgrade", str(goal), "--node", node.name, "--allow-older")
    assert images(node)["version"] == version(goal)
    assert pair.standby() is node


def cut(operator: Operator, node: Appliance, payload: Path, after: float) -> None:
    """Begin an upgrade of one node; after so many seconds it and the operator are gone."""
    options = ("--node", node.name, "--allow-older")
    with operator.start("upgrade", str(payload), *options) as command:
        threading.Event().wait(after)
        node.kill()
        command.kill()

"""A pair changes its own system under traffic."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from appliance.lab import load
from appliance.lab.faults import wait
from appliance.lab.flows import Report
from appliance.lab.load import Cell, Kind, Mode
from appliance.lab.pair import Lab
from appliance.node.images import Boot
from vmtests.controls import without_conntrackd
from vmtests.figures import Figures
from vmtests.observe import moves, typing
from vmtests.operator import Operator
from vmtests.updates import Payloads, images, roles, version, versions
from vmtests.ways import SNAT

# Busy and idle sessions, FTP in every phase, and a probe that measures the gap.
FLOWS: tuple[Cell, ...] = (
    *load.cells((SNAT,), (Kind.SSH, Kind.SSH_IDLE, Kind.UDP, Kind.FTP_IDLE)),
    *load.cells((SNAT,), (Kind.DOWNLOAD, Kind.NEXT, Kind.HELD), (Mode.PORT,)),
)
LONGEST_GAP = 1.0  # seconds
MIXED = 600.0  # seconds with an old and a new image

Rounds = Callable[[int, int], range]
Upgraded = Callable[[Path], Mapping[Cell, Report]]  # what became of the flows meanwhile


def kept(pair: Lab) -> dict[str, str]:
    """What makes a node this one, whatever its image and however often it boots: its identity, by
    which it finds its journal, its host key, and what lies in its state.
    """
    state = "/var/lib/appliance"
    ask = (
        f"cat /etc/machine-id {state}/ssh/ssh_host_ed25519_key.pub; "
        f"cat {state}/mark || date +%N | tee {state}/mark"
    )
    return {name: node.succeed(ask) for name, node in pair.nodes.items()}


def test_what_is_not_as_it_was_signed_is_refused(
    pair: Lab, operator: Operator, payloads: Payloads, full: bool
) -> None:
    """What is found out before all of it was sent, and with --full the rest."""
    good = payloads.good("2")
    bad = {
        "not signed": payloads.without_a_signature(good),
        "signed by another key": payloads.signed_by_another(good),
        "altered: SHA256SUMS is not": payloads.with_another_sum(good),
    }
    if full:
        kernel = "testcase_2.efi"
        bad[f"altered: {kernel} is not what was signed"] = payloads.altered(good, kernel)
        bad[f"truncated: {kernel} has"] = payloads.truncated(good, kernel)
    with typing(pair) as session:
        before = {name: images(node) for name, node in pair.nodes.items()}
        for words, payload in bad.items():
            assert words in operator.fails("upgrade", str(payload))
        after = {name: images(node) for name, node in pair.nodes.items()}
        for told in (*before.values(), *after.values()):
            told.pop("role")
        assert after == before
        assert session.stop().survived


@pytest.mark.parametrize("where", ["/var", pytest.param("/boot", marks=pytest.mark.long)])
def test_what_there_is_no_room_for_is_refused(
    pair: Lab, operator: Operator, payloads: Payloads, where: str
) -> None:
    """The state partition, on which an update arrives, or the boot partition, is full."""
    node, file = pair.standby(), f"{where}/full"
    before = images(node)
    size = f"$(($(df --output=avail -B1M {where} | tail -1) - 1))M"
    node.succeed(f"fallocate -l {size} {file} || head -c {size} /dev/zero >{file}", timeout=120)
    try:
        said = operator.fails("upgrade", str(payloads.good("2")))
    finally:
        node.succeed(f"rm {file}; sync")
    assert f"{node.name}: the disk is full: {where}" in said
    assert images(node) == before


@pytest.fixture
def upgraded(pair: Lab, operator: Operator, probe: float) -> Upgraded:
    """Give both nodes another image under load."""

    def upgraded(new: Path) -> Mapping[Cell, Report]:
        active, standby = roles(pair)
        options = (str(new), "--allow-older")
        steps = operator.run("upgrade", *options, "--dry-run").splitlines()
        assert [line.split()[1] for line in steps] == [*[f"{standby}:"] * 2, *[f"{active}:"] * 3]
        with load.start(pair, FLOWS, interval=probe) as everything:
            told = json.loads(operator.run("upgrade", *options, "--json"))
            everything.moves()
            reports = everything.stop()
        print(json.dumps(told, indent=1))
        assert [(each["giver"], each["taker"]) for each in told["handovers"]] == [(active, standby)]
        return reports

    return upgraded


@pytest.mark.figures(beside=True)
def test_an_upgrade_of_the_pair_loses_no_session(
    pair: Lab, payloads: Payloads, figures: Figures, rounds: Rounds, upgraded: Upgraded
) -> None:
    """There and back again: each of them is a version that does not run."""
    identity, gaps, lost = kept(pair), [], []
    for _ in (upgrades := rounds(1, 5)):
        new = payloads.another(pair.active())
        reports = upgraded(new)
        gaps += [r.longest_stall for cell, r in reports.items() if cell.kind is Kind.UDP]
        lost += [f"{cell}: {r}" for cell, r in reports.items() if not r.survived]
        assert versions(pair) == dict.fromkeys(pair.nodes, version(new))
        assert {images(node)["boot"] for node in pair.nodes.values()} == {Boot.GOOD}
        assert kept(pair) == identity
    what = f"sessions lost in {len(upgrades)} rolling upgrades, of {len(FLOWS)} in each"
    figures.add(what, "", len(lost), goal="0")
    gap = figures.add("longest gap in a rolling upgrade", "s", *gaps, goal="at most 1 s")
    assert not lost
    assert gap.worst <= LONGEST_GAP


def test_called_again_there_is_nothing_to_do(
    pair: Lab, operator: Operator, payloads: Payloads
) -> None:
    runs = images(pair.active())["version"]
    again = operator.run("upgrade", str(payloads.good(runs)))
    assert again == f"version {runs} runs already: nothing to do\n"


def test_without_state_the_same_handover_loses_the_session(pair: Lab) -> None:
    """The negative control: what survives above, survives because old and new exchange state."""
    with without_conntrackd(pair), typing(pair) as session:
        heir = pair.standby()
        pair.active().succeed("appliance-handover --force")
        pair.wait_active(heir)
        with pytest.raises(AssertionError, match="to go on"):
            moves(session, count=1)
        assert not session.stop().survived


@pytest.mark.long
def test_mixed_versions_carry_the_sessions(
    pair: Lab, operator: Operator, payloads: Payloads
) -> None:
    """Ten minutes with an old and a new image; in their midst the old one, active, loses power."""
    new, (active, standby) = payloads.another(pair.active()), roles(pair)
    operator.run("upgrade", str(new), "--node", standby, "--allow-older")
    mixed = versions(pair)
    assert mixed[standby] == version(new) != mixed[active]
    with load.start(pair, FLOWS) as everything:
        wait(MIXED / 2)
        pair.nodes[active].kill()
        pair.wait_active(pair.nodes[standby])
        everything.moves()
        pair.nodes[active].start()
        pair.wait_ready(timeout=300)
        wait(MIXED / 2)
        everything.moves()
        reports = everything.stop()
    assert versions(pair) == mixed
    assert all(report.survived for report in reports.values()), reports
    operator.run("upgrade", str(new), "--allow-older")
    assert set(versions(pair).values()) == {version(new)}

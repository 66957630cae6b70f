"""What of the fault matrix and the soak is pure: the catalogue, the table, the drawn faults."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from appliance.lab.drill import Outcome
from appliance.lab.faults import Part, catalogue
from appliance.lab.flows import Report
from appliance.lab.load import USUAL, Cell, Kind, cells
from vmtests import expected
from vmtests.expected import wrong
from vmtests.matrix import DASH, POWER_LOSSES, Matrix
from vmtests.soak import LEFT_OUT, drawable, ends, sequence
from vmtests.test_matrix import SHORT
from vmtests.ways import DNAT, FEW, PLAN, SNAT, WAYS

FAULTS = catalogue(PLAN)
NAMES = [fault.name for fault in FAULTS]
ALL = cells(WAYS)


def report(alive: bool, stall: float = 0.3) -> Report:
    return Report(100, 100, stall, 1.0, 10.0, True, alive, "" if alive else "gone")


def outcome(fault: str, lost: Iterable[Cell] = (), takeovers: int = 1) -> Outcome:
    gone = set(lost)
    return Outcome(fault, {cell: report(cell not in gone) for cell in ALL}, takeovers, 60.0)


def doomed(fault: str) -> list[Cell]:
    return [cell for cell in ALL if expected.loss(fault, cell)]


def test_every_fault_has_a_name_of_its_own_and_the_tables_name_none_that_is_not_there() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(SHORT) < set(NAMES)
    assert set(POWER_LOSSES) < set(NAMES)
    assert set(LEFT_OUT) < set(NAMES)


def test_every_cable_and_part_of_the_site_has_its_faults() -> None:
    for network in PLAN.networks:
        assert f"{network} link cut" in NAMES
        for part in Part:
            assert f"{network} silent to the {part} node" in NAMES


def test_the_short_form_has_every_kind_and_every_way() -> None:
    assert {cell.kind for cell in FEW} == set(USUAL)
    assert {cell.path for cell in FEW} == set(WAYS)
    for control in expected.CONTROLS:
        assert [cell for cell in FEW if control.covers(control.fault, cell)]


def test_what_is_lost_without_a_reason_is_wrong() -> None:
    (ssh,) = cells((SNAT,), (Kind.SSH,))
    assert wrong("power loss", outcome("power loss").reports) == []
    assert wrong("power loss", outcome("power loss", [ssh]).reports) == [
        "ssh, snat: lost (gone), and kept was expected"
    ]


def test_what_must_be_lost_and_is_kept_is_wrong_too() -> None:
    fault = expected.NO_CONNTRACKD
    assert wrong(fault, outcome(fault, doomed(fault)).reports) == []
    spared, *others = doomed(fault)
    (words,) = wrong(fault, outcome(fault, others).reports)
    assert words == f"{spared}: kept, and lost was expected"


def test_each_cure_of_ftp_is_missed_where_it_is_needed() -> None:
    held = [cell for cell in ALL if cell.kind is Kind.HELD]
    assert doomed(expected.NOT_HANDED_OVER) == held
    assert not [
        cell for cell in doomed(expected.NOT_ANNOUNCED) if cell.path is DNAT and cell.mode != "PASV"
    ]


def test_the_page_counts_what_was_kept_and_gives_the_reason_for_what_was_not_promised() -> None:
    before, none = expected.BOTH_BEFORE, f"{DASH} (1)"
    matrix = Matrix([outcome("power loss"), outcome(before, doomed(before), 0)])
    page = "\n".join(matrix.lines())
    assert "| power loss | 3/3 | 3/3 |" in page
    assert "| 300 ms | 1 |" in page
    assert f"| {before} | {none} | {none} | {none} | {none} | 3/3 | {none} |" in page
    assert "1. connections are remembered in the nodes' memory" in page
    promised = len(ALL) + 3
    assert (
        f"2 faults, 1 takeovers. Sessions promised: {promised}; kept: {promised}; lost: 0." in page
    )


def test_the_page_tells_of_a_lost_session() -> None:
    (tcp,) = cells((DNAT,), (Kind.TCP,))
    page = "\n".join(Matrix([outcome("power loss", [tcp])]).lines())
    assert "2/3" in page
    assert "lost: 1." in page


def test_the_controls_are_told_apart() -> None:
    fault = expected.NO_CONNTRACKD
    matrix = Matrix([outcome("power loss")], [outcome(fault, doomed(fault))])
    count = len(doomed(fault))
    assert f"| {fault} | {count} | {count} | 3 | 3 |" in matrix.lines()


def test_only_a_whole_run_is_whole() -> None:
    matrix = Matrix(
        [outcome(name) for name in (*NAMES, *expected.BESIDES)],
        [outcome(name) for name in expected.MISSING],
    )
    assert matrix.whole
    matrix.rows.pop()
    assert not matrix.whole


def test_nothing_run_gives_no_table() -> None:
    assert Matrix().lines() == []


def test_the_same_seed_gives_the_same_faults() -> None:
    def names(seed: int, count: int) -> list[str]:
        return [fault.name for fault in sequence(catalogue(PLAN), seed, count)]

    assert names(7, 200) == names(7, 200)
    assert names(7, 5) == names(7, 200)[:5]
    assert names(7, 200) != names(8, 200)


def test_what_is_drawn_loses_nothing_by_nature() -> None:
    """So that the soak's traffic may live as long as it."""
    assert not [f.name for f in drawable(FAULTS) for cell in ALL if expected.loss(f.name, cell)]
    assert not {fault.name for fault in drawable(FAULTS)} & set(LEFT_OUT)


@pytest.mark.parametrize(
    "line",
    [
        "tcp      6 431 ESTABLISHED src=10.0.0.3 dst=10.0.1.3 sport=4 dport=22 src=10.0.1.3 dst=1",
        "tcp      6 ESTABLISHED src=10.0.0.3 dst=10.0.1.3 sport=4 dport=22 [active since 5s]",
        "ipv4     2 tcp      6 src=10.0.0.3 dst=10.0.1.3 sport=4 dport=22 packets=1",
    ],
)
def test_the_same_connection_is_found_in_every_listing(line: str) -> None:
    assert ends(f"{line}\n") == {("tcp", "src=10.0.0.3 dst=10.0.1.3 sport=4 dport=22")}

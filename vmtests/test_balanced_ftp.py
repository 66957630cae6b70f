"""The FTP cluster of ftp-lvs.yaml: one mark leads control and data to one server, and a client's
sessions outlive the balancer that leads them. The short form has such a service on the pair of
edge.yaml, in test_balanced_edge.py.
"""

from __future__ import annotations

import pytest

from appliance.lab import load
from appliance.lab.drill import Watch, drill, undergo
from appliance.lab.expect import prove_all
from appliance.lab.faults import POWER_LOSS, Fault
from appliance.lab.load import Cell, Kind, Mode
from appliance.lab.pair import Lab
from appliance.lab.who import Asked
from vmtests.balanced import (
    HANDOVER,
    cells,
    example,
    led,
    lost,
    scheduler,
    takeovers,
    untold,
    without_state,
)
from vmtests.controls import power_loss_alone
from vmtests.figures import Figures
from vmtests.wanted import on

SITE, PLAN = example("ftp-lvs")
(FTP,) = PLAN.virtual_services
(VIRTUAL,) = FTP.addresses
CLIENTS, HOST = 12, "public-clients"
BUSY = 6  # of the clients' addresses: those with all kinds of sessions

pytestmark = [on(SITE, {"public": CLIENTS}), pytest.mark.long]


@pytest.fixture
def sessions(pair: Lab) -> tuple[Cell, ...]:
    """From six addresses, all modes from each."""
    sources = pair.hosts[HOST].addresses()[:BUSY]
    return cells(FTP, HOST, sources, full=True)


def test_what_the_site_expects_holds(pair: Lab) -> None:
    assert len(prove_all(pair)) == len(PLAN.expectations)


def test_a_client_stays_on_one_server_and_both_have_clients(pair: Lab) -> None:
    servers = led(pair.hosts[HOST], VIRTUAL, Asked.FTP, times=3)
    assert all(len(each) == 1 for each in servers.values()), servers
    assert set().union(*servers.values()) == {"ftp-1", "ftp-2"}


@takeovers
def test_sessions_outlive(pair: Lab, fault: Fault, sessions: tuple[Cell, ...]) -> None:
    assert not lost(drill(pair, fault, sessions).reports)


@pytest.mark.figures
def test_fifty_takeovers_lose_nothing(
    pair: Lab, sessions: tuple[Cell, ...], figures: Figures
) -> None:
    """Sessions that live as long as all of it: each dead node is back before the next takeover."""
    watch = Watch.begin(pair)
    with load.start(pair, sessions) as traffic:
        for fault in (POWER_LOSS, *[HANDOVER] * 4) * 10:
            undergo(pair, fault, traffic)
        outcome = watch.outcome("fifty takeovers", traffic.stop())
    what = f"of {len(sessions)} balanced sessions lost, over {outcome.takeovers} takeovers"
    assert outcome.takeovers >= 50
    assert figures.add(what, "", len(lost(outcome.reports)), goal="0").worst == 0


def test_without_state_every_session_is_lost(pair: Lab, sessions: tuple[Cell, ...]) -> None:
    """The negative control of what outlives above."""
    with without_state(pair):
        outcome = power_loss_alone(pair, "no state", sessions)
    assert len(lost(outcome.reports)) == len(sessions)


def test_without_templates_data_goes_astray(pair: Lab) -> None:
    """With `rr` a client's server is only known by its template: conntrackd carries the control
    connections alone, and of new data connections some meet a server that awaits none.
    """
    sources = pair.hosts[HOST].addresses()
    every = (each for source in sources for each in load.balanced(FTP, HOST, source))
    few = tuple(c for c in every if c.kind is Kind.FTP_IDLE or c.mode is Mode.PASV)
    few = tuple(c for c in few if c.kind in (Kind.FTP_IDLE, Kind.NEXT))
    with scheduler(pair, "rr"), untold(pair):
        outcome = power_loss_alone(pair, "no templates", few)
    gone = {cell for cell, report in outcome.reports.items() if not report.survived}
    assert gone
    assert {cell.kind for cell in gone} == {Kind.NEXT}

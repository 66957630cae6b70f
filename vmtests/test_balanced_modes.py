"""NAT, direct routing and tunnels, over both IP versions (vmtests/sites/modes.yaml)."""

from __future__ import annotations

from itertools import chain

import pytest

from appliance.lab.drill import drill
from appliance.lab.faults import POWER_LOSS, Fault
from appliance.lab.load import Cell, Kind, balanced
from appliance.lab.pair import Lab
from appliance.plan.model import Address
from appliance.plan.virtual import VirtualService
from appliance.site import load
from vmtests.balanced import (
    cells,
    led,
    lost,
    named,
    scheduler,
    takeovers,
    without_state,
)
from vmtests.controls import power_loss_alone
from vmtests.installed import CLONE
from vmtests.wanted import on

FILE = CLONE / "vmtests/sites/modes.yaml"
PLAN = load(FILE)
CLIENTS, HOST = 8, "public-clients"
FTP, DIRECT, TUNNEL = (named(PLAN, name) for name in ("ftp", "direct", "tunnel"))
ASIDE = (DIRECT, TUNNEL)  # whose answers do not come by

pytestmark = [on(FILE.read_text(), {"public": CLIENTS}), pytest.mark.long]


def sources(pair: Lab, count: int) -> list[Address]:
    """So many of the clients' addresses of each IP version."""
    return list(chain(*(pair.hosts[HOST].addresses(version)[:count] for version in (4, 6))))


@pytest.fixture
def sessions(pair: Lab) -> tuple[Cell, ...]:
    """Over each service from some addresses of both IP versions."""
    few = sources(pair, 4)
    return tuple(
        c for service in PLAN.virtual_services for c in cells(service, HOST, few, full=True)
    )


@pytest.mark.parametrize("service", ASIDE, ids=lambda service: service.forward)
def test_a_client_meets_one_server_that_answers_itself(pair: Lab, service: VirtualService) -> None:
    for virtual in service.addresses:
        servers = led(pair.hosts[HOST], virtual, times=2)
        assert all(len(each) == 1 for each in servers.values()), servers
        assert set().union(*servers.values()) == {f"{service.name}-1", f"{service.name}-2"}


@takeovers
def test_sessions_outlive(pair: Lab, fault: Fault, sessions: tuple[Cell, ...]) -> None:
    assert not lost(drill(pair, fault, sessions).reports)


def test_downloads_over_ipv6_outlive_twenty_power_losses(pair: Lab) -> None:
    """Whoever takes over has the address a moment before the state: no RST may leave meanwhile."""
    clients = pair.hosts[HOST].addresses(6)
    few = tuple(
        cell
        for source in clients
        for cell in balanced(FTP, HOST, source)
        if cell.kind is Kind.DOWNLOAD
    )
    for _ in range(20):
        assert not lost(drill(pair, POWER_LOSS, few).reports)


@pytest.mark.last
def test_without_state_sessions_are_lost(pair: Lab, sessions: tuple[Cell, ...]) -> None:
    """The negative control. With direct routing and tunnels a client's server follows from its
    address, and the rest of a connection is taken as it comes: so only another scheduler shows what
    the state is good for.
    """
    with scheduler(pair, "rr"), without_state(pair):
        outcome = power_loss_alone(pair, "no state", sessions)
    gone = {cell for cell, report in outcome.reports.items() if not report.survived}
    assert {cell for cell in outcome.reports if cell.path.server == FTP.name} <= gone
    for service in ASIDE:
        assert any(cell.path.server == service.name for cell in gone), service.forward

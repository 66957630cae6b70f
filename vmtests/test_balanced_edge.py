"""The site with everything, edge.yaml: firewall and balancer at once, over both IP versions, with
the real servers on a VLAN.
"""

from __future__ import annotations

import pytest

from appliance.lab.drill import drill
from appliance.lab.expect import prove_all
from appliance.lab.faults import Fault
from appliance.lab.load import Cell
from appliance.lab.pair import Lab
from appliance.lab.who import Asked
from vmtests import edge
from vmtests.balanced import led, lost, takeovers, without_state
from vmtests.controls import power_loss_alone
from vmtests.edge import CLIENTS, FOUR, HOST, PLAN, SITE, SIX
from vmtests.wanted import on

pytestmark = on(SITE, {"wan": CLIENTS})


@pytest.fixture
def sessions(pair: Lab, full: bool) -> tuple[Cell, ...]:
    """All that runs through the pair."""
    return edge.sessions(pair, full=full)


def test_what_the_site_expects_holds(pair: Lab) -> None:
    assert len(prove_all(pair)) == len(PLAN.expectations)


def test_each_service_leads_to_its_servers(pair: Lab) -> None:
    """By weight 3 to 1, each client to one, alike on all ports; names over UDP and TCP."""
    client = pair.hosts[HOST]
    for virtual in (FOUR, SIX):
        plain, secure = led(client, virtual, times=3), led(client, virtual, Asked.HTTPS)
        assert plain == secure
        assert all(len(servers) == 1 for servers in plain.values())
        assert set().union(*plain.values()) == {"web-1", "web-2"}
    for how in (Asked.DNS, Asked.DNS_TCP):
        assert set().union(*led(client, FOUR, how).values()) == {"dns-1", "dns-2"}
    assert set().union(*led(client, FOUR, Asked.FTP).values()) == {"ftp-1", "ftp-2"}


@takeovers
def test_sessions_outlive(pair: Lab, fault: Fault, sessions: tuple[Cell, ...]) -> None:
    clients = pair.hosts[HOST]
    before = led(clients, FOUR), led(clients, SIX)
    assert not lost(drill(pair, fault, sessions).reports)
    assert (led(clients, FOUR), led(clients, SIX)) == before
    assert set().union(*led(clients, FOUR, Asked.DNS).values()) == {"dns-1", "dns-2"}


@pytest.mark.last
def test_without_state_every_session_is_lost(pair: Lab, sessions: tuple[Cell, ...]) -> None:
    """The negative control of what outlives above."""
    with without_state(pair):
        outcome = power_loss_alone(pair, "no state", sessions)
    assert len(lost(outcome.reports)) == len(sessions)

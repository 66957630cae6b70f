"""The site with everything, edge.yaml: firewall and balancer at once, over both IP versions, with
the real servers on a VLAN.
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from appliance.lab import load
from appliance.lab.drill import drill
from appliance.lab.expect import prove_all
from appliance.lab.faults import Fault
from appliance.lab.load import Cell, Kind, Mode, Path
from appliance.lab.pair import Lab
from appliance.lab.who import Asked
from vmtests.balanced import cells, example, led, lost, named, takeovers, without_state
from vmtests.controls import power_loss_alone
from vmtests.wanted import on

SITE, PLAN = example("edge")
CLIENTS, HOST = 8, "wan-clients"
FOUR, SIX = named(PLAN, "web").addresses

# Through the firewall beside the services, behind source NAT and without any.
WAYS = (
    Path("out by IPv4", "lan", "wan", ip_address("198.51.100.1")),
    Path("out by IPv6", "lan", "wan-2", ip_address("2001:db8:1::1")),
)
KINDS = (Kind.SSH, Kind.SSH_IDLE, Kind.DOWNLOAD, Kind.HELD, Kind.NEXT)

pytestmark = on(SITE, {"wan": CLIENTS})


@pytest.fixture
def sessions(pair: Lab, pytestconfig: pytest.Config) -> tuple[Cell, ...]:
    """Over each service from some addresses of both IP versions, and through the firewall."""
    full, client = pytestconfig.getoption("--full"), pair.hosts[HOST]
    few = [each for version in (4, 6) for each in client.addresses(version)[: 4 if full else 2]]
    modes = tuple(Mode) if full else (Mode.PORT, Mode.EPRT)
    return (
        *(c for service in PLAN.virtual_services for c in cells(service, HOST, few, full=full)),
        *load.cells(WAYS, KINDS, modes),
    )


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


def test_without_state_every_session_is_lost(pair: Lab, sessions: tuple[Cell, ...]) -> None:
    """The negative control of what outlives above."""
    with without_state(pair):
        outcome = power_loss_alone(pair, "no state", sessions)
    assert len(lost(outcome.reports)) == len(sessions)

"""The mail balancer of mail-balancer.yaml: least connections, and a failed host that keeps what it
has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice

import pytest

from appliance.lab import load, orders
from appliance.lab.drill import drill
from appliance.lab.faults import Fault, Scene, reload
from appliance.lab.flows import Carrier
from appliance.lab.load import Cell
from appliance.lab.pair import Lab
from appliance.lab.who import Asked
from appliance.plan.virtual import OnFailure, Scheduler, VirtualService
from vmtests.balanced import HANDOVER, POWER_LOSSES, cells, example, led, lost, without_state
from vmtests.controls import power_loss_alone
from vmtests.observe import until
from vmtests.wanted import on

SITE, PLAN = example("mail-balancer")
(SMTP,) = PLAN.virtual_services
(VIRTUAL,) = SMTP.addresses
HOST = "front-clients"
REAL = ("smtp-1", "smtp-2")
ESTABLISHED = "ss -Htn state established sport = :25 | wc -l"
# Seconds until a check each 10 s has failed three times, 6 s apart, or is well again.
NOTICED = 90.0
FORGOTTEN = 150.0  # seconds: IPVS counts what has ended for two minutes more

pytestmark = on(SITE, {"front": 4})


@pytest.fixture
def sessions(pair: Lab) -> tuple[Cell, ...]:
    """A session with a mail server from each address."""
    return cells(SMTP, HOST, pair.hosts[HOST].addresses(), full=True)


@pytest.mark.parametrize("weights", [pytest.param((1, 1), marks=pytest.mark.long), (3, 1)], ids=str)
def test_connections_are_shared_by_weight(pair: Lab, weights: tuple[int, int]) -> None:
    """Least connections as the site has it, which knows no weights, and weighted."""
    until(lambda: not any(connections(pair)), FORGOTTEN, "no connections")
    if weights != (1, 1):
        change(pair, lambda service: replace(weighed(service, weights), scheduler=Scheduler.WLC))
    with held(pair, 200) as servers:
        print(servers)
    change(pair, lambda service: service)
    for name, weight in zip(REAL, weights, strict=True):
        assert servers[name] == pytest.approx(200 * weight / sum(weights), rel=0.1)


@contextmanager
def held(pair: Lab, count: int) -> Iterator[Mapping[str, int]]:
    """So many connections at once from all addresses; how many of them each server has."""
    client = pair.hosts[HOST]
    sources = islice(cycle(client.addresses()), count)
    opened = {
        f"{number} from {source}": orders.tcp(
            VIRTUAL, interval=None, port=25, greeting=False, source=source
        )
        for number, source in enumerate(sources)
    }
    with Carrier(client, opened) as carrier:
        assert not carrier.wait_ready()
        yield {name: int(pair.hosts[name].succeed(ESTABLISHED)) for name in REAL}


def connections(pair: Lab) -> list[int]:
    """What the active node's IPVS still counts for each server."""
    lines = pair.active().succeed("grep -e '->' /proc/net/ip_vs | tail -n +2").splitlines()
    return [int(each) for line in lines for each in line.split()[-2:]]


def weighed(service: VirtualService, weights: tuple[int, ...]) -> VirtualService:
    """With these weights of its servers."""
    pairs = zip(service.servers, weights, strict=True)
    return replace(service, servers=tuple(replace(each, weight=weight) for each, weight in pairs))


def change(pair: Lab, how: Callable[[VirtualService], VirtualService]) -> None:
    """Load the site with its service changed; returns when it is in force."""
    changed = how(SMTP)
    reload(Scene.now(pair), replace(PLAN, virtual_services=(changed,)))
    wanted = {server.addresses[0]: server.weight for server in changed.servers}

    def in_force() -> bool:
        return all(pair.balanced(node, SMTP.name) == wanted for node in pair.nodes.values())

    until(in_force, NOTICED, "the change")


@pytest.mark.long
@pytest.mark.parametrize("fault", [POWER_LOSSES, HANDOVER], ids=lambda fault: fault.name)
def test_sessions_outlive(pair: Lab, fault: Fault, sessions: tuple[Cell, ...]) -> None:
    assert not lost(drill(pair, fault, sessions).reports)


@pytest.mark.long
def test_without_state_every_session_is_lost(pair: Lab, sessions: tuple[Cell, ...]) -> None:
    """The negative control of what outlives above."""
    with without_state(pair):
        outcome = power_loss_alone(pair, "no state", sessions)
    assert len(lost(outcome.reports)) == len(sessions)


def test_a_host_that_refuses_mail_gets_none_and_keeps_its_sessions(
    pair: Lab, sessions: tuple[Cell, ...]
) -> None:
    """It takes connections still: only who listens to its greeting knows."""
    with load.start(pair, sessions) as traffic:
        refuse(pair)
        assert set().union(*led(pair.hosts[HOST], VIRTUAL, Asked.SMTP).values()) == {"smtp-2"}
        traffic.moves()
        pair.hosts["smtp-1"].mail()
        until(lambda: pair.trouble() is None, NOTICED, "both hosts")
        assert not lost(traffic.stop())


@pytest.mark.long
def test_a_host_that_is_removed_loses_its_sessions(pair: Lab, sessions: tuple[Cell, ...]) -> None:
    """The negative control: it is the weight of 0 that keeps them."""
    change(pair, lambda service: replace(service, on_failure=OnFailure.REMOVE))
    with load.start(pair, sessions) as traffic:
        refuse(pair, weight=None)
        assert lost(traffic.stop())
    pair.hosts["smtp-1"].mail()
    change(pair, lambda service: service)


def refuse(pair: Lab, weight: int | None = 0) -> None:
    """Have the first host greet with a 554; returns when both nodes have noticed."""
    host = pair.hosts["smtp-1"]
    host.mail(refuses=True)

    def noticed() -> bool:
        tables = (pair.balanced(node, SMTP.name) for node in pair.nodes.values())
        return all(table.get(host.address) == weight for table in tables)

    until(noticed, NOTICED, f"{host.name} to be out")

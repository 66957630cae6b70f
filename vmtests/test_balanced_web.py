"""The bundle of web-bundle.yaml: HTTP and HTTPS by one mark, a shell service and a sorry server;
and what an operator does with its servers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import pytest

from appliance.lab import flows, load
from appliance.lab.drill import drill
from appliance.lab.faults import READY_WITHIN, Fault, Scene, power_loss, reload, restore
from appliance.lab.load import Cell
from appliance.lab.pair import Lab
from appliance.lab.who import Asked, who
from appliance.plan.model import Address
from appliance.plan.virtual import Persistence, Scheduler, VirtualService
from vmtests.balanced import (
    cells,
    example,
    led,
    lost,
    named,
    takeovers,
    untold,
    without_state,
)
from vmtests.controls import power_loss_alone
from vmtests.observe import moves, until
from vmtests.operator import Operator
from vmtests.wanted import on

SITE, PLAN = example("web-bundle")
WEB, SHELL = named(PLAN, "web"), named(PLAN, "shell")
(VIRTUAL,) = WEB.addresses
CLIENTS, HOST = 64, "public-clients"
SERVED = 4  # of the clients' addresses: those that have sessions
REAL = {"web-1", "web-2"}
REASON = "HTTP status code error"  # keepalived does not say which code
NOTICED = 30.0  # seconds for a check of each 2 s to fail, or to be well again, on a slow machine

pytestmark = [on(SITE, {"public": CLIENTS}), pytest.mark.long]

Led = dict[Address, set[str | None]]


def weighed(service: VirtualService) -> VirtualService:
    """With another weight of each server."""
    return replace(service, servers=tuple(replace(each, weight=3) for each in service.servers))


CHANGES: dict[str, Callable[[VirtualService], VirtualService]] = {
    "weights": weighed,
    "scheduler": lambda service: replace(service, scheduler=Scheduler.MH),
    "persistence": lambda service: replace(service, persistence=Persistence(60, {})),
}


@pytest.fixture
def sessions(pair: Lab) -> tuple[Cell, ...]:
    """Requests over one connection, someone typing, someone silent; from some addresses."""
    sources = pair.hosts[HOST].addresses()[:SERVED]
    return tuple(c for s in (WEB, SHELL) for c in cells(s, HOST, sources, full=True))


Newcomers = Callable[[int], Sequence[Address]]


@pytest.fixture(scope="module")
def newcomers(lab: Lab) -> Newcomers:
    """So many clients that nobody has met: the service keeps those that it knows where they are."""
    left = iter(lab.hosts[HOST].addresses()[SERVED:])
    return lambda count: list(islice(left, count))


def bundled(pair: Lab, clients: Sequence[Address]) -> Led:
    """Each client's servers on both ports."""
    host = pair.hosts[HOST]
    plain, secure = (led(host, VIRTUAL, how, clients) for how in (Asked.HTTP, Asked.HTTPS))
    return {source: plain[source] | secure[source] for source in plain}


def answers(pair: Lab, clients: Sequence[Address]) -> set[str | None]:
    """Who answers these clients."""
    return set().union(*led(pair.hosts[HOST], VIRTUAL, sources=clients).values())


@takeovers
def test_sessions_outlive(pair: Lab, fault: Fault, sessions: tuple[Cell, ...]) -> None:
    assert not lost(drill(pair, fault, sessions).reports)


def test_without_state_every_session_is_lost(pair: Lab, sessions: tuple[Cell, ...]) -> None:
    """The negative control of what outlives above."""
    with without_state(pair):
        outcome = power_loss_alone(pair, "no state", sessions)
    assert len(lost(outcome.reports)) == len(sessions)


def test_the_sorry_server_answers_while_no_other_does(pair: Lab, newcomers: Newcomers) -> None:
    few = newcomers(4)
    for name in sorted(REAL):
        pair.hosts[name].stop("nginx")
    until(lambda: answers(pair, few) == {"web-sorry"}, NOTICED, "the sorry server")
    pair.hosts["web-2"].start("nginx")
    until(lambda: answers(pair, few) == {"web-2"}, NOTICED, "the server that came back")
    assert who(pair.hosts[HOST], VIRTUAL, Asked.SSH) in REAL, "the other service has its own check"


def test_a_check_that_fails_takes_a_server_out_and_says_why(
    pair: Lab, operator: Operator, newcomers: Newcomers
) -> None:
    ill, few = "10.11.12.31", newcomers(4)
    pair.hosts["web-1"].health(503)
    try:
        until(lambda: answers(pair, few) == {"web-2"}, NOTICED, "the other server")
        for node in pair.nodes:
            until(lambda node=node: REASON in told(operator, node, ill), NOTICED, "the reason")
    finally:
        pair.hosts["web-1"].health()
    shared(pair, newcomers)


def told(operator: Operator, node: str, server: str) -> str:
    """Why a server is out."""
    return str(operator.servers(node, "web")[server]["why"])


def shared(pair: Lab, newcomers: Newcomers) -> None:
    """Whoever is new is led to both servers, once both nodes have both."""
    until(lambda: pair.trouble() is None, NOTICED, "both servers")
    assert answers(pair, newcomers(4)) == REAL


def test_a_drained_server_keeps_what_it_has_and_gets_nothing_new(
    pair: Lab, operator: Operator, newcomers: Newcomers
) -> None:
    client, few = pair.hosts[HOST], newcomers(4)
    names = {str(own.ip): name for name in REAL for own in pair.hosts[name].host.addresses}
    with flows.http(client, VIRTUAL, kept=True) as flow:
        server = next(a for a, name in names.items() if name == who(client, VIRTUAL))
        other = (REAL - {names[server]}).pop()
        operator.run("drain", "web", server)
        assert answers(pair, few) == {other}
        moves(flow)
        taker = pair.standby()
        operator.run("handover")
        pair.wait_active(taker)
        moves(flow)
        assert answers(pair, newcomers(4)) == {other}, "drained on the new active node as well"
        for node in pair.nodes:
            assert operator.servers(node, "web")[server]["state"] == "drained"
        left = json.loads(operator.run("drain", "web", server, "--wait", "1", "--json", code=1))
        assert left["left"]["active"] == 1
        assert flow.stop().survived
    operator.run("undrain", "web", server)
    shared(pair, newcomers)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_service_is_loaded_without_losing_a_connection(pair: Lab, change: str) -> None:
    few = cells(WEB, HOST, pair.hosts[HOST].addresses()[:SERVED], full=True)
    changed = replace(PLAN, virtual_services=tuple(map(CHANGES[change], PLAN.virtual_services)))
    with load.start(pair, few) as traffic:
        for plan in (changed, PLAN):
            reload(Scene.now(pair), plan)
            pair.wait_ready()
            traffic.moves()
        assert not lost(traffic.stop())


def test_a_client_meets_one_server_on_both_ports_also_after_takeovers(
    pair: Lab, newcomers: Newcomers
) -> None:
    """By templates alone, for the scheduler is `rr`; the second takeover is by a node
    that was told of them by the agent.
    """
    clients = newcomers(12)
    before = bundled(pair, clients)
    assert all(len(each) == 1 for each in before.values()), before
    assert set().union(*before.values()) == REAL
    for _ in range(2):
        scene = Scene.now(pair)
        power_loss(scene)
        pair.wait_active(scene.standby)
        assert bundled(pair, clients) == before
        restore(scene)
        pair.wait_ready(READY_WITHIN)
        until(lambda: in_step(pair), NOTICED, "all of the active node's table at the standby")


def in_step(pair: Lab) -> bool:
    """Whether the standby's IPVS has all that the active node's has; a template that it was told of
    by the agent lasts longer there.
    """
    state = pair.standby().state()
    found = state["ipvs"]["difference"].values() if state else [None]
    return all(each is not None and each >= 0 for each in found)


def test_without_templates_a_client_meets_another_server(pair: Lab, newcomers: Newcomers) -> None:
    """The negative control of the same server after takeovers: these clients are new."""
    clients = newcomers(12)
    with untold(pair):
        before = bundled(pair, clients)
        assert all(len(each) == 1 for each in before.values()), before
        scene = Scene.now(pair)
        power_loss(scene)
        pair.wait_active(scene.standby)
        assert bundled(pair, clients) != before

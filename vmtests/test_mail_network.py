"""The mail network as a whole: the pair of mail-firewall.yaml before that of mail-balancer.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import cycle, islice

import pytest

from appliance.lab import load, mail, orders
from appliance.lab.faults import READY_WITHIN, Scene, hand_over, power_loss, reload, restore
from appliance.lab.flows import Carrier
from appliance.lab.load import Cell, Kind
from appliance.lab.pair import Lab
from appliance.lab.who import Asked
from appliance.plan.virtual import OnFailure, Scheduler, VirtualService
from vmtests import evidence
from vmtests.balanced import example, led, lost, without_state
from vmtests.controls import without_conntrackd
from vmtests.observe import settle, until
from vmtests.wanted import Wanted

WALLS, _ = example("mail-firewall")
BALANCERS, PLAN = example("mail-balancer")
(SMTP,) = PLAN.virtual_services
HOST = "front-clients"
REAL = ("smtp-1", "smtp-2")
ESTABLISHED = "ss -Htn state established sport = :25 | wc -l"
# Seconds until a check each 10 s has failed three times, 6 s apart, or is well again.
NOTICED = 90.0
FORGOTTEN = 150.0  # seconds: IPVS counts what has ended for two minutes more
OUTSIDE = ip_address("192.168.0.60")  # what the firewalls lead to the balancers

pytestmark = pytest.mark.long


@dataclass(frozen=True, slots=True)
class Network:
    """The firewall pair, and the balancer pair behind it, on one network between them."""

    walls: Lab
    balancers: Lab

    @property
    def pairs(self) -> tuple[Lab, Lab]:
        """Both, from the outside inward."""
        return self.walls, self.balancers


@pytest.fixture(scope="module")
def joined(begin: Callable[..., AbstractContextManager[Lab]]) -> Iterator[Network]:
    """Four nodes, ready."""
    with (
        begin(Wanted(WALLS, {"front": 4}), elsewhere=["back"]) as walls,
        begin(Wanted(BALANCERS), elsewhere=["front"]) as balancers,
    ):
        walls.join("back", balancers, "front")
        yield Network(walls, balancers)


@pytest.fixture
def network(joined: Network, request: pytest.FixtureRequest) -> Iterator[Network]:
    for pair in joined.pairs:
        settle(pair)
    with evidence.of(request, *joined.pairs):
        yield joined


@pytest.fixture
def through(network: Network) -> tuple[Cell, ...]:
    """A session with a mail server from each address outside."""
    sources = network.walls.hosts[HOST].addresses()
    ways = [load.Path(f"from {each}", HOST, SMTP.name, OUTSIDE, each) for each in sources]
    return load.cells(ways, (Kind.SMTP,))


@pytest.mark.parametrize("weights", [(1, 1), (3, 1)], ids=str)
def test_connections_are_shared_by_weight(network: Network, weights: tuple[int, int]) -> None:
    """Least connections as the site has it, which knows no weights, and weighted."""
    pair = network.balancers
    until(lambda: not any(connections(pair)), FORGOTTEN, "no connections")
    if weights != (1, 1):
        change(pair, lambda service: replace(weighed(service, weights), scheduler=Scheduler.WLC))
    with held(network, 200) as servers:
        print(servers)
    change(pair, lambda service: service)
    for name, weight in zip(REAL, weights, strict=True):
        assert servers[name] == pytest.approx(200 * weight / sum(weights), rel=0.1)


@contextmanager
def held(network: Network, count: int) -> Iterator[Mapping[str, int]]:
    """So many connections at once from all addresses; how many of them each server has."""
    client = network.walls.hosts[HOST]
    sources = islice(cycle(client.addresses()), count)
    opened = {
        f"{number} from {source}": orders.tcp(
            OUTSIDE, interval=None, port=25, greeting=False, source=source
        )
        for number, source in enumerate(sources)
    }
    with Carrier(client, opened) as carrier:
        assert not carrier.wait_ready()
        yield {name: int(network.balancers.hosts[name].succeed(ESTABLISHED)) for name in REAL}


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


def test_a_host_that_refuses_mail_gets_none_and_keeps_its_sessions(
    network: Network, through: tuple[Cell, ...]
) -> None:
    """It takes connections still: only who listens to its greeting knows."""
    pair = network.balancers
    with load.start(network.walls, through) as traffic:
        refuse(pair)
        servers = led(network.walls.hosts[HOST], OUTSIDE, Asked.SMTP)
        assert set().union(*servers.values()) == {"smtp-2"}
        traffic.moves()
        pair.hosts["smtp-1"].mail()
        until(lambda: pair.trouble() is None, NOTICED, "both hosts")
        assert not lost(traffic.stop())


def test_a_host_that_is_removed_loses_its_sessions(
    network: Network, through: tuple[Cell, ...]
) -> None:
    """The negative control: it is the weight of 0 that keeps them."""
    pair = network.balancers
    change(pair, lambda service: replace(service, on_failure=OnFailure.REMOVE))
    with load.start(network.walls, through) as traffic:
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


@pytest.mark.parametrize("which", ["walls", "balancers"])
def test_without_state_the_sessions_are_lost(
    network: Network, through: tuple[Cell, ...], which: str
) -> None:
    """The negative control of those that outlive the next test's faults: the role moves, and the
    state does not.
    """
    pair: Lab = getattr(network, which)
    giver, taker = pair.active(), pair.standby()
    without = without_state if which == "balancers" else without_conntrackd
    with without(pair), load.start(network.walls, through) as traffic:
        giver.succeed("systemctl stop keepalived")
        pair.wait_active(taker, READY_WITHIN)
        giver.succeed("systemctl start keepalived")
        assert len(lost(traffic.stop())) == len(through)


def test_accepted_mail_arrives_once_while_each_pair_loses_power(
    network: Network, through: tuple[Cell, ...]
) -> None:
    """Each dead node comes back, the other one dies, and the roles are changed."""
    client = network.walls.hosts[HOST]
    with (
        load.start(network.walls, through) as traffic,
        mail.sending(client, OUTSIDE, sources=client.addresses()) as sending,
    ):
        for pair in network.pairs * 2:
            scene = Scene.now(pair)
            power_loss(scene)
            pair.wait_active(scene.standby, READY_WITHIN)
            traffic.moves()
            sending.moves(20)
            restore(scene)
            pair.wait_ready(READY_WITHIN)
        for pair in network.pairs:
            hand_over(Scene.now(pair))
            traffic.moves()
            sending.moves(20)
        letters, reports = sending.stop(), traffic.stop()
    fates = mail.wait_delivered(network.balancers.hosts.values(), letters)
    print(f"{len(letters.accepted)} messages, on {dict(fates.on)}")
    assert sum(map(bool, fates.on.values())) == len(SMTP.servers)
    assert not letters.refused
    assert not lost(reports)

"""The mail network as a whole: the pair of mail-firewall.yaml before that of mail-balancer.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from appliance.lab import load, mail
from appliance.lab.faults import READY_WITHIN, Scene, power_loss, restore
from appliance.lab.load import Cell, Kind
from appliance.lab.pair import Lab
from vmtests.balanced import example, lost
from vmtests.controls import power_loss_alone, without_conntrackd
from vmtests.observe import settle
from vmtests.wanted import Wanted

WALLS, _ = example("mail-firewall")
BALANCERS, PLAN = example("mail-balancer")
(SMTP,) = PLAN.virtual_services
HOST = "front-clients"
OUTSIDE = ip_address("192.168.0.60")  # what the firewalls lead to the balancers


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
def network(joined: Network) -> Network:
    for pair in joined.pairs:
        settle(pair)
    return joined


@pytest.fixture
def through(network: Network) -> tuple[Cell, ...]:
    """A session with a mail server from each address outside."""
    sources = network.walls.hosts[HOST].addresses()
    ways = [load.Path(f"from {each}", HOST, SMTP.name, OUTSIDE, each) for each in sources]
    return load.cells(ways, (Kind.SMTP,))


def test_accepted_mail_arrives_once_while_each_pair_loses_power(
    network: Network, through: tuple[Cell, ...], full: bool
) -> None:
    """With --full each dead node comes back, and the other one dies."""
    client = network.walls.hosts[HOST]
    with (
        load.start(network.walls, through) as traffic,
        mail.sending(client, OUTSIDE, sources=client.addresses()) as sending,
    ):
        for pair in network.pairs * (2 if full else 1):
            scene = Scene.now(pair)
            power_loss(scene)
            pair.wait_active(scene.standby, READY_WITHIN)
            traffic.moves()
            sending.moves(20)
            if full:
                restore(scene)
                pair.wait_ready(READY_WITHIN)
        letters, reports = sending.stop(), traffic.stop()
    fates = mail.wait_delivered(network.balancers.hosts.values(), letters)
    print(f"{len(letters.accepted)} messages, on {dict(fates.on)}")
    assert sum(map(bool, fates.on.values())) == len(SMTP.servers)
    assert not letters.refused
    assert not lost(reports)


def test_without_state_the_firewalls_lose_the_sessions(
    network: Network, through: tuple[Cell, ...]
) -> None:
    """The negative control of the sessions above."""
    with without_conntrackd(network.walls):
        outcome = power_loss_alone(network.walls, "no state", through)
    assert len(lost(outcome.reports)) == len(through)

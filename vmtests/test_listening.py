"""What of the appliance answers, from every network: what the site opens there, nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.lab.pair import Lab
from appliance.lab.peers import Neighbour
from appliance.lab.topology import own_addresses
from appliance.plan.model import Address, Network, Plan

SCAN = Path(__file__).with_name("scan.py").read_bytes()
SSH = 22
EVERY = "1-65535"
LAST_ANSWER = 1.0  # seconds
ENOUGH = 1200.0  # for all ports of one address, on a machine that emulates

Answers = dict[str, list[int]]


def scan(host: Neighbour, protocol: str, target: Address, ports: Collection[str]) -> Answers:
    words = ["python3", "-", protocol, str(host.address), str(target), f"{LAST_ANSWER:g}", *ports]
    told: dict[str, list[int]] = json.loads(host.succeed(words, stdin=SCAN, timeout=ENOUGH))
    return {what: told[what] for what in ("open", "refused")}


def opened(plan: Plan, network: Network, target: Address) -> set[int]:
    """The TCP ports of an address that the site opens to a network: its nodes' own ones there."""
    if target not in {each.ip for own in network.addresses.values() for each in own}:
        return set()
    assert plan.ssh
    assert plan.metrics
    ports = {SSH} if network.name in plan.ssh.networks else set()
    return ports | ({plan.metrics.port} if network.name in plan.metrics.networks else set())


def listening(pair: Lab) -> set[str]:
    """The ports of every socket of both nodes, as ranges."""
    told = [node.succeed("ss -Htuan").splitlines() for node in pair.nodes.values()]
    local = {line.split()[4] for lines in told for line in lines}
    return {f"{port}-{port}" for each in local if (port := each.rpartition(":")[2]) != "*"}


@contextmanager
def reaching(pair: Lab, host: Neighbour, target: Address) -> Iterator[None]:
    """Have a host send what is for an address that is not on its link to the node that has it."""
    plan = pair.plan
    network = plan.networks[host.host.network]
    if any(target in prefix for prefix in network.prefixes()):
        yield
        return
    every = [each for other in plan.networks.values() for each in other.addresses.items()]
    owners = {address.ip: node for node, own in every for address in own}
    way = network.own(owners.get(target, pair.active().name), 4)
    assert way
    host.succeed(f"ip route replace {target} via {way.ip}")
    try:
        yield
    finally:
        host.succeed(f"ip route del {target} via {way.ip}")


@pytest.fixture
def scanners(pair: Lab) -> list[Neighbour]:
    """A host on each network."""
    found = [pair.hosts["inside"], pair.hosts["outside"], pair.hosts["sync-clients"]]
    assert {host.host.network for host in found} == pair.plan.networks.keys()
    return found


def test_from_each_network_only_what_the_site_opens_answers(
    pair: Lab, scanners: list[Neighbour], full: bool
) -> None:
    """All 65535 ports with --full, else those that are usual and those that have a socket."""
    ports = [EVERY] if full else ["1-1024", *sorted(listening(pair))]
    targets = sorted(own_addresses(pair.plan), key=str)
    assert len(targets) == 8

    def answers(host: Neighbour) -> dict[tuple[str, str], tuple[Answers, Answers]]:
        told = {}
        for target in targets:
            with reaching(pair, host, target):
                both = (scan(host, protocol, target, ports) for protocol in ("tcp", "udp"))
                told[host.name, str(target)] = tuple(both)
        return told

    with ThreadPoolExecutor() as pool:
        found = {key: value for each in pool.map(answers, scanners) for key, value in each.items()}
    expected = {
        (host.name, str(target)): (
            {"open": sorted(opened(pair.plan, network, target)), "refused": []},
            {"open": [], "refused": []},
        )
        for host in scanners
        for network in [pair.plan.networks[host.host.network]]
        for target in targets
    }
    assert found == expected


def test_the_scan_sees_what_answers_and_what_refuses(pair: Lab) -> None:
    """Through the appliance, where the site lets TCP and UDP pass: a host with an echo service."""
    inside, outside = pair.hosts["inside"], pair.hosts["outside"]
    tcp = scan(inside, "tcp", outside.address, ["7-7", "9-9"])
    assert tcp == {"open": [7], "refused": [9]}
    udp = scan(inside, "udp", outside.address, ["7-7", "9-9"])
    assert udp == {"open": [7], "refused": [9]}

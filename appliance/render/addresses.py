"""Which addresses of the plan play which part, asked by more than one renderer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.plan.model import Address, Network, Pair, Plan, VirtualRouter

VERSIONS = (4, 6)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The two ends of a conversation between the nodes of a pair, on one interface."""

    interface: str
    own: Address
    peer: Address


def neighbours(plan: Plan, node: str, network: str, version: int) -> Neighbours | None:
    """Both nodes' own addresses on a network, where both have one of this IP version."""
    peer = plan.peer(node)
    where = plan.networks[network]
    own, other = where.own(node, version), peer and where.own(peer.name, version)
    return Neighbours(where.interface, own.ip, other.ip) if own and other else None


def sync_links(plan: Plan, node: str, pair: Pair) -> tuple[Neighbours, ...]:
    """The ends of each state channel, the preferred one first: by IPv4 where the sync network has
    it, else by IPv6.
    """
    by_version = ([neighbours(plan, node, name, v) for v in VERSIONS] for name in pair.sync)
    return tuple(next(each for each in ends if each) for ends in by_version)


def router(plan: Plan, node: str, which: VirtualRouter) -> Neighbours:
    """The ends of one VRRP conversation; KeyError where a node has no address of its version."""
    ends = neighbours(plan, node, which.network, which.version)
    if ends is None:
        raise KeyError(f"{which.network}: both nodes need an IPv{which.version} address")
    return ends


def conversations(plan: Plan, node: str) -> Iterator[Neighbours]:
    """Every conversation between the nodes of a pair; none on a site of one node."""
    if plan.pair:
        ends = [router(plan, node, each) for each in plan.pair.routers]
        yield from dict.fromkeys([*ends, *sync_links(plan, node, plan.pair)])


def listening(plan: Plan, node: str, networks: Iterable[str]) -> Iterator[tuple[Network, Address]]:
    """Where the node itself serves those networks: by its own address of each family on each.

    Never by a virtual address: behind that is now this node and now the other.
    """
    for name in networks:
        network = plan.networks[name]
        for version in VERSIONS:
            if own := network.own(node, version):
                yield network, own.ip


def real(plan: Plan) -> tuple[Address, ...]:
    """Every address that stays with a node, both nodes', in the order of the file."""
    of_node = [
        each.ip
        for network in plan.networks.values()
        for held in (network.addresses, network.aliases)
        for node in held
        for each in held[node]
    ]
    return tuple(dict.fromkeys(of_node))


def virtual(plan: Plan, version: int) -> tuple[Address, ...]:
    """Every virtual address of one IP version, in the order of the file."""
    all_of = [each for network in plan.networks.values() for each in network.virtual]
    return tuple(dict.fromkeys(each.ip for each in all_of if each.version == version))

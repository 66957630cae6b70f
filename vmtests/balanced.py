"""What the tests of load balancing have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from appliance.lab import faults
from appliance.lab.faults import Fault
from appliance.lab.flows import Report
from appliance.lab.load import Cell, Mode, balanced
from appliance.lab.pair import Lab
from appliance.lab.peers import Neighbour
from appliance.lab.who import Asked, everyone
from appliance.plan.model import Address, Plan
from appliance.plan.virtual import VirtualService
from appliance.site import load as load_site
from vmtests.controls import everywhere, without_conntrackd
from vmtests.installed import CLONE

MODES = tuple(Mode)
DEAF = "table inet lab { chain in { type filter hook input priority -500; udp dport 8848 drop; }; }"

# What a balancer's clients must not notice. After the first, what the node that came back was told
# is all that is left to carry.
POWER_LOSSES = Fault(
    "power loss, return, and power loss of the other", faults.power_loss, proof=True
)
HANDOVER = Fault("planned handover", faults.hand_over)

# Where the short form has the first of them.
takeovers = pytest.mark.parametrize(
    "fault", [POWER_LOSSES, pytest.param(HANDOVER, marks=pytest.mark.long)], ids=lambda f: f.name
)


def example(name: str) -> tuple[str, Plan]:
    """One of the example sites: its text, and its plan."""
    file = CLONE / f"examples/{name}.yaml"
    return file.read_text(), load_site(file)


def named(plan: Plan, name: str) -> VirtualService:
    """A site's virtual service."""
    return next(each for each in plan.virtual_services if each.name == name)


def cells(
    service: VirtualService, client: str, sources: Sequence[Address], *, full: bool
) -> tuple[Cell, ...]:
    """All that the service carries from each source; without `full` each has one of FTP's modes."""
    return tuple(
        cell
        for number, source in enumerate(sources)
        for cell in balanced(service, client, source)
        if full or cell.mode in (None, MODES[number % len(MODES)])
    )


def lost(reports: Mapping[Cell, Report]) -> list[str]:
    """The flows that were, with the reason that they give."""
    return [f"{cell}: {r.note or 'damaged'}" for cell, r in reports.items() if not r.survived]


def led(
    client: Neighbour,
    to: Address,
    how: Asked = Asked.HTTP,
    sources: Sequence[Address] = (),
    times: int = 1,
) -> dict[Address, set[str | None]]:
    """The real servers that each address of a client, or each of `sources`, is led to."""
    sources = sources or client.addresses(to.version)
    answers = everyone(client, to, how, sources=sources, times=times)
    return {
        source: set(answers[number * times : (number + 1) * times])
        for number, source in enumerate(sources)
    }


@contextmanager
def untold(pair: Lab) -> Iterator[None]:
    """IPVS tells the other node of nothing, nor does the agent; who lost power forgets this."""
    everywhere(pair, f"nft '{DEAF}'")
    try:
        yield
    finally:
        everywhere(pair, "nft destroy table inet lab")


@contextmanager
def without_state(pair: Lab) -> Iterator[None]:
    """Nobody tells the other node of anything."""
    with untold(pair), without_conntrackd(pair):
        yield


@contextmanager
def scheduler(pair: Lab, name: str) -> Iterator[None]:
    """Another scheduler than the site's; who lost power has the site's again."""
    file, kept = "/etc/keepalived/keepalived.conf", "/run/kept.conf"
    change = f"cp {file} {kept} && sed -i 's/lvs_sched .*/lvs_sched {name}/' {file}"
    everywhere(pair, f"{change} && systemctl reload keepalived")
    for node in pair.nodes.values():
        node.wait_until(f"grep -q '^FWM .* {name} ' /proc/net/ip_vs", 10)
    try:
        yield
    finally:
        everywhere(pair, f"[ ! -e {kept} ] || cp {kept} {file} && systemctl reload keepalived")

"""Network address translation: both chains, in the order of the site file, the first match wins."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from appliance.plan.model import DestinationNat, SourceNat
from appliance.render import addresses, balancing, nft, nft_map, sets
from appliance.render.nft import Base, Chain, Family, Hook, Kind, Policy, Priority, Rule
from appliance.render.services import matches
from appliance.render.view import View

CARRIED = "Also for IPVS: without a chain like this conntrackd would lose its translations."


def destination(view: View) -> Chain:
    """Rewrite destinations before routing."""
    entries = view.plan.destination_nat
    spared = [] if all(entry.destination for entry in entries) else _peer(view)
    rules = chain.from_iterable(_destination(view, entry) for entry in entries)
    base = Base(Kind.NAT, Hook.PREROUTING, Priority.DSTNAT, Policy.ACCEPT)
    return Chain("destination-nat", (*_balanced(view), *spared, *rules), base)


def source(view: View) -> Chain:
    """Rewrite sources after routing.

    What the node itself sends keeps its address: the peer knows VRRP and state by it.

    Without any such chain the kernel does not note on a connection that its translation is decided
    (IPS_DST_NAT_DONE), and conntrackd then takes what IPVS has rewritten for untranslated.
    """
    own = nft.rule(nft.own_source(), nft.accept(), comment="the node's own")
    rules = chain.from_iterable(_source(view, entry) for entry in view.plan.source_nat)
    base = Base(Kind.NAT, Hook.POSTROUTING, Priority.SRCNAT, Policy.ACCEPT)
    noted = [nft.Remark(CARRIED)] if balancing.translates(view.plan) else []
    balanced = (*balancing.untranslated(view.plan), *balancing.data_sources(view))
    return Chain("source-nat", (*noted, own, *balanced, *rules), base)


def _destination(view: View, entry: DestinationNat) -> Iterator[Rule]:
    way = [view.comes_from(entry.from_)]
    return _rewrite(view, entry, way, nft.dnat(entry.address, entry.port))


def _source(view: View, entry: SourceNat) -> Iterator[Rule]:
    way = [view.comes_from(entry.from_), view.goes_to(entry.to)]
    return _rewrite(view, entry, way, nft.snat(entry.address))


def _rewrite(
    view: View, entry: DestinationNat | SourceNat, way: list[nft.Part | None], to: nft.Part
) -> Iterator[Rule]:
    """One nft rule for each protocol of the entry, for packets of the new address's family only."""
    ends = sets.ends(entry.source, entry.destination, entry.address.version)
    family = None if any(ends) else nft.nfproto(Family.of(entry.address))
    for match in matches(entry.services):
        parts = [*way, family, *ends, match.part, nft.count(), to]
        yield nft.rule(*parts, comment=view.line(entry.origin))


def _balanced(view: View) -> list[Rule]:
    """What a virtual service serves is not for destination NAT to send elsewhere."""
    if not view.plan.virtual_services:
        return []
    return [nft.rule(nft_map.marked_at_all(), nft.accept(), comment="virtual services")]


def _peer(view: View) -> list[Rule]:
    """An entry for any destination must not carry VRRP and state away."""
    return [
        nft.rule(nft.saddr(ends.peer), nft.daddr(ends.own), nft.accept(), comment="the peer")
        for ends in addresses.conversations(view.plan, view.node)
    ]

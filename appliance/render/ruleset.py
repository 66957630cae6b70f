"""The node's nftables ruleset: one table, all of it derived from the plan.

Default drop on the way in and through. Addresses match as the packet is while forwarded, so what
destination NAT lets in still needs a rule that accepts it. No network named means any traffic
network: nothing is routed into or out of a sync or management network unless a rule names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from appliance.node.config import STATE_PORTS
from appliance.plan.model import Action, Pair, Plan, Protocol, Rule
from appliance.render import addresses, balancing, nat, nft, nft_text, sets
from appliance.render.helpers import assignments, names
from appliance.render.nft import (
    ERRORS,
    ERRORS_V6,
    Base,
    Chain,
    Family,
    Hook,
    Kind,
    Line,
    Policy,
    Priority,
    State,
)
from appliance.render.nft_map import MarkMap
from appliance.render.services import Match, matches
from appliance.render.view import View

TABLE = "appliance"
VRRP = 112

INVALID = nft.Counter("invalid", "packets that fit no connection")
NOT_OPENING = nft.Counter("not-opening", "TCP segments of no connection that do not open one")
SPOOFED = nft.Counter("spoofed", "sources that do not belong where they came in")
RESETS = nft.Counter("resets", "TCP resets kept from leaving a virtual address")
REFUSED_INPUT = nft.Counter("refused-input", "packets to this node that no rule accepts")
REFUSED_FORWARD = nft.Counter("refused-forward", "packets through it that no rule accepts")
COUNTERS = (INVALID, NOT_OPENING, SPOOFED, RESETS, REFUSED_INPUT, REFUSED_FORWARD)

LOG_BURST = 5  # lines at once: nft's own default

NEIGHBOUR_DISCOVERY = ("nd-neighbor-solicit", "nd-neighbor-advert")


def render(plan: Plan, node: str) -> str:
    """The text of etc/nftables.conf, which `nft -f` loads in one transaction."""
    view = View(plan, node)
    return nft_text.text(_table(view), f"The firewall of {node}, made from {view.site}.")


def _table(view: View) -> nft.Table:
    virtual = _virtual(view)
    helpers = [nft.Helper(name) for name in names(view.plan)]
    rate = view.plan.log.limit
    limit = nft.Limit("log-lines", rate.count, rate.per, LOG_BURST)
    logs = view.plan.log.dropped or view.plan.log.invalid
    invalid = _invalid(view, limit)
    refused = _refused(view, limit)
    known = _known(bool(helpers), invalid)
    marks = balancing.maps(view.plan)
    helping = _helpers(view, base=not marks) if helpers else None
    balanced = balancing.balanced(view, partial(_rule, view)) if marks else None
    chains = [
        _spoofed(),
        helping,
        balancing.marking(marks, helping) if marks else None,
        nat.destination(view) if view.plan.destination_nat else None,
        invalid,
        refused,
        known,
        balanced,
        _input(view, known, balanced, refused),
        _forward(view, known, refused),
        _output(virtual) if virtual else None,
        nat.source(view) if view.plan.source_nat or balancing.translates(view.plan) else None,
    ]
    objects: list[nft.Object | MarkMap] = [
        *virtual,
        *sets.named(view.plan),
        *marks,
        *helpers,
        *([limit] if logs else []),
        *filter(None, map(_limit, view.plan.rules)),
        *COUNTERS,
    ]
    return nft.Table(TABLE, tuple(objects), tuple(chain for chain in chains if chain))


def _virtual(view: View) -> list[nft.Set]:
    """The addresses that move with the active role, one set for each family that has any."""
    all_of = [addresses.virtual(view.plan, version) for version in addresses.VERSIONS]
    return [
        nft.Set(f"virtual{each[0].version}", Family.of(each[0]), each, "held by the active node")
        for each in all_of
        if each
    ]


def _spoofed() -> Chain:
    """Strict reverse path filtering, the same for both families and counted.

    Duplicate address detection asks from `::` (RFC 4862 section 5.4.2), which has no way back.
    """
    return Chain(
        "spoofed",
        (
            nft.rule(nft.icmpv6_type("nd-neighbor-solicit"), nft.accept()),
            nft.rule(nft.source_not_routed_back(), nft.count_as(SPOOFED), nft.drop()),
        ),
        Base(Kind.FILTER, Hook.PREROUTING, Priority.RAW, Policy.ACCEPT),
    )


def _helpers(view: View, *, base: bool) -> Chain:
    """Helpers, after connection tracking (-200) and before destination NAT (-100).

    NAT prepares a connection for shifted TCP sequences only if it has its helper by then.
    """
    rules = [
        nft.rule(
            view.comes_from(each.from_),
            *ends,
            match.part,
            nft.set_helper(nft.Helper(each.helper)),
            comment=view.line(each.origin),
        )
        for each in assignments(view.plan)
        for ends, services in sets.cases(each.source, each.destination, [each.service])
        for match in matches(services)
    ]
    hook = Base(Kind.FILTER, Hook.PREROUTING, Priority.MANGLE, Policy.ACCEPT)
    return Chain("helpers", tuple(rules), hook if base else None)


def _known(helpers: bool, invalid: Chain) -> Chain:
    """What needs no rule of the site: what belongs to a connection; and what never gets one."""
    related = nft.ct_state(State.RELATED)
    data = nft.rule(related, nft.l4proto("tcp"), nft.accept(), comment="announced to a helper")
    return Chain(
        "known",
        (
            nft.rule(nft.ct_state(State.ESTABLISHED), nft.accept()),
            nft.rule(related, nft.icmp_type(*ERRORS), nft.accept()),
            nft.rule(related, nft.icmpv6_type(*ERRORS_V6), nft.accept()),
            *([data] if helpers else []),
            nft.rule(nft.ct_state(State.INVALID), nft.goto(invalid)),
            nft.rule(
                nft.ct_state(State.NEW),
                nft.not_a_first_segment(),
                nft.count_as(NOT_OPENING),
                nft.drop(),
            ),
        ),
    )


def _invalid(view: View, limit: nft.Limit) -> Chain:
    logged = nft.rule(nft.within(limit), nft.log("appliance invalid: "))
    dropped = nft.rule(nft.count_as(INVALID), nft.drop())
    return Chain("invalid", (*([logged] if view.plan.log.invalid else []), dropped))


def _refused(view: View, limit: nft.Limit) -> Chain:
    logged = nft.rule(nft.within(limit), nft.log("appliance dropped: "))
    return Chain("refused", (*([logged] if view.plan.log.dropped else []), nft.rule(nft.drop())))


def _input(view: View, known: Chain, balanced: Chain | None, refused: Chain) -> Chain:
    lines: list[Line] = [
        nft.rule(nft.loopback(), nft.accept()),
        *(_vrrp(view, view.plan.pair, refused) if view.plan.pair else []),
        *(balancing.one_way(view, balanced) if balanced else []),
        nft.Remark("Connections."),
        nft.rule(nft.jump(known)),
        *_neighbour_discovery(view),
        *(_state(view, view.plan.pair) if view.plan.pair else []),
        *_ssh(view),
        *_metrics(view),
        *(balancing.both_ways(view, balanced) if balanced else []),
        *_site(view, [rule for rule in view.plan.rules if rule.to_self]),
        nft.Remark("Whatever is left."),
        nft.rule(nft.count_as(REFUSED_INPUT), nft.goto(refused)),
    ]
    base = Base(Kind.FILTER, Hook.INPUT, Priority.FILTER, Policy.DROP)
    return Chain("input", tuple(lines), base)


def _forward(view: View, known: Chain, refused: Chain) -> Chain:
    lines: list[Line] = [
        nft.rule(nft.jump(known)),
        *_site(view, [rule for rule in view.plan.rules if not rule.to_self]),
        *balancing.data_connections(view),
        nft.Remark("Whatever is left."),
        nft.rule(nft.count_as(REFUSED_FORWARD), nft.goto(refused)),
    ]
    base = Base(Kind.FILTER, Hook.FORWARD, Priority.FILTER, Policy.DROP)
    return Chain("forward", tuple(lines), base)


def _output(virtual: list[nft.Set]) -> Chain:
    """No RST from a virtual address: until the state is committed, a fresh active node takes the
    connections that it inherits for unknown ones, and its own TCP would end them.
    """
    rules = [
        nft.rule(nft.saddr(each), nft.tcp_reset(), nft.count_as(RESETS), nft.drop())
        for each in virtual
    ]
    base = Base(Kind.FILTER, Hook.OUTPUT, Priority.FILTER, Policy.ACCEPT)
    return Chain("output", tuple(rules), base)


def _neighbour_discovery(view: View) -> Iterator[Line]:
    """IPv6 cannot live without it; hop limit 255 means that it was not routed here (RFC 4861).

    A switch that snoops asks who listens (RFC 2710), and cuts off the solicited-node groups of
    those who do not hear it.
    """
    links = [
        network.interface
        for network in view.plan.networks.values()
        if any(prefix.version == 6 for prefix in network.prefixes())
    ]
    if links:
        yield nft.Remark("IPv6 neighbours.")
        hops = nft.hops_left(Family.IPV6, 255)
        asked = nft.icmpv6_type(*NEIGHBOUR_DISCOVERY)
        yield nft.rule(nft.iifname(*links), hops, asked, nft.accept())
        once = nft.hops_left(Family.IPV6, 1)
        listeners = nft.icmpv6_type("mld-listener-query")
        yield nft.rule(nft.iifname(*links), once, listeners, nft.accept())


def _vrrp(view: View, pair: Pair, refused: Chain) -> Iterator[Line]:
    """Between the nodes' own addresses, on the link (255 hops left), and in no other way: this
    comes before connection tracking has a say, which looks at addresses only.
    """
    yield nft.Remark("The peer's adverts.")
    for router in pair.routers:
        ends = addresses.router(view.plan, view.node, router)
        hops = nft.hops_left(Family.of(ends.own), 255)
        yield _between(ends, nft.l4proto(VRRP), hops, words=f"VRRP on {router.network}")
    yield nft.rule(nft.l4proto(VRRP), nft.count_as(REFUSED_INPUT), nft.goto(refused))


def _state(view: View, pair: Pair) -> Iterator[Line]:
    """The peer's connections and what its agents say, on the sync networks."""
    yield nft.Remark("The peer's state.")
    ports = nft.dport("udp", [(STATE_PORTS[0], STATE_PORTS[-1])])
    for ends in addresses.sync_links(view.plan, view.node, pair):
        yield _between(ends, ports, words="conntrackd and the agents")
    yield from balancing.sync_messages(view, pair)


def _between(ends: addresses.Neighbours, *more: nft.Part, words: str) -> nft.Rule:
    return nft.rule(
        nft.iifname(ends.interface),
        nft.saddr(ends.peer),
        nft.daddr(ends.own),
        *more,
        nft.count(),
        nft.accept(),
        comment=words,
    )


def _ssh(view: View) -> Iterator[Line]:
    if view.plan.ssh:
        yield nft.Remark("Logging in, on this node's own addresses.")
        yield from _served(view, "SSH", view.plan.ssh.networks, 22)


def _metrics(view: View) -> Iterator[Line]:
    if view.plan.metrics:
        yield nft.Remark("Reading the metrics, on this node's own addresses.")
        yield from _served(view, "metrics", view.plan.metrics.networks, view.plan.metrics.port)


def _served(view: View, what: str, networks: tuple[str, ...], port: int) -> Iterator[Line]:
    """From the prefixes on the link, to the node's own address on it: what the service listens
    on.
    """
    for network, own in addresses.listening(view.plan, view.node, networks):
        for prefix in network.prefixes():
            # A virtual address alone is nobody's place on the link.
            if prefix.version == own.version and prefix.num_addresses > 1:
                yield nft.rule(
                    nft.iifname(network.interface),
                    nft.saddr(prefix),
                    nft.daddr(own),
                    nft.dport("tcp", [(port, port)]),
                    nft.count(),
                    nft.accept(),
                    comment=f"{what} from {network.name}",
                )


def _site(view: View, rules: list[Rule]) -> Iterator[Line]:
    if rules:
        yield nft.Remark(f"The rules of {view.site}.")
    for rule in rules:
        yield from _rule(view, rule)


def _rule(view: View, rule: Rule) -> Iterator[nft.Rule]:
    """One rule of the site: one nft rule for each IP version of its addresses, each protocol it
    names and each way to answer it, all of them under one limit.
    """
    way = _way(view, rule)
    comment = view.line(rule.origin, rule.comment)
    limit = _limit(rule)
    within = nft.within(limit) if limit else None
    for ends, services in sets.cases(rule.source, rule.destination, rule.services):
        for match in matches(services):
            for part, verdict in _verdicts(rule, match):
                parts = (*way, *ends, part, within, nft.count(), verdict)
                yield nft.rule(*parts, comment=comment)


def _limit(rule: Rule) -> nft.Limit | None:
    """The rule's own token bucket, named after its place in the file; as many at once as in all."""
    if rule.limit is None:
        return None
    name = f"line-{rule.origin.line}-{rule.origin.column}"
    return nft.Limit(name, rule.limit.count, rule.limit.per, rule.limit.count)


def _way(view: View, rule: Rule) -> list[nft.Part | None]:
    to_self = rule.to_self
    return [
        None if to_self and not rule.from_ else view.comes_from(rule.from_),
        None if to_self else view.goes_to(rule.to),
    ]


def _verdicts(rule: Rule, match: Match) -> Iterator[tuple[nft.Part | None, nft.Part]]:
    """What becomes of the packets of one protocol, as match and verdict."""
    match rule.action, match.protocol:
        case Action.ACCEPT, _:
            yield match.part, nft.accept()
        case Action.DROP, _:
            yield match.part, nft.drop()
        case Action.REJECT, Protocol.TCP if not rule.to_self:
            yield match.part, nft.reject_by_reset()
        case Action.REJECT, None if not rule.to_self:
            yield nft.l4proto(Protocol.TCP), nft.reject_by_reset()
            yield None, nft.reject()
        case _:
            # No RST may leave a virtual address; an opening TCP takes ICMP's word as well.
            yield match.part, nft.reject()

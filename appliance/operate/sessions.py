"""Which connections would outlive a takeover now, and why the others would not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import ToolError
from appliance.node import sessions as told
from appliance.node.facts import at
from appliance.node.flows import SYNCED, Flow
from appliance.operate import status
from appliance.plan.model import Plan
from appliance.remote import Remote
from appliance.render import addresses

SESSIONS = "appliance-sessions"
_LIMIT_S = 300.0  # a table of hundreds of thousands, by a slow link

# TCP's states (RFC 9293, and the kernel's SYN_SENT2) before and after the connection.
_OPENING = ("NONE", "SYN_SENT", "SYN_SENT2", "SYN_RECV")
_ENDED = ("LAST_ACK", "TIME_WAIT", "CLOSE")


@dataclass(frozen=True, slots=True)
class Session:
    """A connection of the active node; `survives` is None for one that is over already."""

    flow: Flow
    survives: bool | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The form that `appliance sessions --json` prints."""
        return {**self.flow, "survives": self.survives, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Standby:
    """What the standby is ready for.

    `held` are the keys of the connections in its cache; None, with `trouble`, when it cannot be
    asked. `announces` is whether the agents exchange what FTP needs, `unacknowledged` whether
    something of that is still under way.
    """

    held: frozenset[str] | None
    trouble: str | None = None
    announces: bool = False
    unacknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """All connections through the active node."""

    active: str
    sessions: tuple[Session, ...]
    trouble: str | None = None


def table(plan: Plan, nodes: Mapping[str, Remote], *, verdicts: bool) -> Table:
    """Ask the active node, and for `verdicts` the standby as well; ToolError from the active."""
    report, name = status.active(plan, nodes)
    answer = nodes[name].ask(SESSIONS, timeout=_LIMIT_S)
    ours = frozenset(map(str, addresses.real(plan)))
    flows = list(through(answer["items"], ours))
    if not verdicts:
        return Table(name, tuple(map(Session, flows)))
    other = plan.peer(name)
    standby = Standby(None, "there is no standby")
    if other:
        standby = _standby(report, nodes[other.name], answer["expectations"])
    here = frozenset(answer["addresses"])
    judged = (judge(flow, standby, here=here, excluded=ours) for flow in flows)
    return Table(name, tuple(judged), standby.trouble)


def _standby(
    report: status.Report, node: Remote, expectations: Mapping[str, Any] | None
) -> Standby:
    facts = report.nodes[node.name]
    if isinstance(facts, ToolError):
        return Standby(None, facts.what)
    try:
        held = frozenset(node.ask(SESSIONS, "--held", timeout=_LIMIT_S)["items"])
    except ToolError as error:
        return Standby(None, error.what)
    both = bool(at(expectations, "peer") and at(facts, "expectations", "peer"))
    return Standby(held, None, both, bool(at(expectations, "unacknowledged")))


def through(flows: Iterable[Flow], ours: frozenset[str]) -> Iterator[Flow]:
    """All but what the nodes say to each other, and each to itself."""
    for flow in flows:
        ends = {flow["original"][0], flow["reply"][0]}
        if not all(end in ours or end in ("127.0.0.1", "::1") for end in ends):
            yield flow


def judge(
    flow: Flow, standby: Standby, *, here: frozenset[str], excluded: frozenset[str]
) -> Session:
    """Whether a takeover now would keep it. `here` are the active node's addresses, `excluded`
    those that are not synchronised.
    """
    if flow["state"] in _ENDED:
        return Session(flow)
    reason = _reason(flow, standby, here, excluded)
    return Session(flow, reason is None, reason)


def _reason(
    flow: Flow, standby: Standby, here: frozenset[str], excluded: frozenset[str]
) -> str | None:
    if words := _never_synced(flow, here, excluded):
        return words
    if flow["state"] in _OPENING:
        return f"not established yet ({flow['state']})"
    if standby.held is None:
        return "what the standby holds is not known"
    if told.key(flow["number"], flow["original"]) not in standby.held:
        return "not in the standby's cache"
    return _helped(flow, standby) if flow["helper"] else None


def _never_synced(flow: Flow, here: frozenset[str], excluded: frozenset[str]) -> str | None:
    """Why conntrackd would not even try."""
    if here & {flow["original"][0], flow["reply"][0]}:
        return "ends on the router itself"
    if flow["number"] not in SYNCED:
        return f"{flow['protocol']} is not synchronised"
    if ends := excluded & {*flow["original"][::2], *flow["reply"][::2]}:
        return f"{', '.join(sorted(ends))} is one node's own address: not synchronised"
    return None


def _helped(flow: Flow, standby: Standby) -> str | None:
    """What a helper knows of a connection is no part of conntrackd's cache: the agents care for it.

    The cache does not show whether it has the shift of the stream. So what is checked is that both
    agents are at work, and that the peer has acknowledged what was announced.
    """
    if (flow["shifted"] or flow["expects"]) and not standby.announces:
        return "the agents that carry what the helper knows are not at work on both nodes"
    if flow["expects"] and standby.unacknowledged:
        return "an announced data connection is not acknowledged by the standby"
    return None

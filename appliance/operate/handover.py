"""A planned handover, from the operator's machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import ToolError
from appliance.node.events import Role
from appliance.node.facts import at
from appliance.operate import status
from appliance.plan.model import Plan
from appliance.remote import Remote

# On the node: 3 s to hear the peer, 20 s for its acknowledgements, 5 s to let go, 4 s to watch.
_HANDOVER_S = 90.0
_ACTIVE_S = 30.0
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Handover:
    """Who gave to whom; None for `giver`: `taker` was active already.

    `released_ms` is from the wish to when the addresses were gone from the giver. `gap_ms` is from
    then to when the taker's agent knew of its role, seen from the giver (`appliance.node.handover`
    says how); `commit_ms` from there to the end of the commit, by the taker's own count. None when
    the agents do not tell.
    """

    giver: str | None
    taker: str
    released_ms: float | None = None
    gap_ms: float | None = None
    commit_ms: float | None = None


def hand_over(plan: Plan, nodes: Mapping[str, Remote], to: str | None = None) -> Handover:
    """Give the active role to the other node, and wait until that says it has it.

    ToolError when the pair is not fit for it, when the node refuses, or when the role does not
    arrive.
    """
    report, giver = status.active(plan, nodes)
    if to == giver:
        return Handover(None, to)
    other = plan.peer(giver)
    if other is None:
        raise ToolError(f"site {plan.site} has one node: there is nobody to hand over to")
    unreached = report.nodes[other.name]
    if isinstance(unreached, ToolError):
        raise unreached
    told = nodes[giver].ask("appliance-handover", "--json", timeout=_HANDOVER_S)
    if not told["handed_over"]:
        raise ToolError(f"{giver}: no handover: {told['reason']}")
    commit = at(_await(nodes[other.name]), "takeover", "ms")
    return Handover(giver, other.name, told["released_ms"], told["gap_ms"], commit)


def _await(taker: Remote) -> dict[str, Any]:
    """What the taker's agent says, once it is active."""
    deadline = time.monotonic() + _ACTIVE_S
    while True:
        state: dict[str, Any] = taker.ask(*status.STATUS)["state"] or {}
        if (role := state.get("role")) == Role.MASTER:
            return state
        if time.monotonic() > deadline:
            raise ToolError(f"{taker.name} is {role} {_ACTIVE_S:g} s after the handover")
        time.sleep(_LOOK_EVERY_S)  # poll

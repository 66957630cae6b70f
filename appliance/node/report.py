"""The agent's state as a JSON object: what /run/appliance/state.json holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.node.agent import Agent


def state(agent: Agent) -> dict[str, Any]:
    """Everything that others may ask of it; times as in `appliance.node.agent`."""
    monotonic, wall = agent.since
    now = agent.world.monotonic()
    return {
        **asdict(agent.identity),
        "role": agent.role,
        "since": {"monotonic": monotonic, "wall": wall},
        "gate": asdict(agent.verdict) if agent.verdict else None,
        "takeover": agent.takeover,
        "transitions": dict(agent.transitions),
        "entries": asdict(agent.tables.stats) if agent.tables.stats else None,
        "owed": [request.name for request in agent.tables.owed],
        "repairs": agent.repairs + agent.tables.repairs,
        "sync": _sync(agent, now),
        "both_active": agent.witness.both_active,
        "dead": agent.witness.reach.dead,
        "peer": _peer(agent, now),
        "ipvs": agent.balancer.state() if agent.balancer else None,
        "alarms": agent.alarms,
        "written": {"monotonic": now, "wall": agent.world.wall()},
    }


def _sync(agent: Agent, now: float) -> dict[str, Any]:
    peer = agent.witness.peer
    return {
        "lag_s": round(now - peer.heard, 2) if peer.word else None,
        "lost": peer.lost,
        "unacknowledged": agent.tables.unacknowledged,
        "difference": agent.tables.balance.difference,
    }


def _peer(agent: Agent, now: float) -> dict[str, Any] | None:
    """The peer as it said last; None when it is not heard."""
    word = agent.witness.peer.present(now)
    if word is None:
        return None
    names = ("node", "site", "digest", "version", "role", "role_s", "internal", "external")
    more = ("connections", "templates", "yields", "dead", "alarms", "busy")
    told = {name: getattr(word, name) for name in (*names, *more)}
    return {"heard": agent.witness.peer.heard, **told}

"""How a site is, from what its nodes say of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import ToolError
from appliance.node.events import Role
from appliance.node.facts import Facts, at, differences
from appliance.plan.model import Plan
from appliance.remote import Remote, at_once

STATUS = ("appliance-status", "--json")


@dataclass(frozen=True, slots=True)
class Report:
    """The site at a moment: each node's facts, or why it was not reached.

    `problems` are reasons not to call the site healthy, `notes` are none.
    """

    site: str
    nodes: Mapping[str, Facts | ToolError]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong on any node, nor between them."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The form that `appliance status --json` prints."""
        told = {name: _node(each) for name, each in self.nodes.items()}
        return {
            "site": self.site,
            "healthy": self.healthy,
            "problems": self.problems,
            "notes": self.notes,
            "nodes": told,
        }


def _node(told: Facts | ToolError) -> dict[str, Any]:
    if isinstance(told, ToolError):
        return {"reached": False, "error": told.what}
    return {"reached": True, **told}


def look(plan: Plan, nodes: Mapping[str, Remote]) -> Report:
    """Ask all nodes at the same time."""
    return judge(plan, at_once(nodes, lambda node: node.ask(*STATUS)))


def judge(plan: Plan, told: Mapping[str, Facts | ToolError]) -> Report:
    """What follows from the nodes' words."""
    facts = {name: each for name, each in told.items() if not isinstance(each, ToolError)}
    between = list(_between(plan, list(facts.values())))
    problems = [each.what for each in told.values() if isinstance(each, ToolError)]
    for name, each in facts.items():
        problems += [f"{name}: {what}" for what in each["problems"] if what not in between]
    return Report(plan.site, told, (*problems, *between), tuple(_notes(plan, facts)))


def _between(plan: Plan, facts: list[Facts]) -> Iterator[str]:
    """What only both nodes together can tell."""
    if not plan.pair or len(facts) != len(plan.nodes):
        return
    active = [each for each in facts if at(each, "state", "role") == Role.MASTER]
    if len(active) != 1:
        yield "both nodes are active" if active else "no node is active"
    yield from differences(*facts)
    yield from _drained(*facts)


def _drained(one: Facts, other: Facts) -> Iterator[str]:
    """What a takeover would bring back, or take out."""
    ours, theirs = _out(one), _out(other)
    for facts, only in ((one, ours - theirs), (other, theirs - ours)):
        for service, server in sorted(only):
            yield f"{server} of virtual service {service} is drained on {facts['node']} only"


def _out(facts: Facts) -> set[tuple[str, str]]:
    services = at(facts, "balancing", "services") or ()
    return {(s["name"], e["names"][0]) for s in services for e in s["servers"] if e["drained"]}


def _notes(plan: Plan, facts: Mapping[str, Facts]) -> Iterator[str]:
    for name, each in facts.items():
        if each["digest"] and each["digest"] != plan.digest:
            yield f"{name} is not made from this site file, but from {each['digest'][:12]}"


def active(plan: Plan, nodes: Mapping[str, Remote]) -> tuple[Report, str]:
    """The report, and the name of the one active node; ToolError when it cannot be told."""
    report = look(plan, nodes)
    found = [name for name, each in report.nodes.items() if _role(each) == Role.MASTER]
    if not plan.pair:
        found = [name for name, each in report.nodes.items() if isinstance(each, dict)]
    if len(found) != 1:
        raise ToolError("not exactly one node is active: " + _roles(report))
    return report, found[0]


def _role(told: Facts | ToolError) -> str | None:
    return None if isinstance(told, ToolError) else at(told, "state", "role")


def _roles(report: Report) -> str:
    return "; ".join(
        each.what if isinstance(each, ToolError) else f"{name} is {_role(each) or 'silent'}"
        for name, each in report.nodes.items()
    )

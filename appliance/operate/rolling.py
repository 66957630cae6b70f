"""In which order the nodes of a site get a new image: pure, from what they say of themselves.

Nothing is remembered between two calls of the command but what is on the nodes. So the next step
follows from their state alone, and whoever comes second goes on where the first one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from appliance.errors import ToolError
from appliance.node.events import Role
from appliance.node.images import Boot


class Act(StrEnum):
    """What is done next."""

    SEND = "send"
    TRY = "try"
    AWAIT = "await"
    HAND_OVER = "hand over"
    BACK = "back"


class UnhealthyError(ToolError):
    """The new image is not as it should be on one of the nodes: the site goes back to the old."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done to a node; it gives the role away when it hands over."""

    act: Act
    node: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A node, with the eyes of an upgrade: whether it runs the new image, and what it has of it.

    `decided`: what runs was found good. `ready`: the new image is in the other slot, to be tried;
    `failed`: it is there and was tried in vain, for the reasons `why`.
    """

    name: str
    active: bool
    runs: bool
    decided: bool
    ready: bool = False
    failed: bool = False
    why: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.runs and self.decided


def standing(told: Mapping[str, Any], kernel: str) -> Standing:
    """From the words of `appliance-update status`, for the image with this kernel."""
    running, other = told["running"], told["other"]
    beside = bool(other) and other["sha256"] == kernel
    return Standing(
        name=told["node"],
        active=told["pair"] and told["role"] == Role.MASTER,
        runs=bool(running) and running["sha256"] == kernel,
        decided=told["boot"] in (Boot.CLEAN, Boot.GOOD),
        ready=beside and bool(other["left"]),
        failed=beside and other["left"] == 0,
        why=_why(told),
    )


def _why(told: Mapping[str, Any]) -> tuple[str, ...]:
    """What the trial that ended last had found."""
    last, other = told["last_trial"], told["other"]
    if last and other and last["version"] == other["version"] and not last["good"]:
        return tuple(last["problems"])
    return ()


def next_step(nodes: Mapping[str, Standing], only: str | None = None) -> Step | None:
    """What is to be done, the standby first; None when all is done.

    Raises UnhealthyError when one node has the new image and the other could not keep it.
    """
    _refuse_halves(nodes)
    chosen = [nodes[only]] if only else sorted(nodes.values(), key=lambda each: each.active)
    for node in chosen:
        if node.done:
            continue
        if node.runs:
            return Step(Act.AWAIT, node.name)
        if node.active and only:
            hint = "appliance handover SITE"
            raise ToolError(f"{node.name} is the active node: its upgrade would be a gap", hint)
        if node.active:
            return Step(Act.HAND_OVER, node.name)
        return Step(Act.TRY if node.ready else Act.SEND, node.name)
    return None


def before_a_trial(nodes: Mapping[str, Standing], only: str | None = None) -> Step | None:
    """The same, as far as it goes without a node that reboots."""
    step = next_step(nodes, only)
    return step if step and step.act is Act.SEND else None


def _refuse_halves(nodes: Mapping[str, Standing]) -> None:
    if any(node.runs for node in nodes.values()):
        for node in nodes.values():
            if node.failed:
                raise fell_back(node)


def fell_back(node: Standing) -> UnhealthyError:
    """The error for a node that has gone back to its old image by itself."""
    why = "; ".join(node.why) or "it did not get as far as to say why"
    return UnhealthyError(f"{node.name} has gone back to its old image: {why}")


def undoing(nodes: Mapping[str, Standing]) -> Step | None:
    """What brings the old image back where the new one runs; None when it runs nowhere."""
    for node in sorted(nodes.values(), key=lambda each: each.active):
        if node.runs:
            return Step(Act.HAND_OVER if node.active else Act.BACK, node.name)
    return None


Order = Callable[[Mapping[str, Standing], str | None], Step | None]


def foreseen(
    nodes: Mapping[str, Standing], only: str | None = None, order: Order = next_step
) -> Iterator[Step]:
    """All steps, if each goes well."""
    while step := order(nodes, only):
        yield step
        nodes = after(step, nodes)


def after(step: Step, nodes: Mapping[str, Standing]) -> dict[str, Standing]:
    """How the nodes are when a step went well."""
    node = nodes[step.node]
    changed = {
        Act.SEND: replace(node, ready=True, failed=False),
        Act.TRY: replace(node, runs=True, decided=True, ready=False),
        Act.AWAIT: replace(node, decided=True),
        Act.HAND_OVER: replace(node, active=False),
        Act.BACK: replace(node, runs=False, failed=True),
    }[step.act]
    others = {
        name: replace(each, active=True) if step.act is Act.HAND_OVER else each
        for name, each in nodes.items()
    }
    return others | {step.node: changed}

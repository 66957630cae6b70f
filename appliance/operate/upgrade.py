"""Give the nodes of a site a new image, one after the other, while the other one is the router."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from appliance.errors import ToolError
from appliance.node import busy, facts
from appliance.operate import status
from appliance.operate.handover import Handover, hand_over
from appliance.operate.payload import Payload
from appliance.operate.rolling import (
    Act,
    Order,
    Standing,
    Step,
    UnhealthyError,
    before_a_trial,
    fell_back,
    foreseen,
    next_step,
    standing,
    undoing,
)
from appliance.plan.model import Plan
from appliance.progress import step as shown
from appliance.remote import Remote, at_once

T = TypeVar("T")

COMMAND = "appliance-update"

# Sending is a matter of the line; a boot without hardware virtualisation takes minutes, and a trial
# that hangs ends by its own time limit (boot-complete.target) after its last try.
_SEND_S = 3600.0
_BOOT_S = 1800.0
_ANSWER_S = 300.0
_EXCHANGE_S = 90.0
_LOOK_EVERY_S = 2.0

Told = dict[str, Any]


@dataclass(slots=True)
class Upgrade:
    """One run of the command, with `stage` only until a node would reboot; `steps` and `handovers`
    are what was done, for the report.
    """

    plan: Plan
    nodes: Mapping[str, Remote]
    payload: Payload
    only: str | None = None
    allow_older: bool = False
    stage: bool = False
    steps: list[tuple[Step, float]] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)

    @property
    def _order(self) -> Order:
        return before_a_trial if self.stage else next_step

    def look(self) -> dict[str, Standing]:
        """All nodes as they are; one that boots is waited for, and one that is still at what an
        earlier call has begun. ToolError when one stays silent.
        """

        def free(told: dict[str, Told]) -> bool:
            return all(each["busy"] != busy.UPDATE for each in told.values())

        told = _until(self._ask, free, _ANSWER_S, "an answer")
        return {name: standing(each, self.payload.kernel) for name, each in told.items()}

    def _ask(self) -> dict[str, Told]:
        told = at_once(self.nodes, _status)
        for each in told.values():
            if isinstance(each, ToolError):
                raise each
        return {name: each for name, each in told.items() if isinstance(each, dict)}

    def foresee(self) -> tuple[Step, ...]:
        """What would be done; ToolError with a node's own words when it would refuse."""
        nodes = self.look()
        steps = tuple(foreseen(nodes, self.only, self._order))
        for each in steps:
            if each.act is Act.SEND:
                self._send(each.node, dry_run=True)
        return steps

    def run(self) -> None:
        """Do it. When the new image is not healthy on a node, the nodes that have it go back, and
        UnhealthyError says why.
        """
        try:
            self.foresee()
            while step := self._order(self.look(), self.only):
                self._do(step)
        except UnhealthyError as error:
            self._undo(error)
            raise UnhealthyError(f"{error.what}: the site runs its old image, as before") from error

    def _undo(self, error: UnhealthyError) -> None:
        try:
            while step := undoing(self.look()):
                self._do(step)
        except ToolError as another:
            hint = "appliance upgrade goes on when it is called again"
            raise ToolError(f"{error.what}; and then: {another.what}", hint) from error

    def _do(self, step: Step) -> None:
        acts: dict[Act, Callable[[str], None]] = {
            Act.SEND: self._send,
            Act.TRY: self._try,
            Act.AWAIT: self._await,
            Act.HAND_OVER: self._hand_over,
            Act.BACK: self._back,
        }
        begin = time.monotonic()
        with shown(words(step, self.payload)):
            acts[step.act](step.node)
        self.steps.append((step, time.monotonic() - begin))

    # The steps

    def _send(self, name: str, *, dry_run: bool = False) -> None:
        options = ["--dry-run"] if dry_run else []
        options += ["--allow-older"] if self.allow_older else []
        node, place = self.nodes[name], self.payload.place
        if isinstance(place, str):
            _accepted(node, "take", "--from", place, *options, timeout=_SEND_S)
            return
        held = () if dry_run else self._held(name)
        with self.payload.archive(whole=not dry_run, but=held) as tar:
            _accepted(node, "take", *options, stdin=tar, timeout=_SEND_S)

    def _held(self, name: str) -> tuple[str, ...]:
        """What the node can copy from the slot that runs."""
        described = self.payload.description
        same = _status(self.nodes[name]).get("root_hash") == described.root_hash
        return described.slot if same else ()

    def _try(self, name: str) -> None:
        self._reboot(name, "try")
        self._await(name)

    def _await(self, name: str) -> None:
        """Until the node has decided. UnhealthyError when it went back to its old image."""

        def decided(now: Standing) -> bool:
            return now.decided or not now.runs

        now = _until(lambda: self._one(name), decided, _BOOT_S, f"the end of {name}'s trial")
        if not now.runs:
            raise fell_back(now)

    def _back(self, name: str) -> None:
        self._reboot(name, "back")
        if self._one(name).runs:
            raise ToolError(f"{name} runs the new image still")

    def _reboot(self, name: str, verb: str) -> None:
        node = self.nodes[name]
        before = _status(node)["boot_id"]
        _accepted(node, verb)

        def booted(told: Told) -> bool:
            return bool(told["boot_id"] != before)

        _until(lambda: _status(node), booted, _BOOT_S, f"{name} to boot")

    def _one(self, name: str) -> Standing:
        return standing(_status(self.nodes[name]), self.payload.kernel)

    def _hand_over(self, name: str) -> None:
        """Only when each of the two, old and new, holds what the other has."""
        try:
            self._exchanged()
            self.handovers.append(hand_over(self.plan, self.nodes))
        except ToolError as error:
            raise UnhealthyError(f"no handover from {name}: {error.what}") from error

    def _exchanged(self) -> None:
        def asked() -> list[str]:
            return list(_apart(status.look(self.plan, self.nodes)))

        _until(asked, lambda wrong: not wrong, _EXCHANGE_S, "the nodes to exchange state")

    def report(self) -> dict[str, Any]:
        """What was done, for machines."""
        return {
            "version": self.payload.version,
            "steps": [
                {"act": step.act, "node": step.node, "seconds": round(seconds, 1)}
                for step, seconds in self.steps
            ],
            "handovers": [asdict(each) for each in self.handovers],
        }


def words(step: Step, payload: Payload) -> str:
    """A step, for a person."""
    version, name = payload.version, step.node
    return {
        Act.SEND: f"{name}: version {version} into the other slot",
        Act.TRY: f"{name}: reboot, and trial of version {version}",
        Act.AWAIT: f"{name}: the end of its trial of version {version}",
        Act.HAND_OVER: f"{name}: hand over to the other node",
        Act.BACK: f"{name}: reboot into the image before",
    }[step.act]


def _apart(report: status.Report) -> list[str]:
    """What keeps the two nodes from a handover; their versions may differ."""
    wrong = []
    for name, each in report.nodes.items():
        if isinstance(each, ToolError):
            wrong.append(each.what)
        else:
            wrong += [f"{name}: {what}" for what in facts.of_pair(each, mixed=True)]
    return wrong


def _status(node: Remote) -> Told:
    """What a node says of its images; ToolError also when it cannot, as one that shuts down."""
    return _accepted(node, "status")


def _accepted(node: Remote, *command: str, **how: Any) -> Told:
    """Have the node do it, and its answer; ToolError with its words when it refuses."""
    told: Told = node.ask(COMMAND, *command, **how)
    if "refused" in told:
        raise ToolError(f"{node.name}: {told['refused']}")
    return told


def _until(ask: Callable[[], T], enough: Callable[[T], bool], limit: float, what: str) -> T:
    """Ask again and again; a node that boots does not answer, and one that is slow to answer has
    other work: it is left alone for as long. ToolError after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        last: object
        asked = time.monotonic()
        try:
            if enough(answer := ask()):
                return answer
            last = "; ".join(answer) if isinstance(answer, list) else answer
        except ToolError as error:
            last = error.what
        now = time.monotonic()
        if now > deadline:
            raise ToolError(f"waited {limit:.0f} s for {what}: {last}")
        time.sleep(max(_LOOK_EVERY_S, now - asked))  # poll

"""A changed site put in force on nodes that run, one after the other, and kept when all is well.

Both nodes have it on trial before either keeps it, and each of them ends its trial by itself when
it is not confirmed in time: so whatever becomes of this program, the pair ends as it began, or with
the new site on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from appliance.conversation import Conversation, conversing
from appliance.errors import ToolError
from appliance.node.events import Role
from appliance.node.layer import Layer, Manifest
from appliance.node.probation import State
from appliance.operate.handover import hand_over
from appliance.plan.model import Plan
from appliance.progress import step
from appliance.remote import Remote, at_once
from appliance.render import layers
from appliance.render.tree import FileTree

COMMAND = "appliance-apply"

_LONG_S = 180.0  # for what has programs read files, or start again
_MARGIN_S = 30.0  # for a node to end its trial, beyond its time
_LOOK_EVERY_S = 1.0

Answer = dict[str, Any]
Talks = Mapping[str, Conversation]
Sign = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done on a node, as it said itself: the files and steps of the change, in the
    words of `appliance.node.change`.
    """

    node: str
    role: str | None
    before: str
    identity: str
    written: tuple[str, ...]
    removed: tuple[str, ...]
    steps: tuple[str, ...]
    reboot: tuple[str, ...]
    apart: bool
    yields: bool

    def as_json(self) -> Answer:
        """The form that `appliance apply --json` prints."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Proposal:
    """All that is to be done, in its order: the standby first. Nodes that have the site already
    are not in `work`.
    """

    plan: Plan
    work: tuple[Work, ...]

    @property
    def apart(self) -> bool:
        """Whether the nodes would not take each other's adverts in between."""
        return self.plan.pair is not None and any(each.apart for each in self.work)

    @property
    def hands_over(self) -> bool:
        """Whether the active node would lose its role: then it gives it away before, unless it
        would take it back at once.
        """
        pair = self.plan.pair
        losing = any(each.yields and each.role == Role.MASTER for each in self.work)
        return pair is not None and not pair.preempt and losing


@contextmanager
def talking(nodes: Mapping[str, Remote]) -> Iterator[dict[str, Conversation]]:
    """With every node, for `propose` and `carry_out`."""
    with conversing(nodes, COMMAND, "session") as talks:
        yield talks


def propose(plan: Plan, tree: FileTree, nodes: Talks, sign: Sign | None = None) -> Proposal:
    """Send each node what it lacks, and have it say what that would mean; nothing is changed.
    `sign` makes the signature that an image with keys asks for.

    ToolError when a node is not reached or refuses, or when the pair is not fit for a change.
    """
    wanted = layers.manifests(plan, tree)
    with step("Asking the nodes what they have"):
        told = _all(at_once(nodes, lambda node: _done(node, "state")))
    _check_fit(plan, told)
    if sign is None and (asking := [name for name, each in told.items() if each["signed"]]):
        hint = "--keys FOLDER, with the keys that it was built with"
        raise ToolError(f"the image of {', '.join(asking)} takes signed layers only", hint)
    lacking = {n: r for n, r in nodes.items() if told[n]["identity"] != wanted[n].identity}

    def send(node: Conversation) -> Answer:
        name = node.remote.name
        layer = _layer(wanted[name], tree, told[name]["have"], sign)
        return _done(node, "stage", stdin=layer.text)

    with step("Having the nodes check the new site"):
        answers = _all(at_once(lacking, send))
    work = [_work(name, told[name], answer) for name, answer in answers.items()]
    return Proposal(plan, tuple(sorted(work, key=lambda each: each.role == Role.MASTER)))


def _layer(manifest: Manifest, tree: FileTree, have: Mapping[str, str], sign: Sign | None) -> Layer:
    contents = layers.contents(tree[manifest.node], have.items())
    return Layer(manifest.text, sign and sign(manifest.text), contents)


def _work(name: str, told: Answer, answer: Answer) -> Work:
    return Work(
        node=name,
        role=told["role"],
        before=told["digest"],
        identity=answer["identity"],
        written=tuple(answer["written"]),
        removed=tuple(answer["removed"]),
        steps=tuple(answer["steps"]),
        reboot=tuple(answer["reboot"]),
        apart=answer["apart"],
        yields=answer["yields"],
    )


def _check_fit(plan: Plan, told: Mapping[str, Answer]) -> None:
    """Refuse what cannot end well, before anything is sent."""
    for name, each in told.items():
        if each["site"] != plan.site:
            raise ToolError(f"{name} is a node of site {each['site']}, not of {plan.site}")
        if each["trial"] and each["trial"]["state"] in (State.BEGUN, State.ON_TRIAL):
            raise ToolError(f"{name} has another change on trial", "wait until it is over")
    roles = {name: each["role"] for name, each in told.items()}
    if plan.pair and sorted(map(str, roles.values())) != [Role.BACKUP, Role.MASTER]:
        is_now = ", ".join(f"{name} is {role or 'silent'}" for name, role in roles.items())
        raise ToolError(f"not one active node and its standby: {is_now}", "appliance status")


# Doing it


def carry_out(proposal: Proposal, nodes: Talks, within_s: float) -> None:
    """Do it on every node, and keep it: nothing is left of it when this raises, or ToolError says
    where something is.
    """
    if reasons := [f"{each.node}: {why}" for each in proposal.work for why in each.reboot]:
        hint = "build an image of the changed site, and boot the nodes from it"
        raise ToolError("this change needs a reboot:\n" + "\n".join(reasons), hint)
    with _undone(proposal, nodes, time.monotonic() + within_s), ExitStack() as stack:
        anew = partial(_anew, nodes, stack)
        reached = _on_trial(proposal, nodes, within_s, anew)
        with step("Confirming over new connections"):
            digests = _confirm(proposal, reached, anew)
    if set(digests.values()) != {proposal.plan.digest}:
        has = ", ".join(f"{name} has {each[:12]}" for name, each in digests.items())
        raise ToolError(f"the nodes do not agree: {has}", "apply it once more")


def _anew(nodes: Talks, stack: ExitStack, name: str) -> Conversation:
    """With a node over a new connection, which lasts as long as the stack; ToolError unless it
    answers.
    """
    talk = stack.enter_context(talking({name: nodes[name].remote.afresh()}))[name]
    _done(talk, "state")
    return talk


def _on_trial(
    proposal: Proposal, nodes: Talks, within_s: float, anew: Callable[[str], Conversation]
) -> dict[str, Conversation]:
    """The first node; then the other, while we come in at the first one anew: that conversation."""
    first, *others = proposal.work
    reached: dict[str, Conversation] = {}
    aside = ("--aside",) if proposal.apart else ()
    with step(f"Changing {_part(first)}"):
        _begin(first, nodes[first.node], within_s, *aside)
    for each in others:
        if proposal.hands_over:
            with step(f"Handing over from {each.node}, whose keepalived has to be restarted"):
                hand_over(proposal.plan, {name: talk.remote for name, talk in nodes.items()})
        with step(f"Changing {_part(each)}"), ThreadPoolExecutor() as pool:
            entering = pool.submit(anew, first.node)
            _begin(each, nodes[each.node], within_s)
            reached[first.node] = entering.result()
    if proposal.apart:
        with step(f"Having {first.node} stand by again"):
            _done(nodes[first.node], "join", first.identity)
    return reached


def _begin(work: Work, node: Conversation, within_s: float, *options: str) -> Answer:
    return _done(node, "begin", work.identity, "--within", f"{within_s:g}", *options)


def _part(work: Work) -> str:
    parts = {Role.MASTER: ", the active node", Role.BACKUP: ", the standby"}
    return work.node + parts.get(Role(work.role or Role.INIT), "")


def _confirm(
    proposal: Proposal,
    reached: Mapping[str, Conversation],
    anew: Callable[[str], Conversation],
) -> dict[str, str]:
    """Over new connections: who cannot come in any more cannot keep it either. The first node was
    reached so already, and is the last to keep it. The digests that are in force then.
    """
    answers = {
        each.node: _done(reached.get(each.node) or anew(each.node), "confirm", each.identity)
        for each in reversed(proposal.work)
    }
    return {name: each["digest"] for name, each in answers.items()}


@contextmanager
def _undone(proposal: Proposal, nodes: Talks, until: float) -> Iterator[None]:
    """When the block fails, have every node end its trial, and say which of them did."""
    try:
        yield
    except (ToolError, KeyboardInterrupt) as error:
        with step("Going back to the old site"):
            left = _go_back(proposal, nodes, until)
        why = error.what if isinstance(error, ToolError) else "interrupted"
        if left:
            raise ToolError(f"{why}\n" + "\n".join(left), "appliance status") from None
        raise ToolError(f"{why}\nno node has kept the new site") from None


def _go_back(proposal: Proposal, nodes: Talks, until: float) -> list[str]:
    """Ask each node to end its trial, or wait for those that do it by themselves; what is left."""
    identity = {each.node: each.identity for each in proposal.work}

    def go_back(node: Conversation) -> str | None:
        name = node.remote.name
        while True:
            try:
                told = _done_afresh(node, "revert", identity[name])
            except ToolError as error:
                if time.monotonic() > until + _MARGIN_S:
                    return f"{name} is not known to be back: {error.what}"
            else:
                kept = told["state"] == State.KEPT
                return f"{name} has kept the new site" if kept else None
            time.sleep(_LOOK_EVERY_S)  # poll

    asked = {name: nodes[name] for name in identity}
    return [str(each) for each in at_once(asked, go_back).values() if each]


def _done(node: Conversation, *command: str, stdin: str = "") -> Answer:
    """What a node answers; ToolError with its words when it did not do it."""
    told = node.ask({"command": command, "stdin": stdin}, _LONG_S)
    return _checked(node, told)


def _done_afresh(node: Conversation, *command: str) -> Answer:
    """The same over a new connection."""
    return _checked(node, node.remote.afresh().ask(COMMAND, *command, timeout=_LONG_S))


def _checked(node: Conversation, told: Answer) -> Answer:
    if not told["done"]:
        raise ToolError(f"{node.remote.name}: {told['reason']}")
    return told


def _all(answers: Mapping[str, Answer | ToolError]) -> dict[str, Answer]:
    """The answers, when all have come; else the first error."""
    for each in answers.values():
        if isinstance(each, ToolError):
            raise each
    return {name: each for name, each in answers.items() if not isinstance(each, ToolError)}

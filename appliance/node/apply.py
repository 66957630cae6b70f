"""Change the site of a node that runs: `appliance-apply`, which `appliance apply` speaks to.

    state                         what is in force, as JSON
    stage                         takes a layer on standard input, checks it, says what it means
    begin IDENTITY --within S     puts it in force, on trial for so many seconds
    join IDENTITY                 lets keepalived run again, where the trial has stopped it
    confirm IDENTITY              keeps it: from here on boots have it as well
    revert IDENTITY               ends the trial, as the node itself does when its time is up
    session                       takes these as lines of JSON: {"command": [...], "stdin": "..."}

Until it is confirmed no boot knows of it: whatever ends the trial, the old site is back.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.node import (
    activation,
    busy,
    change,
    facts,
    lay,
    layer,
    probation,
    proof,
    seal,
    swap,
    vault,
)
from appliance.node import config as configuration
from appliance.node.activation import StepError, Wanted
from appliance.node.change import Change, Step
from appliance.node.events import Role
from appliance.node.layer import BadLayerError, Layer, Manifest
from appliance.node.probation import BusyError, State, Trial
from appliance.node.swap import Was
from appliance.node.vault import Chosen

_HELP = "Change the site of this node; see `appliance apply`, which speaks to this program."
_TIMER = "appliance-apply-revert"
_PROOF_S = 120.0
_BUSY = configuration.BUSY.relative_to("/")
# What this node is at meanwhile, which no update goes with.
CHANGE = "a changed site"
_KEEPALIVED = {Step.RELOAD, Step.RESTART}

Answer = dict[str, Any]


def state(root: Path) -> Answer:
    """What is in force here, and what became of the last change since this boot."""
    now = layer.read(root)
    last = probation.read(root)
    told = facts.read_json(root / facts.STATE)
    return {
        "node": now.node,
        "site": now.site,
        "digest": now.digest,
        "identity": now.identity,
        "signed": seal.wanted(root),
        "have": layer.digests(root, now.files),
        "role": facts.at(told, "role"),
        "trial": last and {"state": last.state, "identity": last.identity, "trouble": last.trouble},
    }


# Before anything changes


def stage(text: str, root: Path) -> Answer:
    """Check a layer as it comes, by its signature, its digests and the programs that will read it;
    BadLayerError when any of them refuses.
    """
    whole = layer.receive(text)
    old, new = layer.read(root), layer.parse(whole.manifest)
    if (new.site, new.node) != (old.site, old.node):
        words = f"it is for {new.node} of {new.site}, and this is {old.node} of {old.site}"
        raise BadLayerError(words)
    seal.check(whole.manifest, whole.signature, root)
    if odd := change.unknown(new):
        raise BadLayerError(
            f"this image has no use for {', '.join(odd)}: it is older than the site"
        )
    contents = _completed(new, whole, root)
    layer.check(new, contents)
    found = _change(old, new, contents, root)
    _prove(contents, found)
    probation.stage(replace(whole, contents=contents), root)
    return {"identity": new.identity, "digest": new.digest, **found.as_json()}


def _completed(new: Manifest, whole: Layer, root: Path) -> dict[str, str]:
    """The sender leaves out what is here already."""
    here = swap.read(root, new.files.keys() - whole.contents.keys())
    found = {path: was.content for path, was in here.items() if was.content is not None}
    return found | {path: text for path, text in whole.contents.items() if path in new.files}


def _change(old: Manifest, new: Manifest, contents: Mapping[str, str], root: Path) -> Change:
    before = swap.read(root, {*old.files, *new.files})
    texts = {path: was.content for path, was in before.items() if was.content is not None}
    return change.between(old, new, texts, contents)


def _prove(contents: Mapping[str, str], found: Change) -> None:
    """Let the programs read what is new."""
    if not found.written:
        return
    asked = json.dumps(proof.job(contents, found.written))
    argv = ["unshare", "--net", "--mount", sys.executable, "-I", proof.__file__]
    done = subprocess.run(
        argv, input=asked, capture_output=True, text=True, check=False, timeout=_PROOF_S
    )
    if done.returncode:
        raise BadLayerError(f"it cannot be checked: {done.stderr.strip()}")
    refused = [f"{by} refuses {path}: {said}" for path, by, said in json.loads(done.stdout)]
    if refused:
        raise BadLayerError("\n".join(refused))


# The trial


@dataclass(frozen=True, slots=True)
class Terms:
    """Of a trial: how many seconds it may last, and whether keepalived stays out meanwhile."""

    within_s: float
    aside: bool = False


def begin(identity: str, terms: Terms, root: Path) -> Answer:
    """Put the staged layer in force, or leave all as it was; StepError says why."""
    with probation.locked(root):
        last = probation.read(root)
        if last and last.open:
            raise BusyError("another change of this node is on trial")
        _refuse_if_busy(root)
        whole = probation.staged(root)
        new, old = layer.parse(whole.manifest), layer.read(root)
        if new.identity != identity:
            raise BadLayerError("another layer was sent meanwhile")
        found = _change(old, new, whole.contents, root)
        if found.reboot:
            raise BadLayerError(f"it needs a reboot: {'; '.join(found.reboot)}")
        lay.note_image(root, old)
        begun = _begun(old, whole, found, root)
        begun = replace(begun, aside=terms.aside)
        vault.put(whole, root)
        _arm(identity, terms.within_s)
        probation.write(begun, root)
        busy.tell(CHANGE, root / _BUSY)
        _try(begun, found, terms, root)
        probation.write(replace(begun, state=State.ON_TRIAL), root)
    return {"identity": identity}


def _refuse_if_busy(root: Path) -> None:
    """Not while this node or its peer is at an update. The peer may be at the same change."""
    told = facts.read_json(root / facts.STATE)
    for who, what in (
        ("this node", busy.read(root / _BUSY)),
        ("its peer", facts.at(told, "peer", "busy")),
    ):
        if what and what != CHANGE:
            raise BusyError(f"{who} is at {what}: one thing at a time")


def _begun(old: Manifest, whole: Layer, found: Change, root: Path) -> Trial:
    """The trial as it begins, with the way back."""
    new = layer.parse(whole.manifest)
    after = {path: Was(whole.contents[path], new.files[path].mode) for path in found.written}
    after |= {path: Was(None) for path in found.removed}
    after[str(layer.PATH)] = Was(new.text)
    before = swap.read(root, after)
    texts = {path: was.content for path, was in before.items() if was.content is not None}
    back = change.between(new, old, whole.contents, texts)
    return Trial(
        identity=new.identity,
        digest=new.digest,
        over=_over(old, new, root),
        state=State.BEGUN,
        pid=os.getpid(),
        aside=False,
        steps=found.steps,
        back=back.steps,
        before=before,
        after=after,
    )


def _over(old: Manifest, new: Manifest, root: Path) -> tuple[str, ...]:
    """The digests of the sites before the new one, as far as they are known here."""
    earlier: tuple[str, ...] = ()
    with suppress(BadLayerError):  # what is broken is replaced
        chosen = vault.chosen(root)
        earlier = chosen.over if chosen and chosen.identity == old.identity else ()
    return tuple(each for each in dict.fromkeys((*earlier, old.digest)) if each != new.digest)


def _try(begun: Trial, found: Change, terms: Terms, root: Path) -> None:
    """Do it, and see whether all is well; else undo it at once."""
    before = activation.look(root)
    keeps_role = before.role in (Role.MASTER, Role.BACKUP) and not (found.yields or terms.aside)
    wanted = Wanted(
        role=before.role if keeps_role else None,
        aside=terms.aside,
        synced=Step.CONNTRACKD in found.steps and not terms.aside,
        keepalived=bool(_KEEPALIVED & set(found.steps)),
    )
    try:
        swap.write(root, begun.after)
        activation.run(begun.steps, begun.texts(False), begun.texts(True), aside=terms.aside)
        activation.wait_well(root, before, wanted)
    except (StepError, OSError) as error:
        _undo(begun, str(error), root)
        raise StepError(f"{error}; the old site is back") from None


def join(identity: str, root: Path) -> Answer:
    """Let keepalived run with the new site; StepError when it is not well."""
    with probation.locked(root):
        on_trial = _on_trial(identity, root)
        if on_trial.aside:
            before = activation.look(root)
            activation.call(activation.STAND_AGAIN)
            activation.wait_well(root, before, Wanted(role=Role.BACKUP, keepalived=True))
            probation.write(replace(on_trial, aside=False), root)
    return {"identity": identity}


def confirm(identity: str, root: Path) -> Answer:
    """Keep it: from this moment on a boot has the new site as well. A second time does no harm."""
    with probation.locked(root):
        last = probation.read(root)
        if last and last.state is State.KEPT and last.identity == identity:
            return {"identity": identity, "digest": last.digest}
        on_trial = _on_trial(identity, root)
        image = layer.parse((root / lay.IMAGE).read_text())
        if image.identity == identity:
            vault.choose_none(root)
        else:
            vault.choose(Chosen(identity, on_trial.over), root)
        probation.end(on_trial, State.KEPT, root)
        _end(root)
    return {"identity": identity, "digest": layer.read(root).digest}


def _on_trial(identity: str, root: Path) -> Trial:
    last = probation.read(root)
    if last is None or last.identity != identity:
        raise BadLayerError("this site is not on trial here")
    if last.state is not State.ON_TRIAL:
        raise BadLayerError(f"it is {last.state}" + (f": {last.trouble}" if last.trouble else ""))
    return last


def revert(identity: str, root: Path, why: str) -> Answer:
    """Have the old site back, unless the new one is kept by now; whoever is at it is ended."""
    last = probation.read(root)
    if last is None or last.identity != identity:
        return {"identity": identity, "state": None}
    if last.open:
        with probation.ousting(last, root) as now:
            last = _undo(now, why, root) if now.open else now
    return {"identity": identity, "state": last.state}


def _undo(begun: Trial, why: str, root: Path) -> Trial:
    """The way back, all of it, whatever fails; then StepError says what did. The timer is left
    alone in that case: it tries once more, and then reboots, which has the old site for certain.
    """
    failed = []
    swap.write(root, begun.before)
    for step in begun.back:
        try:
            activation.run((step,), begun.texts(True), begun.texts(False))
        except StepError as error:
            failed.append(str(error))
    if begun.aside:
        activation.call(activation.STAND_AGAIN)
    if failed:
        raise StepError("; ".join(failed))
    ended = probation.end(begun, State.REVERTED, root, why)
    _end(root)
    return ended


# The timer


def _arm(identity: str, within_s: float) -> None:
    """Have systemd roll back, whoever is gone by then; reboot if even that fails.

    By default a timer may be a minute late (AccuracySec= in systemd.timer(5)).
    """
    activation.call(
        (
            *("systemd-run", "--quiet", "--collect", f"--unit={_TIMER}"),
            *(f"--on-active={within_s:g}s", "--timer-property=AccuracySec=10ms"),
            *("--property=FailureAction=reboot", "--property=Nice=-10"),
            *(
                "/usr/bin/appliance-apply",
                "revert",
                identity,
                "--why",
                "it was not confirmed in time",
            ),
        )
    )


def _end(root: Path) -> None:
    """Nothing is on trial any more, and no timer is left; it may be that which has us run."""
    busy.tell("", root / _BUSY)
    with suppress(StepError):
        activation.call(("systemctl", "stop", f"{_TIMER}.timer"))


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when it was done, 1 when not; the answer is JSON in any case."""
    words = sys.argv[1:] if argv is None else argv
    for each in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(each, signal.SIG_IGN)  # who asked may be gone; what was begun is ended
    if words[-1:] == [_SESSION]:
        return _session(words[:-1])
    given = _parser().parse_args(words)
    done = _answer(given, sys.stdin.read() if given.verb == "stage" else "")
    return 0 if done else 1


def _session(options: list[str]) -> int:
    """Answer one question after the other, a line each, until nobody asks any more."""
    for line in sys.stdin:
        asked = json.loads(line)
        _answer(_parser().parse_args([*options, *asked["command"]]), asked["stdin"])
    return 0


def _answer(given: argparse.Namespace, text: str) -> bool:
    """Do it, and print what came of it; whether it was done."""
    try:
        answer = {"done": True, **_VERBS[given.verb](given, text)}
    except (BadLayerError, BusyError, StepError, OSError, subprocess.TimeoutExpired) as error:
        answer = {"done": False, "reason": str(error)}
    with suppress(BrokenPipeError):
        print(json.dumps(answer), flush=True)
    return bool(answer["done"])


_SESSION = "session"
_VERBS: Mapping[str, Callable[[argparse.Namespace, str], Answer]] = {
    "state": lambda given, _: state(given.root),
    "stage": lambda given, text: stage(text, given.root),
    "begin": lambda given, _: begin(given.identity, Terms(given.within, given.aside), given.root),
    "join": lambda given, _: join(given.identity, given.root),
    "confirm": lambda given, _: confirm(given.identity, given.root),
    "revert": lambda given, _: revert(given.identity, given.root, given.why),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="appliance-apply", description=_HELP)
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in _VERBS:
        verb = verbs.add_parser(name)
        if name not in ("state", "stage"):
            verb.add_argument("identity", help="of the layer, as `stage` has said")
        if name == "begin":
            verb.add_argument("--within", type=float, required=True, metavar="SECONDS")
            verb.add_argument("--aside", action="store_true", help="stop keepalived for it")
        if name == "revert":
            verb.add_argument("--why", default="it was asked for")
    return parser


if __name__ == "__main__":
    sys.exit(main())

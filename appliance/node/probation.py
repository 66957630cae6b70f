"""A changed site on trial: what was there before, how long it has left, and the way back.

All of it is in /run: a boot ends a trial, and has the old site. Everybody who changes something
holds the lock; who rolls back first ends whoever is in the middle of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from appliance.node import statefile
from appliance.node.change import Step
from appliance.node.layer import BadLayerError, Layer
from appliance.node.swap import Was

PLACE = Path("run/appliance/apply")
_STAGED, _TRIAL, _LOCK = "staged.json", "trial.json", "lock"
# How a process is known that changes the site.
_PROGRAM = "appliance.node.apply"


class State(StrEnum):
    """How far a change has come."""

    BEGUN = "begun"
    ON_TRIAL = "on trial"
    KEPT = "kept"
    REVERTED = "rolled back"


class BusyError(Exception):
    """Somebody else is changing the site of this node."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One change. `before` and `after` are the files on both sides of it, `back` the steps that
    undo it, `over` the digests of the sites before it, the one that was in force last. `pid` is who
    is at it; with `aside` keepalived was stopped for it.
    """

    identity: str
    digest: str
    over: tuple[str, ...]
    state: State
    pid: int
    aside: bool
    steps: tuple[Step, ...]
    back: tuple[Step, ...]
    before: dict[str, Was]
    after: dict[str, Was]
    trouble: str | None = None

    @property
    def open(self) -> bool:
        """Whether it is neither kept nor undone yet."""
        return self.state in (State.BEGUN, State.ON_TRIAL)

    def texts(self, after: bool) -> dict[str, str]:
        """The contents on one side, of what is there."""
        side = self.after if after else self.before
        return {path: file.content for path, file in side.items() if file.content is not None}


def write(trial: Trial, root: Path) -> None:
    """Note how far it is, in one step."""
    (root / PLACE).mkdir(mode=0o700, parents=True, exist_ok=True)
    statefile.write(root / PLACE / _TRIAL, asdict(trial))


def read(root: Path) -> Trial | None:
    """The last change since this boot; None before the first."""
    try:
        told = json.loads((root / PLACE / _TRIAL).read_text())
    except FileNotFoundError:
        return None
    sides = {side: {p: Was(**f) for p, f in told[side].items()} for side in ("before", "after")}
    steps = {side: tuple(map(Step, told[side])) for side in ("steps", "back")}
    rest = {"over": tuple(told["over"]), "state": State(told["state"])}
    return Trial(**{**told, **sides, **steps, **rest})


def end(trial: Trial, state: State, root: Path, trouble: str | None = None) -> Trial:
    """It is kept or undone."""
    ended = replace(trial, state=state, trouble=trouble, before={}, after={})
    write(ended, root)
    return ended


def stage(whole: Layer, root: Path) -> None:
    """Keep a layer that was found good, for `staged`."""
    (root / PLACE).mkdir(mode=0o700, parents=True, exist_ok=True)
    statefile.write(root / PLACE / _STAGED, asdict(whole))


def staged(root: Path) -> Layer:
    """What was found good last; BadLayerError without any."""
    try:
        return Layer(**statefile.read(root / PLACE / _STAGED))
    except FileNotFoundError:
        raise BadLayerError("no layer was sent since this boot") from None


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Be the only one; BusyError when somebody else is at it."""
    with _lock(root) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("the site of this node is being changed right now") from None
        yield


@contextmanager
def ousting(trial: Trial, root: Path) -> Iterator[Trial]:
    """End who is in the middle of this change, and be the only one then: the change as it is."""
    if trial.state is State.BEGUN:
        _end(trial.pid)
    with _lock(root) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield read(root) or trial


def _end(process: int) -> None:
    """Kill it, unless its number is another program's by now."""
    with suppress(OSError):
        if _PROGRAM in Path(f"/proc/{process}/cmdline").read_text():
            os.kill(process, signal.SIGKILL)


def _lock(root: Path) -> TextIO:
    (root / PLACE).mkdir(mode=0o700, parents=True, exist_ok=True)
    return (root / PLACE / _LOCK).open("w")

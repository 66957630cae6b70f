"""Several pairs at once: each worker of pytest-xdist has labs of its own, and all share a machine.

Two labs use four processors better than one does. What is measured has the machine to itself.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from typing import Any, Final

import pytest

from appliance import resources
from vmtests import figures, matrix

SEED: Final = "seed"
PAGES: Final = "pages"
KEYS: Final = (figures.KEY, matrix.KEY)


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """A test's time on this machine, beside others or `alone`; whoever comes first goes first."""
    with _lock("tests-queue") as queue, _lock("tests-machine") as machine:
        flock(queue, LOCK_EX)
        flock(machine, LOCK_EX if alone else LOCK_SH)
        flock(queue, LOCK_UN)
        yield


def _lock(name: str) -> Any:
    folder = resources.cache()
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}.lock").open("w")


def follow(config: pytest.Config) -> None:
    """A worker has the seed of the run."""
    config.option.seed = getattr(config, "workerinput", {}).get(SEED, config.option.seed)


def hand_in(config: pytest.Config) -> None:
    """What a worker has collected goes to who shows it."""
    if hasattr(config, "workeroutput"):
        config.workeroutput[PAGES] = pickle.dumps([config.stash[key] for key in KEYS])


def take_in(config: pytest.Config, output: dict[str, Any]) -> None:
    """The other end; a worker that died has handed in nothing."""
    for key, page in zip(KEYS, pickle.loads(output.get(PAGES, pickle.dumps([]))), strict=False):
        config.stash[key].extend(page)

"""What this node is at that its peer must not do at the same time: an update, or a trial of one.

A word in a file; the state agent hands it to the peer's, with each word of its own.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.node import statefile
from appliance.node.refused import RefusedError

UPDATE, TRIAL = "an update", "a trial"

# The agent speaks each 0.2 s and writes each second; a word that was under way is older than this.
_SETTLED_S = 0.6
_HEARD_WITHIN_S = 5.0
_POLL_S = 0.1


def read(path: Path) -> str:
    """What the node is at; empty for nothing."""
    try:
        return statefile.text(path).strip()
    except OSError:
        return ""


def tell(what: str, path: Path) -> None:
    """Say what the node is at from now on; empty for nothing."""
    statefile.replace(path, f"{what}\n")


@contextmanager
def alone_at_it(path: Path) -> Iterator[None]:
    """Be the only update on this node; RefusedError when there is another one."""
    with path.with_suffix(".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError("another update is under way on this node") from None
        yield


@contextmanager
def told(what: str, state: Path, path: Path) -> Iterator[dict[str, Any]]:
    """Say it to the peer, and see that the peer is at nothing: what the peer says of itself.

    When both begin at once both see the other, and neither goes on. RefusedError, too, when the
    peer is not heard.
    """
    tell(what, path)
    try:
        yield _peer_at_nothing(state)
    finally:
        tell("", path)


def _peer_at_nothing(state: Path) -> dict[str, Any]:
    begin = time.monotonic()
    while time.monotonic() < begin + _HEARD_WITHIN_S:
        peer: dict[str, Any] | None = statefile.read(state)["peer"]
        if peer and peer["heard"] > begin + _SETTLED_S:
            if peer.get("busy"):
                raise RefusedError(f"{peer['node']} is at {peer['busy']}: one node at a time")
            return peer
        time.sleep(_POLL_S)  # poll
    raise RefusedError("the peer is not heard, so that nobody would take over")

"""What conntrackd has to do in each role, one request after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.node.conntrackd import Conntrackd, NoAnswerError, Request

# Commit before anything else: until it is done, packets of every running connection are dropped.
# Then forget what is now ours (a later commit would raise connections from the dead), read the
# kernel's table afresh, and send all of it: the peer may have lost, or never had, its copy.
TAKE_OVER = (Request.COMMIT, Request.FLUSH, Request.RESYNC, Request.BULK)

# A split brain has healed and we stay active: take over what the loser accepted meanwhile. The
# internal cache stays, because nothing of ours became void.
HEAL = (Request.COMMIT, Request.FLUSH_EXTERNAL, Request.RESYNC, Request.BULK)

# conntrackd was restarted under the active node: events in between are lost, so the peer gets all.
REJOIN = (Request.RESYNC, Request.BULK)


@dataclass(frozen=True, slots=True)
class Done:
    """How a sequence went: milliseconds to the end of its first request and of its last one.

    `left` is what was not done, because conntrackd failed or because newer events came.
    """

    first_ms: float
    all_ms: float
    left: tuple[Request, ...] = ()
    failure: NoAnswerError | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """Drives `conntrackd`; `committed` is called as soon as a commit is done."""

    conntrackd: Conntrackd
    committed: Callable[[], None]

    def run(
        self,
        sequence: tuple[Request, ...],
        superseded: Callable[[], bool],
        begin: float,
        entries: int = 0,
    ) -> Done:
        """Run to the end, or to the first failure, or until `superseded` says that it is void.

        `begin` is the monotonic time of the news; `entries`: how many connections there may be to
        work on.
        """
        first = 0.0
        for number, request in enumerate(sequence):
            if number and superseded():
                return Done(first, _since(begin), sequence[number:])
            try:
                self.conntrackd.ask(request, entries)
            except NoAnswerError as error:
                return Done(first, _since(begin), sequence[number:], error)
            if request is Request.COMMIT:
                self.committed()
            first = first or _since(begin)
        return Done(first, _since(begin))


def _since(begin: float) -> float:
    return (time.monotonic() - begin) * 1000

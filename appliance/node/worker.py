"""A thread for what may take long, one piece after another, so that the agent's loop never waits.

Everything that is asked of conntrackd goes this way, in order; results come back to the loop.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """`fd` becomes readable when something is done; `collect` then tells whoever waits for it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.busy = 0  # how many pieces are asked for and not collected yet
        self._pool = ThreadPoolExecutor(1, "worker")
        self._done: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()

    def do(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Have `work` done after all that came before; `then` is called with its result, here."""
        self.busy += 1
        self._pool.submit(work).add_done_callback(lambda future: self._finish(future, then))

    def _finish(self, future: Future[T], then: Callable[[T], None]) -> None:
        self._done.append((future, then))
        os.eventfd_write(self.fd, 1)

    def collect(self) -> None:
        """Hand on the results that are there; what `work` raised is raised here."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return
        while self._done:
            future, then = self._done.popleft()
            self.busy -= 1
            then(future.result())

"""The lab's child processes: one thread starts them all and talks to QEMU's monitors; none
outlives the lab.

Each child asks the kernel to be killed when the *thread* that started it ends (PR_SET_PDEATHSIG,
prctl(2)), so they
are all started from this one thread, which lives as long as the lab, and dies with it also by
SIGKILL.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from appliance.lab.errors import HarnessError
from appliance.run import Argument, announce

_T = TypeVar("_T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


class Children:
    """A thread with an event loop, and what was started from it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="children", daemon=True)
        self._thread.start()
        self._started: list[subprocess.Popen[bytes]] = []

    def call(self, work: Coroutine[Any, Any, _T], timeout: float) -> _T:
        """Run a coroutine in the thread; HarnessError when it is not done within `timeout`
        seconds.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise HarnessError(f"no answer within {timeout:g} s: {work}") from None

    def start(
        self,
        argv: Sequence[Argument],
        *,
        descriptors: Sequence[int] = (),
        log: Path,
        wrap: Callable[[Sequence[Argument]], list[str]] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program that inherits `descriptors` and writes to `log`.

        `wrap` is how the tools tree is entered. The order to die is given again inside it, because
        a program that enters a user namespace on the way may lose it (prctl(2)).
        """
        dying = ["setpriv", "--pdeathsig", "KILL", "--", *(str(word) for word in argv)]
        words = wrap(dying) if wrap else dying
        announce(words)

        parent = os.getpid()

        def die_with_lab() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # too late: it is dead already
                os._exit(1)

        async def begin() -> subprocess.Popen[bytes]:
            with log.open("ab") as sink:
                return subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    pass_fds=tuple(descriptors),
                    # One system call, of a function looked up long before: nothing that could
                    # wait for a lock which another thread held at the fork.
                    preexec_fn=die_with_lab,  # noqa: PLW1509
                    start_new_session=True,  # ^C is for the lab, which then ends them in order
                )

        child = self.call(begin(), 30)
        self._started.append(child)
        return child

    def close(self) -> None:
        """Kill what still runs, and end the thread."""
        for child in self._started:
            child.kill()
            child.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

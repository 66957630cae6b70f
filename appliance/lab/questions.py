"""Questions and answers over one connection; runs inside a lab host, standard library only."""

from __future__ import annotations

from typing import Any

from appliance.lab.meter import Meter
from appliance.lab.paced import Tcp


class Questions(Tcp):
    """A question at each interval, always the same; `interval` None asks at the stop only.

    What is awaited is a byte for each question without an answer.
    """

    question: bytes

    def __init__(
        self, meter: Meter, to: str, port: int, interval: float | None, **more: Any
    ) -> None:
        super().__init__(meter, to, port, interval=interval, size=1, **more)
        self.partial = b""

    def send(self) -> None:
        """Ask once more."""
        self.give(self.question, b"?")

    def take(self, data: bytes) -> None:
        """Look at each whole answer."""
        self.partial += data
        while answer := self.next():
            if why := self.wrong(answer) or (not self.awaited and f"unasked: {answer[:80]!r}"):
                self.meter.damaged(why)
                self.meter.died("the stream is broken")
            del self.awaited[:1]
            self.meter.answer()

    def cut(self, size: int) -> bytes | None:
        """The next so many bytes; None while they are not all there."""
        if len(self.partial) < size:
            return None
        taken, self.partial = self.partial[:size], self.partial[size:]
        return taken

    def next(self) -> bytes | None:
        """The next whole answer; None while it is not all there."""
        raise NotImplementedError

    def wrong(self, answer: bytes) -> str:
        """What is wrong with an answer, in words; empty when nothing is."""
        raise NotImplementedError

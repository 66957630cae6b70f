"""A session with a mail server that lasts; runs inside a lab host, standard library only."""

from __future__ import annotations

from appliance.lab.paced import SETUP
from appliance.lab.questions import Questions


class Session(Questions):
    """Introduced, and then a command without effect at each interval (NOOP, RFC 5321 4.1.1.9)."""

    question = b"NOOP\r\n"

    def connect(self) -> None:
        """The server greets, and is greeted; each says one line."""
        super().connect()
        self.end.settimeout(SETUP)
        self.expect(b"220 ")
        self.end.sendall(b"HELO client.lab\r\n")
        self.expect(b"250 ")
        self.end.setblocking(False)

    def send(self) -> None:
        """Not before the last answer is there: that would be out of step (RFC 5321 2.1)."""
        if not self.awaited:
            super().send()

    def expect(self, code: bytes) -> None:
        """The server's next line begins with this."""
        while (line := self.next()) is None:
            data = self.end.recv(4096)
            if not data:
                raise ConnectionError("the other side closed the connection")
            self.partial += data
        if not line.startswith(code):
            raise ConnectionError(f"{line!r} instead of {code!r}")

    def next(self) -> bytes | None:
        """A line."""
        end = self.partial.find(b"\n")
        return None if end < 0 else self.cut(end + 1)

    def wrong(self, answer: bytes) -> str:
        """Anything but assent."""
        return "" if answer.startswith(b"250 ") else f"answered {answer[:80]!r}"

"""The host's end of the control channel: programs run in a machine, over no network.

`Control` speaks to `appliance.lab.guest`; `Shell` gives it the verbs of a test.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from appliance.lab.errors import HarnessError, LabAssertion

CHUNK = 32768
BETWEEN_LOOKS = 0.5  # seconds; each look is work for an emulated machine
Command = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended. A negative `code` is the signal that killed it."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a program wrote; `stream` is `out` or `err`."""

    stream: str
    data: bytes


class Program:
    """A program that runs in a machine. Leaving its `with` block kills it."""

    def __init__(self, control: Control, number: int, words: str) -> None:
        self._control = control
        self._number = number
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._partial = b""
        self.words = words
        self.code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.code is None:
            with contextlib.suppress(HarnessError):
                self.signal(signal.SIGKILL)

    def told(self, event: dict[str, Any]) -> None:
        """Take a message of the agent (called by the channel's thread)."""
        self._events.put(event)

    def write(self, data: bytes) -> None:
        """Give the program input."""
        for start in range(0, len(data), CHUNK):
            piece = base64.b64encode(data[start : start + CHUNK]).decode()
            self._control.send(do="input", number=self._number, data=piece)

    def close_input(self) -> None:
        """End the program's input."""
        self._control.send(do="eof", number=self._number)

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal a new size."""
        self._control.send(do="resize", number=self._number, rows=rows, columns=columns)

    def signal(self, which: signal.Signals) -> None:
        """Signal the program and what it started."""
        self._control.send(do="signal", number=self._number, which=int(which))

    def output(self, timeout: float | None = None) -> Iterator[Output]:
        """What it writes, as it comes, to its end; TimeoutError when `timeout` seconds pass
        first.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.code is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                raise TimeoutError(f"still running after {timeout:g} s: {self.words}") from None
            if "exit" in event:
                self.code = event["exit"]
            elif "lost" in event or "refused" in event:
                raise HarnessError(f"{event.get('lost') or event['refused']}: {self.words}")
            else:
                yield from (
                    Output(s, base64.b64decode(event[s])) for s in event.keys() & {"out", "err"}
                )

    def line(self, timeout: float) -> str | None:
        """The next line of its standard output, None at its end; TimeoutError as in `output`."""
        while b"\n" not in self._partial:
            piece = next(self.output(timeout), None)
            if piece is None:
                return None
            self._partial += piece.data if piece.stream == "out" else b""
        line, _, self._partial = self._partial.partition(b"\n")
        return line.decode(errors="replace")

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for its end and give all it wrote since the last read; TimeoutError as in
        `output`.
        """
        parts: dict[str, list[bytes]] = {"out": [], "err": []}
        for piece in self.output(timeout):
            parts[piece.stream].append(piece.data)
        assert self.code is not None
        out, err = (b"".join(parts[name]).decode(errors="replace") for name in ("out", "err"))
        return Result(self.code, out, err)


class Control:
    """One machine's channel. A machine that is started again gets a new one; a reboot keeps it."""

    def __init__(self, name: str, end: socket.socket) -> None:
        self.name = name
        self._end = end
        self._programs: dict[int, Program] = {}
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._lost: str | None = None
        self.boot: str | None = None
        self._thread = threading.Thread(target=self._read, name=f"control-{name}", daemon=True)
        self._thread.start()

    def close(self, why: str = "the machine is off") -> None:
        """Give up the channel; every program under way fails with `why`."""
        self._lost = self._lost or why
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._end.close()

    def wait_ready(self, timeout: float) -> None:
        """Wait until the agent answers; HarnessError when it does not within `timeout` seconds."""
        if not self._ready.wait(timeout):
            raise HarnessError(f"{self.name}: no word from its control agent in {timeout:g} s")
        if self._lost:
            raise HarnessError(f"{self.name}: {self._lost}")

    def expect_reboot(self) -> None:
        """Forget that the agent was there: the machine is about to be reset."""
        self._ready.clear()
        self._fail_programs("the machine was reset")

    def send(self, **message: Any) -> None:
        """Send one message; HarnessError when the machine is gone."""
        data = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                self._end.sendall(data)
        except OSError as error:
            raise HarnessError(f"{self.name}: {self._lost or error}") from error

    def start(
        self,
        argv: Sequence[str],
        *,
        pty: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a program; with `pty` = (rows, columns) in a terminal."""
        if not self._ready.is_set():
            raise HarnessError(f"{self.name}: its control agent has not spoken yet")
        number = next(self._numbers)
        program = self._programs[number] = Program(self, number, shlex.join(argv))
        self.send(do="run", number=number, argv=list(argv), pty=pty, env=dict(env or {}))
        return program

    def _read(self) -> None:
        partial = b""
        with contextlib.suppress(OSError):
            while data := self._end.recv(1 << 18):
                *lines, partial = (partial + data).split(b"\n")
                for line in lines:
                    self._take(line)
        self._lost = self._lost or "the machine is gone"
        self._fail_programs(self._lost)
        self._ready.set()  # whoever waits learns it now

    def _take(self, line: bytes) -> None:
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:  # half a line, from an agent that a reset cut off
            return
        if "hello" in message:
            self._fail_programs("the machine restarted")
            self.boot = message["hello"]
            self._ready.set()
            return
        ended = "exit" in message or "refused" in message
        number = message["number"]
        program = self._programs.pop(number, None) if ended else self._programs.get(number)
        if program:
            program.told(message)

    def _fail_programs(self, why: str) -> None:
        programs, self._programs = self._programs, {}
        for program in programs.values():
            program.told({"lost": f"{self.name}: {why}"})


class Shell:
    """Where commands run: a machine, or one host (network namespace) in it.

    A command is a line for `sh`, or a sequence of words. `channel` gives the machine's present
    channel.
    """

    def __init__(
        self, name: str, channel: Callable[[], Control], prefix: Sequence[str] = ()
    ) -> None:
        self.name = name
        self._channel = channel
        self._prefix = tuple(prefix)

    def argv(self, command: Command) -> list[str]:
        """The words that run the command here."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return [*self._prefix, *words]

    def spawn(self, command: Command, *, pty: tuple[int, int] | None = None) -> Program:
        """Start a command and do not wait for it."""
        return self._channel().start(self.argv(command), pty=pty)

    def run(self, command: Command, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """Run a command to its end; LabAssertion when it takes more than `timeout` seconds."""
        with self.spawn(command) as program:
            program.write(stdin)
            program.close_input()
            try:
                return program.wait(timeout)
            except TimeoutError as late:
                raise LabAssertion(f"{self.name}: {late}") from None

    def succeed(self, command: Command, *, stdin: bytes = b"", timeout: float = 60) -> str:
        """Run a command that must succeed; gives its output."""
        result = self.run(command, stdin=stdin, timeout=timeout)
        if result.code:
            raise LabAssertion(f"{self.name}: {_words(command)}: {_told(result)}")
        return result.out

    def fail(self, command: Command, *, timeout: float = 60) -> Result:
        """Run a command that must fail; gives how it did."""
        result = self.run(command, timeout=timeout)
        if not result.code:
            raise LabAssertion(
                f"{self.name}: succeeded, and must not: {_words(command)}\n{result.out}"
            )
        return result

    def wait_until(self, command: Command, timeout: float = 30) -> str:
        """Run a command again and again until it succeeds; gives its output. `timeout` in
        seconds.
        """
        end = time.monotonic() + timeout
        pause = threading.Event()
        while (result := self.run(command, timeout=timeout)).code:
            if time.monotonic() > end:
                raise LabAssertion(
                    f"{self.name}: not within {timeout:g} s: {_words(command)}: {_told(result)}"
                )
            pause.wait(0.1)
        return result.out

    def put(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Write a file."""
        content = data.encode() if isinstance(data, str) else data
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
        self.succeed(["sh", "-c", script, "put", path, f"{mode:o}"], stdin=content)

    def get(self, path: str) -> bytes:
        """Read a file."""
        return base64.b64decode(self.succeed(["base64", "-w0", path]))


def _words(command: Command) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _told(result: Result) -> str:
    tail = "\n".join((result.out + result.err).splitlines()[-20:])
    return f"exit code {result.code}\n{tail}"

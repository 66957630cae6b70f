"""The agent that runs inside every machine of the lab: starts programs for the host over one
virtio-serial port.

Python's standard library only; it reaches the machine as a credential and is part of no image. The
protocol is one
JSON object a line. From the host: run, input, eof, resize, signal; from here: hello, out, err,
exit, refused. Every
message but hello carries the number that the host gave to its program. Bytes travel as base64.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import queue
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

CHUNK = 32768

# Makes its input the controlling terminal of the session, so that ^C reaches the program, which
# does not ignore it, even where whoever started this one does.
TERMINAL = (
    "import fcntl,os,signal,sys,termios;fcntl.ioctl(0,termios.TIOCSCTTY,0);"
    "signal.signal(signal.SIGINT,signal.SIG_DFL);"
    "os.execvp(sys.argv[1],sys.argv[1:])"
)


class Port:
    """The line to the host; any thread may send."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Write one message, whole."""
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Write all of it, however long the host takes."""
        with self.lock:
            while data:
                data = data[os.write(self.descriptor, data) :]

    def messages(self) -> Iterator[dict[str, Any]]:
        """Each message of the host, until the port closes."""
        partial = b""
        while data := os.read(self.descriptor, CHUNK):
            *lines, partial = (partial + data).split(b"\n")
            yield from (json.loads(line) for line in lines if line)


# A process, the descriptor of its input, and those of its outputs by name.
Streams = tuple[subprocess.Popen[bytes], int, dict[int, str]]


class Program:
    """A running program: a thread for its input, one for each output, and one that waits for its
    end.
    """

    def __init__(self, port: Port, number: int, streams: Streams) -> None:
        self.port = port
        self.number = number
        self.process, self.inward, outward = streams
        self.input: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None is its end
        self.pidfd = os.pidfd_open(self.process.pid)
        self.readers = [self.thread(self.forward, *each) for each in outward.items()]
        self.thread(self.feed)

    def thread(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        """Start a thread that ends with the agent."""
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        return thread

    def forward(self, descriptor: int, stream: str) -> None:
        """Send on what is written, to its end or until the program is gone and the rest is sent.

        The second matters for daemons: what they leave running holds the pipe open for ever.
        """
        while True:
            ready, _, _ = select.select([descriptor, self.pidfd], [], [])
            if descriptor not in ready:
                break
            try:
                data = os.read(descriptor, CHUNK)
            except OSError:  # a terminal whose last program is gone
                break
            if not data:
                break
            self.port.send(number=self.number, **{stream: base64.b64encode(data).decode()})
        os.close(descriptor)

    def feed(self) -> None:
        """Give the program its input as it takes it."""
        with contextlib.suppress(OSError):  # it closed its input
            while (data := self.input.get()) is not None:
                while data:
                    data = data[os.write(self.inward, data) :]
        os.close(self.inward)

    def wait(self) -> None:
        """Wait for the end, then say how it came."""
        code = self.process.wait()
        for reader in self.readers:
            reader.join()
        os.close(self.pidfd)
        self.input.put(None)
        self.port.send(number=self.number, exit=code)

    def signal(self, number: int) -> None:
        """Signal the program and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal a new size."""
        fcntl.ioctl(self.inward, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def on_pipes(argv: list[str], env: dict[str, str]) -> Streams:
    """Start a program on three pipes: the process, its input, and its outputs by name."""
    (theirs, inward), (out, out_end), (err, err_end) = os.pipe(), os.pipe(), os.pipe()
    try:
        process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=out_end,
            stderr=err_end,
            cwd="/",
            env=env,
            start_new_session=True,
        )
    finally:
        for descriptor in (theirs, out_end, err_end):
            os.close(descriptor)
    return process, inward, {out: "out", err: "err"}


def on_terminal(argv: list[str], env: dict[str, str], size: list[int]) -> Streams:
    """Start a program in a terminal of `size` = [rows, columns]."""
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    argv = [sys.executable, "-c", TERMINAL, *argv]
    try:
        process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd="/",
            env=env,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    return process, os.dup(ours), {ours: "out"}


class Agent:
    """Carries out what the host orders."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.programs: dict[int, Program] = {}

    def serve(self) -> None:
        """Say hello and serve until the port closes; then nothing that was started stays."""
        # A line break first: what an agent before this one left half-written ends there.
        self.port.write(b"\n")
        self.port.send(hello=boot_id())
        for message in self.port.messages():
            getattr(self, "do_" + message.pop("do"))(**message)
        for program in list(self.programs.values()):
            program.signal(signal.SIGKILL)

    def do_run(
        self, number: int, argv: list[str], env: dict[str, str], pty: list[int] | None
    ) -> None:
        """Start a program; with `pty` = [rows, columns] in a terminal of its own."""
        environment = {**os.environ, **env}
        try:
            streams = on_terminal(argv, environment, pty) if pty else on_pipes(argv, environment)
        except OSError as error:
            self.port.send(number=number, refused=str(error))
            return
        program = self.programs[number] = Program(self.port, number, streams)
        threading.Thread(target=self.finish, args=[program], daemon=True).start()

    def finish(self, program: Program) -> None:
        """Forget a program when it has ended."""
        program.wait()
        del self.programs[program.number]

    def do_input(self, number: int, data: str) -> None:
        """Give a program input."""
        if number in self.programs:
            self.programs[number].input.put(base64.b64decode(data))

    def do_eof(self, number: int) -> None:
        """End a program's input, after what waits."""
        if number in self.programs:
            self.programs[number].input.put(None)

    def do_resize(self, number: int, rows: int, columns: int) -> None:
        """Give a program's terminal a new size."""
        if number in self.programs:
            self.programs[number].resize(rows, columns)

    def do_signal(self, number: int, which: int) -> None:
        """Send a signal to a program and all that it started."""
        if number in self.programs:
            self.programs[number].signal(which)


def boot_id() -> str:
    """Which boot of the machine this is."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def main() -> None:
    """Serve the port named on the command line: a device's path or a descriptor's number."""
    port = sys.argv[1]
    os.environ.setdefault("HOME", "/root")
    os.environ.setdefault("TERM", "linux")
    Agent(Port(int(port) if port.isdecimal() else os.open(port, os.O_RDWR))).serve()


if __name__ == "__main__":
    main()

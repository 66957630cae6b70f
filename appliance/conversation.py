"""A program on a node that answers line by line, over one connection: for what is asked in several
steps, since to open a connection and start a program takes longer than most answers.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from appliance.errors import ToolError
from appliance.remote import Remote
from appliance.run import announce


@dataclass(frozen=True, slots=True)
class Conversation:
    """With the program that `remote` runs as `process`; it takes a line of JSON, and gives one."""

    remote: Remote
    process: subprocess.Popen[str]
    errors: IO[str]

    def ask(self, question: Mapping[str, Any], timeout: float) -> Any:
        """The answer. UnreachableError or ToolError, as `Remote.run` has them, when there is none;
        then the conversation is over.
        """
        assert self.process.stdin
        assert self.process.stdout
        clock = threading.Timer(timeout, self.process.kill)
        clock.start()
        try:
            with suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(question) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            clock.cancel()
        if not line.endswith("\n"):
            raise self._ended(timeout)
        return json.loads(line)

    def _ended(self, timeout: float) -> ToolError:
        code = self.process.wait()
        if code < 0:
            return ToolError(f"{self.remote.name}: no answer within {timeout:g} s")
        self.errors.seek(0)
        return self.remote.failure(code, self.errors.read())


@contextmanager
def conversing(nodes: Mapping[str, Remote], *command: str) -> Iterator[dict[str, Conversation]]:
    """Start the same program on every node, at the same time; it ends as nobody asks any more."""
    with ExitStack() as stack:
        talks = {}
        for name, remote in nodes.items():
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            argv = remote.argv(*command)
            announce(argv)
            pipe = subprocess.PIPE
            process = subprocess.Popen(argv, text=True, stdin=pipe, stdout=pipe, stderr=errors)
            stack.callback(_end, process)
            talks[name] = Conversation(remote, process, errors)
        yield talks


def _end(process: subprocess.Popen[str]) -> None:
    """What it has begun it ends by itself, on the node."""
    with suppress(BrokenPipeError), process:
        process.terminate()

"""The one door to the nodes of a site that runs: a command on a node, by the system's ssh."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, Any, TypeVar

from appliance.errors import ToolError
from appliance.plan.model import Address, Plan
from appliance.run import run

S = TypeVar("S")
T = TypeVar("T")

CONNECT_S = 10
# What a node may take to take a call, and for an answer: a loaded one without hardware
# virtualisation is slow.
ANSWER_S = 60.0

# Never a question: nobody may be there to answer it. A node that dies in the middle is noticed.
_OPTIONS = (
    *("-o", "BatchMode=yes"),
    *("-o", f"ConnectTimeout={CONNECT_S}"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
_NOT_THERE = 255  # ssh(1): the exit code of ssh itself


class UnreachableError(ToolError):
    """A node could not be reached; the rest of the pair may well be."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A node as it is reached: as root, at `address`, by the words of the command `ssh`."""

    name: str
    address: Address
    ssh: tuple[str, ...] = ("ssh",)

    def argv(self, *command: str) -> list[str]:
        """The words that run a command on the node: ssh hands one string to the node's shell."""
        return [*self.ssh, *_OPTIONS, f"root@{self.address}", "--", shlex.join(command)]

    def failure(self, code: int, errors: str, told: str = "", program: str = "ssh") -> ToolError:
        """Why a program ended with this exit code, by what it or ssh said."""
        if code == _NOT_THERE:
            return UnreachableError(*_explained(self, _last(errors)))
        words = _last(errors) or _last(told) or f"exit code {code}"
        return ToolError(f"{self.name}: {program}: {words}")

    def run(
        self,
        *command: str,
        stdin: str | IO[bytes] | None = None,
        timeout: float = ANSWER_S,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the node, with `stdin` as its input and a limit of `timeout` seconds.

        Raises UnreachableError when ssh does not get there, and ToolError with the node's words
        when the command fails there (unless `check` is off) or takes too long.
        """
        done = run(self.argv(*command), stdin=stdin, timeout=timeout, check=False)
        if done.returncode == _NOT_THERE or (check and done.returncode):
            raise self.failure(done.returncode, done.stderr, done.stdout, command[0])
        return done

    def afresh(self) -> Remote:
        """The same by a new connection each time, whatever the user's ssh shares among several."""
        return replace(self, ssh=(*self.ssh, "-o", "ControlMaster=no", "-o", "ControlPath=none"))

    def ask(self, *command: str, stdin: IO[bytes] | None = None, timeout: float = ANSWER_S) -> Any:
        """The JSON that a command prints, whether or not it is content; errors as `run` has."""
        done = self.run(*command, stdin=stdin, timeout=timeout, check=False)
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            words = _last(done.stderr) or f"exit code {done.returncode}, and no answer"
            raise ToolError(f"{self.name}: {command[0]}: {words}") from error


def remotes(plan: Plan, ssh: str, via: str | None = None) -> dict[str, Remote]:
    """How each node is reached: at its own address on the network `via`, else on the first that the
    site opens SSH on; ToolError when it opens none, or not that one.
    """
    opened = plan.ssh.networks if plan.ssh else ()
    if not opened:
        hint = "management: {ssh: {from: [NETWORK], keys: [...]}}"
        raise ToolError(f"site {plan.site} opens SSH on no network: nothing can be asked", hint)
    if via is not None and via not in opened:
        raise ToolError(f"SSH is not open on network '{via}'", f"one of: {', '.join(opened)}")
    network = plan.networks[via or opened[0]]
    own = {node.name: network.own(node.name, 4) or network.own(node.name, 6) for node in plan.nodes}
    words = tuple(shlex.split(ssh))
    return {name: Remote(name, each.ip, words) for name, each in own.items() if each}


def at_once(asked: Mapping[str, S], ask: Callable[[S], T]) -> dict[str, T | ToolError]:
    """The answers of all nodes, asked at the same time; in place of one that failed, its error."""

    def answer(node: S) -> T | ToolError:
        try:
            return ask(node)
        except ToolError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return dict(zip(asked, pool.map(answer, asked.values()), strict=True))


def _explained(remote: Remote, words: str) -> tuple[str, str | None]:
    """What ssh said, and what to do about it where we know."""
    what = f"{remote.name} ({remote.address}) is not reached: {words or 'ssh said nothing'}"
    by_hand = shlex.join([*remote.ssh, f"root@{remote.address}"])
    if "Host key verification failed" in words:
        return what, f"its host key is not known here, or another one: try {by_hand}"
    if "Permission denied" in words:
        return what, "the site's management.ssh.keys must hold your public key"
    return what, None


def _last(text: str) -> str:
    """The last line that says something."""
    lines: Sequence[str] = text.strip().splitlines()
    return lines[-1].strip() if lines else ""

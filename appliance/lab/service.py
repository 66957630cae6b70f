"""How other terminals reach a lab that is up: a UNIX socket beside nobody else's.

One request a connection, one JSON object a line: `{"do": VERB, ...}`, answered by `{"ok": ...}` or
`{"error": ...}`. After `shell` the connection carries the program's streams both ways, bytes as
base64; `down` and `watch` answer by closing once the lab is gone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.errors import ToolError
from appliance.lab.cables import Link
from appliance.lab.control import Program, Shell
from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.machine import Machine
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab
from appliance.lab.switch import Way

READY_WITHIN = 600.0  # seconds; a loaded machine without KVM may take minutes
LOGIN = "cd; exec $(command -v bash || command -v sh) -l"


def folder() -> Path:
    """Where the sockets of this user's labs are; nobody else may enter."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "appliance-lab" if base else _fallback()
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.geteuid() or path.stat().st_mode & 0o077:
        raise ToolError(f"{path} is open to others", "remove it, or set XDG_RUNTIME_DIR")
    return path


def _fallback() -> Path:
    return Path(tempfile.gettempdir()) / f"appliance-lab-{os.geteuid()}"


class Service:
    """The verbs, for one lab.

    `ending` is set when somebody asked for its end; `gone` by whoever made it, when nothing is
    left. `key` is the private half of the key that may log in to the nodes, if any.
    """

    def __init__(self, lab: Lab, gone: threading.Event, key: Path | None = None) -> None:
        self.lab = lab
        self.key = key
        self.ending = threading.Event()
        self.gone = gone
        self.message = "coming up"

    def watch_start(self) -> None:
        """Have `message` tell when the lab is ready, or why it is not."""
        threading.Thread(target=self._await_ready, name="ready", daemon=True).start()

    def _await_ready(self) -> None:
        try:
            self.lab.wait_ready(READY_WITHIN)
            self.message = f"ready after {time.monotonic() - self.lab.started:.0f} s"
        except (ToolError, LabAssertion, TimeoutError) as failed:
            self.message = f"not ready: {failed}"

    def status(self) -> dict[str, Any]:
        """Everything a person asks for: nodes, hosts, and what is wrong with the cables."""
        conditions = self.lab.conditions()
        return {
            "site": self.lab.plan.site,
            "message": self.message,
            "networks": list(self.lab.plan.networks),
            "image": str(self.lab.image),
            "nodes": {name: str(is_now) for name, is_now in conditions.items()},
            "hosts": {
                name: {"network": host.host.network, "address": str(host.address)}
                for name, host in self.lab.hosts.items()
            },
            "links": {
                name: {net: link.faults.words() for net, link in self._links(machine)}
                for name, machine in self.lab.machines.items()
            },
            "addresses": {
                node.name: {
                    network.name: [str(own.ip) for own in network.addresses[node.name]]
                    for network in self.lab.plan.networks.values()
                }
                for node in self.lab.plan.nodes
            },
            "key": str(self.key) if self.key else None,
            "workdir": str(self.lab.workdir),
        }

    def cut(self, machine: str, network: str, silent: bool) -> None:
        """Cut a cable, or lose its frames with the carrier still up."""
        link = self._link(machine, network)
        if silent:
            link.silence(Way.BOTH)
        else:
            link.cut()

    def mend(self, machine: str | None, network: str | None) -> None:
        """Mend a cable, or all of them."""
        if machine is None or network is None:
            self.lab.mend()
        else:
            self._link(machine, network).mend()

    def kill(self, machine: str) -> None:
        """Power loss."""
        self._machine(machine).kill()

    def start(self, machine: str, fresh_disk: bool) -> None:
        """Power on."""
        self._machine(machine).start(fresh_disk=fresh_disk)

    def capture(self, network: str) -> dict[str, Any]:
        """Where the capture of a network is, and how long it is now."""
        if network not in self.lab.plan.networks:
            raise ToolError(f"no network {network}", _one_of(self.lab.plan.networks))
        path = self.lab.capture(network)
        return {"path": str(path), "from": self.lab.cables.marks()[network]}

    def shell(self, name: str) -> Shell:
        """The node, host or `peers` of that name."""
        shells: dict[str, Shell] = {**self.lab.hosts, **self.lab.machines}
        if name not in shells:
            raise ToolError(f"no node or host {name}", _one_of(shells))
        return shells[name]

    def _links(self, machine: Machine) -> Iterator[tuple[str, Link]]:
        """The cables of a machine by the networks that use them: a VLAN is on that of its card."""
        for network in self.lab.plan.networks:
            if link := machine.links.get(self.lab.plan.card(network)):
                yield network, link

    def _machine(self, name: str) -> Appliance:
        if name not in self.lab.nodes:
            raise ToolError(f"no node {name}", _one_of(self.lab.nodes))
        return self.lab.nodes[name]

    def _link(self, machine: str, network: str) -> Link:
        if machine not in self.lab.machines:
            raise ToolError(f"no node {machine}", _one_of(self.lab.machines))
        links = self.lab.machines[machine].links
        if network not in links:
            raise ToolError(f"{machine} has no cable to {network}", _one_of(links))
        return links[network]


VERBS = ("status", "cut", "mend", "kill", "start", "capture")


def _one_of(names: Iterable[str]) -> str:
    return f"one of: {', '.join(names)}"


@contextmanager
def serving(service: Service) -> Iterator[Path]:
    """Answer on the lab's socket while the block runs; ToolError if this site's lab is up
    already.
    """
    path = folder() / f"{service.lab.plan.site}.sock"
    _free(path)
    with socketserver.ThreadingUnixStreamServer(str(path), _Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.service = service  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, name="service", daemon=True).start()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            server.shutdown()


def _free(path: Path) -> None:
    """Remove a socket that nobody answers on: its lab was killed."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ToolError(f"a lab of this site is up already ({path.stem})", "appliance lab down")


class _Handler(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Answer its request; a person who went away in the middle is no error."""
        service: Service = self.server.service  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            line = self.rfile.readline()
            try:
                if line:
                    self._answer(service, json.loads(line))
            except (ToolError, LabAssertion) as failed:
                self._say(error=str(failed))

    def _answer(self, service: Service, request: dict[str, Any]) -> None:
        verb = request.pop("do")
        if verb == "shell":
            self._shell(service.shell(request["name"]), request)
        elif verb in ("down", "watch"):
            if verb == "down":
                service.ending.set()
            service.gone.wait()
        elif verb in VERBS:
            self._say(ok=getattr(service, verb)(**request))

    def _say(self, **message: Any) -> None:
        self.wfile.write(json.dumps(message).encode() + b"\n")

    def _shell(self, shell: Shell, request: dict[str, Any]) -> None:
        command = request["command"] or LOGIN
        size = tuple(request["size"]) if request["size"] else None
        with shell.spawn(command, pty=size) as program:
            self._say(ok=None)
            threading.Thread(target=self._inward, args=[program], daemon=True).start()
            for piece in program.output():
                self._say(stream=piece.stream, data=base64.b64encode(piece.data).decode())
            self._say(exit=program.code)

    def _inward(self, program: Program) -> None:
        """What the person types, until he leaves; then what he started is over as well."""
        with contextlib.suppress(OSError, ValueError, HarnessError):
            for line in self.rfile:
                message = json.loads(line)
                if "size" in message:
                    program.resize(*message["size"])
                elif "data" in message:
                    program.write(base64.b64decode(message["data"]))
                else:
                    program.close_input()
            program.signal(signal.SIGHUP)

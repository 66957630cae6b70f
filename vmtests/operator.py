"""The operator of a pair in the lab: the installed command, over real SSH, from outside."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.lab.pair import Lab
from appliance.lab.service import Service, serving
from vmtests.installed import Installed
from vmtests.observe import until

CONFIRMED_WITHIN = 300  # seconds on trial; an emulated pair under traffic may take one minute
HEALTHY_WITHIN = 60  # seconds: conntrackd's and the agents' own delays, on a slow machine


@dataclass(frozen=True, slots=True)
class Operator:
    """The installed command, the way to the nodes, and the keys that their image is signed with."""

    installed: Installed
    site: Path
    ssh: Path
    keys: Path

    def run(self, verb: str, *options: str, code: int = 0) -> str:
        """What a command prints; AssertionError unless it ends with `code`."""
        way = ("--ssh", f"ssh -F {self.ssh}")
        return self.installed.run(verb, self.site, *options, *way, code=code).stdout

    def apply(self, within: int = CONFIRMED_WITHIN, code: int = 0) -> str:
        """Put the site file in force, confirmed `within` so many seconds; as `run`."""
        options = ("--keys", str(self.keys), "--confirm-within", f"{within}s")
        return self.run("apply", *options, code=code)

    def fails(self, verb: str, *options: str) -> str:
        """What a command says that ends with exit code 1."""
        way = ("--ssh", f"ssh -F {self.ssh}")
        return self.installed.run(verb, self.site, *options, *way, code=1).stderr

    def start(self, verb: str, *options: str) -> subprocess.Popen[bytes]:
        """A command that goes on while something else happens; it may end badly."""
        words = [verb, str(self.site), *options, "--ssh", f"ssh -F {self.ssh}"]
        return subprocess.Popen(
            [str(self.installed.command), *words],
            cwd=self.installed.home,
            env=self.installed.environment.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def status(self) -> dict[str, Any]:
        """What `appliance status` tells; its exit code is of the same mind."""
        way = ("--ssh", f"ssh -F {self.ssh}")
        done = self.installed.call("status", self.site, "--json", *way)
        told: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if told["problems"] else 0)
        return told

    def problems(self) -> list[str]:
        """What is wrong."""
        return list(self.status()["problems"])

    def servers(self, node: str, service: str) -> dict[str, dict[str, Any]]:
        """The real servers of a virtual service by their addresses, as a node tells of them."""
        services = self.status()["nodes"][node]["balancing"]["services"]
        every = (s for each in services if each["name"] == service for s in each["servers"])
        return {name: server for server in every for name in server["names"]}


@contextmanager
def operating(
    pair: Lab, installed: Installed, key: Path, keys: Path, folder: Path
) -> Iterator[Operator]:
    """Of a healthy pair; `key` may log in to its nodes, with `keys` its image was signed."""
    service = Service(pair, threading.Event(), key)
    with serving(service):
        way = folder / "lab.conf"
        way.write_text(installed.run("lab", "ssh-config", "--site", pair.plan.site).stdout)
        operator = Operator(installed, installed.home / f"{pair.plan.site}.yaml", way, keys)
        until(lambda: not operator.problems(), HEALTHY_WITHIN, "a healthy pair")
        yield operator
    service.gone.set()

"""A pair of routers in network namespaces: the real programs, this machine's kernel, no systemd."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.render.tree import FileTree, write
from appliance.run import run
from appliance.tools import ToolsTree

CLONE = Path(__file__).resolve().parents[2]
NETWORKS = {"inside": "enp0s3", "outside": "enp0s4", "sync": "enp0s5"}
GATEWAY = {"client": "192.168.0.100", "server": "192.168.1.100"}
_CLONE_NEWNET = 0x40000000

# Each program gets a /run of its node's own, and the /sys of its network namespace.
_ON_NODE = """
mount -t sysfs sysfs /sys
mount --bind "$1/run" /run
shift
exec "$@"
"""


# A network namespace has these settings of its own; the others are the machine's.
_SYSCTL = (
    "/usr/lib/systemd/systemd-sysctl",
    "--prefix=/net/ipv4",
    "--prefix=/net/ipv6",
    "--prefix=/net/netfilter/nf_conntrack_tcp_loose",
    "--prefix=/net/netfilter/nf_conntrack_tcp_be_liberal",
)


# What keepalived's unit allows it: it does not survive a reload with limits of its own.
LIMITS = (
    *("prlimit", "--rttime=1000000:2000000"),
    *("setpriv", "--bounding-set=-sys_resource"),
)


class TimeUpError(AssertionError):
    """A wait came to its deadline; the text says what was seen last."""


def wait_for(what: str, condition: Callable[[], Any], limit: float = 10.0) -> Any:
    """Poll until `condition` gives something true; that is the result."""
    deadline = time.monotonic() + limit
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise TimeUpError(f"{what}: not within {limit:g} s, last seen {seen!r}")
        time.sleep(0.01)  # poll
    return seen


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread works in another network namespace; sockets made there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


def ip(*words: str) -> None:
    run(["ip", *words])


@dataclass
class Node:
    """One router: its namespace, its files, and the programs that run on it."""

    name: str
    lab: Lab
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return f"{self.lab.prefix}-{self.name}"

    @property
    def folder(self) -> Path:
        return self.lab.folder / self.name

    def command(self, *argv: str | Path) -> list[str]:
        on_node = ["sh", "-euc", _ON_NODE, self.name, self.folder, *argv]
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        return [*enter, *self.lab.tools.inside(on_node)]

    def run(self, *argv: str | Path) -> str:
        return run(self.command(*argv)).stdout

    def start(self, name: str, *argv: str | Path) -> None:
        with self.log(name).open("wb") as log:
            self.programs[name] = subprocess.Popen(
                self.command(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def kill(self, name: str) -> None:
        """The program alone dies, without a chance to say so."""
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> None:
        self._end(name, signal.SIGTERM)

    def _end(self, name: str, way: signal.Signals) -> None:
        program = self.programs.pop(name)
        program.send_signal(way)
        program.wait()

    def boot(self, *, conntrackd: bool = True) -> None:
        """From nothing, in the order that systemd keeps."""
        for name in ("run/appliance", "run/conntrackd"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.path("handover").write_text("0\n")
        self.path("state.json").unlink(missing_ok=True)  # /run is empty at a boot
        self._plug_in()
        etc = self.folder / "etc"
        self.run(*_SYSCTL, etc / "sysctl.d/90-appliance.conf")
        self.run("nft", "-f", etc / "nftables.conf")
        if conntrackd:
            self.start_conntrackd()
        self.start_expectations()
        self.start_agent()
        wait_for(f"{self.name}: gate", lambda: self.state().get("gate"), 20)
        self.start_keepalived()

    def _plug_in(self) -> None:
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")
        last = 1 if self.name == "fw1" else 2
        for third, (network, interface) in zip((0, 1, 3), NETWORKS.items(), strict=True):
            self.lab.cable(self.namespace, interface, network, f"{self.name}-{network}")
            address = f"192.168.{third}.{last}/24"
            ip("-n", self.namespace, "address", "add", address, "dev", interface)

    def start_conntrackd(self) -> None:
        (self.folder / "run/conntrackd/lock").unlink(missing_ok=True)
        self.start("conntrackd", *self.conntrackd())
        wait_for("conntrackd", (self.folder / "run/conntrackd/control").exists)

    def conntrackd(self, *options: str) -> list[str]:
        return ["conntrackd", "-C", str(self.folder / "etc/conntrackd/conntrackd.conf"), *options]

    def start_agent(self) -> None:
        self.start(
            *("agent", "env", f"PYTHONPATH={CLONE}", "python3", "-m", "appliance.node.agent"),
            self.folder / "etc/appliance/agent.json",
        )

    def start_expectations(self) -> None:
        self.start(
            *("expectations", "env", f"PYTHONPATH={CLONE}"),
            *("python3", "-m", "appliance.node.expectations"),
            self.folder / "etc/appliance/agent.json",
        )
        wait_for("expectations", self.path("expectations.json").exists)

    def start_keepalived(self) -> None:
        """Debian's keepalived wants a file of its package's /etc, or one beside its own name."""
        program = self.folder / "keepalived"
        if not program.is_symlink():
            program.symlink_to("/usr/sbin/keepalived")
            program.with_name("keepalived.config-opts").write_text("\n")
        self.start(
            *("keepalived", *LIMITS, program, "--dont-fork", "--log-console", "--vrrp", "-f"),
            self.folder / "etc/keepalived/keepalived.conf",
        )

    def armed(self) -> bool:
        """Whether keepalived would take over at once: after its start it first listens a while."""
        return "Delayed start completed" in self.log("keepalived").read_text()

    def path(self, name: str) -> Path:
        return self.folder / "run/appliance" / name

    def state(self) -> dict[str, Any]:
        """The agent's state, or nothing before it has written any."""
        try:
            state: dict[str, Any] = json.loads(self.path("state.json").read_text())
        except FileNotFoundError:
            return {}
        return state

    def expectations(self) -> dict[str, Any]:
        """What the process that hands them over says of itself, at most a second ago."""
        state: dict[str, Any] = json.loads(self.path("expectations.json").read_text())
        return state

    def role(self) -> str:
        return str(self.state().get("role"))

    def hand_over(self, *options: str) -> subprocess.CompletedProcess[str]:
        return run(
            self.command(
                *("env", f"PYTHONPATH={CLONE}", "python3", "-m", "appliance.node.handover"),
                *(*options, "--config", self.folder / "etc/appliance/agent.json"),
            ),
            check=False,
        )

    def lose_power(self) -> None:
        """Links down and every process killed at once; the kernel's tables are gone as well."""
        self.die()
        self.bury()

    def die(self) -> None:
        """The first half: what a large table costs this kernel when it goes is yet to come."""
        self.lab.plug(self.name, " ".join(NETWORKS), "down")
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self.programs.values():
            program.wait()
        self.programs.clear()

    def bury(self) -> None:
        """The second half."""
        self.lab.remove_cables(self.name)
        ip("netns", "delete", self.namespace)
        run(["rm", "-rf", "--", self.folder / "run"])

    def processes(self) -> list[int]:
        return [int(each) for each in run(["ip", "netns", "pids", self.namespace]).stdout.split()]


@dataclass
class Lab:
    """Two nodes, a client, a server, and three networks between them."""

    prefix: str
    folder: Path
    tools: ToolsTree
    nodes: dict[str, Node] = field(default_factory=dict)

    def namespace(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def cable(self, namespace: str, interface: str, network: str, port: str) -> None:
        """An interface in `namespace`, plugged into a network's switch."""
        switch = self.namespace("switch")
        ip(
            *("link", "add", interface, "netns", namespace, "type", "veth"),
            *("peer", "name", port, "netns", switch),
        )
        ip("-n", switch, "link", "set", port, "master", network, "up")
        ip("-n", namespace, "link", "set", interface, "up")

    def plug(self, node: str, networks: str, way: str) -> None:
        """Pull (`down`) or plug in (`up`) cables of a node at once, at the switches' side."""
        batch = "".join(f"link set {node}-{each} {way}\n" for each in networks.split())
        run(["ip", "-n", self.namespace("switch"), "-batch", "-"], stdin=batch)

    def remove_cables(self, node: str) -> None:
        batch = "".join(f"link delete {node}-{each}\n" for each in NETWORKS)
        run(["ip", "-n", self.namespace("switch"), "-batch", "-"], stdin=batch)

    def socket(self, host: str, kind: socket.SocketKind) -> socket.socket:
        with inside(self.namespace(host)):
            return socket.socket(socket.AF_INET, kind)

    def boot(self, *, conntrackd: bool = True) -> None:
        """Boot what is not up, at the same time."""
        down = [node for node in self.nodes.values() if not node.programs]
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(lambda node: node.boot(conntrackd=conntrackd), down))

    def active(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.role() == "MASTER"]


@contextmanager
def laboratory(folder: Path, tools: ToolsTree, tree: FileTree) -> Iterator[Lab]:
    """The networks with client and server; the nodes are there, not booted."""
    write(tree, folder / "nodes")
    lab = Lab(f"t{os.getpid()}", folder / "nodes", tools)
    lab.nodes = {name: Node(name, lab) for name in tree}
    with ExitStack() as stack:
        for name in ("switch", "client", "server"):
            ip("netns", "add", lab.namespace(name))
            stack.callback(ip, "netns", "delete", lab.namespace(name))
        _wire(lab)
        for node in lab.nodes.values():
            stack.callback(_end, node)
        yield lab


def _end(node: Node) -> None:
    if Path("/run/netns", node.namespace).exists():
        node.lose_power()


def _wire(lab: Lab) -> None:
    for network in NETWORKS:
        ip("-n", lab.namespace("switch"), "link", "add", network, "up", "type", "bridge")
    for third, (host, network) in enumerate({"client": "inside", "server": "outside"}.items()):
        namespace = lab.namespace(host)
        lab.cable(namespace, "eth0", network, host)
        ip("-n", namespace, "address", "add", f"192.168.{third}.3/24", "dev", "eth0")
        ip("-n", namespace, "route", "add", "default", "via", GATEWAY[host])


def active(lab: Lab) -> Node:
    (name,) = lab.active()
    return lab.nodes[name]


def standby(lab: Lab) -> Node:
    (name,) = set(lab.nodes) - set(lab.active())
    return lab.nodes[name]


def await_standby(node: Node) -> None:
    wait_for(f"{node.name} stands by", lambda: node.role() == "BACKUP" and node.armed())

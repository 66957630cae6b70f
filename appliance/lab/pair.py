"""The lab as a whole: the site's nodes, their neighbours, and the cables between them.

with Lab(plan, image=raw, peers=peers_image(), workdir=folder) as lab:
    lab.wait_ready()
    with flows.ssh(lab.hosts["inside"], lab.hosts["outside"].address) as session:
        lab.active().kill()
        assert session.stop().survived
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from appliance import tools
from appliance.lab import ipvs, kvm, services, topology
from appliance.lab.cables import UPLINK, Cables, Link
from appliance.lab.children import Children
from appliance.lab.control import BETWEEN_LOOKS
from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.machine import Ground, Inside, Machine
from appliance.lab.node import Appliance, Condition
from appliance.lab.peers import NAME, Neighbour, Peers, PeersImage
from appliance.plan.model import Address, Plan

BOOT_WITHIN = 240.0  # seconds for a machine's first word; generous, for loaded build machines


class Lab:
    """All machines of a site. Entering its `with` block powers everything on, leaving it ends it.

    `image` is only read: each node runs on a copy-on-write layer in `workdir`, which also gets logs
    and captures. `hosts` are those around the appliance by name: a network's first bears the
    network's own. `started` is when the power came on (monotonic clock). `key` is a public key
    that may log in to the nodes as root. `clients` asks for addresses to open connections
    from, so many of each IP version on a network: `{"outside": 6}` gives `outside-clients`.
    The networks `elsewhere` have no hosts but these: who lives there is in another lab (`join`).
    """

    def __init__(
        self,
        plan: Plan,
        *,
        image: Path,
        peers: PeersImage,
        workdir: Path,
        inside: Inside | None = None,
        key: str | None = None,
        clients: Mapping[str, int] | None = None,
        elsewhere: Collection[str] = (),
    ) -> None:
        self.plan = plan
        self.image = image
        self.workdir = workdir.absolute()
        self._peers_image = peers
        self._inside = inside
        self._key = key
        self._elsewhere = elsewhere
        self._hosts = topology.hosts(plan, clients, elsewhere)
        self.started = time.monotonic()
        self.nodes: dict[str, Appliance] = {}
        self.machines: dict[str, Machine] = {}
        self.hosts: dict[str, Neighbour] = {}
        self._closing = ExitStack()
        self._populating: Future[None]

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._build(undo)
            self._power_on(undo)
            self._closing = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _build(self, undo: ExitStack) -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)
        inside = self._inside or tools.ensure()
        accelerator = kvm.accelerator(inside, self._peers_image.kernel)
        children = Children()
        undo.callback(children.close)
        self.cables = Cables(children, self.workdir, self._ports(), self._tagged())
        undo.callback(self.cables.close)
        ground = Ground(children, self.cables, inside, self.workdir, accelerator)
        self.nodes = {
            node.name: Appliance(ground, self.plan, node.name, self.image, key=self._key)
            for node in self.plan.nodes
        }
        self.peers = Peers(ground, self.plan, self._hosts, self._peers_image)
        self.hosts = self.peers.hosts
        self.machines = {**self.nodes, NAME: self.peers}

    def _ports(self) -> dict[str, list[str]]:
        networks = {name for host in self._hosts for name in services.devices(host)}
        inhabited = {self.plan.card(name) for name in networks}
        shared = {self.plan.card(name) for name in self._elsewhere}
        return {
            card: [
                *(node.name for node in self.plan.nodes),
                *([NAME] * (card in inhabited)),
                *([UPLINK] * (card in shared)),
            ]
            for card in self.plan.cards()
        }

    def _tagged(self) -> dict[str, dict[str, int]]:
        vlans: dict[str, dict[str, int]] = {card: {} for card in self.plan.cards()}
        for name, network in self.plan.networks.items():
            if network.vlan:
                vlans[network.vlan.on][name] = network.vlan.tag
        return vlans

    def _power_on(self, undo: ExitStack) -> None:
        self.started = time.monotonic()
        with ThreadPoolExecutor() as pool:
            starts = []
            for machine in self.machines.values():
                undo.callback(machine.close)
                starts.append(pool.submit(machine.start, fresh_disk=True))
            for start in starts:
                start.result()
        helper = ThreadPoolExecutor(1)
        undo.callback(helper.shutdown, wait=True)
        self._populating = helper.submit(self._populate)
        undo.callback(self.peers.close)  # first, so that the helper's work ends with the machine

    def _populate(self) -> None:
        self.peers.wait_control(BOOT_WITHIN)
        self.peers.populate()

    def host(self, address: Address) -> Neighbour:
        """The host that answers for an address."""
        found = [host for host in self.hosts.values() if host.host.answers(address)]
        if not found:
            raise HarnessError(f"no host of the lab has the address {address}")
        return found[0]

    def link(self, machine: str, network: str) -> Link:
        """The cable between a node (or `peers`) and a network; a VLAN's is that of its card."""
        return self.machines[machine].links[self.plan.card(network)]

    def join(self, network: str, other: Lab, its: str) -> None:
        """Make one network of ours and another lab's; to both it must be `elsewhere`."""
        card, its_card = self.plan.card(network), other.plan.card(its)
        self.cables.patch(card, other.cables, its_card)

    def conditions(self) -> dict[str, Condition]:
        """What each node is now."""
        with ThreadPoolExecutor() as pool:
            asked = {name: pool.submit(node.condition) for name, node in self.nodes.items()}
            return {name: answer.result() for name, answer in asked.items()}

    def active(self) -> Appliance:
        """The one active node; LabAssertion when there is none, or more than one."""
        return self._only(Condition.ACTIVE)

    def standby(self) -> Appliance:
        """The one standby node; LabAssertion when there is none, or more than one."""
        return self._only(Condition.STANDBY)

    def wait_active(self, node: Appliance | None = None, timeout: float = 30) -> Appliance:
        """Wait until exactly one node is active (and is `node`, if given)."""

        def trouble() -> str | None:
            conditions = self.conditions()
            active = [name for name, is_now in conditions.items() if is_now is Condition.ACTIVE]
            wanted = len(active) == 1 and (node is None or active[0] == node.name)
            return None if wanted else _told(conditions)

        self._wait(trouble, timeout, "one active node")
        return self.active()

    def wait_ready(self, timeout: float = 120) -> None:
        """Wait until one node is active, the other is its synced standby, every host serves, and
        each node balances over every real server that a test has done nothing to.

        Counted in seconds from now; LabAssertion tells what was missing at the last look.
        """
        end = time.monotonic() + timeout
        for machine in self.machines.values():
            if machine.running:
                machine.wait_control(max(0.0, end - time.monotonic()))
        self._populating.result(max(0.0, end - time.monotonic()))
        self._wait(self.trouble, end - time.monotonic(), "the lab to be ready")

    def trouble(self) -> str | None:
        """What is missing for `wait_ready`, in words; None when nothing is."""
        try:
            return self._trouble()
        except (HarnessError, LabAssertion) as error:
            return str(error)

    def _trouble(self) -> str | None:
        with ThreadPoolExecutor() as pool:
            troubles = dict(
                zip(self.nodes, pool.map(Appliance.trouble, self.nodes.values()), strict=True)
            )
        if told := _told({name: words for name, words in troubles.items() if words}):
            return told
        conditions = self.conditions()
        standbys = [Condition.STANDBY] * (len(self.nodes) - 1)
        if sorted(conditions.values()) != sorted([Condition.ACTIVE, *standbys]):
            return _told(conditions)
        return self._unbalanced() or None

    def balanced(self, node: Appliance, service: str) -> dict[Address, int]:
        """The real servers that a node balances a virtual service over now, with their weights.

        The service's own are no more there once they failed, or are there with weight 0.
        """
        named = next(each for each in self.plan.virtual_services if each.name == service)
        return ipvs.weights(ipvs.read(node.succeed(["cat", ipvs.TABLE])), named)

    def _unbalanced(self) -> str:
        if not self.plan.virtual_services:
            return ""
        ill = {own.ip for h in self.hosts.values() if h.ailing for own in h.host.addresses}
        tables = {n: m.run(["cat", ipvs.TABLE], timeout=20).out for n, m in self.nodes.items()}
        lacks = {
            name: ", ".join(ipvs.missing(ipvs.read(table), self.plan, ill))
            for name, table in tables.items()
        }
        return _told({name: words for name, words in lacks.items() if words})

    def mend(self) -> None:
        """Make every cable as new."""
        for machine in self.machines.values():
            for link in machine.links.values():
                link.mend()

    def image_digest(self) -> str:
        """SHA-256 of the image that the nodes run on, as it lies on disk now."""
        with self.image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def capture(self, network: str) -> Path:
        """All frames that entered a network, as a pcap file that still grows."""
        return self.cables.capture(network)

    def _only(self, wanted: Condition) -> Appliance:
        conditions = self.conditions()
        found = [name for name, is_now in conditions.items() if is_now is wanted]
        if len(found) != 1:
            raise LabAssertion(f"not exactly one {wanted} node: {_told(conditions)}")
        return self.nodes[found[0]]

    def _wait(self, trouble: Callable[[], str | None], timeout: float, what: str) -> None:
        end = time.monotonic() + timeout
        pause = threading.Event()
        while words := trouble():
            if time.monotonic() > end:
                raise LabAssertion(f"waited {timeout:.0f} s for {what}: {words}")
            pause.wait(BETWEEN_LOOKS)


def _told(things: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {thing}" for name, thing in things.items())

"""The one machine that holds every neighbour of the appliance, each a network namespace in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from appliance.lab import credentials, qemu, services
from appliance.lab.control import Shell
from appliance.lab.machine import Ground, Machine
from appliance.lab.topology import Host
from appliance.plan.model import Address, Network, Plan

NAME = "peers"
MEMORY = 512  # MiB
SERVING_WITHIN = 60.0  # seconds from the start of the services to the last one listening
_CMDLINE = "console=ttyS0 quiet root=/dev/vda rootfstype=squashfs ro systemd.volatile=overlay"


class PeersImage(Protocol):
    """What the peers machine boots."""

    @property
    def kernel(self) -> Path:
        """The kernel."""

    @property
    def initrd(self) -> Path:
        """Its initrd, which mounts the root."""

    @property
    def root(self) -> Path:
        """The root file system."""


class Neighbour(Shell):
    """A host of the lab: commands run in its namespace."""

    def __init__(self, machine: Machine, host: Host) -> None:
        enter = ("ip", "netns", "exec", host.name)
        super().__init__(host.name, lambda: machine.control, enter)
        self.host = host

    @property
    def address(self) -> Address:
        """Its first address."""
        return self.host.addresses[0].ip


class Peers(Machine):
    """The machine; `hosts` by name."""

    def __init__(
        self, ground: Ground, plan: Plan, hosts: Sequence[Host], image: PeersImage
    ) -> None:
        self._plan = plan
        site = plan.site
        inhabited = dict.fromkeys(plan.card(host.network) for host in hosts)
        self._cards: Mapping[str, str] = services.cards(list(inhabited))
        config = qemu.Machine(
            name=NAME,
            boot=qemu.KernelBoot(image.kernel, image.initrd, image.root, _CMDLINE),
            nics=tuple(qemu.Nic(n, c, qemu.mac(site, NAME, n)) for n, c in self._cards.items()),
            accelerator=ground.accelerator,
            serial_log=ground.folder / f"{NAME}.serial.log",
            memory=MEMORY,
            credentials=credentials.agent(),
        )
        super().__init__(ground, config)
        self.hosts = {host.name: Neighbour(self, host) for host in hosts}

    def populate(self) -> None:
        """Make the hosts and start what they serve; returns when all of it listens."""
        for path, text in services.files().items():
            self.put(path, text)
        self.succeed(services.prepare())
        for host in self.hosts.values():
            card = self._card(self._plan.networks[host.host.network])
            self.succeed(services.namespace(self._plan.site, host.host, card))
            self.succeed(services.serve(host.host))
        with ThreadPoolExecutor() as pool:
            for done in [
                pool.submit(h.wait_until, services.listening(), SERVING_WITHIN)
                for h in self.hosts.values()
            ]:
                done.result()

    def _card(self, network: Network) -> str:
        """The card for hosts on that network, up; a VLAN's is made on top of another."""
        card = self._cards[self._plan.card(network.name)]
        self.wait_until(f"ip link set {card} up", SERVING_WITHIN)
        if network.vlan is None:
            return card
        self.succeed(services.tag(card, network.interface, network.vlan))
        return network.interface

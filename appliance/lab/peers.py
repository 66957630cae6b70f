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
from appliance.plan.model import Address

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

    def __init__(self, ground: Ground, site: str, hosts: Sequence[Host], image: PeersImage) -> None:
        self._site = site
        networks = list(dict.fromkeys(host.network for host in hosts))
        self._cards: Mapping[str, str] = services.cards(networks)
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
            card = self._cards[host.host.network]
            self.wait_until(f"ip link set {card} up", SERVING_WITHIN)
            self.succeed(services.namespace(self._site, host.host, card))
            self.succeed(services.serve(host.host))
        with ThreadPoolExecutor() as pool:
            for done in [
                pool.submit(h.wait_until, services.listening(), SERVING_WITHIN)
                for h in self.hosts.values()
            ]:
                done.result()

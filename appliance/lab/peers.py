"""The one machine that holds every neighbour of the appliance, each a network namespace in it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from appliance.lab import credentials, daemons, postfix, qemu, services
from appliance.lab.control import Shell
from appliance.lab.errors import HarnessError
from appliance.lab.machine import Ground, Machine
from appliance.lab.places import folder
from appliance.lab.topology import Host
from appliance.plan.model import Address, Network, Plan

NAME = "peers"
MEMORY = 512  # MiB
SERVING_WITHIN = 60.0  # seconds from the start of the services to the last one listening
# After the root what spares a boot work: mkosi.conf.d/20-appliance/mkosi.conf has the reasons.
_CMDLINE = (
    "console=ttyS0 quiet root=/dev/vda rootfstype=squashfs ro systemd.volatile=overlay "
    "systemd.show_status=error lsm=yama psi=0 cryptomgr.notests noreplace-smp "
    "initcall_blacklist=init_encrypted,jent_mod_init"
)


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
    """A host of the lab: commands run in its namespace, and its programs can be stopped."""

    def __init__(self, machine: Machine, host: Host) -> None:
        enter = ("ip", "netns", "exec", host.name)
        super().__init__(host.name, lambda: machine.control, enter)
        self.host = host
        self._machine = machine
        self._usual = frozenset(each.name for each in daemons.daemons(host))
        self._running = set(self._usual)
        self._hanging: set[str] = set()
        self._cut = self._ill = self._odd_mail = False

    @property
    def address(self) -> Address:
        """Its first address."""
        return self.host.addresses[0].ip

    def addresses(self, version: int = 4) -> tuple[Address, ...]:
        """Its addresses of an IP version, for clients to be bound to."""
        return tuple(each.ip for each in self.host.addresses if each.version == version)

    @property
    def ailing(self) -> bool:
        """Whether a test did anything to it that health checks may notice."""
        stopped = self._usual - self._running
        return bool(stopped or self._hanging or self._cut or self._ill or self._odd_mail)

    def stop(self, program: str) -> None:
        """Kill a program, and all that it started: its connections end with it."""
        self._machine.succeed(services.end(self.name, program))
        self._running.discard(program)
        self._hanging.discard(program)

    def start(self, program: str) -> None:
        """Start a program with its usual configuration, also one that the host does not have from
        the start; returns when it listens.

        It is one of `sshd`, `vsftpd`, `nginx`, `postfix`, `nsd`, `echo` and `iperf3`.
        """
        if program in self._running:
            raise HarnessError(f"{self.name}: {program} runs already")
        daemon = daemons.daemon(self.host, program)
        for path, text in daemon.files.items():
            self._machine.put(path, text)
        self._machine.succeed(services.launch(self.host, daemon))
        self._running.add(program)
        self._ill &= program != "nginx"
        self._odd_mail &= program != "postfix"
        self.wait_until(services.listening(daemon.listens), SERVING_WITHIN)

    def hang(self, program: str) -> None:
        """Stop a program's clock: connections are still taken, and nobody answers."""
        self._machine.succeed(services.freeze(self.name, program, frozen=True))
        self._hanging.add(program)

    def resume(self, program: str) -> None:
        """Let a program that hangs go on."""
        self._machine.succeed(services.freeze(self.name, program, frozen=False))
        self._hanging.discard(program)

    def cut(self) -> None:
        """Drop whatever comes and goes on its card: to others it is without power."""
        argv, text = services.cut()
        self.succeed(argv, stdin=text.encode())
        self._cut = True

    def mend(self) -> None:
        """Let all through again."""
        self.succeed(services.mend())
        self._cut = False

    def health(self, status: int | None = None, *, hangs: bool = False) -> None:
        """Have the pages that health checks ask for answered by another status, or by nothing;
        without arguments as before. All else is served on.
        """
        own = folder(self.name)
        self._machine.put(f"{own}/health.conf", daemons.health(self.host, status, hangs=hangs))
        self._machine.succeed(services.renew(f"{own}/nginx.pid"))
        self._ill = hangs or status is not None

    def mail(self, *, refuses: bool = False, relay: Address | None = None) -> None:
        """Have its Postfix greet everybody with a 554, or pass all mail on to `relay`; without
        arguments take mail into its mailbox, as before.
        """
        text = postfix.main(self.name, refuses=refuses, relay=relay)
        self._machine.put(f"{postfix.config(self.name)}/main.cf", text)
        self._machine.succeed(services.renew(postfix.master(self.name)))
        self._odd_mail = refuses or relay is not None

    def heal(self) -> None:
        """Undo all that a test did to it, and end what it started besides."""
        for program in tuple(self._hanging):
            self.resume(program)
        for program in self._running - self._usual:
            self.stop(program)
        for program in self._usual - self._running:
            self.start(program)
        if self._cut:
            self.mend()
        if self._ill:
            self.health()
        if self._odd_mail:
            self.mail()


class Peers(Machine):
    """The machine; `hosts` by name."""

    def __init__(
        self, ground: Ground, plan: Plan, hosts: Sequence[Host], image: PeersImage
    ) -> None:
        self._plan = plan
        site = plan.site
        inhabited = dict.fromkeys(plan.card(n) for host in hosts for n in services.devices(host))
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
        every = [each.host for each in self.hosts.values()]
        self.succeed(["tar", "-C", "/", "-xf", "-"], stdin=_archive(services.files(every)))
        self.succeed(services.prepare())
        for host in every:
            networks = services.devices(host)
            cards = {name: self._card(self._plan.networks[name]) for name in networks}
            self.succeed(services.namespace(self._plan.site, host, cards))
            self.succeed(services.serve(host) or "true")
        for neighbour in self.hosts.values():
            wanted = [p for each in daemons.daemons(neighbour.host) for p in each.listens]
            neighbour.wait_until(services.listening(wanted), SERVING_WITHIN)

    def _card(self, network: Network) -> str:
        """The card for hosts on that network, up; a VLAN's is made on top of another."""
        card = self._cards[self._plan.card(network.name)]
        self.wait_until(f"ip link set {card} up", SERVING_WITHIN)
        if network.vlan is None:
            return card
        self.succeed(services.tag(card, network.interface, network.vlan))
        return network.interface


def _archive(files: Mapping[str, str]) -> bytes:
    """One archive of all files, since each command to an emulated machine takes its time."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for path, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(path.removeprefix("/"))
            entry.size = len(data)
            entry.mtime = 1  # to nsd a file of the time 0 has never changed, so that it is not read
            archive.addfile(entry, io.BytesIO(data))
    return whole.getvalue()

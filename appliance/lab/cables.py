"""The lab's end of the switch process: networks, cables, and what is wrong with them."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from appliance.lab.children import Children
from appliance.lab.errors import HarnessError
from appliance.lab.frames import Match
from appliance.lab.switch import Faults, Filter, Way
from appliance.run import Argument

# Seconds; the process answers in microseconds unless the machine is badly overloaded.
ANSWER_WITHIN = 20.0
UPLINK = "uplink"  # the port of a switch that leads to another lab's


class Cables:
    """The switch process with one switch for each network; `networks` gives the machines on
    each. A VLAN has no switch of its own: `tagged` gives the names and numbers of those on each.
    """

    def __init__(
        self,
        children: Children,
        folder: Path,
        networks: Mapping[str, Sequence[str]],
        tagged: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.settimeout(ANSWER_WITHIN)
        with theirs:
            argv: list[Argument] = [
                sys.executable,
                "-m",
                "appliance.lab.switchd",
                str(theirs.fileno()),
                folder,
            ]
            log = folder / "switch.log"
            self._process = children.start(argv, descriptors=[theirs.fileno()], log=log)
        for network, machines in networks.items():
            vlans = dict(tagged.get(network, {}))
            self._order("network", network=network, ports=list(machines), tagged=vlans)

    def capture(self, network: str) -> Path:
        """The capture of a network, a VLAN's without tags; it grows while the lab runs."""
        return self.folder / f"{network}.pcap"

    def plug(self, network: str, machine: str) -> socket.socket:
        """A fresh cable end for a machine's network card; the caller hands it on and closes its
        own.
        """
        # One datagram is one frame (qemu(1), -netdev dgram).
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with theirs:
            self._order("attach", theirs.fileno(), network=network, port=machine)
        return ours

    def patch(self, network: str, others: Cables, theirs: str) -> None:
        """Connect a network's switch with one of another lab, by the ports `UPLINK` of both."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            self._order("attach", one.fileno(), network=network, port=UPLINK)
            others._order("attach", other.fileno(), network=theirs, port=UPLINK)

    def unplug(self, network: str, machine: str) -> None:
        """Take the cable of a machine that is off; the switch loses its carrier."""
        self._order("detach", network=network, port=machine)

    def set_faults(self, network: str, machine: str, faults: Faults) -> None:
        """Replace what is wrong with a cable; in force when this returns."""
        self._order("faults", network=network, port=machine, faults=faults.as_json())

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Frames in, out and lost for each network and machine."""
        counts: dict[str, dict[str, dict[str, int]]] = self._order("counts")
        return counts

    def marks(self) -> dict[str, int]:
        """How long each capture is now, in bytes: where to read on for what comes later."""
        marks: dict[str, int] = self._order("marks")
        return marks

    def close(self) -> None:
        """End the process."""
        self._end.close()
        self._process.wait()

    def _order(self, verb: str, descriptor: int | None = None, **fields: Any) -> Any:
        text = json.dumps({"do": verb, **fields}).encode()
        descriptors = [] if descriptor is None else [descriptor]
        answer = b""
        with self._lock, contextlib.suppress(OSError):
            socket.send_fds(self._end, [text], descriptors)
            answer = self._end.recv(1 << 20)
        if not answer:
            raise HarnessError(f"the switch process is gone: see {self.folder / 'switch.log'}")
        return json.loads(answer)


class Carrier(Protocol):
    """What a link needs of the machine at its end."""

    name: str

    def set_carrier(self, network: str, *, up: bool) -> None:
        """Raise or drop the carrier of a network card."""


class Link:
    """The cable between a machine and a network, and every fault it can have. Faults add up until
    `mend`.
    """

    def __init__(self, cables: Cables, machine: Carrier, network: str) -> None:
        self._cables = cables
        self._machine = machine
        self.network = network
        self.faults = Faults()

    def cut(self) -> None:
        """Cut it: the carrier is lost at the machine's end, and no frame passes."""
        self._set(replace(self.faults, cut=True))

    def silence(self, way: Way = Way.BOTH) -> None:
        """Lose every frame with the carrier still up, `to` the machine, `from` it, or both."""
        self._set(replace(self.faults, silence=way))

    def loss(self, percent: float, seed: int = 1) -> None:
        """Lose this share of frames in each direction; the same seed loses the same again."""
        self._set(replace(self.faults, loss=percent, seed=seed))

    def delay(self, milliseconds: float) -> None:
        """Hold each frame for this long, in each direction."""
        self._set(replace(self.faults, delay=milliseconds))

    def drop(self, match: Match, way: Way = Way.BOTH) -> None:
        """Lose every frame of one kind, as `appliance.lab.frames.VRRP`."""
        filters = (*self.faults.filters, Filter(match, way))
        self._set(replace(self.faults, filters=filters))

    def mend(self) -> None:
        """As new."""
        self._set(Faults())

    def _set(self, faults: Faults) -> None:
        before, self.faults = self.faults, faults
        self._cables.set_faults(self.network, self._machine.name, faults)
        if before.cut != faults.cut:
            self._machine.set_carrier(self.network, up=not faults.cut)

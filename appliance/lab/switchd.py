"""The process that carries the lab's frames: every network's switch, in one loop, between
inherited sockets.

Started as `python -m appliance.lab.switchd FD FOLDER`: FD is the control socket, FOLDER takes the
captures. It ends
when the control socket closes, so it cannot outlive the lab.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.lab.frames import untagged
from appliance.lab.pcap import Writer
from appliance.lab.switch import Delivery, Faults, Switch

BATCH = 64  # frames read from one machine before the others get their turn
QUEUE = (
    1000  # frames held for a machine that does not read, as a switch's port buffer; then tail drop
)
LARGEST = 65536


@dataclass(slots=True)
class _Cable:
    """One machine's socket on one network, and what waits to be sent to it."""

    network: str
    port: str
    socket: socket.socket
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=QUEUE))


class Daemon:
    """The loop: frames and orders in, frames out."""

    def __init__(self, control: socket.socket, folder: Path) -> None:
        self.control = control
        self.folder = folder
        self.switches: dict[str, Switch] = {}
        self.tagged: dict[str, dict[int, str]] = {}
        self.captures: dict[str, Writer] = {}
        self.cables: dict[tuple[str, str], _Cable] = {}
        self.later: list[tuple[float, int, str, Delivery]] = []
        self.serial = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Serve until the control socket closes."""
        while True:
            pause = max(0.0, self.later[0][0] - time.monotonic()) if self.later else None
            for key, events in self.selector.select(pause):
                if key.data is None:
                    if not self._order():
                        return
                    continue
                if events & selectors.EVENT_WRITE:
                    self._drain(key.data)
                if events & selectors.EVENT_READ:
                    self._receive(key.data)
            self._send_due()
            for capture in self.captures.values():
                capture.flush()

    def _receive(self, cable: _Cable) -> None:
        switch = self.switches[cable.network]
        for _ in range(BATCH):
            try:
                frame = cable.socket.recv(LARGEST)
            except OSError:  # nothing more to read, or the machine died
                return
            deliveries = switch.frame(cable.port, frame, time.monotonic())
            if deliveries is None:
                continue
            self._capture(cable.network, frame)
            for each in deliveries:
                self._schedule(cable.network, each)

    def _capture(self, network: str, frame: bytes) -> None:
        """A tagged frame goes, without its tag, to the capture of the network that it is of."""
        tag, bare = untagged(frame)
        name = self.tagged[network].get(tag) if tag is not None else None
        capture, seen = (self.captures[name], bare) if name else (self.captures[network], frame)
        capture.add(time.time_ns(), seen)

    def _schedule(self, network: str, delivery: Delivery) -> None:
        if delivery.due <= time.monotonic():
            self._send(network, delivery)
            return
        self.serial += 1
        heapq.heappush(self.later, (delivery.due, self.serial, network, delivery))

    def _send_due(self) -> None:
        while self.later and self.later[0][0] <= time.monotonic():
            _, _, network, delivery = heapq.heappop(self.later)
            self._send(network, delivery)

    def _send(self, network: str, delivery: Delivery) -> None:
        cable = self.cables.get((network, delivery.port))
        if cable is None:
            return
        cable.waiting.append(delivery.frame)
        self._drain(cable)

    def _drain(self, cable: _Cable) -> None:
        while cable.waiting:
            try:
                cable.socket.send(cable.waiting[0])
            except BlockingIOError:
                break
            except OSError:  # the machine died: a cable with no end
                cable.waiting.clear()
                break
            cable.waiting.popleft()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if cable.waiting else 0)
        if self.selector.get_key(cable.socket).events != events:
            self.selector.modify(cable.socket, events, cable)

    def _order(self) -> bool:
        """Carry out one order of the lab; False when the lab is gone."""
        text, descriptors, _, _ = socket.recv_fds(self.control, LARGEST, 1)
        if not text:
            return False
        order: dict[str, Any] = json.loads(text)
        verb = order.pop("do")
        if descriptors:
            order["descriptor"] = descriptors[0]
        answer = getattr(self, f"do_{verb}")(**order)
        self.control.send(json.dumps(answer).encode())
        return True

    def do_network(self, network: str, ports: list[str], tagged: dict[str, int]) -> None:
        """Make a network with these ports, and begin its capture and those of its VLANs.

        `tagged` are the VLANs on it, each with its number. The switch does not know of them: every
        port is a member of all, so that a frame goes where it would go without a tag.
        """
        self.switches[network] = Switch(tuple(ports))
        self.tagged[network] = {tag: name for name, tag in tagged.items()}
        for name in (network, *tagged):
            self.captures[name] = Writer(self.folder / f"{name}.pcap")

    def do_attach(self, network: str, port: str, descriptor: int) -> None:
        """Plug a machine in: `descriptor` is the other end of its network card's socket."""
        self.do_detach(network, port)
        end = socket.socket(fileno=descriptor)
        end.setblocking(False)
        cable = self.cables[network, port] = _Cable(network, port, end)
        self.selector.register(end, selectors.EVENT_READ, cable)

    def do_detach(self, network: str, port: str) -> None:
        """Unplug a machine that is off; its addresses are forgotten as at a lost carrier."""
        cable = self.cables.pop((network, port), None)
        if cable:
            self.selector.unregister(cable.socket)
            cable.socket.close()
        self.switches[network].forget(port)

    def do_faults(self, network: str, port: str, faults: dict[str, Any]) -> None:
        """Replace what is wrong with a cable."""
        self.switches[network].set_faults(port, Faults.from_json(faults))

    def do_marks(self) -> dict[str, int]:
        """How long each capture is now, everything that has entered included."""
        return {name: capture.flush() for name, capture in self.captures.items()}

    def do_counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Frames in, out and lost for each network and port."""
        return {name: switch.counts() for name, switch in self.switches.items()}


def main() -> None:
    """Run with the arguments of this module's docstring."""
    with contextlib.suppress(
        OSError
    ):  # only root may: frames should not wait for emulated processors
        os.nice(-10)
    Daemon(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])).run()


if __name__ == "__main__":
    main()

"""Many flows at once, in every phase in which a fault may find a connection.

with load.start(lab, load.cells(paths)) as everything:
    lab.active().kill()
    everything.moves()
    reports = everything.stop()

One program carries the flows of a client host, since a process for each would be too much for an
emulated machine. The first UDP probe has a program of its own: it is the measure of the gap, and
must wait for nobody. The first of each busy kind sends at full pace, those over further paths more
slowly: each packet there and back costs an emulated machine some milliseconds.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Self

from appliance.lab import orders, places, services
from appliance.lab.cells import USUAL, Cell, Kind, Mode, Path, balanced, cells
from appliance.lab.control import Shell
from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.flows import Carrier, Report
from appliance.lab.orders import Order
from appliance.lab.pair import Lab
from appliance.plan.model import Address

__all__ = ["USUAL", "Cell", "Kind", "Load", "Mode", "Path", "balanced", "cells", "start"]

# Bytes a second of a throttled transfer: slow enough that a file lasts for minutes, and that many
# at once leave the machine's processor to the probes.
RATE = 4000.0
BETWEEN_LOOKS = 0.5  # seconds; each look is work for an emulated machine
PROBE = 0.005  # seconds between the probes that measure the gap
# Seconds between two pieces of what is not the first of its kind.
SLOWLY = {Kind.SSH: 0.5, Kind.TCP: 0.25, Kind.UDP: 0.05, Kind.HTTP: 0.5, Kind.SMTP: 0.5}

_numbers = count(1)


class Load:
    """Flows under way. Leaving its `with` block ends them.

    `probe` is the cell whose longest stall is the gap: the first UDP cell.
    """

    def __init__(
        self, hosts: Mapping[str, Shell], cells: Iterable[Cell], interval: float = PROBE
    ) -> None:
        self.cells = {str(cell): cell for cell in cells}
        self._first = {cell.kind: cell for cell in reversed(self.cells.values())}
        self.probe = self._first.get(Kind.UDP)
        self._interval = interval
        self._hosts = hosts
        self._folder = f"{services.INCOMING}/load-{next(_numbers)}"
        self._last: dict[Cell, Report] | None = None
        self._carriers: list[Carrier] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for carrier in self._carriers:
            carrier.__exit__()
        with contextlib.suppress(HarnessError, LabAssertion):  # gone, and the files with it
            self._somewhere().run(["rm", "-rf", self._path()])

    def peek(self) -> Mapping[Cell, Report]:
        """The figures so far; all go on."""
        return self._ask("peek")

    def moves(self, timeout: float = 30) -> None:
        """Wait until every busy flow has carried anew, counted from this call.

        LabAssertion names those that have not within `timeout` seconds, or are dead.
        """
        before, end, pause = self.peek(), time.monotonic() + timeout, threading.Event()
        while still := _still(before, now := self.peek()):
            if time.monotonic() > end or not all(now[cell].alive for cell in still):
                words = "; ".join(f"{cell} ({now[cell].note or 'silent'})" for cell in still)
                raise LabAssertion(f"not every flow goes on within {timeout:g} s: {words}")
            pause.wait(BETWEEN_LOOKS)

    def stop(self) -> Mapping[Cell, Report]:
        """End all: what is silent must answer now, and transfers must come to their right end."""
        if self._last is None:
            self._last = self._ask("stop")
        return self._last

    def _begin(self) -> None:
        """Returns when all stand; LabAssertion names those that do not."""
        self._somewhere().succeed(f"mkdir {self._path()} && chmod 1777 {self._path()}")
        shared = orders.shared(self._somewhere())
        for (client, _), group in self._programs().items():
            flows = {str(cell): self._order(cell, shared) for cell in group}
            self._carriers.append(Carrier(self._hosts[client], flows))
        failed = [item for carrier in self._carriers for item in carrier.wait_ready().items()]
        if failed:
            raise LabAssertion("; ".join(f"{name}: {report.note}" for name, report in failed))

    def _programs(self) -> dict[tuple[str, bool], list[Cell]]:
        """The cells of each program, by client host and whether it is the probe's."""
        programs: dict[tuple[str, bool], list[Cell]] = {}
        for cell in self.cells.values():
            programs.setdefault((cell.path.client, cell == self.probe), []).append(cell)
        return programs

    def _order(self, cell: Cell, shared: Mapping[str, Order]) -> Order:
        if not cell.kind.transfers:
            order = _STREAMS[cell.kind](cell.path.to)
            return {**order, **self._pace(cell), **orders.bound(cell.path.source)}
        mode, file = str(cell.mode), shared[services.SMALL_FILE]
        if cell.kind is Kind.DOWNLOAD:
            file = {"rate": RATE, **shared[services.SHARED_FILE]}
        elif cell.kind is Kind.UPLOAD:
            name = f"{self._folder}/{_file_name(cell.path)}-{mode}"
            size = services.SHARED_SIZES[services.SHARED_FILE]
            stored = f"{places.SHARE}/{name}"
            file = {"rate": RATE, "file": name, "stored": stored, "size": size}
        more = {**file, **orders.bound(cell.path.source)}
        return orders.ftp(cell.kind, cell.path.to, mode=mode, **more)

    def _pace(self, cell: Cell) -> Order:
        if cell == self.probe:
            return {"interval": self._interval}
        slowly = cell.kind in SLOWLY and cell != self._first[cell.kind]
        return {"interval": SLOWLY[cell.kind]} if slowly else {}

    def _ask(self, word: str) -> dict[Cell, Report]:
        for carrier in self._carriers:
            carrier.say(word)
        heard = [item for carrier in self._carriers for item in carrier.hear().items()]
        return {self.cells[name]: report for name, report in heard}

    def _somewhere(self) -> Shell:
        """Any host: all are in one machine, and have its files in common."""
        return next(iter(self._hosts.values()))

    def _path(self) -> str:
        return shlex.quote(f"{places.SHARE}/{self._folder}")


def start(lab: Lab, cells: Iterable[Cell], *, interval: float = PROBE) -> Load:
    """Start a load; returns when every connection stands and every transfer is under way.

    `interval` is the probe's, in seconds. LabAssertion names those that do not stand.
    """
    load = Load(lab.hosts, cells, interval)
    try:
        load._begin()
    except BaseException:
        load.__exit__()
        raise
    return load


def _file_name(path: Path) -> str:
    """A path's name as that of a file that any server takes."""
    return re.sub(r"[^\w.-]", "_", path.name)


def _still(before: Mapping[Cell, Report], now: Mapping[Cell, Report]) -> list[Cell]:
    """The busy ones that have received nothing in between."""
    busy = [cell for cell in now if cell.kind.busy]
    return [cell for cell in busy if now[cell].received <= before[cell].received]


_STREAMS: Mapping[Kind, Callable[[Address], Order]] = {
    Kind.SSH: orders.ssh,
    Kind.SSH_IDLE: lambda to: orders.ssh(to, interval=None),
    Kind.HANDSHAKE: lambda to: orders.tcp(to, interval=None, greeting=False),
    Kind.TCP: orders.tcp,
    Kind.UDP: orders.udp,
    Kind.FTP_IDLE: lambda to: orders.ftp(Kind.FTP_IDLE, to),
    Kind.HTTP: lambda to: orders.http(to, kept=True),
    Kind.SMTP: orders.smtp,
}

"""One QEMU machine: started, killed, frozen, and commanded over its control channel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qemu.qmp import ExecuteError, QMPClient

from appliance.lab import qemu
from appliance.lab.cables import Cables, Link
from appliance.lab.children import Children
from appliance.lab.control import Control, Shell
from appliance.lab.errors import HarnessError
from appliance.run import Argument, run

DISK_SIZE = "4G"  # sparse; room for the second slot and the state that the first boot makes
MONITOR_WITHIN = 30.0  # seconds for an answer of QEMU's monitor


class Inside(Protocol):
    """What the lab needs of `appliance.tools.ToolsTree`."""

    def inside(self, argv: Sequence[Argument]) -> list[str]:
        """The command that runs `argv` with the tools tree's programs."""
        ...


@dataclass(frozen=True, slots=True)
class Ground:
    """What all machines of a lab stand on."""

    children: Children
    cables: Cables
    tools: Inside
    folder: Path
    accelerator: qemu.Accelerator


class Machine(Shell):
    """A machine, on or off. With firmware boot, `image` is the disk as shipped: it is only ever
    read.
    """

    def __init__(self, ground: Ground, config: qemu.Machine, image: Path | None = None) -> None:
        super().__init__(config.name, lambda: self.control)
        self.config = config
        self.links = {nic.network: Link(ground.cables, self, nic.network) for nic in config.nics}
        self.monitor_events: list[str] = []
        self.frozen = False
        self._ground = ground
        self._image = image
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None
        self._monitor: QMPClient | None = None

    @property
    def running(self) -> bool:
        """Whether QEMU runs, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def control(self) -> Control:
        """The present control channel; HarnessError when the machine is off."""
        if self._control is None:
            raise HarnessError(f"{self.name}: the machine is off")
        return self._control

    def start(self, *, fresh_disk: bool = False) -> None:
        """Power on. With `fresh_disk` from the image as shipped, as if it had never run."""
        if self.running:
            raise HarnessError(f"{self.name}: the machine runs already")
        self._power_off()
        files = self._prepare(fresh_disk)
        with ExitStack() as theirs:
            monitor, control, sockets = self._sockets(theirs)
            self._control = Control(self.name, control)
            argv = qemu.command(self.config, sockets, files)
            self._process = self._ground.children.start(
                argv,
                descriptors=(sockets.monitor, sockets.control, *sockets.nics),
                log=self._ground.folder / f"{self.name}.qemu.log",
                wrap=self._ground.tools.inside,
            )
        self._ground.children.call(self._connect(monitor), MONITOR_WITHIN)
        for network, link in self.links.items():
            if link.faults.cut:
                self.set_carrier(network, up=False)

    def kill(self) -> None:
        """Power loss: nothing is flushed, nobody is told."""
        if not self.running:
            raise HarnessError(f"{self.name}: the machine is off already")
        self._power_off()

    def reset(self) -> None:
        """The reset button."""
        self.control.expect_reboot()
        self.monitor("system_reset")

    def freeze(self) -> None:
        """Stop the processor; the machine holds its memory and its carriers."""
        self.monitor("stop")
        self.frozen = True

    def thaw(self) -> None:
        """Let a frozen machine go on, unaware."""
        self.monitor("cont")
        self.frozen = False

    def wait_control(self, timeout: float) -> None:
        """Wait until commands can be given; HarnessError with the end of the serial log when not
        in time.
        """
        try:
            self.control.wait_ready(timeout)
        except HarnessError as failed:
            raise HarnessError(failed.what, self._last_words()) from None

    def monitor(self, command: str, **arguments: Any) -> Any:
        """A command to QEMU's monitor (QEMU QMP reference)."""
        client = self._monitor
        if client is None or not self.running:
            raise HarnessError(f"{self.name}: the machine is off", self._last_words())
        try:
            return self._ground.children.call(client.execute(command, arguments), MONITOR_WITHIN)
        except ExecuteError as refused:
            raise HarnessError(f"{self.name}: {command}: {refused}") from refused

    def set_carrier(self, network: str, *, up: bool) -> None:
        """Raise or drop a card's carrier; a machine that is off takes it at its next start."""
        if self.running:
            self.monitor("set_link", name=network, up=up)

    def close(self) -> None:
        """Power off, if it is on."""
        self._power_off()

    def _prepare(self, fresh_disk: bool) -> dict[str, Path]:
        boot = self.config.boot
        if isinstance(boot, qemu.FirmwareBoot) and (fresh_disk or not boot.disk.exists()):
            assert self._image
            overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
            backing = ["-b", str(self._image.resolve())]
            run(self._ground.tools.inside([*overlay, *backing, boot.disk, DISK_SIZE]))
            run(self._ground.tools.inside(["cp", boot.firmware.variables, boot.variables]))
        if isinstance(boot, qemu.FirmwareBoot) and boot.writes:
            boot.writes.write_bytes(b"")
        files = {}
        for name, text in qemu.by_file(self.config.credentials).items():
            files[name] = self._ground.folder / f"{self.name}.{name}"
            files[name].write_text(text)
        return files

    def _sockets(self, theirs: ExitStack) -> tuple[socket.socket, socket.socket, qemu.Sockets]:
        """Our ends of monitor and control channel, and the descriptors for QEMU, closed with
        `theirs`.
        """
        monitor, monitor_end = socket.socketpair()
        control, control_end = socket.socketpair()
        nics = [self._ground.cables.plug(network, self.name) for network in self.links]
        ends = [theirs.enter_context(end) for end in (monitor_end, control_end, *nics)]
        numbers = [end.fileno() for end in ends]
        return monitor, control, qemu.Sockets(numbers[0], numbers[1], tuple(numbers[2:]))

    async def _connect(self, end: socket.socket) -> None:
        client = QMPClient(self.name)
        try:
            await client.connect(end)
        except Exception as failed:
            raise HarnessError(f"{self.name}: QEMU did not start", self._last_words()) from failed
        self._monitor = client
        self._listener = asyncio.create_task(self._listen(client))

    async def _listen(self, client: QMPClient) -> None:
        """Keep QEMU's own events (a panic, a watchdog, a reset) for the artefacts."""
        async for event in client.events:
            self.monitor_events.append(str(event))

    def _power_off(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._monitor:
            self._ground.children.call(self._disconnect(self._monitor), MONITOR_WITHIN)
        if self._control:
            self._control.close()
        for network in self.links if self._process else ():
            self._ground.cables.unplug(network, self.name)
        self._process = self._monitor = self._control = None
        self.frozen = False

    async def _disconnect(self, client: QMPClient) -> None:
        self._listener.cancel()
        with contextlib.suppress(Exception):  # the other end is dead: nothing of it can matter
            await client.disconnect()

    def _last_words(self) -> str:
        logs = [self._ground.folder / f"{self.name}.qemu.log", self.config.serial_log]
        lines = [line for log in logs if log.exists() for line in _lines(log)[-15:]]
        return "its last words:\n" + "\n".join(lines)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()

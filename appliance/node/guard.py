"""Programs that stand still: found in /proc, and killed, so that systemd starts them again.

systemd sees a program that ended, not one that was stopped or hangs. Which processes belong to a
unit is told by its control group (cgroups(7)); their state by proc_pid_stat(5).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from appliance.node.statefile import text

STOPPED_S = 2.0
_GROUPS = Path("/sys/fs/cgroup/system.slice")


def processes(unit: str, groups: Path = _GROUPS) -> tuple[int, ...]:
    """The processes of a systemd service now; none when it does not run."""
    try:
        return tuple(map(int, text(groups / f"{unit}.service/cgroup.procs").split()))
    except OSError:
        return ()


def kill(unit: str, groups: Path = _GROUPS) -> bool:
    """End all of a service at once, whatever it does; whether there was anything to end."""
    found = processes(unit, groups)
    for each in found:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return bool(found)


def stopped(process: int) -> bool:
    """Whether a process was told to stand still."""
    try:
        told = text(f"/proc/{process}/stat")
    except OSError:
        return False
    return told.rpartition(")")[2].split()[0] in ("T", "t")


@dataclass(slots=True)
class Guard:
    """Watches `units`; a unit that stands still for 2 s is due to be killed."""

    units: tuple[str, ...]
    groups: Path = _GROUPS
    _since: dict[str, float] = field(default_factory=dict)

    def look(self, now: float) -> tuple[str, ...]:
        """The units that have stood still for too long, as seen at the monotonic time `now`."""
        for unit in self.units:
            if any(map(stopped, processes(unit, self.groups))):
                self._since.setdefault(unit, now)
            else:
                self._since.pop(unit, None)
        return tuple(unit for unit, since in self._since.items() if now - since >= STOPPED_S)

"""An appliance in the lab, and what it says about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from appliance.lab import credentials, qemu
from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.machine import Ground, Machine
from appliance.node.events import Role
from appliance.plan.model import Address, Plan

MEMORY = 384  # MiB
STATE_FILE = "/run/appliance/state.json"
# Seconds in its role: keepalived begins as a standby that takes over only after a startup delay.
ARMED_AFTER = 3.0


class Condition(StrEnum):
    """What a node is at a moment.

    Silent: its control agent does not answer (it boots, or hangs). Mixed: it has some of the
    virtual addresses, but not all.
    """

    OFF = "off"
    FROZEN = "frozen"
    SILENT = "silent"
    STANDBY = "standby"
    MIXED = "mixed"
    ACTIVE = "active"


class Appliance(Machine):
    """One node of the site, booted from the image as shipped."""

    def __init__(
        self,
        ground: Ground,
        plan: Plan,
        name: str,
        image: Path,
        *,
        key: str | None = None,
    ) -> None:
        nics = tuple(
            qemu.Nic(card, plan.networks[card].interface, qemu.mac(plan.site, name, card))
            for card in plan.cards()
        )
        config = qemu.Machine(
            name=name,
            boot=qemu.FirmwareBoot(ground.folder / f"{name}.qcow2", ground.folder / f"{name}.vars"),
            nics=nics,
            accelerator=ground.accelerator,
            serial_log=ground.folder / f"{name}.serial.log",
            memory=MEMORY,
            credentials={
                **credentials.agent(),
                **credentials.node(name, key),
                **qemu.link_credentials(nics),
            },
        )
        super().__init__(ground, config, image)
        self._virtual = {a.ip for network in plan.networks.values() for a in network.virtual}

    def addresses(self) -> set[Address]:
        """The addresses that it has now, as the kernel says."""
        links = json.loads(self.succeed(["ip", "-j", "addr"], timeout=20))
        return {ip_address(a["local"]) for link in links for a in link["addr_info"] if "local" in a}

    def condition(self) -> Condition:
        """What it is now. The node of a site without a pair is active once it is up."""
        if not self.running:
            return Condition.OFF
        if self.frozen:
            return Condition.FROZEN
        try:
            here = self.addresses() & self._virtual
        except (HarnessError, LabAssertion):
            return Condition.SILENT
        if here == self._virtual:
            return Condition.ACTIVE
        return Condition.MIXED if here else Condition.STANDBY

    def state(self) -> dict[str, Any] | None:
        """What its state agent says (`/run/appliance/state.json`); None while it says nothing."""
        result = self.run(["cat", STATE_FILE], timeout=20)
        try:
            state: dict[str, Any] = json.loads(result.out)
        except ValueError:
            return None
        return state

    def trouble(self) -> str | None:
        """Why it is not ready yet, in words; None when it is."""
        if self.frozen:
            return Condition.FROZEN
        try:
            return self._trouble()
        except (HarnessError, LabAssertion) as error:
            return str(error)

    def _trouble(self) -> str | None:
        # Asked again and again, an emulated machine would boot much later.
        booted = self.run(["systemctl", "is-system-running", "--wait"], timeout=20).out.strip()
        if booted not in ("running", "degraded"):
            return f"systemd is {booted or 'silent'}"
        if not self._virtual:
            return None
        return next(self._lacks(), None)

    def _lacks(self) -> Iterator[str]:
        """What it still needs to be one of a pair, by what its agent says."""
        state = self.state()
        if not state or not state["gate"]:
            yield "its state agent has not passed the gate"
            return
        if state["role"] not in (Role.MASTER, Role.BACKUP):
            yield f"its state agent calls its role {state['role']}"
        if state["owed"]:
            yield f"its state agent still owes {state['owed']}"
        if (state["ipvs"] or {}).get("in_step") is False:
            yield "it has yet to tell the other of all of IPVS's connections"
        in_role = float(self.succeed(["cat", "/proc/uptime"]).split()[0])
        in_role -= state["since"]["monotonic"]
        if in_role <= ARMED_AFTER:
            yield f"{state['role']} for only {in_role:.1f} s"

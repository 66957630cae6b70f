"""Machines that stand alone: nothing around them, and nobody tells them who they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance import tools
from appliance.image import peers_image
from appliance.lab import credentials, kvm, qemu
from appliance.lab.cables import Cables
from appliance.lab.children import Children
from appliance.lab.machine import Ground, Machine
from appliance.plan.model import Plan
from vmtests.evidence import ARTEFACTS


@dataclass(frozen=True, slots=True)
class Metal:
    """Where they stand: `machine` gives one that starts from a disk of its own."""

    ground: Ground
    plan: Plan

    def machine(
        self,
        name: str,
        disk: Path,
        *,
        disks: Mapping[str, Path] | None = None,
        told: Mapping[str, str] | None = None,
        memory: int = 384,
        firmware: qemu.Firmware = qemu.USUAL_FIRMWARE,
    ) -> Machine:
        """A machine with the site's network cards, more `disks` by their serial numbers, and what
        its `firmware` has `told` it besides; `memory` in MiB.
        """
        cards = [(card, self.plan.networks[card].interface) for card in self.plan.cards()]
        nics = tuple(qemu.Nic(n, i, qemu.mac(self.plan.site, name, n)) for n, i in cards)
        folder = self.ground.folder
        config = qemu.Machine(
            name=name,
            boot=qemu.FirmwareBoot(folder / f"{name}.qcow2", folder / f"{name}.vars", firmware),
            nics=nics,
            accelerator=self.ground.accelerator,
            serial_log=folder / f"{name}.serial.log",
            credentials={**credentials.agent(), **qemu.link_credentials(nics), **(told or {})},
            disks=disks or {},
            memory=memory,
        )
        return Machine(self.ground, config, disk)


@contextmanager
def standing(plan: Plan, *names: str) -> Iterator[Metal]:
    """Networks of a site for machines with these names, and for nobody else."""
    folder = ARTEFACTS / f"metal-{plan.site}"
    folder.mkdir(parents=True, exist_ok=True)
    children, inside = Children(), tools.ensure()
    try:
        cables = Cables(children, folder, dict.fromkeys(plan.cards(), names))
        accelerator = kvm.accelerator(inside, peers_image().kernel)
        yield Metal(Ground(children, cables, inside, folder, accelerator), plan)
        cables.close()
    finally:
        children.close()

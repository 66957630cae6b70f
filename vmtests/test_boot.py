"""How long a boot takes, beside that of a Debian with the same packages as mkosi makes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance import tools
from appliance.image.base import Hardware, ingredients
from appliance.image.recipe import Ingredients, recipe
from appliance.lab.machine import Machine
from appliance.site import load
from vmtests.figures import Figures
from vmtests.metal import standing
from vmtests.observe import until
from vmtests.wanted import Wanted
from vmtests.ways import USUAL

pytestmark = [pytest.mark.figures, pytest.mark.long]

WITHIN = 900.0  # seconds, on a machine that emulates and has other work
ROUNDS = 3  # the machine that emulates is now faster, now slower
MEMORY = 1024  # MiB: mkosi's own initrd needs more than ours
PLAIN = """\
[Output]
ImageId=plain
Format=disk
[Content]
Bootable=yes
Bootloader=systemd-boot
# It would ask on the console for what a first boot may be told.
KernelCommandLine=console=ttyS0,115200 systemd.firstboot=no
Packages=
"""


def packages() -> list[str]:
    """What the appliance's drop-ins ask for, as mkosi reads them."""
    with recipe(tools.ensure(), ingredients(Hardware.VM)) as gathered:
        (image,) = json.loads(gathered.summary(["appliance", Hardware.VM]))["Images"]
    found: list[str] = image["Packages"]
    return found


def plain(out: Path) -> Path:
    """A Debian of the same packages, whose defaults nobody has changed: its disk."""
    with recipe(tools.ensure(), Ingredients(("10-debian.conf",), ())) as gathered:
        listed = "".join(f"  {name}\n" for name in packages())
        (gathered.folder / "mkosi.conf.d/20-plain.conf").write_text(PLAIN + listed)
        gathered.mkosi(out, [])
    return out / "plain.raw"


def boot(machine: Machine, *, fresh_disk: bool) -> float:
    """Seconds from power on to the login on the console. Then the power button is pressed, as
    whoever runs virtual machines does it.
    """
    begin = time.monotonic()
    machine.start(fresh_disk=fresh_disk)
    log = machine.config.serial_log
    until(lambda: log.exists() and b" login: " in log.read_bytes(), WITHIN, "a login")
    seconds = time.monotonic() - begin
    machine.wait_control(WITHIN)
    # The login may be there before whoever hears the button.
    machine.wait_until("systemctl is-active systemd-logind", WITHIN)
    machine.monitor("system_powerdown")
    until(lambda: not machine.running, WITHIN, "the machine to switch itself off")
    return seconds


def test_boot_beside_a_plain_debian(
    build: Callable[[Wanted], Path], figures: Figures, tmp_path: Path
) -> None:
    built = build(Wanted(USUAL.replace("site: testcase", "site: boot")))
    (raw,) = built.glob("*.raw")
    with standing(load(built.with_suffix(".yaml")), "ours", "plain") as metal:
        node = {"appliance.node": "fw1"}
        ours = metal.machine("ours", raw, told=node, memory=MEMORY)
        usual = metal.machine("plain", plain(tmp_path), memory=MEMORY)
        taken: dict[str, list[tuple[float, float]]] = {"first": [], "second": []}
        with closing(ours), closing(usual):
            for _ in range(ROUNDS):
                for which, pairs in taken.items():  # one beside the other, as the machine is then
                    fresh = which == "first"
                    pairs.append((boot(ours, fresh_disk=fresh), boot(usual, fresh_disk=fresh)))
    for which, pairs in taken.items():
        own, other = zip(*pairs, strict=True)
        figures.add(f"{which} boot to the login", "s", *own, goal="")
        figures.add(f"{which} boot of a plain Debian with the same packages", "s", *other, goal="")
        what = f"{which} boot, as a part of that of a plain Debian"
        part = [mine / theirs for mine, theirs in pairs]
        goal = 0.5 if which == "first" else 1
        assert figures.add(what, "", *part, goal=f"at most {goal}").worst <= goal

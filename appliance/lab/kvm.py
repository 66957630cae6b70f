"""Whether KVM really works here: proven once by a guest that boots, not by the presence of
/dev/kvm.

On some machines (nested virtualisation without the processor's help) KVM runs small code and then
hangs in the middle of a kernel's boot. So the proof is a Linux kernel that reaches its own end,
within a time limit; the answer is kept in the cache until kernel or QEMU change.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from appliance import resources, store
from appliance.lab.machine import Inside
from appliance.lab.qemu import PROGRAM, Accelerator
from appliance.progress import step
from appliance.run import Argument, run

WITHIN = 20.0  # seconds; with KVM it takes one, without (TCG) three
DEVICE = Path("/dev/kvm")

# Without a root file system a kernel ends in this panic, and `panic=-1` with -no-reboot ends QEMU.
_END = "Unable to mount root fs"


def accelerator(tools: Inside, kernel: Path) -> Accelerator:
    """KVM when proven, else TCG (software emulation, some ten times slower)."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Accelerator.TCG
    version = run(tools.inside([PROGRAM, "--version"])).stdout
    key = store.key(platform.release(), platform.version(), version, _processor())
    answer = resources.cache() / f"kvm-{key}"
    with store.locked(answer.with_name(f"{answer.name}.lock")):
        if not answer.exists():
            with step("Trying KVM"):
                proven = _boots(tools, kernel, answer.with_suffix(".log"))
                answer.write_text(Accelerator.KVM if proven else Accelerator.TCG)
    return Accelerator(answer.read_text())


def _boots(tools: Inside, kernel: Path, log: Path) -> bool:
    """Whether a kernel boots to its end; `log` gets its serial console."""
    log.unlink(missing_ok=True)
    argv: list[Argument] = [
        *("timeout", "--signal=KILL", f"{WITHIN:g}", "setpriv", "--pdeathsig", "KILL", "--"),
        *(PROGRAM, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256"),
        *("-serial", f"file:{log}", "-kernel", kernel, "-append", "console=ttyS0 panic=-1"),
    ]
    done = run(tools.inside(argv), check=False)
    return done.returncode == 0 and log.exists() and _END in log.read_text(errors="replace")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("model name")), "")

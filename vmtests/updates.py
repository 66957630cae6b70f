"""Updates as an operator builds them, and some that nobody should get past a node."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from appliance import tools
from appliance.image import keys as image_keys
from appliance.image import signing
from appliance.image.base import Hardware, base
from appliance.image.compose import Job, compose
from appliance.image.keys import Keys
from appliance.lab.machine import Machine
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab
from appliance.node.payload import SIGNATURE, SUMS
from appliance.plan.model import Plan
from appliance.render.site import KEEPALIVED, render
from appliance.render.tree import File, FileTree, NodeFiles

MEBIBYTE = 1 << 20
DROP_IN = PurePosixPath("etc/systemd/system/keepalived.service.d/99-bad.conf")


def before_keepalived(command: str) -> NodeFiles:
    """What a node does, with all rights and as long as it takes, before keepalived starts."""
    text = f"[Service]\nTimeoutStartSec=infinity\nExecStartPre=+/bin/sh -c '{command}'\n"
    return {DROP_IN: File(text)}


# While this runs, systemd stands still (ptrace(2), PTRACE_ATTACH), and the watchdog hears nothing.
STOPPED = "import ctypes, signal; ctypes.CDLL(None).ptrace(16, 1, 0, 0); signal.pause()"

# Versions that no build makes, by what is wrong with them: files of each node.
BAD: Mapping[str, NodeFiles] = {
    "does not run": before_keepalived("exit 1"),
    "has no role": {KEEPALIVED: File("vrrp_instance {\n")},
    "panics": before_keepalived("echo c >/proc/sysrq-trigger"),
    "crashes": before_keepalived("kill -SEGV 1; sleep infinity"),
    "hangs": before_keepalived(f'exec python3 -c "{STOPPED}"'),
    "is never up": before_keepalived("sleep infinity"),
}


@dataclass(frozen=True, slots=True)
class Payloads:
    """Made in `folder`, signed with the keys of the pair unless it is said otherwise; `build` is
    the user's, and gives the folder of a version.
    """

    plan: Plan
    keys: Keys
    folder: Path
    build: Callable[[str], Path]

    def good(self, version: str) -> Path:
        """The site as it is."""
        return self.build(version) / f"{self.plan.site}_{version}.update"

    def another(self, node: Appliance) -> Path:
        """A good version that this node does not run: 2, or else 3, which differs in its name."""
        return self.good("3" if images(node)["version"] == "2" else "2")

    def bad(self, what: str, version: str) -> Path:
        """One of `BAD`."""
        tree = {name: {**files, **BAD[what]} for name, files in render(self.plan).items()}
        return self._composed(tree, version)

    def without_its_site(self, version: str) -> Path:
        """A kernel image in which the site's files are missing."""
        return self._composed({}, version)

    def _composed(self, tree: FileTree, version: str) -> Path:
        kit = tools.ensure()
        job = Job(self.plan, tree, base(Hardware.VM, kit), Hardware.VM, version, self.keys)
        out = Path(tempfile.mkdtemp(dir=self.folder))
        compose(job, out, kit)
        return out / f"{job.name}.update"

    def without_a_signature(self, good: Path) -> Path:
        """As a build without keys makes it."""
        (copied := self._copy(good)).joinpath(SIGNATURE).unlink()
        return copied

    def signed_by_another(self, good: Path) -> Path:
        """With keys that are as good as any, and not those of the pair."""
        copied, kit = self.without_a_signature(good), tools.ensure()
        other = image_keys.generate(self.folder / "other-keys", kit)
        signing.sign_sums(copied / SUMS, other, kit)
        return copied

    def with_another_sum(self, good: Path) -> Path:
        """The checksums are not those that were signed, and look like any."""
        path = (copied := self._copy(good)) / SUMS
        text = path.read_text()
        path.write_text(("1" if text[0] == "0" else "0") + text[1:])
        return copied

    def altered(self, good: Path, name: str) -> Path:
        """One bit in the middle of a file is another one."""
        path = (copied := self._copy(good)) / name
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
        return copied

    def truncated(self, good: Path, name: str) -> Path:
        """The end of a file is missing, as after an upload that broke off."""
        path = (copied := self._copy(good)) / name
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - MEBIBYTE)
        return copied

    def _copy(self, good: Path) -> Path:
        """To be changed, in a folder of its own."""
        return Path(shutil.copytree(good, Path(tempfile.mkdtemp(dir=self.folder)) / good.name))


def images(node: Machine) -> dict[str, Any]:
    """What a node says of its images."""
    told: dict[str, Any] = json.loads(node.succeed("appliance-update status", timeout=120))
    return told


def versions(pair: Lab) -> dict[str, str]:
    """What each node runs."""
    return {name: images(node)["version"] for name, node in pair.nodes.items()}


def version(payload: Path) -> str:
    """The one that a payload's name ends with."""
    return payload.stem.rpartition("_")[2]


def roles(pair: Lab) -> tuple[str, str]:
    """The active node and the standby."""
    return pair.active().name, pair.standby().name

"""Updates as an operator builds them, and some that nobody should get past a node."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance import tools
from appliance.image import keys as image_keys
from appliance.image import signing
from appliance.image.base import Hardware, base
from appliance.image.compose import Job, compose
from appliance.image.keys import Keys
from appliance.node.payload import SIGNATURE, SUMS
from appliance.plan.model import Plan
from appliance.render.site import KEEPALIVED, render
from appliance.render.tree import File, NodeFiles

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Payloads:
    """Made in `folder`, signed with the keys of the pair unless it is said otherwise."""

    plan: Plan
    keys: Keys
    folder: Path

    def that_does_not_run(self, version: str) -> Path:
        """keepalived does not understand its file: no check of a build would let that pass."""
        broken = File("vrrp_instance {\n")
        tree = {
            name: changed(files, {KEEPALIVED: broken}) for name, files in render(self.plan).items()
        }
        kit = tools.ensure()
        job = Job(self.plan, tree, base(Hardware.VM, kit), Hardware.VM, version, self.keys)
        out = self.folder / f"broken-{version}"
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


def changed(files: NodeFiles, by: Mapping[PurePosixPath, File]) -> NodeFiles:
    """A node's files with some others among them."""
    return {path: by.get(path, file) for path, file in files.items()}

"""Updates in small: payloads of a few bytes, made and signed as a build does it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.image import signing
from appliance.image.keys import Keys
from appliance.image.manifest import sha256
from appliance.node.payload import DESCRIPTION, FIRST, SUMS
from appliance.tools import ToolsTree


def gpg(folder: Path, tools: ToolsTree) -> Path:
    """A folder for the path with the router's gpg: the build machine's may be another, or none."""
    folder.mkdir()
    script = folder / "gpg"
    script.write_text(
        "#!/bin/sh\nexec " + " ".join(map(_quoted, tools.inside(["gpg"]))) + ' "$@"\n'
    )
    script.chmod(0o755)
    return folder


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


ROOT_HASH = "ab" * 32
_ID = "5b2b6f0e-0f0d-4c64-8b6b-6a4a6f8d2f5"


@dataclass(frozen=True, slots=True)
class Update:
    """A payload in a folder."""

    folder: Path

    def names(self) -> list[str]:
        """Its files in the order in which they are sent."""
        others = sorted(each.name for each in self.folder.iterdir() if each.name not in FIRST)
        return [*(name for name in FIRST if (self.folder / name).exists()), *others]

    def tar(self, names: Iterable[str] | None = None) -> io.BytesIO:
        """As it is sent."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in names or self.names():
                tar.add(self.folder / name, arcname=name)
        out.seek(0)
        return out

    def of(self, part: str) -> Path:
        """The file of a part: root, verity or efi."""
        (found,) = (each for each in self.folder.iterdir() if f".{part}" in each.name)
        return found


def update(
    folder: Path,
    keys: Keys | None,
    tools: ToolsTree,
    *,
    content: bytes = b"root" * 5000,
    **changed: Any,
) -> Update:
    """A payload for version 2 of testcase, unless it is `changed`; `content` is its root's."""
    folder.mkdir()
    told: dict[str, Any] = {
        "site": "testcase",
        "digest": "d" * 64,
        "version": "2",
        "hardware": "vm",
        "virtual": [],
        "root_hash": ROOT_HASH,
        "root": 1 << 20,
        "verity": 1 << 12,
        **changed,
    }
    name = f"{told['site']}_{told['version']}"
    parts = {
        ".efi": name.encode() * 5000,
        f".root.{_ID}1.raw": content,
        f".verity.{_ID}2.raw": content[:4096] * 2,
    }
    for suffix, data in parts.items():
        (folder / f"{name}{suffix}").write_bytes(data)
    told["files"] = {each.name: each.stat().st_size for each in folder.iterdir()} | changed.get(
        "files", {}
    )
    (folder / DESCRIPTION).write_text(json.dumps(told))
    sums = [f"{sha256(each)}  {each.name}\n" for each in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(sums))
    if keys:
        signing.sign_sums(folder / SUMS, keys, tools)
    return Update(folder)

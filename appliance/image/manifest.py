"""The manifest of an image: what is in it and what it is made of, the same for the same image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.image.compose import Job

NAME = "manifest.json"


def text(job: Job, folder: Path, known: Mapping[Path, str]) -> str:
    """The manifest of the files in `folder`; `known` are hashes that need not be taken again."""
    facts = job.base.facts()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    content: dict[str, Any] = {
        "site": job.plan.site,
        "site_digest": job.plan.digest,
        "nodes": sorted(job.tree),
        "version": job.version,
        "hardware": job.hardware,
        "kernel": facts.kernel,
        "root_hash": facts.root_hash,
        "files": {
            str(path.relative_to(folder)): {
                "size": path.stat().st_size,
                "sha256": known.get(path) or sha256(path),
            }
            for path in paths
        },
        "packages": facts.packages,
    }
    return json.dumps(content, indent=2) + "\n"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

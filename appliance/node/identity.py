"""Who this node is: /etc/appliance/node.json, and the version of its image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

PATH = Path("/etc/appliance/node.json")
RELEASE = Path("/etc/os-release")


@dataclass(frozen=True, slots=True)
class Identity:
    """The node's name, the site's, the SHA-256 of the site file, the image's version."""

    node: str
    site: str
    digest: str
    version: str


def read(path: Path = PATH, release: Path = RELEASE) -> Identity:
    """As the image was built; OSError when it has no site."""
    facts = json.loads(path.read_text())
    return Identity(facts["node"], facts["site"], facts["digest"], _version(release))


def _version(release: Path) -> str:
    """IMAGE_VERSION of os-release(5); empty where the system is no image."""
    try:
        lines = release.read_text().splitlines()
    except OSError:
        return ""
    said = (line.partition("=")[2].strip('"') for line in lines if line[:14] == "IMAGE_VERSION=")
    return next(said, "")

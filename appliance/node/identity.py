"""Who this node is: /etc/appliance/node.json, and the version of its image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from appliance.node.statefile import text

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
    facts = json.loads(text(path))
    _, version = image(release)
    return Identity(facts["node"], facts["site"], facts["digest"], version)


def image(release: Path = RELEASE) -> tuple[str, str]:
    """Site and version of the image; empty where the system is none."""
    told = _image(release)
    return told.get("IMAGE_ID", ""), told.get("IMAGE_VERSION", "")


def hardware(release: Path = RELEASE) -> str:
    """What the image is made for; empty where the system is no image."""
    return _image(release).get("VARIANT_ID", "")


def _image(release: Path) -> dict[str, str]:
    """What os-release(5) says."""
    try:
        lines = text(release).splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: value.strip('"') for name, _, value in pairs}

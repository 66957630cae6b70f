"""Where the data that travels with the package lies: in a clone at its top, in a wheel inside."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data(name: str) -> Path:
    """The folder `name` (`mkosi.conf.d` or `overlays`), from the wheel or else from the clone."""
    inside = PACKAGE / "data" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def cache() -> Path:
    """Where tools tree and base images are kept: $APPLIANCE_CACHE, or ~/.cache/appliance (XDG)."""
    base = os.environ.get("APPLIANCE_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "appliance"

"""The agent's state, for people and for other programs: /run/appliance/state.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHORT = 4096  # bytes


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file in one step: a reader sees the old state or the new one, never a part.

    Everybody may read it, whatever else the writer keeps to himself.
    """
    replace(path, json.dumps(state, indent=1) + "\n")


def replace(path: Path, text: str) -> None:
    """The same with any text."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    os.replace(fresh, path)


def sync(folder: Path) -> None:
    """Which names a folder has is on the disk when this returns."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def text(path: Path | str) -> str:
    """What a short file says, such as those of the kernel; OSError without one. For what is read
    several times a second, as `Path.read_text` costs several times as much.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, _SHORT).decode()
    finally:
        os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """The state as last written; OSError without one."""
    state: dict[str, Any] = json.loads(path.read_text())
    return state

"""The files of a site as a value, and the one place that writes them to disk."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance import store
from appliance.errors import ToolError

MARKER = ".appliance-render"


@dataclass(frozen=True, slots=True)
class File:
    """One file on the node."""

    content: str
    mode: int = 0o644


NodeFiles = Mapping[PurePosixPath, File]
FileTree = Mapping[str, NodeFiles]


def write(tree: FileTree, directory: Path) -> None:
    """Put the tree at `directory` as `<node>/<path>`: all of it, or the old one stays whole.

    Replaces only what an earlier render made, known by its marker; ToolError for anything else.
    """
    directory = directory.resolve()
    if directory.exists() and any(directory.iterdir()) and not (directory / MARKER).exists():
        raise ToolError(f"{directory} is not empty and was not made by render", "name a new folder")
    with store.workspace(directory) as fresh:
        (fresh / MARKER).touch()
        for node, files in tree.items():
            for path, file in files.items():
                target = fresh / node / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(file.content, encoding="utf-8")
                target.chmod(file.mode)
        _swap(fresh, directory)


def _swap(fresh: Path, directory: Path) -> None:
    """Move `fresh` to `directory` in one step; what was there lands where `fresh` was."""
    if not directory.exists():
        os.rename(fresh, directory)
        return
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: renameat2(2), not in Python's os
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_cwd, os.fsencode(fresh), at_cwd, os.fsencode(directory), exchange):
        raise ToolError(f"cannot replace {directory}: {os.strerror(ctypes.get_errno())}")

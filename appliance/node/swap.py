"""Files of a running system replaced, each in one step, and put back as they were."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Was:
    """A file as it is, or was; `content` is None where there is none."""

    content: str | None
    mode: int = 0o644


Files = Mapping[str, Was]


def read(root: Path, paths: Iterable[str]) -> dict[str, Was]:
    """What is there now."""
    return {path: _read(root / path) for path in paths}


def write(root: Path, files: Files) -> None:
    """Have these files, and not those without content. An OSError leaves some of them as they
    were, and no file half written.
    """
    for path, file in files.items():
        if file.content is None:
            (root / path).unlink(missing_ok=True)
        else:
            _write(root / path, file.content, file.mode)


def _read(path: Path) -> Was:
    try:
        return Was(path.read_text(), path.stat().st_mode & 0o777)
    except FileNotFoundError:
        return Was(None)


def _write(path: Path, content: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.touch(0o600)
        fresh.write_text(content)
        fresh.chmod(mode)
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise

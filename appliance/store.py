"""Things made once and kept: each under its own name, whole or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_UNUSED_S = 7 * 24 * 3600


def key(*inputs: object) -> str:
    """A short name for a thing made from these inputs (anything JSON can hold)."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder_digest(root: Path) -> str:
    """SHA-256 over names, modes, link targets and bytes below `root`, without Python's caches."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if "__pycache__" in path.parts:
            continue
        mode = path.lstat().st_mode
        total.update(f"{path.relative_to(root)}\0{mode:o}\0".encode())
        if path.is_symlink():
            total.update(os.readlink(path).encode())
        elif path.is_file():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; a second process waits here until the first is done, or dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def workspace(path: Path) -> Iterator[Path]:
    """A new empty folder beside `path`, gone at the end unless the caller has renamed it.

    Its lock is held as long as it is used: what a killed run left behind is known by its free lock
    and cleared away here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):
        with _holding(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    with _holding(work):
        try:
            work.chmod(0o755)
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _holding(folder: Path) -> Iterator[bool]:
    """Try to lock a folder; whether that went well. A folder that is gone counts as held."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def folder(path: Path, make: Callable[[Path], None], *, fresh: bool = False) -> Path:
    """The folder `path`; if it is missing (or `fresh` is asked) `make` fills a new one.

    It is filled under another name and gets its own only when `make` has returned. What has the
    same name up to the last dash, and was not asked for in a week, makes room for it.
    """
    if not path.is_dir() or fresh:
        with locked(path.with_name(path.name + ".lock")):
            if not path.is_dir() or fresh:
                _make(path, make)
    os.utime(path)
    return path


def _make(path: Path, make: Callable[[Path], None]) -> None:
    _forget(path.parent.glob(f"{path.name.rpartition('-')[0]}-*"))
    with workspace(path) as work:
        make(work)
        shutil.rmtree(path, ignore_errors=True)
        work.rename(path)


def _forget(folders: Iterable[Path]) -> None:
    """Remove what nobody has asked for in a week."""
    for path in folders:
        if path.is_dir() and time.time() - path.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(path, ignore_errors=True)

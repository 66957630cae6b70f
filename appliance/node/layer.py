"""The files of a site on one node, named by their digests: what is in force, and what comes next.

A site layer is such a manifest, its signature, and the contents of those files that the node does
not have yet. Every image has the manifest of its own site at `PATH`; a layer brings its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PATH = Path("etc/appliance/manifest.json")

# What the manifest of a site may name: nothing of it leaves /etc, and none of it is this file.
_PLACE = re.compile(r"etc(/[A-Za-z0-9_@%+:,-][A-Za-z0-9_.@%+:,-]*)+")
_MODES = (0o644, 0o600, 0o755)


class BadLayerError(Exception):
    """A layer that is not whole, not signed as it must be, or not for this node."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: the SHA-256 of its bytes, and its mode."""

    sha256: str
    mode: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a site on a node, by their paths without the first slash.

    `digest` is that of the site file that they were rendered from.
    """

    site: str
    node: str
    digest: str
    files: Mapping[str, Entry]

    @property
    def text(self) -> str:
        """What is signed, and read by `parse`: the same manifest is the same text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @property
    def identity(self) -> str:
        """A name for this very manifest: of its files on the disk, and of what is confirmed."""
        return sha256(self.text)[:16]


@dataclass(frozen=True, slots=True)
class Layer:
    """A manifest as it is sent, with its signature if it has one, and some files' contents."""

    manifest: str
    signature: str | None
    contents: Mapping[str, str]

    @property
    def text(self) -> str:
        """The form that goes over the line."""
        return json.dumps(asdict(self))


def sha256(text: str) -> str:
    """The digest of a file with this content."""
    return hashlib.sha256(text.encode()).hexdigest()


def manifest(site: str, node: str, digest: str, files: Iterable[tuple[str, str, int]]) -> Manifest:
    """Of files, each with its path, content and mode."""
    entries = {path: Entry(sha256(content), mode) for path, content, mode in files}
    return Manifest(site, node, digest, dict(sorted(entries.items())))


def parse(text: str) -> Manifest:
    """A manifest as it was written; BadLayerError for anything else."""
    try:
        told = json.loads(text)
        files = {path: Entry(**_entry(entry)) for path, entry in told.pop("files").items()}
        names = {key: _text(told[key]) for key in ("site", "node", "digest")}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadLayerError(f"this is no manifest of a site: {error}") from None
    for path, entry in files.items():
        if not _PLACE.fullmatch(path) or Path(path) == PATH or entry.mode not in _MODES:
            raise BadLayerError(f"a site has no file {path!r} of mode {entry.mode:04o}")
    return Manifest(**names, files=files)


def read(root: Path = Path("/")) -> Manifest:
    """What is in force on the node; BadLayerError when nothing says so."""
    try:
        text = (root / PATH).read_text()
    except OSError as error:
        raise BadLayerError(f"{root / PATH}: {error.strerror}") from None
    return parse(text)


def receive(text: str) -> Layer:
    """A layer as it was sent; BadLayerError for anything else."""
    try:
        told = json.loads(text)
        contents = {_text(path): _text(each) for path, each in told["contents"].items()}
        signature = told["signature"]
        return Layer(
            _text(told["manifest"]), None if signature is None else _text(signature), contents
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadLayerError(f"this is no site layer, or only a part of one: {error}") from None


def digests(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """What is on the disk now, whatever was meant to be there; without what is not."""
    found = ((path, root / path) for path in paths)
    return {path: sha256(file.read_text()) for path, file in found if file.is_file()}


def check(manifest: Manifest, contents: Mapping[str, str]) -> None:
    """Raise BadLayerError unless these are the manifest's files, every one of them."""
    if missing := sorted(manifest.files.keys() - contents.keys()):
        raise BadLayerError(f"without content: {', '.join(missing)}")
    wrong = [path for path, each in manifest.files.items() if sha256(contents[path]) != each.sha256]
    if wrong:
        raise BadLayerError(f"not as its manifest says: {', '.join(sorted(wrong))}")


def _entry(told: Mapping[str, Any]) -> dict[str, Any]:
    return {"sha256": _text(told["sha256"]), "mode": int(told["mode"])}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value

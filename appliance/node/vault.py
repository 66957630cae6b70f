"""Site layers on the disk: /var/lib/appliance/site.

A file for each layer, named by its manifest, and a small one that says which of them is laid over
the image at a boot. Each is replaced in one step: whenever the power is cut, the next boot has the
old site or the new one, and all of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.node import layer, seal, statefile
from appliance.node.layer import BadLayerError, Layer, Manifest

PLACE = Path("var/lib/appliance/site")
_CHOSEN = "chosen.json"
_LAYER = ".layer"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The layer that a boot lays over the image, and the digests of the site files before it, the
    latest last: over an image that is made from one of them it is the newer site.
    """

    identity: str
    over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer as it was read back from the disk, whole and verified."""

    manifest: Manifest
    contents: Mapping[str, str]


def put(whole: Layer, root: Path) -> None:
    """Have a layer on the disk, with the contents of all its files; OSError without room."""
    identity = layer.parse(whole.manifest).identity
    (root / PLACE).mkdir(parents=True, exist_ok=True)
    _write(_file(identity, root), whole.text)


def take(identity: str, root: Path) -> Kept:
    """A layer from the disk; BadLayerError unless it is as it was put there, and signed as this
    image demands.
    """
    text = _read(_file(identity, root))
    if text is None:
        raise BadLayerError(f"the layer {identity} is not there")
    whole = layer.receive(text)
    manifest = layer.parse(whole.manifest)
    if manifest.identity != identity:
        raise BadLayerError(f"the layer {identity} is another one: {manifest.identity}")
    layer.check(manifest, whole.contents)
    seal.check(whole.manifest, whole.signature, root)
    return Kept(manifest, whole.contents)


def chosen(root: Path) -> Chosen | None:
    """Which layer a boot lays; None without one. BadLayerError when that cannot be read."""
    text = _read(root / PLACE / _CHOSEN)
    if text is None:
        return None
    try:
        told = json.loads(text)
        return Chosen(str(told["identity"]), tuple(map(str, told["over"])))
    except (ValueError, TypeError, KeyError) as error:
        raise BadLayerError(f"which layer is chosen cannot be read: {error}") from None


def choose(wanted: Chosen, root: Path) -> None:
    """Have the next boots lay this layer, from this moment on."""
    _write(root / PLACE / _CHOSEN, json.dumps(asdict(wanted)) + "\n")
    _clear(root, wanted.identity)


def choose_none(root: Path) -> None:
    """Have the next boots take the image's own site."""
    if (root / PLACE / _CHOSEN).exists():
        (root / PLACE / _CHOSEN).unlink()
        statefile.sync(root / PLACE)
    _clear(root, None)


def _clear(root: Path, kept: str | None) -> None:
    """Remove the other layers: nothing leads back to them."""
    for each in (root / PLACE).glob(f"*{_LAYER}"):
        if each != (kept and _file(kept, root)):
            each.unlink()


def _file(identity: str, root: Path) -> Path:
    return root / PLACE / f"{identity}{_LAYER}"


def _read(path: Path) -> str | None:
    """What the file says; None without it, BadLayerError when it cannot be read."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadLayerError(f"{path.name} cannot be read: {error}") from None


def _write(path: Path, text: str) -> None:
    """In the place of what was there, and on the disk when this returns; all of it or nothing."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.touch(0o600)
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    statefile.sync(path.parent)

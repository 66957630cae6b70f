"""Lay the chosen site layer over the image's own site, at each boot before anything reads /etc.

The image's site stays when no layer is chosen, or when the image was made from a site that the
layer does not come after: then the image is the newer one. A layer that is broken, not signed as
the image demands, or for another node is not laid either, and this unit fails: the boot is not
healthy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from appliance.node import change, layer, swap, vault
from appliance.node.change import Step
from appliance.node.layer import BadLayerError, Manifest
from appliance.node.swap import Was
from appliance.node.vault import Chosen, Kept

# The image's own manifest, for as long as this boot lasts.
IMAGE = Path("run/appliance/image.json")

# What may have read the image's files before; the other readers wait for us.
_AGAIN = {
    Step.UNITS: ("systemctl", "daemon-reload"),
    Step.MODULES: ("/usr/lib/systemd/systemd-modules-load",),
    Step.SETTINGS: ("/usr/lib/systemd/systemd-sysctl",),
}


def newer(image: Manifest, chosen: Chosen) -> bool:
    """Whether the layer came after the site that the image was made from."""
    return image.digest in chosen.over


def note_image(root: Path, image: Manifest) -> None:
    """Keep what the image said of itself, once."""
    place = root / IMAGE
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.write_text(image.text)


def lay(root: Path) -> str:
    """Do it, and say what was done; BadLayerError or OSError when nothing was."""
    image = layer.read(root)
    note_image(root, image)
    chosen = vault.chosen(root)
    if chosen is None:
        return "the image's own site: no layer is chosen"
    if not newer(image, chosen):
        return "the image's own site: it does not come before the layer that is there"
    kept = vault.take(chosen.identity, root)
    if (kept.manifest.site, kept.manifest.node) != (image.site, image.node):
        raise BadLayerError(f"it is for {kept.manifest.node} of {kept.manifest.site}")
    for step in _put(root, image, kept):
        if step in _AGAIN:
            subprocess.run(_AGAIN[step], check=True)
    return f"a site layer over the image's own site: {kept.manifest.digest[:12]}"


def _put(root: Path, image: Manifest, kept: Kept) -> tuple[Step, ...]:
    """Replace what differs: all of it, or nothing."""
    paths = {*image.files, *kept.manifest.files}
    before = swap.read(root, [*paths, str(layer.PATH)])
    texts = {path: was.content for path, was in before.items() if was.content is not None}
    found = change.between(image, kept.manifest, texts, kept.contents)
    files = {
        path: Was(kept.contents[path], kept.manifest.files[path].mode) for path in found.written
    }
    files |= {path: Was(None) for path in found.removed}
    files[str(layer.PATH)] = Was(kept.manifest.text)
    try:
        swap.write(root, files)
    except OSError:
        swap.write(root, {path: before[path] for path in files})
        raise
    return found.steps


def main(argv: list[str] | None = None) -> int:
    """Run it; 0 unless there is a layer that could not be laid."""
    parser = argparse.ArgumentParser(description="Lay the chosen site layer over the image's site.")
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    root = parser.parse_args(argv).root
    try:
        told = lay(root)
    except (BadLayerError, OSError, subprocess.CalledProcessError) as error:
        print(f"appliance: the site layer is not laid: {error}", file=sys.stderr)
        return 1
    print(f"appliance: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

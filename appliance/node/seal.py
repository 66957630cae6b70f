"""Whether a site layer comes from who may change this site: a signature over its manifest, by the
key that signs updates.

An image that was built with keys takes signed layers only. One without them asks for no signature:
there, who may log in as root may change the site as well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from appliance.node import payload
from appliance.node.layer import PATH, BadLayerError
from appliance.node.refused import RefusedError

KEYRING = payload.KEYRING.relative_to("/")


def wanted(root: Path = Path("/")) -> bool:
    """Whether this image takes signed layers only."""
    return (root / KEYRING).is_file()


def check(manifest: str, signature: str | None, root: Path = Path("/")) -> None:
    """Raise BadLayerError unless the manifest is signed as this image demands."""
    if not wanted(root):
        return
    if signature is None:
        raise BadLayerError("not signed: this image was built with keys, and asks for them")
    with tempfile.TemporaryDirectory() as folder:
        signed, by = Path(folder, PATH.name), Path(folder, f"{PATH.name}.asc")
        signed.write_text(manifest)
        by.write_text(signature)
        try:
            payload.check_file(signed, by, root / KEYRING)
        except RefusedError as refused:
            raise BadLayerError(str(refused)) from None

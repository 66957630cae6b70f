"""No secret lies where somebody other than root could read it: in the root, nor in a site."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.render.site import render
from appliance.site import load

from .conftest import CLONE

# A private key with its body (programs know the first line too); a password's hash, crypt(5); what
# keepalived and WireGuard call theirs.
SECRET = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=:,\s-]{40}"
    rb"|^[\w-]+:\$\w+\$[^:]+:"
    rb"|^\s*auth_pass\s+\S"
    rb"|^\s*(PrivateKey|PresharedKey)\s*=\s*\S",
    re.MULTILINE,
)
OTHERS = 0o077
# Keys that everybody has, for its self-test.
PUBLISHED = "usr/lib/*/libgnutls.so.*"
SAMPLES = {
    "key": "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ" * 2,
    "shadow": "root:$y$j9T$abc$def:20000:0:99999:7:::",
    "keepalived.conf": "  authentication {\n    auth_pass 1234\n  }",
    "wg.conf": "[Interface]\nPrivateKey = abcdef",
}


def exposed(folder: Path) -> Iterator[Path]:
    """The files with a secret that others than their owner may read."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or not path.stat().st_mode & OTHERS:
            continue
        if SECRET.search(path.read_bytes()):
            yield path


@pytest.mark.parametrize("name", SAMPLES)
def test_a_secret_is_found_where_others_can_read_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(SAMPLES[name])
    for mode, found in ((0o644, [file]), (0o640, [file]), (0o600, [])):
        file.chmod(mode)
        assert list(exposed(tmp_path)) == found


def test_the_root_has_none(vm_base, inside, tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside("unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-dest", root, vm_base.root)
    assert (root / "usr/bin/ssh-keygen").is_file()
    found = list(exposed(root))
    assert found == [path for path in root.glob(PUBLISHED) if not path.is_symlink()]
    shutil.rmtree(root)


@pytest.mark.parametrize("site", sorted(path.name for path in (CLONE / "examples").glob("*.yaml")))
def test_a_site_has_none(tmp_path: Path, site: str) -> None:
    for node, files in render(load(CLONE / "examples" / site)).items():
        for path, file in files.items():
            target = tmp_path / node / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.content)
            target.chmod(file.mode)
    assert list(exposed(tmp_path)) == []


def test_beside_the_image_there_is_none(built) -> None:
    """The disk and the update hold the root and the site's archive as they are in these tests."""
    texts = [path for path in built.raw.parent.iterdir() if path.suffix == ".json"]
    assert len(texts) == 2
    assert not [path for path in texts if SECRET.search(path.read_bytes())]

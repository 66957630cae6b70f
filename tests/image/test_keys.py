"""The operator's keys, and what they sign: programs for firmware, updates for nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import image
from appliance.errors import ToolError
from appliance.image import keys as image_keys
from appliance.image.keys import Keys
from appliance.image.manifest import sha256
from appliance.node.payload import KEYRING, SIGNATURE, SUMS, check_signature
from appliance.node.refused import RefusedError
from appliance.render.site import render
from tests.node.updates import gpg


@pytest.fixture(scope="session")
def keys(tools_tree, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return image_keys.generate(tmp_path_factory.mktemp("keys") / "mine", tools_tree)


@pytest.fixture(scope="session")
def signed(plan, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[image.Built]:
    out = tmp_path_factory.mktemp("signed")
    yield image.build(plan, render(plan), out, version="7", keys=keys)
    shutil.rmtree(out)


@pytest.fixture
def routers_gpg(tools_tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build machine's may be another, or none."""
    monkeypatch.setenv("PATH", f"{gpg(tmp_path / 'bin', tools_tree)}:{os.environ['PATH']}")


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


# keygen


def test_only_the_owner_can_read_what_is_secret(keys: Keys) -> None:
    assert keys.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in keys.secret} == {0o600}
    assert {path.name for path in keys.folder.iterdir()} == {
        *(path.name for path in (*keys.secret, *keys.public))
    }


def test_keys_are_never_overwritten(keys: Keys, tools_tree) -> None:
    before = hashes(keys.folder)
    with pytest.raises(ToolError, match="never overwritten"):
        image_keys.generate(keys.folder, tools_tree)
    assert hashes(keys.folder) == before


def test_keys_are_kept_out_of_a_repository(tools_tree, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "below").mkdir()
    with pytest.raises(ToolError, match=f"in the git checkout {tmp_path}"):
        image_keys.generate(tmp_path / "below/keys", tools_tree)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "below")
    with pytest.raises(ToolError, match="in the git checkout"):
        image_keys.generate(tmp_path / "elsewhere/keys", tools_tree)
    assert not list((tmp_path / "below").iterdir())


def test_keys_that_others_can_read_are_not_used(keys: Keys, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(keys.folder, tmp_path / "copy"))
    assert image_keys.load(copy).folder == copy
    (copy / "payload.key").chmod(0o640)
    with pytest.raises(ToolError, match=r"payload\.key is open to others"):
        image_keys.load(copy)
    (copy / "payload.key").unlink()
    with pytest.raises(ToolError, match=r"payload\.key missing"):
        image_keys.load(copy)


# What is signed


def test_what_the_firmware_starts_is_signed(inside, signed, keys: Keys, tmp_path: Path) -> None:
    for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/Linux/testcase_7+3.efi"):
        program = tmp_path / Path(name).name
        inside("mcopy", "-i", f"{signed.raw}@@1M", f"::/{name}", program)
        assert "OK" in inside("sbverify", "--cert", keys.boot_certificate, program)
        data = bytearray(program.read_bytes())
        data[-1000 if name.endswith("64.EFI") else 5_000_000] ^= 1
        program.write_bytes(data)
        with pytest.raises(ToolError):
            inside("sbverify", "--cert", keys.boot_certificate, program)


def test_an_update_is_signed_by_the_key_that_the_image_knows(
    signed, keys: Keys, tools_tree, tmp_path: Path, routers_gpg: None
) -> None:
    payload = Path(shutil.copytree(signed.payload, tmp_path / "payload"))
    check_signature(payload, keys.payload_keyring)
    other = image_keys.generate(tmp_path / "other", tools_tree)
    with pytest.raises(RefusedError, match="signed by another key"):
        check_signature(payload, other.payload_keyring)
    with pytest.raises(RefusedError, match="built without keys"):
        check_signature(payload, tmp_path / "none")
    sums = payload / SUMS
    sums.write_text(sums.read_text().replace("a", "b", 1))
    with pytest.raises(RefusedError, match="altered: SHA256SUMS"):
        check_signature(payload, keys.payload_keyring)
    (payload / SIGNATURE).write_text("no signature\n")
    with pytest.raises(RefusedError, match="not signed"):
        check_signature(payload, keys.payload_keyring)


def test_the_image_holds_the_public_key_and_no_secret(signed, keys: Keys) -> None:
    kernel = (signed.payload / "testcase_7.efi").read_bytes()
    name = f"appliance-image{KEYRING}".encode()
    assert kernel.count(name) == kernel.count(keys.payload_keyring.read_bytes()) == 1
    secrets = [path.read_bytes().splitlines()[3] for path in keys.secret]
    for path in signed.payload.parent.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not [line for line in secrets if line in data], path


def test_signed_with_the_same_keys_it_is_the_same_bytes(
    signed, plan, keys: Keys, tmp_path: Path
) -> None:
    again = image.build(plan, render(plan), tmp_path, version="7", keys=keys)
    assert hashes(again.raw.parent) == hashes(signed.raw.parent)


def test_an_image_without_keys_has_none_and_is_not_signed(inside, built) -> None:
    assert not (built.payload / SIGNATURE).exists()
    assert KEYRING.name.encode() not in (built.payload / "testcase_7.efi").read_bytes()
    listed = inside("sbverify", "--list", built.payload / "testcase_7.efi")
    assert "signature 1" not in listed

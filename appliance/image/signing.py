"""Signatures by the operator's keys: the same bytes each time."""

from __future__ import annotations

from pathlib import Path

from appliance.image import gnupg
from appliance.image.keys import Keys
from appliance.node.payload import SIGNATURE
from appliance.run import run
from appliance.tools import ToolsTree

_SBSIGN = "/usr/lib/systemd/systemd-sbsign"
# The signature names its time, and nobody asks for it.
_ALWAYS = ["faketime", "-f", "2025-08-09 00:00:00"]


def sign_program(program: Path, signed: Path, keys: Keys, tools: ToolsTree) -> None:
    """Sign an EFI program for Secure Boot (Authenticode), into another file."""
    by = [f"--private-key={keys.boot_key}", f"--certificate={keys.boot_certificate}"]
    run(tools.inside([*_ALWAYS, _SBSIGN, "sign", *by, f"--output={signed}", program]))


def sign_text(text: str, keys: Keys, tools: ToolsTree) -> str:
    """The signature of a text, armoured, by the key that signs updates."""
    with gnupg.home(tools) as gpg:
        gpg.run("--import", keys.payload_key)
        signed = gpg.home / "text"
        signed.write_text(text)
        return gpg.run("--armor", "--output", "-", "--detach-sign", signed)


def sign_sums(sums: Path, keys: Keys, tools: ToolsTree) -> None:
    """Sign the checksums of an update, beside them, as systemd-sysupdate verifies them."""
    with gnupg.home(tools) as gpg:
        gpg.run("--import", keys.payload_key)
        gpg.run("--output", sums.with_name(SIGNATURE), "--detach-sign", sums)

"""The operator's keys: what firmware trusts when it boots, and what nodes trust in an update.

Both are made with one fixed time, so that a router whose clock is behind takes them all the same:
systemd lets no clock be before the day that it was built itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from appliance import store
from appliance.errors import ToolError
from appliance.image import gnupg
from appliance.run import run
from appliance.tools import ToolsTree

PRIVATE = 0o600
_FOLDER = 0o700
_YEARS = 20  # firmware does not look at it, but tools warn
_NAME = "appliance"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys in `folder`, two pairs of them."""

    folder: Path

    @property
    def boot_key(self) -> Path:
        """Signs what the firmware starts: an RSA key in PEM, as UEFI wants it."""
        return self.folder / "secure-boot.key"

    @property
    def boot_certificate(self) -> Path:
        """To be enrolled in the firmware, as PEM."""
        return self.folder / "secure-boot.crt"

    @property
    def boot_certificate_der(self) -> Path:
        """The same as DER, which the menus of firmware read."""
        return self.folder / "secure-boot.cer"

    @property
    def payload_key(self) -> Path:
        """Signs updates: an OpenPGP key, armoured."""
        return self.folder / "payload.key"

    @property
    def payload_keyring(self) -> Path:
        """The public half, in the form that gpg takes as a keyring; it goes into every image."""
        return self.folder / "payload.gpg"

    @property
    def secret(self) -> tuple[Path, ...]:
        """What nobody else may read."""
        return self.boot_key, self.payload_key

    @property
    def public(self) -> tuple[Path, ...]:
        """What anybody may have."""
        return self.boot_certificate, self.boot_certificate_der, self.payload_keyring


def generate(folder: Path, tools: ToolsTree) -> Keys:
    """Make new keys in `folder`, which must be new, or empty, and in no checkout of git.

    Raises ToolError otherwise: keys that were there are never touched.
    """
    folder = folder.absolute()
    _refuse_checkout(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ToolError(f"{folder} is there already: keys are never overwritten", "name a new one")
    with store.workspace(folder) as work:
        work.chmod(_FOLDER)
        made = Keys(work)
        _make_boot(made, tools)
        _make_payload(made, tools)
        for path in made.public:
            path.chmod(0o644)
        work.rename(folder)
    return Keys(folder)


def load(folder: Path) -> Keys:
    """The keys in `folder`; ToolError when one is missing, or readable by others."""
    keys = Keys(folder.absolute())
    if missing := [path.name for path in (*keys.secret, *keys.public) if not path.is_file()]:
        raise ToolError(f"no keys in {folder}: {', '.join(missing)} missing", "appliance keygen")
    for path in keys.secret:
        if path.stat().st_mode & 0o077:
            raise ToolError(f"{path} is open to others than its owner", f"chmod 600 {path}")
    return keys


def _refuse_checkout(folder: Path) -> None:
    """A key in a repository is a published key, sooner or later."""
    real = folder.resolve()
    for each in (real, *real.parents):
        if (each / ".git").exists():
            raise ToolError(f"{folder} is in the git checkout {each}", "name a folder outside it")


def _make_boot(keys: Keys, tools: ToolsTree) -> None:
    # openssl makes the key readable for its owner only, whatever the umask.
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-sha256"]
    made += ["-days", str(365 * _YEARS), "-subj", f"/CN={_NAME} secure boot"]
    run(tools.inside([*made, "-keyout", keys.boot_key, "-out", keys.boot_certificate]))
    der = ["openssl", "x509", "-outform", "DER", "-in", str(keys.boot_certificate)]
    run(tools.inside([*der, "-out", keys.boot_certificate_der]))


def _make_payload(keys: Keys, tools: ToolsTree) -> None:
    with gnupg.home(tools) as gpg:
        gpg.run("--passphrase", "", "--quick-generate-key", f"{_NAME} updates", *gnupg.KIND)
        secret = gpg.run("--armor", "--export-secret-keys")
        gpg.run("--output", keys.payload_keyring, "--export")
    handle = os.open(keys.payload_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with open(handle, "w") as out:
        out.write(secret)

"""SSH public keys, in OpenSSH's one-line form."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

from appliance.site.scalars import refuse, scalar
from appliance.site.words import quote

KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def _key(text: str) -> str:
    """One line of a `.pub` file; its blob is counted strings, the type first (RFC 4253 6.6)."""
    hint = "paste the line of a .pub file, such as ~/.ssh/id_ed25519.pub"
    if "PRIVATE KEY" in text:
        raise refuse("this is a private key: it must stay where it was made", hint)
    kind, _, rest = text.strip().partition(" ")
    if kind not in KEY_TYPES:
        raise refuse(f"{quote(kind)} is not a type of SSH public key", hint)
    try:
        parts = _strings(base64.b64decode(rest.strip().partition(" ")[0], validate=True))
    except (binascii.Error, ValueError):
        raise refuse(f"this is not a whole {kind} public key", hint) from None
    if parts[0] != kind.encode() or not _whole(kind, parts[1:]):
        raise refuse(f"this is not a whole {kind} public key", hint)
    return text.strip()


def _strings(blob: bytes) -> list[bytes]:
    parts = []
    while blob:
        end = 4 + int.from_bytes(blob[:4])
        if len(blob) < max(end, 4):
            raise ValueError("cut short")
        parts.append(blob[4:end])
        blob = blob[end:]
    if not parts:
        raise ValueError("empty")
    return parts


def _whole(kind: str, parts: list[bytes]) -> bool:
    """Whether the numbers behind the type have the form of that kind of key."""
    lengths = [len(part) for part in parts]
    if kind == "ssh-rsa":
        return len(parts) == 2 and lengths[1] >= 2048 // 8
    if kind == "ssh-ed25519":
        return lengths == [32]
    if kind == "sk-ssh-ed25519@openssh.com":
        return len(parts) == 2 and lengths[0] == 32
    curve, size = {"256": (b"nistp256", 65), "384": (b"nistp384", 97), "521": (b"nistp521", 133)}[
        re.sub(r"\D", "", kind.partition("nistp")[2])
    ]
    count = 3 if kind.startswith("sk-") else 2
    return len(parts) == count and parts[0] == curve and lengths[1] == size


PublicKey = Annotated[str, scalar("an SSH public key", _key)]

"""SSH public keys, in OpenSSH's one-line form."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
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


# The prime and b of each curve (FIPS 186-4, D.1.2.3 to D.1.2.5).
CURVES: Mapping[bytes, tuple[int, int]] = {
    b"nistp256": (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    b"nistp384": (
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    b"nistp521": (
        2**521 - 1,
        0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
}


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
    """Whether the numbers behind the type make a key that OpenSSH takes."""
    lengths = [len(part) for part in parts]
    if kind == "ssh-rsa":
        return len(parts) == 2 and all(map(_positive, parts)) and _fits(parts[1])
    if kind == "ssh-ed25519":
        return lengths == [32]
    if kind == "sk-ssh-ed25519@openssh.com":
        return len(parts) == 2 and lengths[0] == 32
    count = 3 if kind.startswith("sk-") else 2
    return len(parts) == count and parts[0] in CURVES and _on_curve(parts[0], kind, parts[1])


def _positive(number: bytes) -> bool:
    """A counted number is negative when its first bit is set (RFC 4251 section 5)."""
    return number[:1] < b"\x80" and any(number)


def _fits(modulus: bytes) -> bool:
    return 2048 <= int.from_bytes(modulus).bit_length() <= 16384


def _on_curve(name: bytes, kind: str, point: bytes) -> bool:
    """Whether an uncompressed point (SEC 1, 2.3.3) solves y² = x³ - 3x + b, as OpenSSH asks."""
    prime, b = CURVES[name]
    size = (prime.bit_length() + 7) // 8
    if name.decode() not in kind or len(point) != 1 + 2 * size or point[0] != 4:
        return False
    x, y = int.from_bytes(point[1 : 1 + size]), int.from_bytes(point[1 + size :])
    return max(x, y) < prime and (y * y - (x * x * x - 3 * x + b)) % prime == 0


PublicKey = Annotated[str, scalar("an SSH public key", _key)]

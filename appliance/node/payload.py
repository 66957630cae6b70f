"""A payload on its way in: the files of an update, taken in only if all of it is as it was signed.

It comes as a tar stream, or is fetched by HTTPS. The first three files say what the rest is, so
that what is not for this node is refused before the rest of it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import ENOSPC
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import urlopen

from appliance.node.refused import RefusedError

# By the names that systemd-pull knows (org.freedesktop.import1(5)).
SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.gpg"
DESCRIPTION = "payload.json"
FIRST = (SUMS, SIGNATURE, DESCRIPTION)

KEYRING = Path("/etc/systemd/import-pubring.gpg")

_SMALL = 1 << 16  # bytes; each of the first three is far smaller
_CHUNK = 1 << 20
_FETCH_S = 60.0  # without a byte
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.~^-]+)")


# Name, size in bytes and content of a file of the payload, in the order in which they come.
Member = tuple[str, int, IO[bytes]]


@dataclass(frozen=True, slots=True)
class Description:
    """What a payload is: for which site and hardware, and how many bytes each part has.

    `virtual` are the addresses that the active node holds; `root_hash` is dm-verity's; `root` and
    `verity` are what they take in their slot, `files` the payload's files as they come.
    """

    site: str
    digest: str
    version: str
    hardware: str
    virtual: Sequence[str]
    root_hash: str
    root: int
    verity: int
    files: Mapping[str, int]

    @property
    def kernel(self) -> str:
        """The name of the unified kernel image."""
        return f"{self.site}_{self.version}.efi"

    @property
    def slot(self) -> tuple[str, ...]:
        """The names of what fills a slot: the root, and its hash tree."""
        begins = [f"{self.site}_{self.version}.{part}." for part in ("root", "verity")]
        return tuple(name for begin in begins for name in self.files if name.startswith(begin))


def describe(text: str) -> Description:
    """What DESCRIPTION says; RefusedError when it is of another form."""
    try:
        told: dict[str, Any] = json.loads(text)
        return Description(**{name: told[name] for name in Description.__slots__})
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"{DESCRIPTION} is not understood: {error!r}") from error


def checksums(text: str) -> dict[str, str]:
    """The files that SUMS names, and their SHA-256; RefusedError when it is of another form."""
    found = [_LINE.fullmatch(line) for line in text.splitlines()]
    if not all(found):
        raise RefusedError(f"{SUMS} is not understood")
    return {line[2]: line[1] for line in found if line}


def receive(
    members: Iterator[Member],
    folder: Path,
    judge: Callable[[Description], None],
    *,
    here: Callable[[Description], Mapping[str, Path]] = lambda _: {},
    keyring: Path = KEYRING,
    whole: bool = True,
) -> Description:
    """Take the payload (`sent`, `fetched`) into the empty `folder`; only the first files unless it
    is to be `whole`. What does not come is copied from where it is `here` already, by its name.
    RefusedError as `judge` says, or when anything is not as it was signed.
    """
    try:
        for name in FIRST:
            _take_first(members, folder, name)
        sums = verify(folder, keyring)
        description = describe((folder / DESCRIPTION).read_text())
        judge(description)
        if whole:
            _take_rest(members, folder, sums, description, here(description))
    except tarfile.TarError as error:
        raise RefusedError("truncated: it ended before it was whole") from error
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise RefusedError(f"the disk is full: no room in {folder}") from error
    return description


def verify(folder: Path, keyring: Path = KEYRING) -> dict[str, str]:
    """The checksums, if they are signed by a key of the keyring and DESCRIPTION is as they say."""
    check_signature(folder, keyring)
    sums = checksums((folder / SUMS).read_text())
    if _sha256(folder / DESCRIPTION) != sums.get(DESCRIPTION):
        raise RefusedError(f"altered: {DESCRIPTION} is not what was signed")
    return sums


def check_signature(folder: Path, keyring: Path = KEYRING) -> None:
    """RefusedError unless a key of the keyring has signed SUMS."""
    if not keyring.is_file():
        raise RefusedError("this image was built without keys: it takes no update")
    check_file(folder / SUMS, folder / SIGNATURE, keyring)


def check_file(signed: Path, signature: Path, keyring: Path) -> None:
    """RefusedError unless the signature of a file is by a key of the keyring: asked as systemd-pull
    asks.
    """
    with tempfile.TemporaryDirectory() as home:
        argv = ["gpg", "--no-options", "--no-default-keyring", "--no-auto-key-locate"]
        argv += ["--no-auto-check-trustdb", "--batch", "--trust-model=always", "--status-fd=1"]
        argv += [f"--homedir={home}", f"--keyring={keyring}"]
        argv += ["--verify", str(signature), str(signed)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    said = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")}
    if done.returncode or "VALIDSIG" not in said:
        raise RefusedError(_why(signed.name, said, done.stderr))


def _why(signed: str, said: set[str], errors: str) -> str:
    if "BADSIG" in said:
        return f"altered: {signed} is not what was signed"
    if "NO_PUBKEY" in said:
        return "signed by another key than those of this image"
    last = errors.strip().splitlines()[-1:]
    return f"not signed: {last[0] if last else 'gpg says nothing'}"


def sent(stream: IO[bytes]) -> Iterator[Member]:
    """The files of a tar stream; no name leads out of a folder."""
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is None or "/" in member.name:
                raise RefusedError(f"{member.name!r} is no part of a payload")
            yield member.name, member.size, content


def fetched(url: str) -> Iterator[Member]:
    """The files below an HTTPS address, whose server has to show a certificate that this image
    trusts. What they are is told by their signature all the same.
    """
    if not url.startswith("https://"):
        raise RefusedError(f"{url} is no https:// address")
    text = ""
    for name in FIRST:
        with _opened(url, name) as answer:
            content = answer.read(_SMALL + 1)
        text = content.decode(errors="replace") if name == SUMS else text
        yield name, len(content), BytesIO(content)
    for name in sorted(checksums(text).keys() - {DESCRIPTION}):
        with _opened(url, name) as answer:
            yield name, int(answer.headers.get("Content-Length", 0)), answer


def _opened(url: str, name: str) -> Any:
    try:
        return urlopen(f"{url.rstrip('/')}/{name}", timeout=_FETCH_S)
    except HTTPError as error:
        raise RefusedError(f"{error.url}: {error.code} {error.reason}") from error


def _take_first(members: Iterator[Member], folder: Path, wanted: str) -> None:
    name, size, content = next(members, ("", 0, None))
    if name != wanted or content is None:
        raise RefusedError("not signed" if wanted == SIGNATURE else f"it has no {wanted}")
    if size > _SMALL:
        raise RefusedError(f"{name} has {size} bytes: that is no payload")
    (folder / name).write_bytes(content.read())


def _take_rest(
    members: Iterator[Member],
    folder: Path,
    sums: Mapping[str, str],
    description: Description,
    here: Mapping[str, Path],
) -> None:
    missing = sums.keys() - {DESCRIPTION}

    def take(name: str, size: int, content: IO[bytes]) -> None:
        if name not in missing:
            raise RefusedError(f"{name} is no part of this payload")
        missing.remove(name)
        wanted = description.files.get(name, size)
        if size < wanted:
            raise RefusedError(f"truncated: {name} has {size} of {wanted} bytes")
        digest = _write(content, folder / name, wanted)
        if (folder / name).stat().st_size < wanted:
            raise RefusedError(f"truncated: {name} ended before it was whole")
        if digest != sums[name] or size > wanted:
            raise RefusedError(f"altered: {name} is not what was signed")

    for member in members:
        take(*member)
    for name in sorted(missing & here.keys()):
        with here[name].open("rb") as partition:
            take(name, description.files[name], partition)
    if missing:
        raise RefusedError(f"truncated: {', '.join(sorted(missing))} missing")


def _write(content: IO[bytes], path: Path, size: int) -> str:
    """Copy so many bytes to the file, if they come; their SHA-256 as hex."""
    digest = hashlib.sha256()
    with path.open("wb") as out:
        while size and (chunk := content.read(min(_CHUNK, size))):
            digest.update(chunk)
            out.write(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def emptied(folder: Path) -> Path:
    """The folder, new and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder

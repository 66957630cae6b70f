"""What a node takes for an update: whole, as it was signed, and not a byte otherwise."""

from __future__ import annotations

import io
import os
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from appliance.image import keys as image_keys
from appliance.image.keys import Keys
from appliance.node import payload
from appliance.node.payload import receive
from appliance.node.refused import RefusedError
from appliance.node.versions import key, older
from appliance.run import run
from appliance.tools import ToolsTree
from tests.node.updates import Update, gpg, update

Take = Callable[[io.BytesIO], payload.Description]


@pytest.fixture(scope="module")
def keys(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return image_keys.generate(tmp_path_factory.mktemp("keys") / "mine", tools)


@pytest.fixture(autouse=True)
def _gpg(tools: ToolsTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{gpg(tmp_path / 'bin', tools)}:{os.environ['PATH']}")


@pytest.fixture
def sent(keys: Keys, tools: ToolsTree, tmp_path: Path) -> Update:
    return update(tmp_path / "sent", keys, tools)


@pytest.fixture
def take(keys: Keys, tmp_path: Path) -> Take:
    """Receive a stream in an empty folder, whoever it is for."""

    def take(stream: io.BytesIO) -> payload.Description:
        folder = payload.emptied(tmp_path / "here")
        members = payload.sent(stream)
        return receive(members, folder, lambda _: None, keyring=keys.payload_keyring)

    return take


def test_what_was_signed_is_taken_byte_for_byte(sent: Update, take: Take, tmp_path: Path) -> None:
    described = take(sent.tar())
    assert (described.site, described.version, described.hardware) == ("testcase", "2", "vm")
    assert described.kernel == sent.of("efi").name
    assert {each.name: each.read_bytes() for each in (tmp_path / "here").iterdir()} == {
        each.name: each.read_bytes() for each in sent.folder.iterdir()
    }


def test_without_a_signature(take: Take, tools: ToolsTree, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"^not signed$"):
        take(update(tmp_path / "unsigned", None, tools).tar())


def test_signed_by_somebody_else(take: Take, tools: ToolsTree, tmp_path: Path) -> None:
    other = image_keys.generate(tmp_path / "other", tools)
    with pytest.raises(RefusedError, match="signed by another key"):
        take(update(tmp_path / "foreign", other, tools).tar())


@pytest.mark.parametrize("name", ["efi", "root", "verity", payload.DESCRIPTION, payload.SUMS])
def test_one_bit_is_altered(sent: Update, take: Take, name: str) -> None:
    path = sent.folder / name if (sent.folder / name).exists() else sent.of(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RefusedError, match=f"^altered: {path.name} is not what was signed"):
        take(sent.tar())


def test_a_file_that_is_cut_short(sent: Update, take: Take) -> None:
    path = sent.of("root")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    words = f"^truncated: {path.name} has {size - 1} of {size} bytes"
    with pytest.raises(RefusedError, match=words):
        take(sent.tar())


@pytest.mark.parametrize("part", ["efi", "root"])
def test_a_file_that_goes_on_behind_its_end(sent: Update, take: Take, part: str) -> None:
    path = sent.of(part)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(RefusedError, match=f"^altered: {path.name} is not what was signed"):
        take(sent.tar())


def test_a_stream_that_is_cut_short(sent: Update, take: Take) -> None:
    whole = sent.tar().getvalue()
    for length in (0, 700, len(whole) // 2, len(whole) - tarfile.RECORDSIZE - 200_000):
        with pytest.raises(RefusedError, match=r"^truncated|^it has no|^not signed"):
            take(io.BytesIO(whole[:length]))


def test_a_file_is_missing_or_too_many(sent: Update, take: Take) -> None:
    with pytest.raises(RefusedError, match=r"^truncated: testcase_2\.verity\S+ missing"):
        take(sent.tar(sent.names()[:-1]))
    (sent.folder / "more").write_text("?")
    with pytest.raises(RefusedError, match=r"^more is no part of this payload"):
        take(sent.tar())


@pytest.mark.parametrize("name", ["../out", "/etc/out", "folder"])
def test_no_name_leads_out_of_the_folder(
    sent: Update, take: Take, name: str, tmp_path: Path
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type = tarfile.DIRTYPE if name == "folder" else tarfile.REGTYPE
        tar.addfile(member)
    out.seek(0)
    with pytest.raises(RefusedError, match="is no part of a payload"):
        take(out)
    assert {each.name for each in tmp_path.iterdir()} == {"bin", "sent", "here"}


def test_what_is_not_for_this_node_is_refused_before_the_rest_is_read(
    sent: Update, keys: Keys, tmp_path: Path
) -> None:
    def judge(described: payload.Description) -> None:
        raise RefusedError(f"not {described.site}")

    folder = payload.emptied(tmp_path / "here")
    first = sent.tar([*payload.FIRST, sent.of("efi").name])
    with pytest.raises(RefusedError, match=r"^not testcase$"):
        receive(payload.sent(first), folder, judge, keyring=keys.payload_keyring)
    assert {each.name for each in folder.iterdir()} == set(payload.FIRST)


def test_a_full_disk(sent: Update, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(payload, "_write", full)
    with pytest.raises(RefusedError, match="the disk is full"):
        take(sent.tar())


# By HTTPS


@pytest.fixture
def served(
    sent: Update, tools: ToolsTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a server of the update, whose certificate is trusted."""
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    run(tools.inside([*made, "-keyout", str(key), "-out", str(certificate)]))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    handler = partial(Quiet, directory=str(sent.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fetch(keys: Keys, tmp_path: Path) -> Callable[[str], payload.Description]:
    def fetch(url: str) -> payload.Description:
        folder = payload.emptied(tmp_path / "here")
        members = payload.fetched(url)
        return receive(members, folder, lambda _: None, keyring=keys.payload_keyring)

    return fetch


def test_what_is_fetched_is_what_was_signed(
    served: str, fetch: Callable[[str], payload.Description], sent: Update, tmp_path: Path
) -> None:
    assert fetch(f"{served}/").version == "2"
    assert {each.name: each.read_bytes() for each in (tmp_path / "here").iterdir()} == {
        each.name: each.read_bytes() for each in sent.folder.iterdir()
    }


def test_what_is_altered_or_missing_on_the_server(
    served: str, fetch: Callable[[str], payload.Description], sent: Update
) -> None:
    path = sent.of("verity")
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(RefusedError, match=f"altered: {path.name}"):
        fetch(served)
    path.unlink()
    with pytest.raises(RefusedError, match="404"):
        fetch(served)


def test_a_server_that_is_not_trusted(
    served: str,
    fetch: Callable[[str], payload.Description],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(served)
    with pytest.raises(RefusedError, match="no https:// address"):
        fetch(served.replace("https", "http"))


# Versions

ORDERED = (
    "1~rc1",
    "1",
    "1-1",
    "1^1",
    "1.a",
    "1.0",
    "1.2",
    "1a",
    "2",
    "9",
    "10",
    "2026.1",
    "2026.11",
)


def test_versions_are_in_the_order_of_the_boot_loader(tools: ToolsTree) -> None:
    """By systemd's own words."""
    for one, other in pairwise(ORDERED):
        assert older(one, other)
        assert not older(other, one)
        argv = tools.inside(["systemd-analyze", "compare-versions", one, "lt", other])
        assert subprocess.run(argv, check=False).returncode == 0, (one, other)
    assert key("01") == key("1")

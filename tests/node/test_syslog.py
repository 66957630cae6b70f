"""What goes to log hosts, over real sockets, from a journal that a script plays."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from appliance.node.syslog import LONGEST, Bookmark, Link, line

LIMIT_S = 20.0

# Gives the entries of a file that come after the cursor asked for, and waits as `--follow` does.
JOURNALCTL = """\
#!{python}
import json, sys, time
after = [a.partition("=")[2] for a in sys.argv if a.startswith("--after-cursor=")]
assert ("--boot=all" if after else "--boot") in sys.argv
assert {{"--follow", "--no-tail", "--all", "--output=json"}} < set(sys.argv)
seen, known = not after, 0
with open({path!r}) as journal:
    while True:
        text = journal.readline()
        if not text:
            time.sleep(0.02)  # poll
            continue
        if seen:
            sys.stdout.write(text)
            sys.stdout.flush()
        seen = seen or (text.startswith("{{") and json.loads(text)["__CURSOR"] == after[0])
"""


def cursor(number: int) -> str:
    return f"s=0a;i={number:x};b=0b;m=1;t=2;x=3"


def entry(number: int, message: object = None, **more: object) -> dict[str, object]:
    return {
        "__CURSOR": cursor(number),
        "__REALTIME_TIMESTAMP": "1754697600123456",
        "_HOSTNAME": "edge1",
        "SYSLOG_IDENTIFIER": "kernel",
        "SYSLOG_FACILITY": "0",
        "PRIORITY": "4",
        "MESSAGE": f"line {number}" if message is None else message,
        **more,
    }


WHEN = "2025-08-09T00:00:00.123456Z"
HEAD = f"<4>1 {WHEN} edge1 kernel - - - "


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, f"{HEAD}line 1"),
        ({"MESSAGE": "two\nlines\tand a tab"}, f"{HEAD}two lines and a tab"),
        ({"MESSAGE": "größer"}, f"{HEAD}größer"),
        ({"MESSAGE": [104, 105, 0xFF]}, f"{HEAD}hi\ufffd"),
        ({"MESSAGE": ["one", "another"]}, f"{HEAD}one"),
        ({"MESSAGE": ""}, HEAD),
        ({"PRIORITY": "9", "SYSLOG_FACILITY": "99"}, f"<30>1 {WHEN} edge1 kernel - - - line 1"),
        ({"PRIORITY": "²", "SYSLOG_FACILITY": None}, f"<30>1 {WHEN} edge1 kernel - - - line 1"),
        ({"_HOSTNAME": "a b\u00e9"}, f"<4>1 {WHEN} a_b_ kernel - - - line 1"),
        (
            {"SYSLOG_IDENTIFIER": None, "_COMM": "c" * 60, "_PID": "7"},
            f"<4>1 {WHEN} edge1 {'c' * 48} 7 - - line 1",
        ),
    ],
)
def test_an_entry_is_one_line_of_rfc_5424(more, text):
    assert line({**entry(1), **more}).decode() == text


def test_a_long_message_is_cut_between_characters():
    said = line(entry(1, "é" * LONGEST))
    assert LONGEST - 1 <= len(said) <= LONGEST
    assert said.decode().endswith("é")


def test_a_damaged_bookmark_is_none(tmp_path):
    path = tmp_path / "mark"
    for text in ("", "--version", "s=0a", "\0" * 40):
        path.write_text(text)
        assert Bookmark(path).cursor is None
    Bookmark(path).move(cursor(100_000))
    Bookmark(path).move(cursor(7))
    assert Bookmark(path).cursor == cursor(7)


def test_a_disk_that_takes_nothing_costs_the_place_only(tmp_path):
    mark = Bookmark(tmp_path / "nowhere" / "mark")
    mark.move(cursor(7))
    assert mark.cursor == cursor(7)


class Node:
    """The daemon, its journal, and its folder."""

    def __init__(self, folder: Path, protocol: str, *addresses: tuple[str, int]) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        program = folder / "bin/journalctl"
        program.parent.mkdir()
        program.write_text(JOURNALCTL.format(python=sys.executable, path=str(self.journal)))
        program.chmod(0o755)
        hosts = [{"address": a, "port": p, "protocol": protocol} for a, p in addresses]
        self.config = folder / "syslog.json"
        self.config.write_text(json.dumps({"hosts": hosts}))

    def write(self, *entries: object) -> None:
        with self.journal.open("a") as file:
            for each in entries:
                file.write((each if isinstance(each, str) else json.dumps(each)) + "\n")

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        argv = [sys.executable, "-m", "appliance.node.syslog", str(self.folder), str(self.config)]
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        with (self.folder / "said").open("a") as said:
            process = subprocess.Popen(
                argv, env={**os.environ, "PATH": path}, stderr=said, start_new_session=True
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


@contextmanager
def tcp_host(port: int = 0) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(LIMIT_S)
        yield server


def lines(connection: socket.socket, last: str) -> list[str]:
    """The messages of the next lines, up to that one."""
    connection.settimeout(LIMIT_S)
    data = b""
    while not data.endswith(f"{last}\n".encode()) and (piece := connection.recv(65536)):
        data += piece
    return [each.partition(" - - - ")[2] for each in data.decode().splitlines()]


def test_what_was_missed_comes_when_the_log_host_is_back(tmp_path):
    with tcp_host() as server:
        port = server.getsockname()[1]
        node = Node(tmp_path, "tcp", ("127.0.0.1", port))
        node.write(entry(1), "no json", entry(2))
        with node.running():
            first, _ = server.accept()
            with first:
                assert lines(first, "line 2") == ["line 1", "line 2"]
            server.close()
            # The first of these finds the connection closed and must not be lost with it.
            node.write(entry(3), entry(4))
            with tcp_host(port) as again, again.accept()[0] as second:
                later = lines(second, "line 4")
    # The end of the connection acknowledged what came before it: none comes twice.
    assert later == ["line 3", "line 4"]
    assert "does not get the log now" in (tmp_path / "said").read_text()


def test_a_node_that_comes_back_goes_on_at_its_bookmark(tmp_path):
    with tcp_host() as server:
        node = Node(tmp_path, "tcp", server.getsockname()[:2])
        mark = tmp_path / f"127.0.0.1-tcp-{server.getsockname()[1]}"
        mark.write_text(cursor(2) + "\n")
        node.write(*(entry(n) for n in (1, 2, 3)))
        with node.running(), server.accept()[0] as connection:
            assert lines(connection, "line 3") == ["line 3"]


def test_the_bookmark_follows_what_is_acknowledged(tmp_path):
    with tcp_host() as server:
        node = Node(tmp_path, "tcp", server.getsockname()[:2])
        mark = tmp_path / f"127.0.0.1-tcp-{server.getsockname()[1]}"
        node.write(*(entry(n) for n in range(50)))
        with node.running(), server.accept()[0] as connection:
            lines(connection, "line 49")
            deadline = time.monotonic() + LIMIT_S
            while Bookmark(mark).cursor != cursor(49) and time.monotonic() < deadline:
                time.sleep(0.05)  # poll
    assert Bookmark(mark).cursor == cursor(49)


def test_what_no_end_has_taken_is_not_marked():
    """A host that reads nothing: its buffers and ours fill, and the rest is under way."""
    with (
        tcp_host() as server,
        socket.create_connection(server.getsockname()) as end,
        server.accept()[0],
    ):
        end.settimeout(0.3)
        link, count = Link(end), 0
        with suppress(TimeoutError):
            while True:
                link.send(b"x" * LONGEST, str(count))
                count += 1
        taken = link.taken()
    assert taken is not None
    assert 0 < int(taken) < count - 1


def test_a_dead_log_host_does_not_keep_the_log_from_another(tmp_path):
    with tcp_host() as server, tcp_host() as dead:
        nobody = dead.getsockname()
        dead.close()
        node = Node(tmp_path, "tcp", nobody, server.getsockname()[:2])
        node.write(*(entry(n) for n in range(2000)))
        with node.running() as process, server.accept()[0] as connection:
            assert lines(connection, "line 1999") == [f"line {n}" for n in range(2000)]
            assert process.poll() is None
    assert not (tmp_path / f"127.0.0.1-tcp-{nobody[1]}").exists()


def test_a_datagram_for_each_line(tmp_path):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::1", 0))
        server.settimeout(LIMIT_S)
        port = server.getsockname()[1]
        node = Node(tmp_path, "udp", ("::1", port))
        node.write(entry(1), entry(2, "x" * 100_000), entry(3))
        with node.running():
            seen = [server.recv(65536) for _ in range(3)]
            assert [len(each) for each in seen] == [len(HEAD) + 6, LONGEST, len(HEAD) + 6]
            assert seen[2].decode() == f"{HEAD}line 3"

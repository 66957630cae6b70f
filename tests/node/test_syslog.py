"""What goes to log hosts: Debian 13's rsyslogd, as rendered, on a journal of its journald."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.plan.model import LogHost, Transport
from appliance.plan.servers import MOST_LOG_HOSTS
from appliance.render import servers
from appliance.tools import ToolsTree
from tests.node.netns import wait_for

# journald in a mount namespace, with /run, /etc and /var of its own. It leaves the kernel's log and
# the kernel's auditing of this machine as they are, and what it is given goes to the disk at once.
JOURNALD = """
mount -t tmpfs run /run
mkdir -p /run/systemd/journal /run/etc/systemd "$0/log/journal" "$0/lib/rsyslog"
echo 0123456789abcdef0123456789abcdef >/run/etc/machine-id
printf '[Journal]\\nReadKMsg=no\\nAudit=\\nRateLimitBurst=0\\n' >/run/etc/systemd/journald.conf
mount --bind /run/etc /etc
mount --bind "$0" /var
touch /run/systemd/journal/flushed
exec /usr/lib/systemd/systemd-journald
"""

HEAD = r"<12>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00 edge1 test \d+ - - "


def host(address: str, port: int, protocol: Transport = Transport.TCP) -> LogHost:
    return LogHost(ip_address(address), port, protocol)


class Node:
    """A journal, and rsyslogd where it is running."""

    def __init__(self, folder: Path, tools: ToolsTree) -> None:
        self.config, self.var = folder / "rsyslog.conf", folder / "var"
        self.var.mkdir()
        argv = tools.inside(["sh", "-euc", JOURNALD, self.var])
        self.journald = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        self.socket = Path(f"/proc/{self.journald.pid}/root/run/systemd/journal/socket")
        wait_for("journald", self.socket.exists)

    def log(self, *messages: str) -> None:
        """By the journal's own protocol, in which a message may have several lines."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(str(self.socket))
            for each in messages:
                text = each.encode()
                size = len(text).to_bytes(8, "little")
                end.send(b"SYSLOG_IDENTIFIER=test\nPRIORITY=4\nMESSAGE\n" + size + text + b"\n")

    @contextmanager
    def running(self, *hosts: LogHost) -> Iterator[None]:
        """rsyslogd, which tries again after a second, until it is killed: as its unit does."""
        text = servers.syslog(hosts, "edge1")
        assert 'resumeInterval="30"' in text
        self.config.write_text(text.replace('resumeInterval="30"', 'resumeInterval="1"'))
        enter = ["nsenter", f"--target={self.journald.pid}", "--mount"]
        argv = [*enter, "/usr/sbin/rsyslogd", "-n", "-iNONE", "-f", str(self.config)]
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def place(self, of: LogHost) -> Path:
        return self.var / f"lib/rsyslog/journal/{of.address}-{of.protocol}-{of.port}"


class Receiver:
    """A log host over TCP, and the messages that it got, over all its connections."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.port = 0
        self._ends: list[socket.socket] = []

    @property
    def host(self) -> LogHost:
        return host("127.0.0.1", self.port)

    @contextmanager
    def listening(self) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", self.port)) as server:
            self.port = server.getsockname()[1]
            threading.Thread(target=self._accept, args=[server], daemon=True).start()
            try:
                yield
            finally:
                for each in (server, *self._ends):
                    with suppress(OSError):  # the other end was first
                        each.shutdown(socket.SHUT_RDWR)
                self._ends.clear()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                end, _ = server.accept()
            except OSError:
                return
            self._ends.append(end)
            threading.Thread(target=self._read, args=[end], daemon=True).start()

    def _read(self, end: socket.socket) -> None:
        with suppress(ConnectionResetError), end, end.makefile("r", errors="replace") as lines:
            for line in lines:
                if " test " in line:
                    self.messages.append(line.rstrip("\n").partition(" - - ")[2])

    def has(self, last: str) -> None:
        wait_for(f"{last!r}", lambda: last in self.messages[-1:], 60)


@pytest.fixture
def node(tmp_path: Path, tools: ToolsTree) -> Iterator[Node]:
    made = Node(tmp_path, tools)
    yield made
    made.journald.kill()
    made.journald.wait()


def numbered(*numbers: int) -> list[str]:
    return [f"line {n}" for n in range(*numbers)]


def test_what_was_missed_comes_once_and_in_order_when_the_log_host_is_back(node):
    receiver = Receiver()
    with receiver.listening():
        node.log(*numbered(5))
        with ExitStack() as stack:
            stack.enter_context(node.running(receiver.host))
            receiver.has("line 4")
            running = stack.pop_all()
    with running:
        for begin in (5, 3000):
            node.log(*numbered(begin, begin + 2000))
            with receiver.listening():
                receiver.has(f"line {begin + 1999}")
    assert receiver.messages == [*numbered(2005), *numbered(3000, 5000)]


def test_killed_while_the_log_host_is_away_it_loses_nothing(node):
    receiver = Receiver()
    with receiver.listening():
        pass
    with node.running(receiver.host):
        node.log(*numbered(25))
        wait_for("it reads", node.place(receiver.host).parent.is_dir)
    with receiver.listening():
        node.log(*numbered(25, 33))
        with node.running(receiver.host):
            receiver.has("line 32")
        assert receiver.messages == numbered(33)
        node.log("afterwards")
        with node.running(receiver.host):
            receiver.has("afterwards")
    again = receiver.messages[33:-1]
    # The place is kept after each tenth entry, others' entries among them.
    assert again == numbered(33 - len(again), 33)
    assert len(again) < 10


def test_hosts_that_are_dead_or_do_not_read_hold_up_nobody(node):
    receivers = [Receiver() for _ in range(MOST_LOG_HOSTS - 2)]
    dead = Receiver()
    with dead.listening():
        pass
    with ExitStack() as stack:
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for each in receivers:
            stack.enter_context(each.listening())
        hosts = [dead.host, host("127.0.0.1", mute.getsockname()[1])]
        stack.enter_context(node.running(*hosts, *(each.host for each in receivers)))
        long = [f"{each} {'x' * 4000}" for each in numbered(4000)]
        node.log(*long, "the end")
        for each in receivers:
            each.has("the end")
            assert each.messages == [*long, "the end"]
        with dead.listening():
            dead.has("the end")
        assert dead.messages == [*long, "the end"]


@pytest.mark.parametrize("left", [b"", b"s=0123", bytes(120)], ids=["nothing", "half", "zeros"])
def test_a_damaged_place_costs_no_line(node, left):
    receiver = Receiver()
    with receiver.listening():
        node.log(*numbered(30))
        with node.running(receiver.host):
            receiver.has("line 29")
            wait_for("a place", node.place(receiver.host).is_file)
        node.place(receiver.host).write_bytes(left)
        node.log(*numbered(30, 60))
        receiver.messages.clear()
        with node.running(receiver.host):
            receiver.has("line 59")
    assert receiver.messages[-30:] == numbered(30, 60)


def test_a_datagram_for_each_entry_as_rfc_5424_has_it(node):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as end:
        end.bind(("::1", 0))
        end.settimeout(20)
        log_host = host("::1", end.getsockname()[1], Transport.UDP)
        node.log("größer", "two\nlines", "x" * 20000, "the end")
        seen: list[str] = []
        with node.running(log_host):
            while not seen or not seen[-1].endswith("the end"):
                seen += [text] if " test " in (text := end.recv(65536).decode().strip()) else []
    assert all(re.match(HEAD, each) for each in seen)
    first, second, third, _ = (re.sub(HEAD, "", each) for each in seen)
    assert (first, second) == ("größer", "two#012lines")
    assert 8000 < len(third) < 8192

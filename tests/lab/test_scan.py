"""The port scanner of the VM tests, in two namespaces of this machine: it sees what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance import tools
from appliance.run import run

SCAN = (Path(__file__).parents[2] / "vmtests/scan.py").read_text()
OWN, OTHER = "192.0.2.1", "192.0.2.2"
TCP_PORT, UDP_PORT = 4711, 4712
# Says when it listens, and answers until its input ends.
SERVER = f"""
import selectors, socket, sys
tcp = socket.create_server(("{OTHER}", {TCP_PORT}), backlog=64)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("{OTHER}", {UDP_PORT}))
ends = selectors.DefaultSelector()
for end in (udp, sys.stdin):
    ends.register(end, selectors.EVENT_READ)
print("ready", flush=True)
while all(key.fileobj is udp for key, _ in ends.select()):
    data, who = udp.recvfrom(100)
    udp.sendto(data, who)
"""
CLOSED = """
table inet scanned {
    chain input {
        type filter hook input priority filter
        th dport 5000-5010 drop
    }
}
"""

Answers = dict[str, list[int]]
Scan = Callable[..., Answers]


@pytest.fixture
def scan() -> Iterator[Scan]:
    """Scan a host with one TCP and one UDP service, and ports that its firewall drops."""
    here, there = (f"scan-{side}-{os.getpid()}" for side in "ab")
    with ExitStack() as undo:
        for name in (here, there):
            run(["ip", "netns", "add", name])
            undo.callback(run, ["ip", "netns", "del", name])
        peer = ["peer", "name", "right", "netns", there]
        run(["ip", "-n", here, "link", "add", "name", "left", "type", "veth", *peer])
        for name, card, address in ((here, "left", OWN), (there, "right", OTHER)):
            run(["ip", "-n", name, "address", "add", f"{address}/24", "dev", card])
            run(["ip", "-n", name, "link", "set", card, "up"])
        enter = ["ip", "netns", "exec", there]
        run([*enter, *tools.ensure().inside(["nft", "-f", "-"])], stdin=CLOSED)
        pipe = subprocess.PIPE
        argv = [*enter, sys.executable, "-c", SERVER]
        server = undo.enter_context(subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True))
        undo.callback(server.communicate)
        assert server.stdout
        assert server.stdout.readline() == "ready\n"

        def scan(protocol: str, *ports: str) -> Answers:
            argv = ["ip", "netns", "exec", here, sys.executable, "-", protocol, OWN, OTHER, "0.5"]
            told: Answers = json.loads(run([*argv, *ports], stdin=SCAN).stdout)
            return told

        yield scan


def test_open_refused_and_silent_tcp_ports_are_told_apart(scan: Scan) -> None:
    told = scan("tcp", "4700-4720", "5000-5010")
    assert told["open"] == [TCP_PORT]
    assert told["refused"] == [port for port in range(4700, 4721) if port != TCP_PORT]


def test_every_tcp_port_is_asked(scan: Scan) -> None:
    told = scan("tcp", "1-65535")
    assert told["open"] == [TCP_PORT]
    silent = set(range(1, 65536)) - set(told["refused"]) - {TCP_PORT}
    assert silent == set(range(5000, 5011))


def test_udp_tells_of_what_answers_and_of_some_that_refuse(scan: Scan) -> None:
    told = scan("udp", "4700-4720", "5000-5010")
    assert told["open"] == [UDP_PORT]
    assert told["refused"]
    assert set(told["refused"]) <= set(range(4700, 4721)) - {UDP_PORT}

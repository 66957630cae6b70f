"""A whole load between hosts that are one: a network namespace of its own, with real servers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path as File
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.lab import daemons, echo, guest, load, orders, places, services
from appliance.lab.control import Control, Program, Shell
from appliance.lab.errors import LabAssertion
from appliance.lab.load import Cell, Kind, Mode, Path, cells
from appliance.lab.traffic import KINDS
from tests.lab.carried import run_for

CLONE = File(__file__).resolve().parents[2]
V4 = Path("v4", "inside", "outside", ip_address("127.0.0.1"))
V6 = Path("v6", "outside", "inside", ip_address("::1"))
KEYLESS = [kind for kind in Kind if kind not in (Kind.SSH, Kind.SSH_IDLE)]


def test_the_cells_are_every_kind_that_a_path_can_have() -> None:
    snat, dnat = (Path(n, "a", "b", ip_address("192.0.2.1")) for n in ("snat", "dnat"))
    every = cells([snat, dnat, V6])
    assert Kind.HTTP not in {cell.kind for cell in every}
    assert len(every) == len(set(every)) == 2 * (6 + 4 * 4) + (6 + 4 * 2)
    assert Cell(Kind.HELD, snat, Mode.PORT) in every
    assert Cell(Kind.SSH, dnat) in every
    assert {c.mode for c in every if c.path == V6} == {None, Mode.EPSV, Mode.EPRT}
    assert len({str(cell) for cell in every}) == len(every)
    assert str(Cell(Kind.HELD, snat, Mode.PORT)) == "ftp held PORT, snat"
    assert str(Cell(Kind.SSH_IDLE, V6)) == "ssh idle, v6"
    assert cells([snat], [Kind.NEXT], [Mode.EPRT]) == (Cell(Kind.NEXT, snat, Mode.EPRT),)


def test_the_program_in_the_host_knows_every_kind() -> None:
    assert {kind for kind in Kind if kind not in (Kind.SSH_IDLE, Kind.HANDSHAKE)} <= set(KINDS)


class Town:
    """A machine of its own, as far as the network goes: `inside` and `outside` are both it."""

    def __init__(self, folder: File) -> None:
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        enter = ["unshare", "--map-root-user", "--net", sys.executable, "-I"]
        argv = [*enter, guest.__file__, str(number)]
        self.agent = subprocess.Popen(argv, pass_fds=[number])
        theirs.close()
        self.control = Control("town", ours)
        self.control.wait_ready(20)
        self.hosts = {name: Shell(name, lambda: self.control) for name in ("inside", "outside")}
        self.shell = self.hosts["inside"]
        self.shell.succeed("ip link set lo up mtu 1500")
        self.echo = self.serve([sys.executable, echo.__file__])
        ftp = [sys.executable, "-m", "tests.lab.ftp_server", str(folder), "21"]
        self.ftp = self.serve(["env", "-C", str(CLONE), *ftp])
        web = ["http.server", "--protocol", "HTTP/1.1", "-b", "::", "-d", str(folder), "80"]
        self.serve([sys.executable, "-m", *web])
        self.serve(["env", "-C", str(CLONE), sys.executable, "-m", "tests.lab.mail_server", "25"])
        ports = ("sport = 7", "sport = 25", "sport = 80", "src 127.0.0.1 and sport = 21")
        self.shell.wait_until(" && ".join(f"ss -Hltn '{p}' | grep ." for p in ports), 20)

    def serve(self, argv: list[str]) -> Program:
        return self.shell.spawn(argv)

    def close(self) -> None:
        """What the agent has started ends with it, once nobody orders any more."""
        self.control.close()
        self.agent.wait(20)

    @property
    def lab(self) -> Any:
        return SimpleNamespace(hosts=self.hosts)


@pytest.fixture
def town(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    share = tmp_path / "share"
    (share / services.INCOMING).mkdir(parents=True)
    (share / "who").write_text("inside\n")
    digests = ""
    for name, size in services.SHARED_SIZES.items():
        content = os.urandom(size)
        (share / name).write_bytes(content)
        digests += f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    (tmp_path / "sha256").write_text(digests)
    monkeypatch.setattr(daemons, "BASE", str(CLONE))
    monkeypatch.setattr(places, "SHARE", str(share))
    monkeypatch.setattr(services, "SHARED_DIGESTS", str(tmp_path / "sha256"))
    town = Town(share)
    yield town
    town.close()


def test_a_load_stands_goes_on_and_comes_to_its_end(town: Town, tmp_path: File) -> None:
    wanted = cells([V4, V6], KEYLESS)
    assert Cell(Kind.HTTP, V6) in wanted
    with load.start(town.lab, wanted) as everything:
        assert everything.probe == Cell(Kind.UDP, V4)
        everything.moves()
        everything.moves()
        reports = everything.stop()
        assert everything.stop() is reports
    assert set(reports) == set(wanted)
    assert not {str(cell): r for cell, r in reports.items() if not r.survived}
    assert reports[everything.probe].sent > 4 * reports[Cell(Kind.UDP, V6)].sent
    assert not list((tmp_path / "share" / services.INCOMING).iterdir())


def test_a_flow_from_one_address_of_its_host_has_it_on_every_connection(town: Town) -> None:
    bound = Path("bound", "inside", "outside", V4.to, ip_address("127.0.0.9"))
    with load.start(town.lab, cells([bound], KEYLESS)) as some:
        look = "ss -Hntu state connected | awk '{ print $5, $6 }' | grep -E ':(7|20|21|25|80)$'"
        ends = [line.split() for line in town.shell.succeed(look).splitlines()]
        reports = some.stop()
    assert not {str(cell): r for cell, r in reports.items() if not r.survived}
    clients = {own.rpartition(":")[0] for own, _ in ends}
    assert len(ends) > 10
    assert clients == {"127.0.0.9"}


def test_echo_answers_from_the_address_that_was_asked(town: Town) -> None:
    """One that holds several: a connected socket takes answers from where it sent to only."""
    ask = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)"
    ask += "; s.connect(('127.0.0.7', 7)); s.send(b'hello'); print(s.recv(9))"
    assert town.shell.succeed([sys.executable, "-c", ask]) == "b'hello'\n"


def test_what_does_not_go_on_is_named(town: Town) -> None:
    with load.start(town.lab, cells([V4], [Kind.TCP, Kind.DOWNLOAD, Kind.FTP_IDLE])) as some:
        some.moves()
        town.echo.signal(signal.SIGSTOP)
        run_for(0.2)
        with pytest.raises(LabAssertion, match=r"tcp, v4 \(silent\)$"):
            some.moves(timeout=3)
        town.echo.signal(signal.SIGCONT)
        some.moves()
        town.echo.signal(signal.SIGKILL)
        run_for(0.5)
        with pytest.raises(LabAssertion, match=r"tcp, v4 \(the other side closed"):
            some.moves()
        reports = {cell.kind: report for cell, report in some.stop().items()}
    assert not reports[Kind.TCP].survived
    assert reports[Kind.TCP].longest_stall > 2.5
    assert reports[Kind.DOWNLOAD].survived
    assert reports[Kind.FTP_IDLE].survived


def test_what_died_in_silence_is_found_out_at_the_stop(town: Town) -> None:
    wanted = cells([V4], [Kind.HANDSHAKE, Kind.FTP_IDLE, Kind.NEXT, Kind.HELD, Kind.TCP])
    with load.start(town.lab, wanted) as some:
        town.ftp.signal(signal.SIGKILL)
        some.moves()
        reports = some.stop()
    dead = {cell.kind for cell, report in reports.items() if not report.survived}
    assert dead == {Kind.FTP_IDLE, Kind.NEXT, Kind.HELD}
    assert all(report.note for cell, report in reports.items() if cell.kind in dead)


def test_what_never_stands_is_named(town: Town) -> None:
    town.ftp.signal(signal.SIGKILL)
    with pytest.raises(LabAssertion, match=r"^ftp idle, v4: never stood: login: Conn[a-zA-Z]+:"):
        load.start(town.lab, cells([V4], [Kind.TCP, Kind.FTP_IDLE]))


def test_an_idle_flow_sends_nothing_before_the_stop(town: Town) -> None:
    """Counted by the kernel: `bytes_sent` of every connection to the servers."""
    with load.start(town.lab, cells([V4], [Kind.HANDSHAKE, Kind.FTP_IDLE, Kind.NEXT])) as some:
        look = "ss -Hntei '( dport = 7 or dport = 21 )' | grep -o 'bytes_sent:[0-9]*' | sort"
        before = town.shell.run(look).out
        run_for(1)
        assert town.shell.run(look).out == before
        assert before.count("bytes_sent") == 5  # all but the handshake, which has sent none
        assert not [report for report in some.stop().values() if not report.survived]


def test_orders_can_be_sent_to_a_program() -> None:
    made = [orders.ssh("::1"), orders.tcp("::1"), orders.udp("::1"), orders.ping("::1")]
    assert all(json.loads(json.dumps(order))["to"] == "::1" for order in made)

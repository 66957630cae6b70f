"""What a takeover costs with a large table: `python -m tests.node.bench_commit 10000 100000`.

As root, in network namespaces, with the real programs and this machine's kernel. Each line is one
loss of power, then come the median and the worst. `--costs` tells where the time goes instead.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median
from unittest.mock import patch

from appliance.node.conntrackd import Conntrackd, Request
from appliance.render import sysctl
from appliance.render.site import render
from appliance.site import load
from appliance.tools import ensure
from tests.node import connections
from tests.node.flows import Flow
from tests.node.netns import Lab, Node, ip, laboratory, wait_for
from tests.node.test_pair import active, await_standby, standby, tcp, udp

_ALL_BUT_A_FEW = 0.999
_LIMIT_S = 120.0
_PIECE = 5_000  # connections that are opened at once
_CONNTRACK = Path("/proc/sys/net/netfilter")


@dataclass(frozen=True, slots=True)
class Takeover:
    """One takeover. `commit_ms` from the event to the end of the commit, `all_ms` to the end of
    the bulk to the peer; `probe_ms` and `session_ms` what a client saw (the probe is UDP, and may
    begin anew before the commit); `missing` of the entries; `late` answers of conntrackd;
    `memory_mb` the most that it has used; `load` the machine's.
    """

    commit_ms: float
    all_ms: float
    probe_ms: float
    session_ms: float
    missing: int
    late: int
    memory_mb: float
    load: float


@contextmanager
def room(number: int) -> Iterator[None]:
    """Room for so many connections on each node, in the table that both share with this machine.

    One at a time: what is raised is put back to what it was before.
    """
    paths = [_CONNTRACK / each for each in ("nf_conntrack_max", "nf_conntrack_buckets")]
    before = {path: path.read_text() for path in paths if int(path.read_text()) < 2 * number}
    try:
        for path in before:
            path.write_text(str(2 * number))
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)


@contextmanager
def pair(number: int) -> Iterator[Lab]:
    """Both nodes, with room for so many connections, and that many on the active one."""
    largest = max(sysctl.CONNECTIONS, number)
    with (
        room(number),
        patch.object(sysctl, "CONNECTIONS", largest),
        tempfile.TemporaryDirectory() as folder,
        laboratory(
            Path(folder), ensure(), render(load(Path(__file__).with_name("site.yaml")))
        ) as lab,
    ):
        lab.boot()
        wait_for("one active node", lambda: len(lab.active()) == 1)
        await_standby(standby(lab))
        fill(active(lab), number)
        yield lab


def fill(node: Node, number: int) -> None:
    """Open the connections, no faster than conntrackd takes them in."""
    messages = connections.messages(number)
    with connections.writer(node.namespace) as link:
        for first in range(0, number, _PIECE):
            piece = messages[first : first + _PIECE]
            for batch in connections.batches(piece):
                link.send(batch)
            assert connections.refused(link) is None
            await_entries(node, "internal", first + len(piece))


def await_entries(node: Node, cache: str, number: int) -> None:
    """Until conntrackd holds nearly so many in a cache."""
    daemon = Conntrackd(node.folder / "run/conntrackd/control")
    enough = int(number * _ALL_BUT_A_FEW)
    wait_for(
        f"{node.name}: {number} {cache} entries",
        lambda: getattr(daemon.stats(), cache) >= enough,
        _LIMIT_S,
    )


def lose_power(lab: Lab, number: int, session: Flow, probe: Flow) -> Takeover:
    """Kill the active node; the other has its table and says what it cost."""
    dead, heir = active(lab), standby(lab)
    await_entries(heir, "external", number)
    for flow in (session, probe):
        flow.mark()
    load = float(Path("/proc/loadavg").read_text().split()[0])
    before = len(_figures(heir))
    assert _entries(heir) < number / 10, "the heir's kernel has the table before the takeover"
    dead.die()
    commit_ms, all_ms = wait_for("takeover", lambda: _figures(heir)[before:], _LIMIT_S)[-1]
    assert session.alive(5), session
    assert probe.alive(1)
    missing = max(0, number - _entries(heir))
    stalls = probe.stall * 1000, session.stall * 1000
    late = _text(heir).count("no answer to")
    memory = conntrackd_memory(heir)
    dead.bury()
    return Takeover(commit_ms, all_ms, *stalls, missing, late, memory, load)


def _entries(node: Node) -> int:
    return int(node.run("conntrack", "-C"))


def _figures(node: Node) -> list[tuple[float, float]]:
    """Of each takeover that the agent has told of: milliseconds to the commit, and to the end."""
    found = re.findall(r"committed in (\S+) ms, announced in (\S+) ms", _text(node))
    return [(float(commit), float(everything)) for commit, everything in found]


def _text(node: Node) -> str:
    return node.log("agent").read_text()


def conntrackd_memory(node: Node) -> float:
    """The most that it has used, in MiB."""
    found = [Path(f"/proc/{pid}/status").read_text() for pid in node.processes()]
    (status,) = (each for each in found if each.startswith("Name:\tconntrackd\n"))
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    return int(peak[1]) / 1024


def rounds(number: int, count: int) -> Iterator[Takeover]:
    """As many losses of power, each of the node that has taken over in the one before."""
    with pair(number) as lab, tcp(lab) as session, udp(lab) as probe:
        assert session.alive(2)
        for left in reversed(range(count)):
            dead = active(lab)
            yield lose_power(lab, number, session, probe)
            if left:
                dead.boot()
                await_standby(dead)
        assert session.broken is None, session


def table(number: int, count: int) -> None:
    """Print a line for each round, and what they come to."""
    names = [each.name for each in fields(Takeover)]
    print(f"{number} connections", *(f"{name:>10}" for name in names), sep="  ", flush=True)
    found = []
    for takeover in rounds(number, count):
        found.append(astuple(takeover))
        _line("", found[-1])
    columns = list(zip(*found, strict=True))
    _line("median", [median(each) for each in columns])
    _line("worst", [max(each) for each in columns])


def costs(number: int, count: int) -> None:
    """Print where the time goes: processor time of the kernel alone, and what conntrackd needs."""
    found: dict[str, list[float]] = {}
    for _ in range(count):
        for words, spent in _kernel(number):
            found.setdefault(words, []).append(spent)
    with pair(number) as lab:
        heir = standby(lab)
        for _ in range(count):
            for words, spent in _conntrackd(heir, number):
                found.setdefault(words, []).append(spent)
    load = Path("/proc/loadavg").read_text().split()[0]
    print(f"{number} connections, load {load}: median and worst, in microseconds for each")
    for words, times in found.items():
        each = (spent / number * 1e6 for spent in (median(times), max(times)))
        print(f"  {words:52}", *(f"{value:8.2f}" for value in each), flush=True)


def _kernel(number: int) -> Iterator[tuple[str, float]]:
    for nat in (False, True):
        messages = connections.messages(number, nat=nat)
        for heard in (False, True):
            for title, pieces in (("batches", connections.batches(messages)), ("singly", messages)):
                words = f"kernel: {'NAT' if nat else 'no NAT'}, {'events' if heard else 'unheard'}"
                yield f"{words}, {title}", kernel(pieces, heard)


def kernel(pieces: Iterable[bytes], heard: bool) -> float:
    """Seconds of processor time to create connections in an empty network namespace."""
    namespace = f"kernel{os.getpid()}"
    ip("netns", "add", namespace)
    try:
        with connections.writer(namespace) as link, connections.listener(namespace) as listener:
            if not heard:
                listener.close()
            ready = list(pieces)
            begin = time.process_time()
            for each in ready:
                link.send(each)
            spent = time.process_time() - begin
            assert connections.refused(link) is None
    finally:
        ip("netns", "delete", namespace)
    return spent


def _conntrackd(heir: Node, number: int) -> Iterator[tuple[str, float]]:
    """What a standby's conntrackd is asked, and the seconds until it has answered."""
    await_entries(heir, "external", number)
    daemon = Conntrackd(heir.folder / "run/conntrackd/control")
    options = ["-C", str(heir.folder / "etc/conntrackd/conntrackd.conf"), "-e"]
    yield "conntrackd: -e, as text", _seconds(lambda: heir.run("conntrackd", *options))
    for words in ("commit", "commit of what the kernel has already"):
        yield f"conntrackd: {words}", _seconds(lambda: daemon.ask(Request.COMMIT, 10 * number))
    heir.run("conntrack", "-F")


def _seconds(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def _line(title: str, values: tuple[float, ...] | list[float]) -> None:
    print(f"{title:20}", *(f"{value:10.1f}" for value in values), sep="  ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", type=int, nargs="+", help="connections in the table")
    parser.add_argument("--runs", type=int, default=5, help="of each kind, for each number")
    parser.add_argument("--costs", action="store_true", help="tell where the time goes instead")
    arguments = parser.parse_args()
    for number in arguments.numbers:
        if arguments.costs:
            costs(number, arguments.runs)
            continue
        begin = time.monotonic()
        table(number, arguments.runs)
        print(f"took {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()

"""The load balancer's figures in docs/figures.md: how soon somebody new is served after a loss of
power, what many services cost, and what a request costs beside plain IPVS.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

from appliance.lab import flows
from appliance.lab.control import Shell
from appliance.lab.faults import put_in_force
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab
from appliance.render.site import KEEPALIVED, render
from appliance.render.tree import FileTree
from appliance.site import load
from vmtests.figures import Figures
from vmtests.installed import CLONE, Installed
from vmtests.observe import moves, settle, until
from vmtests.wanted import on

FILE = CLONE / "vmtests/sites/requests.yaml"
SITE = FILE.read_text()
HOST, VIRTUAL = "public-clients", "203.0.113.10"
FEW, MANY, SERVERS = 10, 1000, 4  # services, and servers of each
FIRST_PORT = 20000  # of the services that are only there
MILLISECONDS = 1000

Rounds = Callable[[int, int], range]

pytestmark = pytest.mark.figures(beside=True)
on_this_site = on(SITE, {"public": 1})


def crowded(count: int) -> str:
    """The site with so many services: the one that is used comes last."""
    head, tail = SITE.split("virtual_services:\n")
    filler = "".join(map(service, range(count - 1)))
    return f"{head}virtual_services:\n{filler}{tail}"


def service(number: int) -> str:
    """One that nobody uses, and whose servers are hardly ever looked at."""
    first = number * SERVERS
    addresses = (f"10.11.{1 + n // 250}.{1 + n % 250}" for n in range(first, first + SERVERS))
    servers = "".join(f"      - {{address: {each}}}\n" for each in addresses)
    return (
        f"  s{number}:\n"
        f"    address: {VIRTUAL}\n"
        f"    ports: [tcp/{FIRST_PORT + number}]\n"
        f"    check: {{tcp: {FIRST_PORT + number}, interval: 3600s}}\n"
        f"    servers:\n{servers}"
    )


def test_many_services_are_rendered(
    installed: Installed, figures: Figures, tmp_path: Path, rounds: Rounds, full: bool
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(crowded(MANY))
    seconds = []
    for number in rounds(2, 5):
        begin = time.monotonic()
        installed.run("check", site)
        installed.run("render", site, "-o", tmp_path / str(number))
        seconds.append(time.monotonic() - begin)
    what = f"{MANY} services with {MANY * SERVERS} servers, checked and rendered"
    rendered = figures.add(what, "s", *seconds, goal="at most 5 s")
    if full:  # on a busy machine it says nothing
        assert rendered.worst <= 5


@on_this_site
@pytest.mark.long
def test_somebody_new_is_served_soon_after_power_loss(
    pair: Lab, figures: Figures, rounds: Rounds
) -> None:
    """A new connection each 20 ms: the longest time without an answer to any of them."""
    gaps = []
    for _ in rounds(2, 6):
        settle(pair)
        with flows.http(pair.hosts[HOST], VIRTUAL, interval=0.02) as visits:
            moves(visits, 50)
            lost, heir = pair.active(), pair.standby()
            lost.kill()
            pair.wait_active(heir)
            moves(visits, 50)
            gaps.append(visits.stop().longest_stall * MILLISECONDS)
    what = "without an answer to a new HTTP request at power loss, adverts each 100 ms"
    assert figures.add(what, "ms", *gaps, goal="at most 700 ms").worst <= 700


@on_this_site
@pytest.mark.long
def test_many_services_are_loaded_and_cost_a_request_little(
    pair: Lab, figures: Figures, rounds: Rounds, tmp_path: Path
) -> None:
    """The same requests through a node with few services and with many, in turn."""
    trees = {count: rendered(count, tmp_path) for count in (FEW, MANY)}
    costs: dict[int, list[float]] = {FEW: [], MANY: []}
    seconds = []
    for _ in rounds(2, 3):
        for count in (FEW, MANY):
            for node in pair.nodes.values():
                calm(pair)
                took = loading(node, trees[count], count)
                seconds += [took] if count == MANY else []
            pair.wait_ready()
            calm(pair, 0.1, CLOCKED)
            costs[count] += [cost(pair) for _ in rounds(2, 3)]
    for node in pair.nodes.values():  # the next test begins as the image does
        put_in_force(node, render(pair.plan)[node.name])
    calm(pair)
    what = f"{MANY} services with {MANY * SERVERS} servers, loaded on a node"
    loaded = figures.add(what, "s", *seconds, goal="at most 10 s")
    ratio = median(costs[MANY]) / median(costs[FEW])
    what = f"processor time of a request through {MANY} services, in that through {FEW} (medians)"
    what += f", without {', '.join(CLOCKED)}"
    dearer = figures.add(what, "", ratio, goal="at most 1.1")
    print({count: [f"{each * 1e6:.0f} us" for each in some] for count, some in costs.items()})
    assert loaded.worst <= 10
    assert dearer.worst <= 1.1


def rendered(count: int, folder: Path) -> FileTree:
    """The files of the site with so many services."""
    file = folder / f"{count}.yaml"
    file.write_text(crowded(count))
    return render(load(file))


def loading(node: Appliance, tree: FileTree, count: int) -> float:
    """Seconds until IPVS has so many services. To list them is work: it is done once the last of
    those that nobody uses is there, which comes after the others.
    """
    begin = time.monotonic()
    files = tree[node.name]
    put_in_force(node, files)
    marks = re.findall(r"^virtual_server fwmark (\d+)", files[KEEPALIVED].content, re.MULTILINE)
    there = f"ipvsadm -Ln -f {marks[-2]}"
    counted = f"[ $(grep -c ^FWM /proc/net/ip_vs) = {count} ]"
    node.succeed(f"until {there} && {counted}; do sleep 0.3; done", timeout=60)
    return time.monotonic() - begin


def calm(pair: Lab, most: float = 0.5, but: Sequence[str] = ()) -> None:
    """What was loaded before is done with, on both nodes: each one's processor has at `most` so
    much of its time to do for anything but these services.
    """
    for node in pair.nodes.values():
        until(lambda node=node: share(node, but) < most, 120, f"{node.name} to be calm")


REQUESTS = 2000

# What they do comes by the clock, and with many services it is much.
CLOCKED = ("appliance-agent", "keepalived", "systemd-journald")


def cost(pair: Lab) -> float:
    """Processor seconds of the active node for a request, less what it does anyway."""
    node = pair.active()
    idle = share(node, CLOCKED)
    before, begin = busy(node, CLOCKED), time.monotonic()
    ask(pair)
    return (busy(node, CLOCKED) - before - idle * (time.monotonic() - begin)) / REQUESTS


def share(node: Shell, but: Sequence[str] = ()) -> float:
    """How much of a processor works for what it does anyway."""
    before, begin = busy(node, but), time.monotonic()
    node.succeed("sleep 5")
    return (busy(node, but) - before) / (time.monotonic() - begin)


def busy(node: Shell, but: Sequence[str] = ()) -> float:
    """Seconds that its processors have worked for anything (proc_stat(5), the first line) but these
    services (cgroup v2, cpu.stat).
    """
    theirs = [f"/sys/fs/cgroup/system.slice/{each}.service/cpu.stat" for each in but]
    told = node.succeed(["grep", "-hE", "^(cpu|usage_usec) ", "/proc/stat", *theirs])
    (_, user, nice, system, _, _, irq, softirq, *_), *used = map(str.split, told.splitlines())
    ticks = sum(map(int, (user, nice, system, irq, softirq)))
    return ticks / 100 - sum(int(usec) for _, usec in used) / 1e6


def ask(pair: Lab) -> float:
    """Requests a second, over a new connection each; AssertionError if one fails."""
    command = ["ab", "-q", "-n", str(REQUESTS), "-c", "8", f"http://{VIRTUAL}/"]
    told = pair.hosts[HOST].succeed(command, timeout=300)
    assert re.search(r"^Failed requests: +0$", told, re.MULTILINE), told
    (rate,) = re.findall(r"^Requests per second: +([0-9.]+)", told, re.MULTILINE)
    return float(rate)


@on_this_site
@pytest.mark.long
def test_requests_beside_plain_ipvs(pair: Lab, figures: Figures, rounds: Rounds) -> None:
    """The same node with nothing but IPVS, set up by ipvsadm: no firewall, no state, no peer."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in rounds(1, 2):
        settle(pair)
        rates[False] += [ask(pair) for _ in rounds(2, 3)]
        with plain(pair):
            rates[True] += [ask(pair) for _ in rounds(2, 3)]
    print({"plain" if bare else "ours": some for bare, some in rates.items()})
    what = "requests a second through plain IPVS, in those through the pair (medians)"
    ratio = figures.add(what, "", median(rates[True]) / median(rates[False]), goal="at most 1.25")
    assert ratio.worst <= 1.25


@contextmanager
def plain(pair: Lab) -> Iterator[None]:
    """The active node bare, the other one without power; afterwards both begin anew."""
    node = pair.active()
    pair.standby().kill()
    node.succeed(PLAIN)
    yield
    node.kill()


PLAIN = f"""\
set -e
systemctl stop appliance-agent appliance-expectations keepalived conntrackd
nft flush ruleset
sysctl -qw net.ipv4.vs.conntrack=0
ip addr replace {VIRTUAL}/24 dev enp0s3
ip addr replace 10.11.0.1/16 dev enp0s4
ipvsadm -C
ipvsadm -A -t {VIRTUAL}:80 -s mh
ipvsadm -a -t {VIRTUAL}:80 -r 10.11.0.31:80 -m
ipvsadm -a -t {VIRTUAL}:80 -r 10.11.0.32:80 -m
"""

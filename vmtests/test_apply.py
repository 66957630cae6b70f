"""A changed site on a pair that runs: no session is lost by it, it locks nobody out for good, and
whenever the power is cut a node has the old site or the new one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.lab import load, ssh
from appliance.lab.drill import Watch
from appliance.lab.load import Kind, Mode
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab
from appliance.site import load as read
from vmtests.figures import Figures
from vmtests.observe import until
from vmtests.operator import HEALTHY_WITHIN, Operator
from vmtests.test_pair import keepalived

RULE = "    - {from: inside, to: outside, service: icmp}\n"
SNAT = load.Path("snat", "inside", "outside", ip_address("192.168.1.3"))
CELLS = (
    *load.cells((SNAT,), (Kind.SSH, Kind.SSH_IDLE, Kind.UDP, Kind.FTP_IDLE)),
    *load.cells((SNAT,), (Kind.DOWNLOAD, Kind.NEXT, Kind.HELD), (Mode.PORT,)),
)
FAR = "10.9.0.0/24"
SHORT = 20  # seconds on trial, where the trial is to fail
LATE_S = 60.0  # what an emulated node with other work may take to go back, beyond its time


@pytest.fixture
def text(operator: Operator) -> Iterator[str]:
    """The site as the image has it, and as the nodes have it again afterwards."""
    text = operator.site.read_text()
    yield text
    operator.site.write_text(text)
    if digests(operator) != {read(operator.site).digest}:
        operator.apply()


def with_rule(text: str, port: int) -> str:
    """The site with one rule more."""
    assert RULE in text
    return text.replace(RULE, RULE + RULE.replace("icmp", f"tcp/{port}").replace("outside", "self"))


def with_route(text: str) -> str:
    """The site with a route more, on a card that has a virtual address."""
    interface = "    interface: enp0s3\n"
    route = f"    routes: [{{to: {FAR}, via: 192.168.0.3}}]\n"
    assert interface in text
    return text.replace(interface, interface + route)


def routed(pair: Lab) -> list[bool]:
    """Which of the nodes have that route."""
    return [bool(node.succeed(f"ip route show {FAR}").strip()) for node in pair.nodes.values()]


def rules(node: Appliance, port: int) -> int:
    """How many rules of the kernel name this port."""
    return node.succeed("nft list table inet appliance").count(f"tcp dport {port} ")


def site_of(node: Appliance) -> str:
    """The digest of the site file in force."""
    return node.succeed(
        'sed -n \'s/.*"digest": "\\(.*\\)".*/\\1/p\' /etc/appliance/node.json'
    ).strip()


def digests(operator: Operator) -> set[str]:
    """What `appliance status` says of both."""
    return {str(node["digest"]) for node in operator.status()["nodes"].values()}


def test_no_session_and_no_role_is_lost_by_a_changed_rule(
    pair: Lab, operator: Operator, text: str, probe: float
) -> None:
    before, watch = keepalived(pair), Watch.begin(pair)
    with load.start(pair, CELLS, interval=probe) as traffic:
        traffic.moves(30)
        operator.site.write_text(with_route(with_rule(text, 9991)))
        begin = time.monotonic()
        print(operator.apply())
        took = time.monotonic() - begin
        traffic.moves(30)
        reports = traffic.stop()
    probes = [report for cell, report in reports.items() if cell.kind is Kind.UDP]
    print(f"apply took {took:.1f} s; longest stall {max(p.longest_stall for p in probes):.3f} s")
    assert not [str(cell) for cell, report in reports.items() if not report.survived]
    assert keepalived(pair) == before
    assert watch.takeovers() == 0
    assert [rules(node, 9991) for node in pair.nodes.values()] == [1, 1]
    assert routed(pair) == [True, True]
    until(lambda: not operator.problems(), HEALTHY_WITHIN, "a healthy pair")
    assert digests(operator) == {read(operator.site).digest}
    operator.site.write_text(with_rule(text, 9991))
    operator.apply()
    assert routed(pair) == [False, False]
    assert watch.takeovers() == 0


@pytest.mark.long
@pytest.mark.figures
def test_how_long_a_changed_rule_takes(
    operator: Operator,
    text: str,
    figures: Figures,
) -> None:
    """From the operator's command to its end: checked, in force and kept on both."""
    took = []
    for number in range(5):
        operator.site.write_text(with_rule(text, 9000 + number))
        begin = time.monotonic()
        operator.apply()
        took.append(time.monotonic() - begin)
    figure = figures.add("a changed rule applied to a pair", "s", *took, goal="at most 10 s")
    assert figure.worst <= 10


def test_power_that_is_cut_in_the_middle_leaves_the_old_site_and_a_kept_one_outlives_it(
    pair: Lab, operator: Operator, text: str
) -> None:
    operator.site.write_text(with_rule(text, 9992))
    operator.apply()
    kept, lost = read(operator.site).digest, pair.standby()
    operator.site.write_text(with_rule(text, 9993))
    with ThreadPoolExecutor() as pool:
        applying = pool.submit(operator.apply, SHORT, code=1)
        lost.wait_until("grep -qE 'begun|on trial' /run/appliance/apply/trial.json", 60)
        lost.kill()
        lost.start()
        applying.result()
    pair.wait_ready(timeout=300)
    for node in pair.nodes.values():
        assert site_of(node) == kept
        assert (rules(node, 9992), rules(node, 9993)) == (1, 0)
    assert "a site layer over the image's own site" in lost.succeed(
        "journalctl -b -u appliance-layer"
    )
    until(lambda: not operator.problems(), HEALTHY_WITHIN, "a healthy pair")


def test_a_site_that_locks_its_operator_out_is_gone_in_time(
    pair: Lab, operator: Operator, text: str, tmp_path: Path
) -> None:
    """It names another key: nobody who was let in so far comes in again."""
    old = {site_of(node) for node in pair.nodes.values()}
    other = ssh.make_key(tmp_path).with_suffix(".pub").read_text().strip()
    operator.site.write_text(text.replace("keys: []", f'keys: ["{other}"]'))
    with ThreadPoolExecutor() as pool:
        applying = pool.submit(operator.apply, SHORT, code=1)
        hurt = pair.standby()
        hurt.wait_until("grep -q 'on trial' /run/appliance/apply/trial.json", 60)
        begin = time.monotonic()
        hurt.wait_until("grep -q 'rolled back' /run/appliance/apply/trial.json", SHORT + LATE_S)
        print(f"rolled back {time.monotonic() - begin:.1f} s after it was on trial")
        applying.result()
    assert {site_of(node) for node in pair.nodes.values()} == old
    until(lambda: not operator.problems(), HEALTHY_WITHIN, "a healthy pair")

"""`appliance apply`, from the command to the files of routers that are made of files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.node import vault
from appliance.node.probation import State
from tests.node.netns import wait_for
from tests.operate.routers import Pair, pair

Shown = pytest.CaptureFixture[str]
RULE = "    - {from: inside, to: outside, service: icmp}\n"
MORE = RULE + RULE.replace("icmp", "udp")


@pytest.fixture
def site(tmp_path: Path) -> Pair:
    return pair(tmp_path / "net")


def test_a_changed_rule_is_in_force_on_both_and_kept(site: Pair, capsys: Shown) -> None:
    old, new = site.nodes["fw1"].digest(), site.edit(RULE, MORE)
    assert site.call() == 0
    for router in site.nodes.values():
        assert router.digest() == new
        assert (router.folder / "loaded").read_text() == router.text("etc/nftables.conf")
        assert router.log() == ["systemctl reload nftables"]
        assert router.trial().state is State.KEPT
        chosen = router.chosen()
        assert chosen
        assert chosen.over == (old,)
        assert vault.take(chosen.identity, router.root).manifest.digest == new
        assert not _timer(router.folder)
    assert "is in force, and kept" in capsys.readouterr().out
    assert len((site.net / "afresh").read_text().splitlines()) == 2


def _timer(folder: Path) -> bool:
    """Whether the timer still runs."""
    process = Path("/proc", (folder / "timer").read_text().strip(), "cmdline")
    return process.exists() and process.read_text() != ""  # of one that has ended it is empty


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(site: Pair, capsys: Shown) -> None:
    old = site.nodes["fw1"].digest()
    new = site.edit(RULE, MORE)
    assert site.call("--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        line
        for name, role in (("fw2", "BACKUP"), ("fw1", "MASTER"))
        for line in (
            f"{name} ({role}): {old[:12]} -> {new[:12]}",
            "  write /etc/appliance/node.json",
            "  write /etc/nftables.conf",
            "  the ruleset is replaced in one transaction",
        )
    ]
    for router in site.nodes.values():
        assert (router.digest(), router.log(), router.chosen()) == (old, [], None)


def test_only_what_changed_is_sent(site: Pair) -> None:
    site.edit(RULE, MORE)
    assert site.call() == 0
    job = json.loads((site.nodes["fw1"].folder / "job").read_text())
    assert sorted(job["only"]) == ["etc/appliance/node.json", "etc/nftables.conf"]
    assert len(job["files"]) > 10


def test_the_same_site_again_is_nothing_to_do(site: Pair, capsys: Shown) -> None:
    assert site.call() == 0
    assert "is in force already" in capsys.readouterr().out
    assert not site.nodes["fw1"].log()


def test_the_images_own_site_again_leaves_no_layer(site: Pair) -> None:
    text = site.site.read_text()
    site.edit(RULE, MORE)
    assert site.call() == 0
    site.site.write_text(text)
    assert site.call() == 0
    for router in site.nodes.values():
        assert router.chosen() is None
        assert not list((router.root / vault.PLACE).iterdir())


def test_what_a_program_refuses_changes_nothing(site: Pair, capsys: Shown) -> None:
    old = site.nodes["fw1"].digest()
    refused = [["etc/nftables.conf", "nft", "syntax error"]]
    (site.nodes["fw1"].folder / "refused").write_text(json.dumps(refused))
    site.edit(RULE, MORE)
    assert site.call() == 1
    assert "fw1: nft refuses etc/nftables.conf: syntax error" in capsys.readouterr().err
    for router in site.nodes.values():
        assert (router.digest(), router.log()) == (old, [])


def test_a_node_that_is_not_reached_keeps_the_other_as_it_is(site: Pair, capsys: Shown) -> None:
    site.nodes["fw1"].folder.rename(site.net / "gone")
    site.edit(RULE, MORE)
    assert site.call() == 1
    assert "fw1 (192.168.0.1) is not reached" in capsys.readouterr().err
    assert not site.nodes["fw2"].log()


@pytest.mark.parametrize("failing", ["fw1", "fw2"])
def test_a_step_that_fails_on_one_node_leaves_both_as_they_were(
    site: Pair, capsys: Shown, failing: str
) -> None:
    before = {name: router.text("etc/nftables.conf") for name, router in site.nodes.items()}
    old = site.nodes["fw1"].digest()
    site.nodes[failing].fails("reload keepalived")
    site.edit(RULE, MORE)
    site.edit("priority: 150", "priority: 160")
    site.edit("priority: 100", "priority: 90")
    assert site.call() == 1
    said = capsys.readouterr().err
    assert f"{failing}: systemctl reload keepalived: Job failed." in said
    assert "no node has kept the new site" in said
    for name, router in site.nodes.items():
        assert router.digest() == old
        assert router.text("etc/nftables.conf") == before[name]
        assert router.chosen() is None


def test_who_cannot_come_in_any_more_is_locked_out_for_a_while_only(
    site: Pair, capsys: Shown
) -> None:
    """The new rules are in force, and nobody gets through them."""
    old = site.nodes["fw1"].digest()
    for router in site.nodes.values():
        (router.folder / "locked").write_text("udp dport 999")
    site.edit(RULE, RULE + RULE.replace("icmp", "udp/999"))
    begin = time.monotonic()
    assert site.call("--confirm-within", "6s") == 1
    assert 5 < time.monotonic() - begin < 20
    said = capsys.readouterr().err
    assert "Permission denied" in said
    assert "no node has kept the new site" in said
    for router in site.nodes.values():
        assert router.digest() == old
        assert router.trial().state is State.REVERTED
        assert router.log() == ["systemctl reload nftables"] * 2


def test_a_timer_is_exact_and_its_failure_reboots(site: Pair) -> None:
    site.edit(RULE, MORE)
    assert site.call("--confirm-within", "2m") == 0
    options = (site.nodes["fw1"].folder / "timer-options").read_text().splitlines()
    assert "--on-active=120s" in options
    assert "--timer-property=AccuracySec=10ms" in options
    assert "--property=FailureAction=reboot" in options


@pytest.mark.parametrize("text", ["60", "1m", "6.5s"])
def test_times_that_are_understood(site: Pair, text: str) -> None:
    assert site.call("--confirm-within", text) == 0


@pytest.mark.parametrize("text", ["", "soon", "1s", "2h", "-5s"])
def test_times_that_are_not(site: Pair, text: str) -> None:
    assert site.call(f"--confirm-within={text}") == 2


def test_an_operator_who_dies_in_the_middle_leaves_the_pair_as_it_was(site: Pair) -> None:
    old = site.nodes["fw1"].digest()
    (site.nodes["fw2"].folder / "slow").write_text("3")
    site.edit(RULE, MORE)
    command = [sys.executable, "-m", "appliance", "apply", str(site.site)]
    environment = {**os.environ, "APPLIANCE_SSH": str(site.net / "ssh")}
    call = [*command, "--confirm-within", "8s"]
    with subprocess.Popen(call, env=environment, start_new_session=True) as operator:
        wait_for("a change", site.nodes["fw2"].log, 30)
        os.killpg(operator.pid, signal.SIGKILL)
    router = site.nodes["fw2"]
    wait_for("the way back", lambda: router.trial().state is State.REVERTED, 30)
    assert router.digest() == old
    assert (router.folder / "loaded").read_text() == router.text("etc/nftables.conf")
    assert not site.nodes["fw1"].log()


def test_a_change_that_needs_a_reboot_says_so_first(site: Pair, capsys: Shown) -> None:
    tagged = "  guests:\n    vlan: {id: 30, on: inside}\n"
    tagged += "    addresses: {fw1: 10.0.30.1/24, fw2: 10.0.30.2/24}\n"
    text = site.site.read_text()
    site.edit("\nfirewall:", f"{tagged}\nfirewall:")
    for router in site.nodes.values():  # as an image of that site would have it
        (router.folder / "bin/ip").write_text("#!/bin/sh\necho '" + _links() + "'\n")
    assert site.call() == 0
    site.site.write_text(text)
    capsys.readouterr()
    logs = {name: router.log() for name, router in site.nodes.items()}
    assert site.call() == 1
    shown = capsys.readouterr()
    reason = "/etc/systemd/network/10-vlan30.netdev: networkd neither changes nor removes"
    assert f"  NEEDS A REBOOT: {reason}" in shown.out
    assert "this change needs a reboot" in shown.err
    assert logs == {name: router.log() for name, router in site.nodes.items()}


def _links() -> str:
    every = {
        "enp0s3": ("192.168.0.1", "192.168.0.2"),
        "enp0s4": ("192.168.1.1", "192.168.1.2"),
        "enp0s5": ("192.168.3.1", "192.168.3.2"),
        "vlan30": ("10.0.30.1", "10.0.30.2"),
    }
    return json.dumps(
        [
            {"ifname": name, "addr_info": [{"local": each, "prefixlen": 24} for each in addresses]}
            for name, addresses in every.items()
        ]
    )


def test_a_change_that_both_must_agree_upon_has_the_standby_stand_aside(
    site: Pair, capsys: Shown
) -> None:
    site.edit("nodes:\n", "ha: {vrid: 61}\n\nnodes:\n")
    assert site.call() == 0
    assert "fw2 stands aside meanwhile" in capsys.readouterr().out
    standby, active = (site.nodes[name].log() for name in ("fw2", "fw1"))
    assert standby[0] == "systemctl stop keepalived"
    assert standby[-1] == "systemctl start keepalived"
    assert "systemctl reload keepalived" not in standby
    assert "systemctl reload keepalived" in active
    assert "systemctl stop keepalived" not in active


def test_a_pair_that_is_not_well_is_left_alone(site: Pair, capsys: Shown) -> None:
    state = site.nodes["fw2"].root / "run/appliance/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "role": "FAULT"}))
    site.edit(RULE, MORE)
    assert site.call() == 1
    assert "not one active node and its standby: fw1 is MASTER, fw2 is FAULT" in (
        capsys.readouterr().err
    )


def test_another_site_is_refused(site: Pair, capsys: Shown) -> None:
    site.edit("site: testcase", "site: other")
    assert site.call() == 1
    assert "is a node of site testcase, not of other" in capsys.readouterr().err


def test_for_machines(site: Pair, capsys: Shown) -> None:
    new = site.edit(RULE, MORE)
    assert site.call("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["digest"], told["applied"]) == (new, True)
    assert [each["node"] for each in told["work"]] == ["fw2", "fw1"]
    assert told["work"][0]["written"] == ["etc/appliance/node.json", "etc/nftables.conf"]


@pytest.mark.parametrize("where", ["here", "at its peer"])
def test_nothing_is_changed_while_a_node_is_at_an_update(
    site: Pair, capsys: Shown, where: str
) -> None:
    router = site.nodes["fw2"]
    if where == "here":
        (router.root / "run/appliance/busy").write_text("an update\n")
    else:
        state = router.root / "run/appliance/state.json"
        told = json.loads(state.read_text())
        state.write_text(json.dumps({**told, "peer": {**told["peer"], "busy": "an update"}}))
    site.edit(RULE, MORE)
    assert site.call() == 1
    assert "is at an update: one thing at a time" in capsys.readouterr().err
    assert not router.log()


def test_when_only_one_node_could_keep_it_that_is_said_and_once_more_is_enough(
    site: Pair, capsys: Shown
) -> None:
    """The standby, which is the last to keep it, cannot write it down."""
    old, new = site.nodes["fw1"].digest(), site.edit(RULE, MORE)
    in_the_way = site.nodes["fw2"].root / vault.PLACE / "chosen.json"
    in_the_way.mkdir(parents=True)
    assert site.call() == 1
    said = capsys.readouterr().err
    assert "fw1 has kept the new site" in said
    assert "no node has kept" not in said
    assert [router.digest() for router in site.nodes.values()] == [new, old]
    in_the_way.rmdir()
    assert site.call() == 0
    assert [router.digest() for router in site.nodes.values()] == [new, new]
    assert "fw1 (" not in capsys.readouterr().out, "it has nothing to do"

"""A changed site on a pair of real programs: what a client notices, and what VRRP makes of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import ToolError
from appliance.node import layer
from appliance.operate import apply
from appliance.plan.model import Plan
from appliance.remote import Remote
from appliance.render import layers
from appliance.render.site import render
from appliance.site import load
from tests.node.flows import tcp
from tests.node.netns import CLONE, LIMITS, Lab, Node, active, standby, wait_for

SITE = Path(__file__).with_name("site.yaml")
RULE = "    - {from: inside, to: outside, service: icmp}\n"
NUMBERS = "nodes:\n"
OTHERS = "ha: {vrid: 61}\n\nnodes:\n"
VIRTUAL = "virtual: [192.168.1.100/24]"
TWO = "virtual: [192.168.1.100/24, 192.168.1.101/24]"

# What stands for systemd: the programs are started and ended as `Node` does it.
PROGRAM = """#!/bin/sh
exec env PYTHONPATH={clone} python3 -m appliance.node.apply --root {folder} "$@"
"""
SYSTEMCTL = """#!/bin/sh
echo "$*" >>{folder}/systemctl.log
stop() {{ pid=$(cat {folder}/pids/"$1"); kill "$pid"
  while grep -q . "/proc/$pid/cmdline"; do :; done; }}
start() {{ name=$1; shift; setsid "$@" >>{folder}/"$name".log 2>&1 </dev/null &
  echo $! >{folder}/pids/"$name"; }}
python() {{ start "$1" env PYTHONPATH={clone} python3 -m appliance.node."$1" {agent}; }}
keepalived() {{ start keepalived {limits} {folder}/keepalived --dont-fork --log-console --vrrp \\
  -f {folder}/etc/keepalived/keepalived.conf; }}
case "$*" in
  is-active*) shift; for unit; do echo active; done;;
  "reload nftables") exec nft -f {folder}/etc/nftables.conf;;
  "reload keepalived") kill -HUP "$(cat {folder}/pids/keepalived)";;
  "stop keepalived") stop keepalived;;
  "start keepalived") keepalived;;
  "restart keepalived") stop keepalived; keepalived;;
  "restart appliance-agent") stop agent; python agent;;
  "restart appliance-expectations") stop expectations; python expectations;;
esac 2>/dev/null
"""
SYSTEMD_RUN = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do
  case "$1" in --on-active=*) after=${{1#--on-active=}};; esac
  shift
done
shift
exec >/dev/null 2>&1 </dev/null
setsid sh -c 'sleep "$0"; exec appliance-apply "$@"' "${{after%s}}" "$@" &
"""
SSH = """#!/bin/sh
while [ "$1" != "--" ]; do
  case "$1" in {cases} esac
  shift
done
shift
exec $node "$1"
"""


@pytest.fixture
def changing(pair: Lab) -> Callable[[str, str], tuple[Plan, dict[str, Remote]]]:
    """A changed site, and the way to the nodes; each has the manifest of the site before."""
    plan = load(SITE)
    manifests = layers.manifests(plan, render(plan))
    for node in pair.nodes.values():
        _prepare(node)
        place = node.folder / layer.PATH
        if not place.exists():
            place.write_text(manifests[node.name].text)
    return lambda old, new: (_edited(pair.folder, old, new), _remotes(pair))


def _prepare(node: Node) -> None:
    for name in ("programs", "pids"):
        (node.folder / name).mkdir(exist_ok=True)
    for name, program in node.programs.items():
        if not (node.folder / "pids" / name).exists():
            (node.folder / "pids" / name).write_text(f"{program.pid}\n")
    agent = node.folder / "etc/appliance/agent.json"
    words = {"folder": node.folder, "clone": CLONE, "agent": agent}
    words["limits"] = " ".join(LIMITS)
    texts = {"appliance-apply": PROGRAM, "systemctl": SYSTEMCTL, "systemd-run": SYSTEMD_RUN}
    for name, text in texts.items():
        (node.folder / "programs" / name).write_text(text.format(**words))
        (node.folder / "programs" / name).chmod(0o755)


def _edited(folder: Path, old: str, new: str) -> Plan:
    text = SITE.read_text()
    assert old in text
    (folder / "site.yaml").write_text(text.replace(old, new, 1))
    return load(folder / "site.yaml")


def _remotes(lab: Lab) -> dict[str, Remote]:
    cases, plan = [], load(SITE)
    for node in lab.nodes.values():
        path = f"PATH={node.folder / 'programs'}:/usr/sbin:/usr/bin"
        words = shlex.join(node.command("env", path, "sh", "-c"))
        script = node.folder / "enter"
        script.write_text(f'#!/bin/sh\nexec {words} "$1"\n')
        script.chmod(0o755)
        own = plan.networks["inside"].own(node.name, 4)
        assert own
        cases.append(f"root@{own.ip}) node={script};;")
    ssh = lab.folder / "ssh"
    ssh.write_text(SSH.format(cases=" ".join(cases)))
    ssh.chmod(0o755)
    found = {name: plan.networks["inside"].own(name, 4) for name in lab.nodes}
    return {name: Remote(name, own.ip, (str(ssh),)) for name, own in found.items() if own}


def carry_out(plan: Plan, nodes: dict[str, Remote], within_s: float = 60) -> apply.Proposal:
    with apply.talking(nodes) as talks:
        proposal = apply.propose(plan, render(plan), talks)
        apply.carry_out(proposal, talks, within_s)
    return proposal


def test_a_changed_rule_is_loaded_under_a_session_and_nobody_changes_his_role(
    pair: Lab, changing
) -> None:
    before = {name: node.state()["transitions"] for name, node in pair.nodes.items()}
    with tcp(pair, 7050) as session:
        assert session.alive(2)
        plan, nodes = changing(RULE, RULE + RULE.replace("icmp", "tcp/999"))
        carry_out(plan, nodes)
        assert session.alive(2)
        assert session.broken is None
    for name, node in pair.nodes.items():
        assert node.state()["transitions"] == before[name]
        assert "tcp dport 999" in node.run("nft", "list", "table", "inet", "appliance")
        assert layer.read(node.folder).digest == plan.digest
        wait_for("the agent knows", lambda node=node: node.state()["digest"] == plan.digest)


def test_real_programs_refuse_what_is_wrong_before_anything_changes(pair: Lab, changing) -> None:
    plan, nodes = changing(RULE, RULE + RULE.replace("icmp", "tcp/998"))
    tree = {
        name: {
            path: type(file)(file.content.replace("policy drop;", "policy dorp;"), file.mode)
            for path, file in files.items()
        }
        for name, files in render(plan).items()
    }
    refused = pytest.raises(ToolError, match=r"nft refuses etc/nftables\.conf")
    with apply.talking(nodes) as talks, refused:
        apply.propose(plan, tree, talks)
    assert "dport 998" not in standby(pair).run("nft", "list", "table", "inet", "appliance")


def test_a_new_virtual_address_is_there_without_two_active_nodes(pair: Lab, changing) -> None:
    old, new = active(pair), standby(pair)
    with tcp(pair, 7051) as session:
        assert session.alive(2)
        plan, nodes = changing(VIRTUAL, TWO)
        assert carry_out(plan, nodes).apart
        assert session.alive(2)
        assert session.broken is None
    assert active(pair) is old
    wait_for("the standby", lambda: new.role() == "BACKUP" and new.armed())
    assert "192.168.1.101" in old.run("ip", "address")
    assert "192.168.1.101" not in new.run("ip", "address")


def test_while_only_one_node_has_new_numbers_the_standby_stands_aside(pair: Lab, changing) -> None:
    old, new = active(pair), standby(pair)
    with tcp(pair, 7052) as session:
        assert session.alive(2)
        plan, nodes = changing(NUMBERS, OTHERS)
        assert carry_out(plan, nodes).apart
        assert session.alive(2)
        assert session.broken is None
    assert active(pair) is old
    wait_for("the standby", lambda: new.role() == "BACKUP" and new.armed())
    for node in pair.nodes.values():
        assert not node.state()["both_active"], node.name


def test_without_standing_aside_the_same_change_makes_both_active(
    pair: Lab, changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control, back to the numbers before; and that is found out, and undone."""
    plan, nodes = changing(RULE, RULE + RULE.replace("icmp", "tcp/997"))
    monkeypatch.setattr(apply.Proposal, "apart", property(lambda _: False))
    with apply.talking(nodes) as talks:
        proposal = apply.propose(plan, render(plan), talks)
        assert any(each.apart for each in proposal.work)
        with pytest.raises(ToolError, match=r"fw\d: not well: .+; the old site is back"):
            apply.carry_out(proposal, talks, 60)
    assert {layer.read(node.folder).digest for node in pair.nodes.values()} != {plan.digest}

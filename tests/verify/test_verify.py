"""The real programs accept what is rendered, and say what is wrong with what is broken."""

from __future__ import annotations

import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from appliance import verify as verification
from appliance.errors import ToolError
from appliance.render.site import CONNTRACKD, KEEPALIVED, RULESET, SSHD, SYSLOG
from appliance.render.sshd import KEYS
from appliance.render.tree import File
from appliance.run import run
from appliance.verify import verify
from tests.render import golden

ROOT_KEYS = KEYS / "root"


@pytest.mark.parametrize("name", golden.NAMES)
def test_every_golden_site_is_accepted(name, kit):
    verify(golden.rendered(name), kit)


def test_a_pair_is_checked_in_two_seconds(kit):
    tree = golden.rendered("testcase")
    seconds = []
    for _ in range(3):
        begin = time.monotonic()
        verify(tree, kit)
        seconds.append(time.monotonic() - begin)
    assert min(seconds) < 2, seconds


def broken(path: PurePosixPath, old: str, new: str, site: str = "dual-stack", node: str = "south"):
    """A golden site with one spot in one file of one node changed."""
    tree = golden.rendered(site)
    text = tree[node][path].content
    assert old in text
    spoilt = File(text.replace(old, new, 1))
    return {**tree, node: {**tree[node], path: spoilt}}


REFUSED = [
    pytest.param(RULESET, "jump known", "jump nowhere", "nowhere", id="nft: no such chain"),
    pytest.param(RULESET, "tcp dport 25", "tcp dport 70000", "70000", id="nft: port out of range"),
    pytest.param(RULESET, "policy drop;", "policy dorp;", "dorp", id="nft: word misspelt"),
    pytest.param(RULESET, "hook output", "hook exit", "exit", id="nft: no such hook"),
    pytest.param(
        RULESET, 'type "ftp"', 'type "fpt"', "ftp", id="nft: the kernel has no such helper"
    ),
    pytest.param(KEEPALIVED, "priority 100", "priority 300", "300", id="keepalived: priority"),
    pytest.param(KEEPALIVED, "unicast_ttl", "unicast_tll", "unicast_tll", id="keepalived: keyword"),
    pytest.param(KEEPALIVED, "interface wan0", "interface wan9", "wan9", id="keepalived: no card"),
    pytest.param(
        KEEPALIVED,
        "2001:db8:1::10/64",
        "2001:db8:1::g/64",
        "2001:db8:1::g",
        id="keepalived: address",
    ),
    pytest.param(
        KEEPALIVED, "virtual_router_id 52", "virtual_router_id 0", "0", id="keepalived: VRID"
    ),
    pytest.param(CONNTRACKD, "Mode FTFW", "Mode FTWF", "FTWF", id="conntrackd: mode"),
    pytest.param(
        CONNTRACKD, "Interface sync0", "Interface sync9", "sync9", id="conntrackd: no card"
    ),
    pytest.param(
        CONNTRACKD,
        "_address 2001:db8:ff::2",
        "_address 2001:db8:ff::99",
        "channel",
        id="conntrackd: not our address",
    ),
    pytest.param(
        CONNTRACKD, "StartupResync", "StartupRsync", "StartupRsync", id="conntrackd: keyword"
    ),
    pytest.param(
        CONNTRACKD, "Path /run", "Path /run/nowhere", "unix socket", id="conntrackd: control socket"
    ),
    pytest.param(
        SSHD, "PasswordAuthentication no", "PasswordAuthentication nay", "nay", id="sshd: value"
    ),
    pytest.param(SSHD, "AllowUsers", "AllowUser", "AllowUser", id="sshd: keyword"),
    pytest.param(ROOT_KEYS, "AAAAC3", "AAAAC4", "line 1", id="ssh key: damaged"),
]


@pytest.mark.parametrize(("path", "old", "new", "said"), REFUSED)
def test_what_is_broken_is_refused_with_node_file_and_reason(path, old, new, said, kit):
    with pytest.raises(ToolError) as refusal:
        verify(broken(path, old, new), kit)
    first, *rest = refusal.value.what.splitlines()
    assert first.startswith("south: ")
    assert first.endswith(f"refuses {path}:")
    assert said in "\n".join(rest)
    assert "north" not in refusal.value.what


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param('keepAlive="on"', 'keepalife="on"', "keepalife", id="keyword"),
        pytest.param('load="imjournal"', 'load="imjurnal"', "imjurnal", id="no such module"),
        pytest.param('ruleset="172', 'ruleset="173', "173.16.0.9-tcp-514", id="no such ruleset"),
        pytest.param('type="omfwd"', 'type="omfwd', "error", id="quotes"),
    ],
)
def test_what_rsyslogd_cannot_read_is_refused(old, new, said, kit):
    with pytest.raises(ToolError) as refusal:
        verify(broken(SYSLOG, old, new, "edge", "edge2"), kit)
    first, *rest = refusal.value.what.splitlines()
    assert first == f"edge2: rsyslogd -N1 refuses {SYSLOG}:"
    assert said in "\n".join(rest)


def test_both_readers_of_a_ruleset_are_asked(kit):
    with pytest.raises(ToolError) as refusal:
        verify(broken(RULESET, "jump known", "jump nowhere"), kit)
    assert "south: libnftables refuses" in refusal.value.what
    assert "south: nft refuses" in refusal.value.what


def test_a_broken_checker_is_no_verdict(kit, monkeypatch):
    monkeypatch.setattr(verification, "_ASK_LIBRARY", "import sys; sys.exit('no library')")
    with pytest.raises(ToolError, match="cannot be asked"):
        verify(golden.rendered("lone"), kit)


def test_who_is_root_in_a_user_namespace_only_can_check_as_well():
    script = (
        "from appliance import tools; from appliance.verify import verify;"
        "from tests.render import golden; verify(golden.rendered('testcase'), tools.ensure())"
    )
    run(["unshare", "--map-root-user", "--mount", sys.executable, "-c", script], cwd=CLONE)


CLONE = Path(__file__).parents[2]
CLOSED = CLONE / "overlays/common/usr/lib/appliance/closed.nft"


def test_the_closed_ruleset_loads_over_the_open_one_and_the_other_way_round(kit):
    tree = golden.rendered("lone")
    both = CLOSED.read_text() + tree["gate"][RULESET].content + CLOSED.read_text()
    verify({"gate": {**tree["gate"], RULESET: File(both)}}, kit)

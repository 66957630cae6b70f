"""The door to the nodes."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.errors import ToolError
from appliance.remote import Remote, UnreachableError, remotes
from appliance.site import load
from tests.operate.ssh import EXAMPLES, Site

# Prints its arguments and its input: what ssh would be given.
ECHO = """#!/bin/sh
for each; do printf '%s\\n' "$each"; done
cat
"""


@pytest.fixture
def echo(tmp_path: Path) -> str:
    (tmp_path / "ssh").write_text(ECHO)
    (tmp_path / "ssh").chmod(0o755)
    return str(tmp_path / "ssh")


def test_ssh_is_called_so_that_it_never_asks_and_never_waits_for_ever(echo: str) -> None:
    node = Remote("fw1", ip_address("2001:db8::1"), (echo, "-F", "my file"))
    words = node.run("cat", "a b", stdin="input").stdout.splitlines()
    assert words[:2] == ["-F", "my file"]
    assert {"BatchMode=yes", "ConnectTimeout=10"} <= set(words)
    assert words[-4:] == ["root@2001:db8::1", "--", "cat 'a b'", "input"]


def node(site: Site, name: str = "fw1") -> Remote:
    plan = load(EXAMPLES / "testcase.yaml")
    return remotes(plan, str(site.net / "ssh"))[name]


def test_a_command_that_fails_there_says_so_in_its_own_words(site: Site) -> None:
    with pytest.raises(ToolError, match=r"fw1: nonsense: sh: 1: nonsense: not found") as failed:
        node(site).run("nonsense")
    assert not isinstance(failed.value, UnreachableError)


def test_a_node_that_is_not_there(site: Site) -> None:
    site.gone("fw1")
    with pytest.raises(UnreachableError, match=r"fw1 \(192.168.0.1\) is not reached: .*No route"):
        node(site).run("true")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("root@192.168.0.1: Permission denied (publickey).", "management.ssh.keys"),
        ("Host key verification failed.", "ssh root@192.168.0.1"),
    ],
)
def test_what_can_be_done_about_it_is_said(site: Site, words: str, hint: str) -> None:
    (site.net / "192.168.0.1/refuses").write_text(words)
    with pytest.raises(UnreachableError) as failed:
        node(site).run("true")
    assert words in failed.value.what
    assert hint in (failed.value.hint or "")


def test_an_answer_that_is_none(site: Site) -> None:
    site.answer("fw1", "appliance-status --json", "oops")
    with pytest.raises(ToolError, match="fw1: appliance-status: exit code 0, and no answer"):
        node(site).ask("appliance-status", "--json")


def test_a_command_that_takes_too_long(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "ssh").chmod(0o755)
    slow = Remote("fw1", ip_address("192.168.0.1"), (str(tmp_path / "ssh"),))
    with pytest.raises(ToolError, match=r"no answer within 0.2 s"):
        slow.run("true", timeout=0.2)


def test_a_program_that_is_missing() -> None:
    with pytest.raises(ToolError, match="program not found"):
        Remote("fw1", ip_address("192.168.0.1"), ("/no/such/ssh",)).run("true")


def test_nodes_are_reached_on_the_first_network_or_another_that_ssh_is_open_on() -> None:
    plan = load(EXAMPLES / "testcase.yaml")
    by_default = {name: str(each.address) for name, each in remotes(plan, "ssh").items()}
    assert by_default == {"fw1": "192.168.0.1", "fw2": "192.168.0.2"}
    by_sync = {name: str(each.address) for name, each in remotes(plan, "ssh", "sync").items()}
    assert by_sync == {"fw1": "192.168.3.1", "fw2": "192.168.3.2"}
    with pytest.raises(ToolError, match="SSH is not open on network 'outside'"):
        remotes(plan, "ssh", "outside")


def test_a_site_that_opens_ssh_nowhere(tmp_path: Path) -> None:
    text = (EXAMPLES / "testcase.yaml").read_text()
    closed = tmp_path / "closed.yaml"
    closed.write_text(text.replace("ssh: {from: [inside, sync], keys: []}", "ssh:"))
    with pytest.raises(ToolError, match="opens SSH on no network"):
        remotes(load(closed), "ssh")

"""A program on a node that is asked in several steps, with a command in the place of ssh."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.conversation import Conversation, conversing
from appliance.errors import ToolError
from appliance.remote import Remote, UnreachableError

# The last argument is what would run on the node.
SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "exec $last"\n'
ECHO = 'while read -r line; do echo "$line"; done'


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    return Remote("fw1", ip_address("192.0.2.1"), (str(ssh),))


def ask(remote: Remote, script: str, timeout: float = 10) -> object:
    with conversing({"fw1": remote}, "sh", "-c", script) as talks:
        return talks["fw1"].ask({"a": 1}, timeout)


def test_each_line_is_answered_by_the_same_program(remote: Remote) -> None:
    with conversing({"fw1": remote}, "sh", "-c", ECHO) as talks:
        assert isinstance(talks["fw1"], Conversation)
        assert [talks["fw1"].ask({"n": n}, 10) for n in range(3)] == [{"n": n} for n in range(3)]


def test_a_node_that_is_not_reached(remote: Remote) -> None:
    refused = "echo 'root@192.0.2.1: Permission denied (publickey).' >&2; exit 255"
    with pytest.raises(UnreachableError, match="Permission denied") as error:
        ask(remote, refused)
    assert error.value.hint == "the site's management.ssh.keys must hold your public key"


def test_a_program_that_dies_before_it_answers(remote: Remote) -> None:
    with pytest.raises(ToolError, match="fw1: ssh: its last word"):
        ask(remote, "echo its last word >&2; exit 3")


def test_a_program_that_does_not_answer_in_time(remote: Remote) -> None:
    with pytest.raises(ToolError, match=r"fw1: no answer within 0\.3 s"):
        ask(remote, "exec sleep 60", 0.3)


def test_half_an_answer_is_none(remote: Remote) -> None:
    with pytest.raises(ToolError, match="fw1: ssh: exit code 0"):
        ask(remote, "read -r line; printf '{\"a\"'")

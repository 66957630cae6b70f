"""appliance-sessions on a node: what conntrackd's words mean, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.node import sessions
from appliance.node.sessions import held, key
from tests.operate.nodes import router, state

# As conntrackd 1.4.8 prints its external cache.
DUMP = """\
udp      17 src=192.168.0.3 dst=192.168.1.3 sport=38602 dport=7001 [ASSURED] [active since 2s]
tcp      6 ESTABLISHED src=2001:db8::3 dst=2001:db8:1::3 sport=42384 dport=21 [ASSURED] helper=ftp
sctp     132 COOKIE_ECHOED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 mark=0
tcp      6 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=5 dport=6 [UNREPLIED] src=10.0.0.2 dst=10.9.9.9
"""


def test_what_is_held_is_named_by_protocol_and_original_direction() -> None:
    assert list(held(DUMP)) == [
        "17 192.168.0.3 38602 192.168.1.3 7001",
        "6 2001:db8::3 42384 2001:db8:1::3 21",
        "132 10.0.0.1 1 10.0.0.2 2",
        "6 10.0.0.1 5 10.0.0.2 6",
    ]
    assert key(6, ["2001:db8::3", 42384, "2001:db8:1::3", 21]) == list(held(DUMP))[1]


def test_an_empty_cache() -> None:
    assert list(held("")) == []


def test_a_conntrackd_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = router(tmp_path / "root", state())
    assert sessions.main(["--held", "--root", str(root)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("appliance-sessions: conntrackd: STATS: No such file")


def test_a_node_without_a_peer_holds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sessions.main(["--held", "--root", str(tmp_path)]) == 1
    assert "agent.json" in capsys.readouterr().err


def test_the_document_is_valid_however_many_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = router(tmp_path / "root", state())
    for count in (0, 1, 3):
        items = [{"number": each} for each in range(count)]
        monkeypatch.setattr(sessions.flows, "flows", lambda items=items: iter(items))
        assert sessions.main(["--root", str(root)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["node"], told["role"], told["items"]) == ("fw1", "MASTER", items)
        assert told["expectations"]["peer"] is True

"""What an operator is told, against the real kernel, keepalived, conntrackd and nft."""

from __future__ import annotations

import json
import socket
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from appliance.node import status
from appliance.node.metrics import exposition
from appliance.node.sessions import key
from appliance.operate.sessions import Session, Standby, judge, through
from appliance.render import addresses
from appliance.site import load
from tests.node.flows import Flow, tcp
from tests.node.netns import CLONE, Lab, Node, active, standby, wait_for
from tests.node.test_two_links import SITE

OURS = frozenset(map(str, addresses.real(load(SITE))))
COLLECT = "import json, pathlib, sys; from appliance.node import collect; "
COLLECT += "print(json.dumps(collect.collect(pathlib.Path(sys.argv[1]))))"


def told(node: Node, *argv: str) -> dict[str, Any]:
    """What a program of the node prints."""
    python = ("env", f"PYTHONPATH={CLONE}", "python3")
    result: dict[str, Any] = json.loads(node.run(*python, *argv))
    return result


def sessions(node: Node, *options: str) -> dict[str, Any]:
    return told(node, "-m", "appliance.node.sessions", "--root", str(node.folder), *options)


def verdicts(lab: Lab) -> dict[int, Session]:
    """Each connection through the pair, by its server's port."""
    answer = sessions(active(lab))
    held = Standby(frozenset(sessions(standby(lab), "--held")["items"]))
    here = frozenset(answer["addresses"])
    flows = through(answer["items"], OURS)
    judged = [judge(flow, held, here=here, excluded=OURS) for flow in flows]
    return {each.flow["original"][3]: each for each in judged}


def test_what_the_standby_holds_would_survive_and_what_it_was_not_told_would_not(
    pair: Lab,
) -> None:
    with tcp(pair, 7030) as session, Flow(pair, socket.SOCK_DGRAM, 7031, every=0.01):
        assert session.alive(3)
        wait_for("the standby's copy", lambda: len(sessions(standby(pair), "--held")["items"]) >= 2)
        found = verdicts(pair)
        assert (found[7030].survives, found[7031].survives) == (True, True)
        assert found[7030].flow["state"] == "ESTABLISHED"
        assert found[7030].flow["original"][::2] == ["192.168.0.3", "192.168.1.3"]
        assert found[7030].flow["reply"][::2] == ["192.168.1.3", "192.168.1.100"]
        for name in pair.nodes:
            pair.plug(name, "sync", "down")
        with tcp(pair, 7032) as fresh:
            assert fresh.alive(3)
            found = verdicts(pair)
        for name in pair.nodes:
            pair.plug(name, "sync", "up")
    assert found[7030].survives
    assert (found[7032].survives, found[7032].reason) == (False, "not in the standby's cache")


def test_a_half_open_connection_is_not_counted_on(pair: Lab) -> None:
    """Nobody lives there: the opening segment is sent, and never answered."""
    with pair.socket("client", socket.SOCK_STREAM) as client:
        client.setblocking(False)
        client.connect_ex(("192.168.1.99", 7033))
        found = wait_for("its entry", lambda: verdicts(pair).get(7033))
    assert (found.survives, found.reason) == (False, "not established yet (SYN_SENT)")


def test_keys_are_the_same_from_the_kernel_and_from_conntrackd(pair: Lab) -> None:
    with tcp(pair, 7034) as session:
        assert session.alive(3)
        (ours,) = [
            key(each["number"], each["original"])
            for each in sessions(active(pair))["items"]
            if each["original"][3] == 7034
        ]
        wait_for("the copy", lambda: ours in sessions(standby(pair), "--held")["items"])


def test_a_handover_tells_its_gap_by_one_clock(pair: Lab) -> None:
    giver, taker = active(pair), standby(pair)
    done = json.loads(giver.hand_over("--json").stdout)
    wait_for("the other to be active", lambda: taker.role() == "MASTER")
    assert done["handed_over"]
    assert 0 < done["released_ms"] < 5000
    assert -1000 < done["gap_ms"] < 1000
    refused = giver.hand_over("--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["reason"].startswith("this node is not the active one")


def test_the_collector_understands_the_real_programs(pair: Lab) -> None:
    found = told(active(pair), "-c", COLLECT, str(active(pair).folder))
    assert {"invalid", "refused-input"} <= found["firewall"].keys()
    assert found["firewall"]["refused-input"].keys() == {"packets", "bytes"}
    assert found["conntrackd"]["sent"]["packets"] > 0
    assert found["conntrackd"]["received"]["errors"] == 0
    assert found["conntrackd"]["messages"] == {"malformed": 0, "lost": 0}
    assert found["state"]["role"] == "MASTER"


def test_what_the_agents_really_write_becomes_metrics(pair: Lab) -> None:
    """After a takeover, when there is most to tell, on both nodes."""
    giver, taker = active(pair), standby(pair)
    assert giver.hand_over().returncode == 0
    wait_for("the other to be active", lambda: taker.role() == "MASTER")
    wait_for("its expectations", lambda: taker.expectations()["takeover"])
    for node, role in ((giver, "backup"), (taker, "master")):
        facts = told(node, "-c", COLLECT, str(node.folder)) | {"versions": {}}
        text = exposition(facts)
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
        roles = [s.labels["role"] for s in samples if s.name == "appliance_role" and s.value]
        assert roles == [role]
        names = {sample.name for sample in samples}
        wanted = {"expectations", "peer_heard", "sync_lag_seconds", "takeover_duration_seconds"}
        assert {f"appliance_{name}" for name in wanted} <= names
        assert f"role          {role.upper()} for" in status.text(facts)

"""What an operator sees of a pair that runs, from outside: the installed command, over real SSH."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from appliance.lab import load
from appliance.lab.control import Shell
from appliance.lab.pair import Lab
from vmtests.observe import moves, typing, until
from vmtests.operator import HEALTHY_WITHIN, Operator

B = "192.168.1.3"
SNAT = load.Path("snat", "inside", "outside", ip_address(B))
HELD = load.Cell(load.Kind.HELD, SNAT, load.Mode.PORT)


def verdicts(operator: Operator, port: int = 22) -> dict[int, tuple[bool, str | None]]:
    """Of each session to this port of B: whether it would survive, by its client's port."""
    told = json.loads(operator.run("sessions", "--will-survive", "--json"))
    return {
        each["original"][1]: (each["survives"], each["reason"])
        for each in told["sessions"]
        if each["original"][2:] == [B, port] and each["survives"] is not None
    }


def test_status_tells_roles_and_what_is_wrong(pair: Lab, operator: Operator) -> None:
    told = operator.status()
    roles = {name: node["state"]["role"] for name, node in told["nodes"].items()}
    assert roles == {pair.active().name: "MASTER", pair.standby().name: "BACKUP"}
    hurt = pair.standby()
    hurt.succeed("systemctl stop conntrackd")
    try:
        assert f"{hurt.name}: conntrackd.service is inactive" in operator.problems()
    finally:
        hurt.succeed("systemctl start conntrackd")
    until(lambda: not operator.problems(), HEALTHY_WITHIN, "a healthy pair")


def test_a_handover_keeps_the_session(pair: Lab, operator: Operator) -> None:
    with typing(pair) as session:
        giver, taker = pair.active(), pair.standby()
        done = json.loads(operator.run("handover", "--to", taker.name, "--json"))
        assert (done["giver"], done["taker"]) == (giver.name, taker.name)
        assert done["gap_ms"] is not None
        print(done)
        assert pair.active() is taker
        moves(session)
        again = operator.run("handover", "--to", taker.name)
        assert again == f"{taker.name} is active already: nothing to do\n"
        assert session.stop().survived


def test_sessions_tells_what_would_survive(pair: Lab, operator: Operator) -> None:
    with typing(pair):
        until(lambda: list(verdicts(operator).values()) == [(True, None)], 30, "a synced session")
        (old,) = verdicts(operator)
        for node in pair.nodes.values():
            pair.link(node.name, "sync").cut()
        with typing(pair):
            seen = verdicts(operator)
    (fresh,) = seen.keys() - {old}
    assert seen[old] == (True, None)
    assert seen[fresh] == (False, "not in the standby's cache")


def test_sessions_knows_what_ftp_awaits(pair: Lab, operator: Operator) -> None:
    """The data connection is agreed upon: it is the two agents that carry this over."""
    hurt = pair.standby()
    with load.start(pair, (HELD,)):
        until(lambda: list(verdicts(operator, 21).values()) == [(True, None)], 30, "a held one")
        hurt.succeed("systemctl stop appliance-expectations")
        lost = "the agents that carry what the helper knows are not at work on both nodes"
        try:
            until(lambda: list(verdicts(operator, 21).values()) == [(False, lost)], 30, lost)
        finally:
            hurt.succeed("systemctl start appliance-expectations")
        until(lambda: list(verdicts(operator, 21).values()) == [(True, None)], 60, "held again")


def metrics(host: Shell, address: str) -> str | None:
    """What a host of the lab is given; None when it does not get there."""
    waits = "--connect-timeout 3 --max-time 10"
    done = host.run(f"curl -sS {waits} http://{address}:9100/metrics")
    return done.out if done.code == 0 else None


def test_metrics_are_read_where_they_are_opened_only(pair: Lab, operator: Operator) -> None:
    inside, outside = pair.hosts["inside"], pair.hosts["outside"]
    for name, third in (("fw1", 1), ("fw2", 2)):
        text = metrics(inside, f"192.168.0.{third}")
        assert text is not None
        samples = _samples(text)
        assert samples["appliance_healthy", ()] == 1
        role = (("role", "master"),)
        assert samples["appliance_role", role] == (pair.active().name == name)
        assert samples["appliance_unit_active", (("unit", "appliance-metrics.service"),)] == 1
        assert samples["appliance_conntrack_entries_limit", ()] == 262144
        assert samples["appliance_firewall_packets_total", (("counter", "invalid"),)] >= 0
        assert samples["appliance_conntrackd_sent_packets_total", ()] > 0
        assert metrics(outside, f"192.168.0.{third}") is None
        assert metrics(outside, f"192.168.1.{third}") is None
    assert metrics(inside, "192.168.0.100") is None, "a virtual address is no node's own"


def _samples(text: str) -> dict[tuple[str, Any], float]:
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_what_speaks_to_the_network_has_no_rights(pair: Lab, operator: Operator) -> None:
    for node in pair.nodes.values():
        pid = node.succeed("systemctl show -P MainPID appliance-metrics").strip()
        status = node.succeed(["cat", f"/proc/{pid}/status"])
        told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {told["CapPrm"], told["CapEff"], told["CapBnd"]} == {"0" * 16}
        assert "0" not in told["Uid"].split()
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")


def test_a_node_that_is_not_reached_is_told_of(pair: Lab, operator: Operator) -> None:
    node = pair.standby()
    pair.link(node.name, "inside").cut()
    found = operator.problems()
    assert any(each.startswith(f"{node.name} (") and "not reached" in each for each in found), found

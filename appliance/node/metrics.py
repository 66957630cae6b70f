"""The metrics of a node, in Prometheus's text exposition format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. Each is declared once, with the words
that the scrape and docs/operating.md show; where a fact is missing there is no sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from appliance.node.events import Role
from appliance.node.facts import Facts, at
from appliance.node.metric import Metric, Read, Samples, counter, gauge, one
from appliance.node.service_metrics import SERVICES

# How a metric is read from the facts


def _each(*path: str, under: str | None = None) -> Read:
    """A sample for each key of a mapping, of its value or of what lies `under` it."""

    def read(facts: Facts) -> Samples:
        for key, value in (at(facts, *path) or {}).items():
            number = at(value, under) if under else value
            if number is not None:
                yield (key,), float(number)

    return read


def _some(keys: tuple[str, ...], *path: str) -> Read:
    """A sample for each of these keys of a mapping."""

    def read(facts: Facts) -> Samples:
        values = ((key, at(facts, *path, key)) for key in keys)
        return [((key,), float(value)) for key, value in values if value is not None]

    return read


def _role(*path: str) -> Read:
    """Each role there is, 1 for the one that it is."""

    def read(facts: Facts) -> Samples:
        is_now = at(facts, *path)
        return [((each.lower(),), float(each == is_now)) for each in Role] if is_now else []

    return read


def _transitions(facts: Facts) -> Samples:
    counts = at(facts, "state", "transitions") or {}
    return [((role.lower(),), float(count)) for role, count in counts.items()]


def _units(facts: Facts) -> Samples:
    return [((unit,), float(state == "active")) for unit, state in facts["units"].items()]


def _build(facts: Facts) -> Samples:
    names = ("node", "site", "digest", "version")
    return [(tuple(str(facts[name] or "") for name in names), 1.0)]


def _alarms(facts: Facts) -> Samples:
    return [((name,), 1.0) for name in at(facts, "state", "alarms") or ()]


def _dead(facts: Facts) -> Samples:
    return [((card,), 1.0) for card in at(facts, "state", "dead") or ()]


def _problems(facts: Facts) -> Samples:
    return [((), float(len(facts["problems"])))]


def _gate(facts: Facts) -> Samples:
    state = facts["state"]
    return [((), float(state["gate"] is not None))] if state else []


def _heard(facts: Facts) -> Samples:
    state = facts["state"] or {}
    return [((), float(state["peer"] is not None))] if "peer" in state else []


def _same_site(facts: Facts) -> Samples:
    theirs = at(facts, "state", "peer", "digest")
    return [((), float(theirs == facts["digest"]))] if theirs else []


def _takeover(facts: Facts) -> Samples:
    ms = at(facts, "state", "takeover", "ms")
    return [] if ms is None else [((), ms / 1000)]


_CACHES = ("internal", "external")
_KEPT = ("here", "held")


METRICS = (
    gauge(
        *("build_info", "Always 1; what this node is made from.", _build),
        *("node", "site", "digest", "version"),
    ),
    gauge("healthy", "Whether appliance-status finds nothing wrong.", one("healthy")),
    gauge("problems", "How many things appliance-status finds wrong.", _problems),
    gauge("unit_active", "Whether what has to run, runs.", _units, "unit"),
    gauge(
        *("unit_memory_bytes", "Memory charged to the unit's control group.", _each("memory")),
        "unit",
    ),
    gauge(
        *("state_age_seconds", "Time since the state agent wrote its state.", one("state_age_s")),
    ),
    gauge("role", "1 for the role that this node has.", _role("state", "role"), "role"),
    gauge("role_seconds", "Time in this role.", one("role_s")),
    counter(
        *("transitions", "Times that the role was entered.", _transitions),
        "role",
    ),
    gauge(
        "takeover_duration_seconds",
        "Of the last takeover: from keepalived's word to the end of the commit.",
        _takeover,
    ),
    gauge(
        "takeover_time_seconds",
        "When the last takeover was, in Unix time.",
        one("state", "takeover", "wall"),
    ),
    gauge("gate_passed", "Whether keepalived was allowed to start.", _gate),
    gauge("gate_duration_seconds", "How long the gate held it.", one("state", "gate", "seconds")),
    counter(
        "repairs",
        "Programs that were ended because they hung.",
        one("state", "repairs"),
    ),
    gauge("alarm", "1 for each alarm that is raised.", _alarms, "alarm"),
    counter(
        "both_active", "Times that both nodes were active.", one("state", "both_active", "times")
    ),
    gauge(
        "both_active_duration_seconds",
        "How long both were active, the last time.",
        one("state", "both_active", "seconds"),
    ),
    gauge("peer_heard", "Whether the peer's agent is heard.", _heard),
    gauge("peer_silence_seconds", "Time since the peer's agent was heard.", one("peer_s")),
    gauge("peer_role", "1 for the role that the peer has.", _role("state", "peer", "role"), "role"),
    gauge("peer_same_site", "Whether the peer is made from the same site file.", _same_site),
    gauge(
        "peer_entries",
        "Connections in the peer's caches: its own (internal), and ours (external).",
        _some(_CACHES, "state", "peer"),
        "cache",
    ),
    gauge(
        "sync_entries",
        "Connections in conntrackd's caches: our own (internal), and the peer's (external).",
        _some(_CACHES, "state", "entries"),
        "cache",
    ),
    gauge(
        "sync_difference_entries",
        "On the standby: connections that it holds of the peer, less those that the peer has.",
        one("state", "sync", "difference"),
    ),
    gauge("sync_lag_seconds", "Age of the peer's last word.", one("state", "sync", "lag_s")),
    gauge(
        "sync_unacknowledged_messages",
        "Messages to the peer that it has not acknowledged.",
        one("state", "sync", "unacknowledged"),
    ),
    counter(
        "peer_words_lost",
        "Words of the peer's agent that never came; it speaks each 0.2 s.",
        one("state", "sync", "lost"),
    ),
    gauge("dead_card", "1 for each network card on which nobody answers.", _dead, "card"),
    counter("conntrackd_sent_bytes", "Sent to the peer.", one("conntrackd", "sent", "bytes")),
    counter("conntrackd_sent_packets", "Sent to the peer.", one("conntrackd", "sent", "packets")),
    counter(
        "conntrackd_send_errors", "Refused by the kernel.", one("conntrackd", "sent", "errors")
    ),
    counter(
        *("conntrackd_received_bytes", "Received from the peer."),
        one("conntrackd", "received", "bytes"),
    ),
    counter(
        *("conntrackd_received_packets", "Received from the peer."),
        one("conntrackd", "received", "packets"),
    ),
    counter(
        *("conntrackd_lost_messages", "Messages of the peer that never came."),
        one("conntrackd", "messages", "lost"),
    ),
    counter(
        *("conntrackd_malformed_messages", "Messages of the peer that were not understood."),
        one("conntrackd", "messages", "malformed"),
    ),
    gauge("conntrack_entries", "Connections in the kernel.", one("conntrack", "entries")),
    gauge("conntrack_entries_limit", "Room for connections.", one("conntrack", "limit")),
    counter(
        "firewall_packets",
        "Packets that one of the ruleset's named counters has seen.",
        _each("firewall", under="packets"),
        "counter",
    ),
    counter(
        "firewall_bytes",
        "Bytes that one of the ruleset's named counters has seen.",
        _each("firewall", under="bytes"),
        "counter",
    ),
    gauge(
        "expectations",
        "Announced data connections: in this kernel (here), and of the peer (held).",
        _some(_KEPT, "expectations"),
        "state",
    ),
    gauge(
        "expectations_unacknowledged",
        "Messages about them that the peer has not acknowledged.",
        one("expectations", "unacknowledged"),
    ),
    counter(
        "connections_announced",
        "Connections announced anew because NAT shifted their stream.",
        one("expectations", "announced"),
    ),
    gauge(
        "expectations_created",
        "Announced data connections made in this kernel at the last takeover.",
        one("expectations", "takeover", "created"),
    ),
    gauge(
        "expectations_failed",
        "Those that the kernel refused then, by its error.",
        _each("expectations", "takeover", "failures"),
        "error",
    ),
    *SERVICES,
)


def exposition(facts: Facts) -> str:
    """The answer to a scrape."""
    return "".join(line + "\n" for metric in METRICS for line in _lines(metric, facts))


def _lines(metric: Metric, facts: Facts) -> Iterator[str]:
    samples = list(metric.read(facts))
    if samples:
        yield f"# HELP {metric.name} {metric.help}"
        yield f"# TYPE {metric.name} {metric.kind}"
    for values, number in samples:
        labels = dict(zip(metric.labels, values, strict=True))
        yield f"{metric.name}{_labels(labels)} {number!r}"


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

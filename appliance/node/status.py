"""How this node is: `appliance-status`, for people, and with `--json` for machines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.node import facts as known
from appliance.node import images, served, trial
from appliance.node.facts import Facts, at
from appliance.node.images import Boot

_HELP = "Say how this node is. Exit code 0: healthy; 1: not, with what is wrong."

_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def span(seconds: float | None) -> str:
    """A time span in its two largest units; a question mark for one that is not known."""
    if seconds is None:
        return "?"
    if seconds < 1:
        return f"{seconds:.1f} s"
    left, words = int(seconds), []
    for size, unit in _STEPS:
        if left >= size:
            words.append(f"{left // size} {unit}")
        left %= size
    return " ".join(words[:2])


def moment(wall: float | None) -> str:
    """A time of the wall clock, in UTC."""
    return "?" if wall is None else datetime.fromtimestamp(wall, UTC).strftime("%F %TZ")


def takeover(facts: Facts) -> str:
    """The last takeover in words."""
    last = at(facts, "state", "takeover")
    if not last:
        return "none since the agent's start"
    return f"{moment(last['wall'])}, committed in {last['ms']:g} ms ({last['why']})"


def both_active(facts: Facts) -> str:
    """When both nodes were active last, and for how long."""
    last = at(facts, "state", "both_active")
    if not last:
        return "never seen"
    times = f"{last['times']} times, " if last["times"] > 1 else ""
    return f"{times}last {moment(last['wall'])} for {last['seconds']:.1f} s"


def entries(facts: Facts) -> str:
    """The connections of both caches, here and at the peer."""
    here, there = at(facts, "state", "entries"), at(facts, "state", "peer")
    words = [f"{each['internal']} own, {each['external']} held" for each in (here,) if each]
    words += [f"at the peer {there['internal']} own, {there['external']} held"] if there else []
    return "; ".join(words) or "?"


def sync(facts: Facts) -> str:
    """How well the two caches keep up with each other."""
    told = at(facts, "state", "sync")
    if not told:
        return "?"
    lag = "never heard" if told["lag_s"] is None else f"heard {told['lag_s']:.1f} s ago"
    left = f"{told['lost']} of its words lost, {told['unacknowledged']} of ours not acknowledged"
    return f"peer {lag}; {left}"


def ipvs(told: dict[str, Any]) -> str:
    """IPVS's tables of the two nodes."""
    if told["connections"] is None:
        return "?"
    words = f"{told['connections']} connections, {told['templates']} templates"
    difference = told["difference"]["connections"]
    more = [] if difference is None else [f"{difference:+} to the peer's"]
    if last := told["replayed"]:
        more.append(f"sent to the peer {moment(last['wall'])} in {last['seconds']:g} s")
    return "; ".join([words, *more])


def _peer(facts: Facts) -> str:
    peer = at(facts, "state", "peer")
    if not peer:
        return "not heard"
    of = f"site file {str(peer.get('digest'))[:12]}, image {peer.get('version')}"
    return f"{peer['node']} is {peer['role']} for {span(peer.get('role_s'))}; {of}"


def _gate(facts: Facts) -> str:
    gate = at(facts, "state", "gate")
    return f"{gate['outcome']} ({gate['seconds']:.1f} s)" if gate else "not passed"


def _counts(counts: dict[str, int] | None) -> str:
    return ", ".join(f"{name} {count}" for name, count in (counts or {}).items()) or "?"


def _expectations(facts: Facts) -> str:
    told = facts["expectations"]
    if not told:
        return "?"
    left = f"{told['unacknowledged']} messages not acknowledged"
    return f"{told['here']} here, {told['held']} held for the peer, {left}"


def _image(root: Path) -> dict[str, Any]:
    """Of this machine, whatever else its files are of."""
    return images.describe(trial.here(root), Path("/proc/cmdline").read_text())


def image(facts: Facts) -> str:
    """The image that runs, its slot, and how the loader sees its boot."""
    told = facts.get("image") or {}
    slot = f" in slot {told['slot']}" if told.get("slot") else ""
    return f"{facts['version'] or '?'}{slot}: {_BOOTS.get(told.get('boot', ''), '?')}"


def other_image(facts: Facts) -> str:
    """The image beside it, and what the loader would do with it."""
    other = at(facts, "image", "other")
    if not other:
        return "none"
    left = other["left"]
    words = {None: "good", 0: "has failed"}.get(left, f"not tried yet, {left} tries")
    return f"{other['version']}: {words}"


# In the words of systemd-bless-boot(8), which are made for programs.
_BOOTS = {
    Boot.CLEAN: "good",
    Boot.GOOD: "good",
    Boot.BAD: "has failed",
    Boot.DIRTY: "on its last trial",
    Boot.INDETERMINATE: "on trial",
}


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "image", image(facts)
    yield "other image", other_image(facts)
    if facts["pair"]:
        state = facts["state"] or {}
        since = f"for {span(facts['role_s'])}, since {moment(at(state, 'since', 'wall'))}"
        yield "role", f"{state.get('role', '?')} {since}"
        yield "takeover", takeover(facts)
        yield "connections", entries(facts)
        yield "sync", sync(facts)
        yield "peer", _peer(facts)
        yield "both active", both_active(facts)
        yield "gate", _gate(facts)
        yield "transitions", f"{_counts(state.get('transitions'))}; repairs {state.get('repairs')}"
        yield "dead cards", ", ".join(state.get("dead") or ()) or "none"
        yield "expectations", _expectations(facts)
        if told := at(state, "ipvs"):
            yield "ipvs", ipvs(told)
    yield (
        "units",
        ", ".join(
            f"{name.removesuffix('.service')} {is_now}" for name, is_now in facts["units"].items()
        )
        or "none",
    )
    yield "versions", ", ".join(f"{name} {each}" for name, each in facts["versions"].items())


def text(facts: Facts) -> str:
    """The facts for a person."""
    who = f"{facts['node']} of {facts['site']}"
    made = f"site file {str(facts['digest'])[:12]}, image {facts['version']}"
    lines = [f"{who} ({made}): {'healthy' if facts['healthy'] else 'NOT HEALTHY'}"]
    lines += [f"  problem       {each}" for each in facts["problems"]]
    lines += [f"  {name:<14}{words}" for name, words in _rows(facts)]
    lines += served.text(facts["balancing"])
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="appliance-status", description=_HELP)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    facts = known.gather(arguments.root)
    facts |= {"versions": known.versions(), "image": _image(arguments.root)}
    print(json.dumps(facts, indent=1) if arguments.json else text(facts))
    return 0 if facts["healthy"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a change of a site's files means for a node that runs: which steps put it in force, or why
only a reboot does. Text in, a value out: nothing here looks at a machine.

That keepalived 2.3.3 ignores a changed limit of a real server at a reload, and dies of a sorry
server that comes or goes while it answers, was found out with it; so these are restarts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from appliance.node.blocks import Block, parse
from appliance.node.layer import Manifest

Files = Mapping[str, str]

KEEPALIVED = "etc/keepalived/keepalived.conf"
KEEPALIVED_UNIT = "etc/systemd/system/keepalived.service.d/*.conf"
NETWORKS = "etc/systemd/network/10-*"


class Step(StrEnum):
    """What can be done on a node, in the order in which it is done."""

    UNITS = "systemd reads its units again"
    MODULES = "kernel modules are loaded"
    SETTINGS = "kernel settings are made"
    FIREWALL = "the ruleset is replaced in one transaction"
    NETWORKS = "networkd takes addresses and routes over"
    CONNTRACKD = "conntrackd is restarted, and the agents send each other all connections anew"
    EXPECTATIONS = "what hands FTP's expectations over is restarted"
    AGENT = "the state agent is restarted"
    RELOAD = "keepalived is reloaded"
    RESTART = "keepalived is restarted"
    SSH = "sshd is reloaded; sessions go on"
    METRICS = "what serves the metrics is restarted"
    SYSLOG = "rsyslog is restarted"
    TIME = "timesyncd is restarted"


# What each file is read by. An empty one is read whenever it is needed.
_READERS: Mapping[str, tuple[Step, ...]] = {
    "etc/appliance/agent.json": (Step.EXPECTATIONS, Step.AGENT),
    "etc/appliance/balancing.json": (Step.AGENT,),
    "etc/appliance/checks/*": (),
    "etc/appliance/metrics.json": (Step.METRICS,),
    "etc/appliance/node.json": (),
    "etc/conntrackd/conntrackd.conf": (Step.CONNTRACKD,),
    "etc/hosts": (),
    "etc/modules-load.d/appliance.conf": (Step.MODULES,),
    "etc/nftables.conf": (Step.FIREWALL,),
    "etc/resolv.conf": (),
    "etc/rsyslog.conf": (Step.SYSLOG,),
    "etc/ssh/authorized_keys/root": (),
    "etc/ssh/sshd_config.d/10-appliance.conf": (Step.SSH,),
    "etc/sysctl.d/90-appliance.conf": (Step.SETTINGS,),
    NETWORKS: (Step.NETWORKS,),
    KEEPALIVED_UNIT: (Step.UNITS, Step.RESTART),
    "etc/systemd/timesyncd.conf.d/10-appliance.conf": (Step.TIME,),
}

# What only a boot reads, and why.
_AT_BOOT: Mapping[str, str] = {
    "etc/hostname": "the node's name is taken at the boot",
    "etc/systemd/networkd.conf.d/*": "networkd has to forget what it holds",
    "etc/systemd/network/10-*.netdev": "networkd neither changes nor removes a card that it made",
}

# The same, but nothing is lost by an option that nobody needs any more.
_WHEN_LOADED = "etc/modprobe.d/*"
_OPTIONS = "the kernel takes a module's options when it loads the module"


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a node's files, and what follows from it.

    `written` are new or other than before, `removed` are gone. `reboot` are the reasons why it
    cannot be done on a node that runs. With `apart` the two nodes do not take each other's adverts
    in between, so that one must not stand for election; with `yields` the active node loses its
    role by it.
    """

    written: tuple[str, ...]
    removed: tuple[str, ...]
    steps: tuple[Step, ...]
    reboot: tuple[str, ...] = ()
    apart: bool = False

    @property
    def yields(self) -> bool:
        """Whether an active node would lose its role by it."""
        return Step.RESTART in self.steps and not self.apart

    def as_json(self) -> dict[str, Any]:
        """The form in which a node tells of it."""
        return {**asdict(self), "yields": self.yields}


def unknown(manifest: Manifest) -> list[str]:
    """Files that this image has no reader for: they are of a newer one."""
    known = (*_READERS, *_AT_BOOT, _WHEN_LOADED, KEEPALIVED)
    return [path for path in manifest.files if not any(fnmatchcase(path, each) for each in known)]


def between(old: Manifest, new: Manifest, before: Files, after: Files) -> Change:
    """The way from one site to another. `before` and `after` are the contents of what differs."""
    written = tuple(path for path, each in new.files.items() if old.files.get(path) != each)
    removed = tuple(path for path in old.files if path not in new.files)
    read = [path for path in (*written, *removed) if _meant(before, path) != _meant(after, path)]
    found, apart = _of_keepalived(before.get(KEEPALIVED), after.get(KEEPALIVED))
    steps = {step for path in read for step in _steps(path)} | (
        found if KEEPALIVED in read else set()
    )
    if Step.RESTART in steps:
        steps.discard(Step.RELOAD)
    reasons = dict.fromkeys(why for path in read for why in _reasons(path, before, after))
    ordered = tuple(step for step in Step if step in steps)
    return Change(written, removed, ordered, tuple(reasons), apart)


def _steps(path: str) -> tuple[Step, ...]:
    return next((steps for each, steps in _READERS.items() if fnmatchcase(path, each)), ())


def _reasons(path: str, before: Files, after: Files) -> Iterator[str]:
    """A card or an option that is new is no reason: nobody holds on to an older one."""
    for each, why in _AT_BOOT.items():
        if fnmatchcase(path, each) and path in before:
            yield f"/{path}: {why}"
    if fnmatchcase(path, _WHEN_LOADED) and path in before and path in after:
        yield f"/{path}: {_OPTIONS}"


def _meant(files: Files, path: str) -> list[str] | None:
    """A file without the comments that stand in lines of their own, such as a site file's line
    numbers: what only they change is written, and nobody reads it again.
    """
    text = files.get(path)
    if text is None:
        return None
    if fnmatchcase(path, "etc/appliance/checks/*"):
        return text.splitlines()
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


# keepalived


_MAY_DIFFER = ("priority", "nopreempt", "virtual_ipaddress_excluded")


def _of_keepalived(old: str | None, new: str | None) -> tuple[set[Step], bool]:
    """How keepalived takes its new file, and whether it then ignores an older peer's adverts."""
    if old is None or new is None:
        return {Step.RESTART}, False
    before, after = _sections(old), _sections(new)
    both = before.keys() & after.keys()
    bad = before["global_defs"] != after["global_defs"]
    bad |= any(_not_reloaded(before[head], after[head]) for head in both)
    apart = _voted(before) != _voted(after)
    return {Step.RESTART if bad else Step.RELOAD}, apart


def _sections(text: str) -> dict[str, Block]:
    return {each.head: each for each in parse(text)}


def _not_reloaded(old: Block, new: Block) -> bool:
    """Whether two versions of a section differ in what a reload does not put in force."""
    if not old.head.startswith("virtual_server "):
        return False
    limits = {each.head: each.values("uthreshold") for each in old.blocks("real_server ")}
    changed = any(
        limits.get(each.head, each.values("uthreshold")) != each.values("uthreshold")
        for each in new.blocks("real_server ")
    )
    return changed or old.values("sorry_server") != new.values("sorry_server")


def _voted(sections: Mapping[str, Block]) -> dict[str, Block]:
    """What the two nodes have to agree upon, or they do not take each other's adverts: keepalived
    throws away one with other addresses. Priorities may differ, and what is not advertised.
    """
    return {
        head: each.without(*_MAY_DIFFER)
        for head, each in sections.items()
        if head.startswith(("vrrp_instance ", "vrrp_sync_group "))
    }

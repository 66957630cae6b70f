"""Change the image of this node: `appliance-update`.

systemd-sysupdate writes the slot that does not run, systemd-boot tries it, and health decides.
Every write is in such an order that a loss of power at any moment leaves something that boots: the
other slot's kernel goes first, before what it would start; the new one comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.node import busy, identity, images, payload, statefile, trial
from appliance.node import config as configuration
from appliance.node.events import Role
from appliance.node.identity import Identity
from appliance.node.images import Boot, Image, Images
from appliance.node.payload import Description, Member
from appliance.node.refused import RefusedError
from appliance.node.versions import older

_HELP = "Change the image of this node, and tell of its images."
_SYSUPDATE = "/usr/lib/systemd/systemd-sysupdate"
# Where overlays/common/usr/lib/sysupdate.d looks.
STAGING = Path("/var/lib/appliance/update")
_SPARE = 8 << 20  # bytes that stay free
_LOST = re.compile(r"FSCK\d+\.REC", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Node:
    """This node; the paths are others in tests."""

    me: Identity
    hardware: str
    state: Path | None  # of the agent, in a pair
    virtual: frozenset[str] = frozenset()
    esp: Path | None = None
    staging: Path = STAGING
    keyring: Path = payload.KEYRING
    busy: Path = configuration.BUSY
    last_trial: Path = trial.LAST
    cmdline: str = field(default_factory=lambda: Path("/proc/cmdline").read_text())

    def images(self) -> Images:
        """What it can boot."""
        return images.images(self.me.site, self.me.version, self.esp)

    @contextmanager
    def at(self, what: str, *, forced: bool) -> Iterator[dict[str, Any] | None]:
        """Be at an update, alone on this node and in the pair; the peer's words, if it has one."""
        with busy.alone_at_it(self.busy):
            if self.state is None or forced:
                yield None
                return
            with busy.told(what, self.state, self.busy) as peer:
                yield peer

    def role(self) -> Role | None:
        """In the pair; None of a node without a peer."""
        return None if self.state is None else Role(statefile.read(self.state)["role"])


def this() -> Node:
    """The node that this runs on; RefusedError when it does not know who it is."""
    try:
        me = identity.read()
    except OSError as error:
        raise RefusedError("no site: this machine does not know which node it is") from error
    if not configuration.PATH.is_file():
        return Node(me, identity.hardware(), None)
    config = configuration.parse(configuration.PATH.read_text())
    return Node(me, identity.hardware(), config.state, frozenset(map(str, config.virtual)))


# Taking an image in


def take(
    node: Node, members: Iterator[Member], *, allow_older: bool, dry_run: bool, forced: bool
) -> Description:
    """Write an update into the slot that does not run.

    RefusedError, with everything as it was, when it is not for this node; with `dry_run` nothing
    but that is found out.
    """

    def judge(described: Description) -> None:
        _judge(node, described, allow_older=allow_older)
        if not forced:
            _judge_pair(node, described)

    with node.at(busy.UPDATE, forced=forced or dry_run):
        _refuse_without_fallback()
        folder = payload.emptied(node.staging)
        try:
            described = payload.receive(
                *(members, folder, judge),
                here=lambda described: _here(node, described),
                keyring=node.keyring,
                whole=not dry_run,
            )
            if not dry_run:
                _install(node, described, folder)
        finally:
            payload.emptied(node.staging)
    return described


def _refuse_without_fallback() -> None:
    """What runs is what the loader falls back to."""
    if (now := images.boot_state()) not in (Boot.CLEAN, Boot.GOOD):
        raise RefusedError(f"the image that runs is not known to be good (the loader says {now})")


def _judge(node: Node, described: Description, *, allow_older: bool) -> None:
    """RefusedError with the first reason why this is no update for this node."""
    me = node.me
    if described.site != me.site:
        raise RefusedError(f"wrong site: it is for {described.site}, this node is of {me.site}")
    if described.hardware != node.hardware:
        is_for = f"it is for {described.hardware}, this node has an image for {node.hardware}"
        raise RefusedError(f"wrong hardware: {is_for}")
    if described.version == me.version:
        raise RefusedError(f"version {me.version} runs already")
    if older(described.version, me.version) and not allow_older:
        words = f"older: it is version {described.version}, {me.version} runs"
        raise RefusedError(f"{words} (--allow-older takes it all the same)")
    _judge_size(node, described)


def _judge_pair(node: Node, described: Description) -> None:
    """keepalived does not hear a peer with other addresses: both would be active."""
    if node.state and set(described.virtual) != node.virtual:
        words = (
            "other virtual addresses: old and new could not be a pair while each runs on one node"
        )
        raise RefusedError(f"{words} (--force, on both nodes by hand, is a gap)")


def _judge_size(node: Node, described: Description) -> None:
    slot = next((each for each in images.slots(node.cmdline) if not each.running), None)
    if slot is None:
        raise RefusedError("the disk has no second slot")
    for what, size, room in (
        ("root", described.root, slot.root),
        ("hash tree", described.verity, slot.verity),
    ):
        if size > room:
            raise RefusedError(f"too big: its {what} has {size} bytes, the slot {room}")
    here = node.images()
    room = sum(path.stat().st_size for path in _removable(here))
    _judge_room(here.folder, described.files.get(described.kernel, 0), room)
    _judge_room(node.staging, sum(described.files.values()), 0)


def _judge_room(folder: Path, wanted: int, removable: int) -> None:
    """`removable` are bytes that make room when it is time."""
    told = os.statvfs(folder)
    room = told.f_bavail * told.f_frsize + removable
    if wanted + _SPARE > room:
        raise RefusedError(f"the disk is full: {folder} has room for {room} of {wanted} bytes")


def _here(node: Node, described: Description) -> dict[str, Path]:
    """What of the update is in the slot that runs: all of a slot, if the base is the same."""
    running = next((each for each in images.slots(node.cmdline) if each.running), None)
    if running is None or images.root_hash(node.cmdline) != described.root_hash:
        return {}
    return dict(zip(described.slot, running.devices, strict=True))


def _install(node: Node, described: Description, folder: Path) -> None:
    here = node.images()
    if here.running is None:
        raise RefusedError("the image that runs is not on the boot partition: nothing to keep")
    remove(here)
    node.last_trial.unlink(missing_ok=True)
    # What is left in the slot of an update that was cut short would be taken for this one's.
    _sysupdate("--instances-max=1", "vacuum")
    _sysupdate("update", described.version)
    images.settle(here.folder)
    made = _of_version(node.images(), described.version)
    if made is None or made.sha256() != payload.checksums(_sums(folder))[described.kernel]:
        raise RefusedError(f"{described.kernel} is not on the boot partition as it was sent")


def remove(here: Images) -> None:
    """Everything that the loader could start but what runs; it is gone from the disk after this."""
    for path in list(_removable(here)):
        path.unlink()
    images.settle(here.folder)


def _removable(here: Images) -> Iterator[Path]:
    """The other kernels, and what a loss of power has left: files that were half written, and what
    fsck.fat(8) has found without a name.
    """
    yield from (each.path for each in here.others)
    yield from (path for path in here.folder.iterdir() if path.name.startswith("."))
    names = here.folder.parents[1].iterdir()
    yield from (path for path in names if _LOST.fullmatch(path.name))


def _sums(folder: Path) -> str:
    return (folder / payload.SUMS).read_text()


def _of_version(here: Images, version: str) -> Image | None:
    return next((each for each in here.others if each.version == version), None)


def _sysupdate(*arguments: str) -> None:
    done = subprocess.run([_SYSUPDATE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-3:]
        raise RefusedError(f"systemd-sysupdate {arguments[-1]} failed: {'; '.join(words)}")


# Changing to another image


def try_it(node: Node, *, forced: bool) -> str:
    """Reboot into the image that is to be tried; its version."""
    with _leaving(node, forced=forced):
        here = node.images()
        new = next((each for each in here.others if each.usable and not each.good), None)
        if new is None:
            raise RefusedError("there is no image to be tried")
        images.prefer(None)
        if older(new.version, node.me.version):
            images.prefer_once(new)
        _reboot()
    busy.tell(busy.TRIAL, node.busy)
    return new.version


def back(node: Node, *, forced: bool) -> str:
    """Reboot into the other image, which was good once; its version. What runs counts as bad."""
    with _leaving(node, forced=forced):
        here = node.images()
        old = next((each for each in here.others if each.good), None)
        if old is None or here.running is None:
            raise RefusedError("there is no other image that was good once")
        images.prefer(None)
        images.mark_bad(here.running)
        _reboot()
    busy.tell(busy.TRIAL, node.busy)
    return old.version


@contextmanager
def _leaving(node: Node, *, forced: bool) -> Iterator[None]:
    """A time without this node; RefusedError when it is the one that carries the traffic."""
    with node.at(busy.TRIAL, forced=forced) as peer:
        if peer is not None and (node.role() is Role.MASTER or peer["role"] != Role.MASTER):
            raise RefusedError("this node may be the active one: hand over first")
        yield


def _reboot() -> None:
    subprocess.run(["systemctl", "reboot", "--no-block"], check=True)


def withdraw(node: Node) -> str | None:
    """Remove the image that was never good, before the loader takes it; its version."""
    with busy.alone_at_it(node.busy):
        here = node.images()
        new = next((each for each in here.others if not each.good), None)
        if new is not None:
            new.path.unlink()
            images.settle(here.folder)
    return new.version if new else None


# Telling


def tell(node: Node) -> dict[str, Any]:
    """What it is at, and which images it has: for `appliance upgrade`."""
    here = node.images()
    return {
        "node": node.me.node,
        "site": node.me.site,
        "version": node.me.version,
        "hardware": node.hardware,
        "root_hash": images.root_hash(node.cmdline),
        "pair": node.state is not None,
        "role": node.role(),
        "boot": images.boot_state(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "busy": busy.read(node.busy),
        "running": _told(here.running),
        "other": _told(here.other),
        "last_trial": statefile.read(node.last_trial) if node.last_trial.is_file() else None,
    }


def _told(image: Image | None) -> dict[str, Any] | None:
    if image is None:
        return None
    return {"version": image.version, "left": image.left, "sha256": image.sha256()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="appliance-update", description=_HELP)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="what images there are, as JSON")
    taking = verbs.add_parser("take", help="write the update that comes as a tar on standard input")
    taking.add_argument("--from", dest="url", help="fetch it from this HTTPS address instead")
    taking.add_argument("--allow-older", action="store_true", help="older than what runs")
    taking.add_argument("--dry-run", action="store_true", help="only say whether it would")
    leaving = [
        verbs.add_parser("try", help="reboot into the image that was written"),
        verbs.add_parser("back", help="reboot into the image before this one"),
    ]
    verbs.add_parser("withdraw", help="remove the image that was written, untried")
    for each in (taking, *leaving):
        each.add_argument("--force", action="store_true", help="without asking the peer")
    return parser


def _perform(given: argparse.Namespace) -> dict[str, Any]:
    node = this()
    if given.verb == "status":
        return tell(node)
    if given.verb == "take":
        how = {"allow_older": given.allow_older, "dry_run": given.dry_run, "forced": given.force}
        members = payload.fetched(given.url) if given.url else payload.sent(sys.stdin.buffer)
        return {"taken": take(node, members, **how).version}
    if given.verb == "withdraw":
        return {"withdrawn": withdraw(node)}
    leave = {"try": try_it, "back": back}[given.verb]
    return {"boots": leave(node, forced=given.force)}


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 when it is done; 1 when it was refused, with the reason."""
    given = _parser().parse_args(argv)
    try:
        told = _perform(given)
    except (RefusedError, OSError) as error:
        print(json.dumps({"refused": str(error)}))
        print(f"appliance-update: {error}", file=sys.stderr)
        return 1
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What can go wrong with a pair, as values: each fault strikes, lasts for a while, and is healed.

`catalogue(plan)` gives those that fit a site; `appliance.lab.drill` has the pair undergo one under
traffic. Nothing here judges what becomes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import PurePosixPath

from appliance.lab.cables import Link
from appliance.lab.errors import HarnessError
from appliance.lab.frames import VRRP
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab
from appliance.lab.switch import Way
from appliance.plan.model import Plan
from appliance.render.site import KEEPALIVED, RULESET, render
from appliance.render.tree import File

READY_WITHIN = 300.0  # seconds for a node's return, at worst by a boot; generous, for slow machines
TAKEN_OVER_WITHIN = 60.0  # seconds
REPAIRED_WITHIN = 600.0  # seconds until what hangs was ended and runs again, or memory is free
NOTICED = 10.0  # seconds a fault lasts, if not said: time for a takeover and for its mistakes
HOGS = 4  # busy loops for each processor
LOOPS = f"for each in $(seq $(({HOGS} * $(nproc)))); do while :; do :; done & done; wait"
HOUR = 3600
FULL = "/var/full"


class Part(StrEnum):
    """Which node is meant: by its role at the moment of the strike."""

    ACTIVE = "active"
    STANDBY = "standby"


class Daemon(StrEnum):
    """What keeps a pair a pair, by its unit's name."""

    KEEPALIVED = "keepalived"
    CONNTRACKD = "conntrackd"
    AGENT = "appliance-agent"
    EXPECTATIONS = "appliance-expectations"


@dataclass(frozen=True, slots=True)
class Scene:
    """A pair, and who was what in it when a fault began."""

    lab: Lab
    active: Appliance
    standby: Appliance

    @classmethod
    def now(cls, lab: Lab) -> Scene:
        """As it is; LabAssertion unless one node is active and the other its standby."""
        return cls(lab, lab.active(), lab.standby())

    def node(self, part: Part) -> Appliance:
        """The node that had this part."""
        return self.active if part is Part.ACTIVE else self.standby


Act = Callable[[Scene], None]


def restore(scene: Scene) -> None:
    """Mend every cable, let go what is frozen, power on what is off."""
    scene.lab.mend()
    for node in scene.lab.nodes.values():
        if node.frozen:
            node.thaw()
        if not node.running:
            node.start()


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. It `lasts` so many seconds between strike and healing; with `proof` a power loss
    of the active node follows when all is well again: what was repaired must carry.
    """

    name: str
    strike: Act
    heal: Act = restore
    lasts: float = 0.0
    proof: bool = False


def wait(seconds: float) -> None:
    """Let a fault last: its length is part of what it is."""
    threading.Event().wait(seconds)


def in_turn(*acts: Act) -> Act:
    """One act after the other."""

    def together(scene: Scene) -> None:
        for act in acts:
            act(scene)

    return together


# Power


def power_loss(scene: Scene) -> None:
    """The active node loses power."""
    scene.active.kill()


def reset(scene: Scene) -> None:
    """Somebody presses the active node's reset button."""
    scene.active.reset()


def panic(scene: Scene) -> None:
    """The active node's kernel panics (sysrq c, Documentation/admin-guide/sysrq.rst), and starts
    anew by itself some seconds later.
    """
    scene.active.spawn("echo c >/proc/sysrq-trigger")
    scene.active.control.expect_reboot()


def freeze(scene: Scene) -> None:
    """The active node stops, and later wakes up as if nothing had been."""
    scene.active.freeze()


def power_losses(scene: Scene, times: int) -> None:
    """One after the other, alternating; each dead node is back as a standby before the next."""
    for left in reversed(range(times)):
        now = Scene.now(scene.lab)
        power_loss(now)
        now.lab.wait_active(now.standby, TAKEN_OVER_WITHIN)
        if left:
            restore(now)
            now.lab.wait_ready(READY_WITHIN)


# Cables


def cut(scene: Scene, network: str) -> None:
    """The active node's cable is pulled."""
    scene.lab.link(scene.active.name, network).cut()


def silence(scene: Scene, part: Part, network: str, way: Way) -> None:
    """A cable swallows the frames to or from a node; its carrier stays up."""
    scene.lab.link(scene.node(part).name, network).silence(way)


def lose_vrrp(scene: Scene) -> None:
    """No advertisement of any node arrives; everything else does."""
    plan = scene.lab.plan
    for card in dict.fromkeys(plan.card(n.name) for n in plan.networks.values() if n.virtual):
        for node in scene.lab.nodes.values():
            node.links[card].drop(VRRP)


def lose_sync(scene: Scene) -> None:
    """The sync network swallows everything; its carriers stay up."""
    for link in sync(scene):
        link.silence()


def thin_sync(scene: Scene, percent: float) -> None:
    """The sync network loses this share of its frames, in each direction."""
    for link in sync(scene):
        link.loss(percent)


def flap(scene: Scene, network: str, times: int, pause: float) -> None:
    """The active node's cable is cut and mended, and again: each time that of who is active."""
    for _ in range(times):
        link = scene.lab.link(scene.lab.wait_active(timeout=TAKEN_OVER_WITHIN).name, network)
        link.cut()
        wait(pause)
        link.mend()
        wait(pause)


def sync(scene: Scene) -> Iterator[Link]:
    """The cables that carry connection state, at the active node's end."""
    assert scene.lab.plan.pair
    return (scene.lab.link(scene.active.name, name) for name in scene.lab.plan.pair.sync)


# Daemons


def stop_dead(scene: Scene, part: Part, daemon: Daemon) -> None:
    """SIGKILL for all processes of a daemon."""
    scene.node(part).succeed(f"systemctl kill --signal=KILL {daemon}")


def hang(scene: Scene, part: Part, daemon: Daemon) -> None:
    """SIGSTOP: a daemon that is there and does nothing."""
    scene.node(part).succeed(f"systemctl kill --signal=STOP {daemon}")


def repaired(scene: Scene, part: Part, daemon: Daemon) -> None:
    """Wait until the node itself has put a daemon right: it runs, and is not stopped."""
    runs = f"systemctl is-active {daemon} && pid=$(systemctl show -P MainPID {daemon}) && "
    runs += "! grep -q '^State:.*stopped' /proc/$pid/status"
    scene.node(part).wait_until(runs, REPAIRED_WITHIN)


def stop_all_dead(scene: Scene) -> None:
    """SIGKILL for every daemon of the active node at once."""
    scene.active.succeed(["systemctl", "kill", "--signal=KILL", *Daemon])


def all_repaired(scene: Scene) -> None:
    """Wait until all of them run again."""
    for daemon in Daemon:
        repaired(scene, Part.ACTIVE, daemon)


# Resources


def hog(scene: Scene) -> None:
    """Busy loops on the active node, some for each processor."""
    scene.active.succeed(unit("lab-hog", LOOPS))


def starve(scene: Scene) -> None:
    """The active node's memory is eaten up, until the kernel kills the eater; or, as the node does
    nothing else meanwhile, until its hardware watchdog resets it.
    """
    eater = "python3 -c 'a = [bytearray(1 << 20) for _ in range(9999)]'"
    with suppress(HarnessError):  # the channel is lost by a reset
        scene.active.run(unit("lab-eater", eater, "--wait"), timeout=REPAIRED_WITHIN)


def fill(scene: Scene) -> None:
    """The active node's state disk is full to the last block."""
    take = f"while fallocate -l $size {FULL}/$n; do n=$((n + 1)); done 2>/dev/null"
    sizes = "1G 128M 16M 1M 64K 4K"
    scene.active.run(f"mkdir {FULL}; n=0; for size in {sizes}; do {take}; done")
    scene.active.fail(f"head -c 64K /dev/zero >{FULL}/more")


def unit(name: str, script: str, *options: str) -> list[str]:
    """The words that run a script in a unit of its own, the kernel's first victim."""
    own = ("--collect", f"--unit={name}", "-p", "OOMScoreAdjust=500")
    return ["systemd-run", *own, *options, "sh", "-c", script]


def relieve(scene: Scene) -> None:
    """Take away what the node was burdened with."""
    scene.active.run("systemctl stop lab-hog")
    scene.active.succeed(f"rm -rf {FULL}")


# The hand of the operator

# What puts a file in force.
_IN_FORCE = {
    RULESET: "systemctl reload nftables",
    KEEPALIVED: "systemctl reload keepalived",
}


def hand_over(scene: Scene) -> None:
    """A planned handover."""
    scene.active.succeed("appliance-handover")


def shift_clock(scene: Scene, part: Part, seconds: int) -> None:
    """A node's clock is wrong from now on."""
    scene.node(part).succeed(f"date -s @$(($(date +%s) + {seconds}))")


def reload(scene: Scene, plan: Plan) -> None:
    """Put the rules, the virtual services and the VRRP configuration of a changed site in force on
    both nodes.
    """
    tree = render(plan)
    for node in scene.lab.nodes.values():
        put_in_force(node, tree[node.name])


def put_in_force(node: Appliance, files: Mapping[PurePosixPath, File]) -> None:
    """The same on one node."""
    for path, command in _IN_FORCE.items():
        if path in files:
            node.put(f"/{path}", files[path].content)
            node.succeed(command)


# All of them

POWER_LOSS = Fault("power loss", power_loss)


def catalogue(plan: Plan) -> tuple[Fault, ...]:
    """Every fault that fits a pair's site, in the order of a report."""
    traffic = next(name for name, network in plan.networks.items() if network.virtual)
    fast = partial(shift_clock, part=Part.ACTIVE, seconds=HOUR)
    return (
        POWER_LOSS,
        Fault("reset", reset),
        Fault("kernel panic", panic),
        Fault("frozen for 10 s", freeze, lasts=NOTICED),
        Fault("ten power losses in a row", partial(power_losses, times=10)),
        *_cables(plan, traffic),
        *_daemons(),
        *_resources(),
        Fault("planned handover", hand_over),
        Fault("changed site loaded", partial(reload, plan=one_rule_more(plan))),
        Fault("clock an hour ahead, then power loss", in_turn(fast, power_loss)),
        Fault(
            "standby's clock an hour behind, then power loss",
            in_turn(partial(shift_clock, part=Part.STANDBY, seconds=-HOUR), power_loss),
            in_turn(partial(shift_clock, part=Part.STANDBY, seconds=HOUR), restore),
        ),
    )


def _cables(plan: Plan, traffic: str) -> Iterator[Fault]:
    for name in plan.cards():
        yield Fault(f"{name} link cut", partial(cut, network=name), lasts=NOTICED)
    for part in Part:
        for name in plan.cards():
            for way in (Way.TO, Way.FROM):
                strike = partial(silence, part=part, network=name, way=way)
                yield Fault(f"{name} silent {way} the {part} node", strike, lasts=NOTICED)
    yield Fault("VRRP lost", lose_vrrp, lasts=NOTICED)
    yield Fault("sync lost, then power loss", in_turn(lose_sync, power_loss))
    thin = partial(thin_sync, percent=20)
    yield Fault("20 % loss on sync, then power loss", in_turn(thin, lambda _: wait(5), power_loss))
    yield Fault("split", in_turn(lose_sync, lose_vrrp), lasts=NOTICED)
    flapping = partial(flap, network=traffic, times=10, pause=1.5)
    yield Fault(f"{traffic} link flaps, ten times in 30 s", flapping)


def _daemons() -> Iterator[Fault]:
    yield Fault("all daemons killed", stop_all_dead, all_repaired, lasts=2, proof=True)
    for daemon in Daemon:
        yield from _of_daemon(Part.ACTIVE, daemon)
    for daemon in (Daemon.CONNTRACKD, Daemon.AGENT):
        yield from _of_daemon(Part.STANDBY, daemon)


def _of_daemon(part: Part, daemon: Daemon) -> Iterator[Fault]:
    kill, stop = (partial(act, part=part, daemon=daemon) for act in (stop_dead, hang))
    mend = partial(repaired, part=part, daemon=daemon)
    yield Fault(f"{daemon} of the {part} node killed", kill, mend, lasts=2, proof=True)
    yield Fault(f"{daemon} of the {part} node hangs", stop, mend, lasts=NOTICED, proof=True)


def _resources() -> Iterator[Fault]:
    yield Fault("processor hogs", hog, relieve, lasts=NOTICED)
    yield Fault("processor hogs, then power loss", in_turn(hog, lambda _: wait(5), power_loss))
    yield Fault("memory eaten up", starve, proof=True)
    yield Fault("state disk full", fill, relieve, lasts=NOTICED, proof=True)


def one_rule_more(plan: Plan) -> Plan:
    """The site after a harmless change: its first rule stands twice."""
    return replace(plan, rules=(plan.rules[0], *plan.rules))

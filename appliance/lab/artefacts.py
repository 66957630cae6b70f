"""What a failed test leaves behind: everything that tells why, in one folder."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.machine import Machine
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab

WITHIN = 30.0  # seconds for each question: a sick machine must not hold up the others' answers

_EVERYWHERE = {
    "journal.txt": "journalctl --boot --no-pager --output=short-precise",
    "units.txt": "systemctl --no-pager status; systemctl --no-pager --failed; systemctl list-jobs",
    "addresses.txt": "ip -s addr; ip rule; ip route show table all; ip neigh",
    "processes.txt": "ps axwwf 2>/dev/null || systemd-cgls --no-pager --full; free -m",
}
_ON_NODES = {
    "ruleset.nft": "nft --handle list ruleset",
    "conntrack.txt": "conntrack -L --output extended,id; conntrack -L expect; conntrack -S",
    "conntrackd.txt": "for what in '' network cache queue; do conntrackd -s $what; done; "
    "echo internal; conntrackd -i; echo external; conntrackd -e",
    # Asked for by signals, keepalived writes these files into its own /tmp (keepalived(8)).
    "keepalived.txt": "systemctl kill --signal=USR1 --kill-whom=main keepalived; "
    "systemctl kill --signal=USR2 --kill-whom=main keepalived; "
    "cd /proc/$(systemctl show -P MainPID keepalived)/root/tmp && tail -n +1 keepalived.*",
    "state.json": "cat /run/appliance/state.json",
}
_ON_PEERS = {
    "hosts.txt": "for n in $(ip netns | cut -d' ' -f1); do echo \"== $n\"; ip -n $n addr; "
    "ip -n $n route; ip -n $n neigh; ip netns exec $n ss -tnoi; done",
    "services.txt": "tail -n 40 /run/lab/log/*",
}
_FROM_WORKDIR = ("*.log", "*.pcap")


def collect(lab: Lab, folder: Path, again: str, why: str = "") -> Path:
    """Fill `folder`; `again` is the command that runs this one test again. Never fails itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda machine: _ask(machine, folder), lab.machines.values()))
    for pattern in _FROM_WORKDIR:
        for path in lab.workdir.glob(pattern):
            shutil.copy(path, folder)
    (folder / "README").write_text(_readme(lab, again, why))
    return folder


def _ask(machine: Machine, folder: Path) -> None:
    own = _ON_NODES if isinstance(machine, Appliance) else _ON_PEERS
    events = "\n".join(machine.monitor_events)
    (folder / f"{machine.name}.qemu-events.txt").write_text(events)
    for name, command in {**_EVERYWHERE, **own}.items():
        try:
            result = machine.run(f"({command}) 2>&1", timeout=WITHIN)
        except (HarnessError, LabAssertion) as error:
            (folder / f"{machine.name}.silent.txt").write_text(f"{error}\n")
            return
        (folder / f"{machine.name}.{name}").write_text(result.out)


def _readme(lab: Lab, again: str, why: str) -> str:
    machines = (f"{m.name}: {_state(m)}" for m in lab.machines.values())
    lines = ["Run this again:", f"    {again}", "", f"image {lab.image}", "", *machines, "", why]
    return "\n".join(lines) + "\n"


def _state(machine: Machine) -> str:
    faults = {n: w for n, link in machine.links.items() if (w := link.faults.words())}
    power = "frozen" if machine.frozen else "on" if machine.running else "off"
    return ", ".join([power, *(f"{network} {words}" for network, words in faults.items())])

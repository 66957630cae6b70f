"""What the lab hands to a machine at its start, so that nothing of the lab is baked into an image.

systemd.system-credentials(7): a unit (`systemd.extra-unit.*`), its drop-in, and the agent's code
as a credential.
"""

from __future__ import annotations

from pathlib import Path

from appliance.lab import qemu

_AGENT = "lab.agent"
_PORT = f"/dev/virtio-ports/{qemu.CONTROL_PORT}"

_UNIT = f"""\
[Unit]
Description=Control channel of the lab
ConditionPathExists=!/etc/initrd-release
DefaultDependencies=no
# Wanted only: on a machine that is slow enough the device comes after systemd's 90 s for it.
Wants=dev-virtio\\x2dports-{qemu.CONTROL_PORT}.device
After=dev-virtio\\x2dports-{qemu.CONTROL_PORT}.device systemd-tmpfiles-setup.service
StartLimitIntervalSec=0
[Service]
ImportCredential={_AGENT}
ExecStart=/usr/bin/python3 -I ${{CREDENTIALS_DIRECTORY}}/{_AGENT} {_PORT}
Restart=always
RestartSec=1
OOMScoreAdjust=-900
CPUWeight=1000
LimitNOFILE=65536
TasksMax=infinity
Environment=HOME=/root
"""
# The generator names network cards by credentials; not every image has it enabled.
_WANTED = "[Unit]\nWants=appliance-lab.service systemd-network-generator.service\n"


def agent() -> dict[str, str]:
    """The control agent, started as soon as the root is there."""
    return {
        _AGENT: (Path(__file__).parent / "guest.py").read_text(),
        "systemd.extra-unit.appliance-lab.service": _UNIT,
        "systemd.unit-dropin.sysinit.target": _WANTED,
    }


def node(name: str, key: str | None = None) -> dict[str, str]:
    """An appliance's identity, and a public key that may log in as root."""
    # Where the image's sshd looks, and after the site's own keys (tmpfiles.d(5)).
    keys = "w+ /etc/ssh/authorized_keys/root - - - -"
    access = {"tmpfiles.extra": f"{keys} {key}\\n\n"} if key else {}
    return {"appliance.node": name, **access}

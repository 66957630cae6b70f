"""OpenSSH's server: keys only, root only, on the node's own addresses of the networks named."""

from __future__ import annotations

from pathlib import PurePosixPath

from appliance.plan.model import Plan, Ssh
from appliance.render import addresses

KEYS = PurePosixPath("etc/ssh/authorized_keys")

_MANNERS = f"""\
PermitRootLogin prohibit-password
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /{KEYS}/%u
AllowUsers root
X11Forwarding no
"""


def render(plan: Plan, node: str) -> str:
    """The text of etc/ssh/sshd_config.d/10-appliance.conf."""
    networks = plan.ssh.networks if plan.ssh else ()
    listen = [f"ListenAddress {own}\n" for _, own in addresses.listening(plan, node, networks)]
    return "".join(listen) + _MANNERS


def keys(ssh: Ssh) -> str:
    """The text of root's authorized keys; none let nobody in."""
    return "".join(f"{key}\n" for key in ssh.keys)

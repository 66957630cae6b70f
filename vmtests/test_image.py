"""What boots is what ships: sealed, closed but for what the site opens, the same bytes."""

from __future__ import annotations

import json
import re

from appliance.lab.pair import Lab
from appliance.node.config import AGENT_PORT, CONNTRACKD_PORT, EXPECTATIONS_PORT


def test_the_image_is_the_one_that_was_built_byte_for_byte(pair: Lab) -> None:
    manifest = json.loads((pair.image.parent / "manifest.json").read_text())
    assert manifest["files"][pair.image.name]["sha256"] == pair.image_digest()
    print(f"sha256 of the tested image: {pair.image_digest()}")


def test_no_unit_has_failed_and_the_boot_is_good(pair: Lab) -> None:
    for node in pair.nodes.values():
        assert node.succeed("systemctl --failed --plain --no-legend").strip() == ""
        # Clean is the next boot of what was found good once.
        word = "$(/usr/lib/systemd/systemd-bless-boot status)"
        node.wait_until(f'case "{word}" in good|clean) ;; *) false ;; esac', 60)


def test_nothing_listens_beyond_what_the_site_opens(pair: Lab) -> None:
    for node in pair.nodes.values():
        tcp = [line.split() for line in node.succeed("ss -Htln").splitlines()]
        inside, sync = (pair.plan.networks[n].own(node.name, 4) for n in ("inside", "sync"))
        assert inside
        assert sync
        assert pair.plan.metrics
        opened = {f"{inside.ip}:{pair.plan.metrics.port}", f"{inside.ip}:22", f"{sync.ip}:22"}
        assert {socket[3] for socket in tcp} == opened
        # conntrackd receives the peer's state on one socket and sends from another, with a port of
        # its own: an answer to that port is no part of any rule.
        udp = [line.split() for line in node.succeed("ss -Hulnp").splitlines()]
        ours = {f"{sync.ip}:{port}" for port in (CONNTRACKD_PORT, EXPECTATIONS_PORT)}
        (sending,) = [socket for socket in udp if socket[3] not in ours]
        assert len(udp) == len(ours) + 1
        assert '"conntrackd"' in sending[5]
        # The agent's is connected to the peer's: whoever else speaks to it is not heard.
        talks = node.succeed(f"ss -Hun state established sport = {AGENT_PORT}").split()
        assert talks[2] == f"{sync.ip}:{AGENT_PORT}"


def test_nobody_has_a_password(pair: Lab) -> None:
    shadow = pair.active().succeed("cat /etc/shadow").splitlines()
    assert len(shadow) > 1
    assert all(re.match(r"[^:]+:[!*]", line) for line in shadow)


def test_nobody_but_root_can_read_a_secret(pair: Lab) -> None:
    """Of what a node makes itself; that the image brings none, tests/image/test_secrets.py says."""
    search = (
        "grep -rlsE -e 'BEGIN .*PRIVATE KEY-----|auth_pass|PresharedKey' /boot /efi /etc /run /var"
    )
    for node in pair.nodes.values():
        found = node.succeed(f"{search} || true").split()
        assert found == ["/var/lib/appliance/ssh/ssh_host_ed25519_key"]
        nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
        assert node.succeed(f"{nobody} {search} || true") == ""


def test_the_root_is_sealed_and_state_is_kept_apart(pair: Lab) -> None:
    node = pair.active()
    assert "CRYPT-VERITY-" in node.succeed("cat /sys/block/dm-*/dm/uuid")
    assert node.succeed("findmnt -no FSTYPE /var").strip() == "ext4"
    named = "for each in /dev/vda?; do blkid -p -o value -s PART_ENTRY_NAME $each; done"
    slot_b = ["_empty", "_empty"]
    names = node.succeed(named).split()
    assert names == ["esp", "root_1", "verity_1", *slot_b, "appliance-state"]


def test_each_node_has_made_a_host_key_of_its_own(pair: Lab) -> None:
    """That it keeps it, test_upgrade.py says."""
    ask = "cat /var/lib/appliance/ssh/ssh_host_ed25519_key.pub"
    assert len({node.succeed(ask) for node in pair.nodes.values()}) == len(pair.nodes)

"""What is in the sealed root, and above all what is not."""

from __future__ import annotations

import re

import pytest


@pytest.fixture(scope="session")
def listing(inside, vm_base) -> set[str]:
    text = inside("unsquashfs", "-l", "-d", "", vm_base.root)
    return {line for line in text.splitlines() if line.startswith("/")}


@pytest.fixture(scope="session")
def cat(inside, vm_base):
    return lambda path: inside("unsquashfs", "-cat", vm_base.root, path)


def matching(listing: set[str], pattern: str) -> list[str]:
    return sorted(path for path in listing if re.search(pattern, path))


def test_no_keys_and_no_site(listing) -> None:
    assert not matching(listing, r"ssh_host_\w+_key|authorized_keys|id_(rsa|ed25519)$")
    assert not matching(listing, r"^/etc/(appliance|nftables\.conf|keepalived/keepalived\.conf)$")
    assert not matching(listing, r"^/etc/(conntrackd/conntrackd|rsyslog)\.conf$")
    assert not matching(listing, r"^/etc/systemd/network/.")


def test_nobody_has_a_password(cat) -> None:
    accounts = [line.split(":") for line in cat("etc/shadow").splitlines()]
    assert len(accounts) > 10
    assert {fields[1] for fields in accounts} <= {"*", "!*", "!"}
    assert not [name for name, password, *_ in accounts if not password]
    passwd = [line.split(":") for line in cat("etc/passwd").splitlines()]
    assert {fields[1] for fields in passwd} == {"x"}


def test_ssh_takes_keys_only_and_starts_only_where_the_site_says(cat) -> None:
    settings = cat("etc/ssh/sshd_config.d/00-image.conf")
    assert "PasswordAuthentication no" in settings
    assert "AuthenticationMethods publickey" in settings
    unit = cat("usr/lib/systemd/system/ssh.service.d/50-appliance.conf")
    assert "ConditionPathExists=/etc/ssh/sshd_config.d/10-appliance.conf" in unit


def test_nothing_else_listens(listing) -> None:
    wanted = matching(listing, r"^/etc/systemd/system/sockets\.target\.wants/")
    assert not [path for path in wanted if "ssh" in path]
    assert not matching(listing, r"systemd-ssh-generator$")
    assert not matching(listing, r"systemd-resolved$|avahi|sbin/rpcbind$|exim")


def test_the_closed_firewall_is_there(listing, cat) -> None:
    assert "/usr/lib/appliance/closed.nft" in listing
    assert "policy drop" in cat("usr/lib/appliance/closed.nft")
    assert matching(listing, r"/sysinit\.target\.wants/appliance-closed\.service$")


@pytest.mark.parametrize(
    "unit",
    [
        "local-fs.target.requires/var.mount",
        "boot-complete.target.requires/appliance-health.service",
        "multi-user.target.wants/keepalived.service",
        "multi-user.target.wants/conntrackd.service",
        "multi-user.target.wants/appliance-agent.service",
        "multi-user.target.wants/appliance-expectations.service",
        "multi-user.target.wants/appliance-collect.service",
        "multi-user.target.wants/appliance-metrics.service",
        "multi-user.target.wants/appliance-watch.service",
        "multi-user.target.wants/rsyslog.service",
        "sysinit.target.wants/appliance-layer.service",
        "sysinit.target.wants/systemd-timesyncd.service",
        "ssh.service.wants/appliance-hostkey.service",
    ],
)
def test_what_has_to_start_is_enabled(listing, unit: str) -> None:
    assert f"/etc/systemd/system/{unit}" in listing


def test_the_agent_is_compiled_and_found_by_python(listing, cat) -> None:
    assert matching(listing, r"^/usr/lib/appliance/appliance/node/__pycache__/agent\.\S+\.pyc$")
    assert cat("usr/lib/python3/dist-packages/appliance.pth") == "/usr/lib/appliance\n"


@pytest.mark.parametrize(
    "module",
    [
        "nf_conntrack",
        "nf_nat_ftp",
        "nft_fib_inet",
        "ip_vs",
        "bonding",
        "8021q",
        "virtio_net",
        "virtio_blk",
        "virtio_scsi",
        "virtio_console",
        "qemu_fw_cfg",
        "dmi-sysfs",
        "i6300esb",
        "vmxnet3",
    ],
)
def test_the_drivers_of_a_virtual_router_are_there(listing, cat, module: str) -> None:
    kernels = matching(listing, r"^/usr/lib/modules/[^/]+$")
    built_in = cat(f"{kernels[0][1:]}/modules.builtin")
    assert matching(listing, rf"/{module}\.ko$") or f"/{module}.ko" in built_in


def test_what_verifies_and_writes_an_update_is_there(listing) -> None:
    assert {"/usr/bin/gpg", "/usr/bin/appliance-update", "/usr/sbin/fsck.vfat"} <= listing
    for program in ("systemd-sysupdate", "systemd-pull", "systemd-bless-boot"):
        assert f"/usr/lib/systemd/{program}" in listing
    assert len(matching(listing, r"^/usr/lib/sysupdate\.d/\S+\.transfer$")) == 3
    assert not matching(listing, r"/import-pubring\.gpg$"), "that is the site's"


def test_no_older_filter_rules_beside_ours(listing) -> None:
    assert not matching(listing, r"/(x_tables|ip6?_tables|xt_\w+)\.ko|bin/(ip6?tables|ebtables)")


def test_mount_points_are_there(listing) -> None:
    assert {"/boot", "/dev", "/efi", "/proc", "/run", "/sys", "/tmp", "/var"} <= listing

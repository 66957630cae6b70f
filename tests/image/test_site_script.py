"""Which node's files the initrd lays over the root, by what firmware and boot partition say."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.node.orders import INSTALL, NODE, ORDER, Order

from .conftest import CLONE

SCRIPT = CLONE / "overlays/initrd/usr/lib/appliance/site"
KEPT = CLONE / "mkosi.conf.d/40-initrd/kept"
# Into the initrd's root, with those of this tree's programs that the initrd keeps.
ENTER = 'mount --rbind /usr "$0/usr" && export PATH=/kept && exec /usr/sbin/chroot "$0" /script'
HANDED = ".extra/global_credentials"


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    """An initrd with a site of two nodes, and the root below `sysroot`."""
    root = tmp_path / "initrd"
    for name in ("usr", "dev", "sysroot/etc/systemd/system", "run/given", HANDED):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("appliance-image/etc/os-release", *map(hostname, ("fw1", "fw2"))):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(Path(name).parts[1])
    (root / "kept").mkdir()
    for program in map(Path, KEPT.read_text().split()):
        if program.parent.name in ("bin", "sbin"):
            (root / "kept" / program.name).symlink_to("/usr" / program)
    shutil.copy(SCRIPT, root / "script")
    (root / "script").chmod(0o755)
    (root / "dev/null").touch()
    return root


def hostname(node: str) -> str:
    return f"appliance-site/{node}/etc/hostname"


def laid(tools_tree, root: Path, credentials: str | None = "/run/given") -> str | None:
    """Run the script; the node whose files are there then."""
    argv = tools_tree.inside(["sh", "-euc", ENTER, root])
    told = {"CREDENTIALS_DIRECTORY": credentials} if credentials else {}
    subprocess.run(argv, env={"PATH": os.environ["PATH"], **told}, check=True)
    assert (root / "sysroot/etc/os-release").read_text() == "etc"
    name = root / "sysroot/etc/hostname"
    return name.read_text() if name.exists() else None


def by_firmware(root: Path, node: str) -> None:
    (root / "run/given/appliance.node").write_text(node)


def by_disk(root: Path, node: str) -> None:
    (root / HANDED / NODE.name).write_text(f"{node}\n")


def test_by_firmware(tools_tree, initrd: Path) -> None:
    by_firmware(initrd, "fw2")
    assert laid(tools_tree, initrd) == "fw2"


@pytest.mark.parametrize("credentials", [None, "/run/given"])
def test_by_the_boot_partition(tools_tree, initrd: Path, credentials: str | None) -> None:
    by_disk(initrd, "fw2")
    assert laid(tools_tree, initrd, credentials) == "fw2"


def test_firmware_is_right_where_both_say_something(tools_tree, initrd: Path) -> None:
    by_firmware(initrd, "fw1")
    by_disk(initrd, "fw2")
    assert laid(tools_tree, initrd) == "fw1"


@pytest.mark.parametrize("name", [None, "fw3", "../fw1"])
def test_without_a_node_of_the_site_nothing_is_laid(tools_tree, initrd: Path, name) -> None:
    if name:
        by_disk(initrd, name)
    assert laid(tools_tree, initrd, None) is None


def test_the_only_node_needs_no_name(tools_tree, initrd: Path) -> None:
    shutil.rmtree(initrd / "appliance-site/fw2")
    assert laid(tools_tree, initrd, None) == "fw1"


def test_an_order_to_install_makes_it_no_router(tools_tree, initrd: Path) -> None:
    by_firmware(initrd, "fw1")
    order = Order("/dev/sda", "fw1")
    (initrd / HANDED / INSTALL.name).write_text(order.text())
    assert laid(tools_tree, initrd) is None
    assert (initrd / f"sysroot{ORDER}").read_text() == order.text()
    units = initrd / "sysroot/etc/systemd/system"
    target = os.readlink(units / "default.target")
    assert target == "/usr/lib/systemd/system/appliance-install.target"
    assert (CLONE / "overlays/node" / target.removeprefix("/")).is_file()
    for masked in ("nftables", "systemd-bless-boot"):
        assert os.readlink(units / f"{masked}.service") == "/dev/null"

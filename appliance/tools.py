"""The tools tree: one Debian 13 in the cache, whose programs make, check and boot the images.

So the result does not depend on the build machine's release: Debian 12's QEMU is half as fast
under TCG, its nft is not the router's, and its mkosi cannot do what is needed here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from appliance import apt, resources, store
from appliance.errors import ToolError
from appliance.progress import step
from appliance.run import Argument, run

SUITE = "trixie"

PACKAGES = (
    "ca-certificates",
    "conntrack",
    "conntrackd",
    "cpio",
    "cryptsetup-bin",  # veritysetup
    "debian-archive-keyring",
    "dosfstools",
    "e2fsprogs",
    "faketime",
    "fdisk",
    "gpg",
    "gpg-agent",
    "gpgconf",
    "iproute2",
    "ipvsadm",
    "keepalived",
    "kmod",
    "mkosi",
    "mtools",
    "nftables",
    "openssh-client",
    "openssh-server",  # sshd -t
    "openssl",
    "ovmf",
    "procps",
    "python3-pefile",
    "qemu-system-x86",
    "qemu-utils",
    "rsyslog",
    "sbsigntool",
    "squashfs-tools",
    "systemd-boot-efi",
    "systemd-container",
    "systemd-repart",
    "systemd-ukify",
    "xz-utils",
    "zstd",
)

# Outside /usr the tree gives only these; for everything else the host's own /etc rules.
_KEPT = ("./usr", "./etc/alternatives", "./etc/apt", "./etc/ld.so.cache", "./etc/ssh")

# The loader's cache goes with /usr: a program of one release must not load libraries of another.
_ENTER = (
    'for each in etc/alternatives etc/ld.so.cache usr; do mount --rbind "$0/$each" "/$each"; done; '
    'exec "$@"'
)


@dataclass(frozen=True, slots=True)
class ToolsTree:
    """A tree at `path`; `inside` is how its programs are run."""

    path: Path

    def inside(self, argv: Sequence[Argument]) -> list[str]:
        """The command that runs `argv` with this tree's /usr laid over the host's.

        It has a mount namespace of its own. All else stays: the current folder, inherited file
        descriptors, and every path outside /usr. PATH is set anew, because the python of a virtual
        environment links into /usr.
        """
        enter = ["sh", "-euc", _ENTER, str(self.path)]
        clean = ["env", "-u", "PYTHONHOME", "-u", "PYTHONPATH", "PATH=/usr/sbin:/usr/bin"]
        return [*_unshare(), "--", *enter, *clean, *(str(word) for word in argv)]

    def sources(self) -> str:
        """The apt sources that the tree was made from, in apt's one-line form."""
        return (self.path / "etc/apt/sources.list").read_text()


def ensure() -> ToolsTree:
    """The tools tree, made now (about a minute, 200 MB to fetch) if the cache does not hold it yet.

    Raises ToolError when mmdebstrap is missing and cannot be installed, or when it fails.
    """
    sources = apt.sources(SUITE)
    path = resources.cache() / f"tools-{store.key(SUITE, PACKAGES, sources)}"
    return ToolsTree(store.folder(path, partial(_make, sources=sources)))


def _unshare() -> list[str]:
    """Root needs only mounts of its own; others a user namespace too, with sub-ids for mkosi."""
    if os.geteuid() == 0:
        return ["unshare", "--mount"]
    return ["unshare", "--mount", "--user", "--map-root-user", "--map-auto"]


def _make(work: Path, sources: str | None) -> None:
    """Fill `work`, by way of a tar: so a user who is not root owns every file and can remove it."""
    _need_programs()
    archive = work / "tree.tar"
    mmdebstrap = [
        "mmdebstrap",
        "--variant=apt",
        f"--include={','.join(PACKAGES)}",
        *(
            f"--dpkgopt=path-exclude=/usr/share/{each}/*"
            for each in ("doc", "man", "locale", "info")
        ),
        SUITE,
        str(archive),
    ]
    with step(f"Making the tools tree (Debian {SUITE})"):
        run([*mmdebstrap, "-"] if sources else mmdebstrap, stdin=sources, log=work / "log")
        run(["tar", "--extract", f"--file={archive}", f"--directory={work}", *_KEPT])
    archive.unlink()


def _need_programs() -> None:
    """See that the few programs the host itself must give are there; root installs them."""
    needed = {"mmdebstrap": "mmdebstrap", "tar": "tar", "unshare": "util-linux"}
    if os.geteuid():
        needed["newuidmap"] = "uidmap"
    missing = sorted({needed[name] for name in needed if not shutil.which(name)})
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid():
        raise ToolError(
            f"missing on this machine: {' '.join(missing)}", f"sudo {' '.join(command)}"
        )
    with step(f"Installing {' '.join(missing)}"):
        run(["apt-get", "update"])
        run(command, env={"DEBIAN_FRONTEND": "noninteractive"})

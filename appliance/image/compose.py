"""A site and a base made into the files that a user gets: in seconds, and always the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance.errors import ToolError
from appliance.image import cpio, disk, manifest, sbom, signing, sparse
from appliance.image.base import Base, Hardware
from appliance.image.formats import Format, convert
from appliance.image.keys import Keys
from appliance.image.manifest import sha256
from appliance.node import layer
from appliance.node.orders import TRIES
from appliance.node.payload import DESCRIPTION, SUMS
from appliance.plan.model import Plan
from appliance.render import addresses, layers
from appliance.render.tree import File, FileTree
from appliance.run import run
from appliance.tools import ToolsTree

# The character set of systemd's versions without "+" and "_", which part names in file names, and
# short enough for the label of a partition.
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.~^-]{0,23}")

# What the initrd lays over the root whichever node it is; there systemd looks for the keys that may
# sign an update (org.freedesktop.import1(5)).
_IMAGE = PurePosixPath("appliance-image/etc")
_KEYRING = "systemd/import-pubring.gpg"


@dataclass(frozen=True, slots=True)
class Job:
    """What is composed: a site's files on a base, under a name and version; signed with `keys`, in
    some formats.
    """

    plan: Plan
    tree: FileTree
    base: Base
    hardware: Hardware
    version: str
    keys: Keys | None = None
    formats: frozenset[Format] = frozenset()

    @property
    def name(self) -> str:
        """What the names of all files begin with."""
        return f"{self.plan.site}_{self.version}"


def check_version(version: str) -> None:
    """Raise ToolError unless `version` can be part of file names and partition labels."""
    if not _VERSION.fullmatch(version):
        raise ToolError(
            f"{version!r} is no version",
            "a letter or digit, then up to 23 letters, digits, dots, dashes, ~ and ^",
        )


def compose(job: Job, out: Path, tools: ToolsTree) -> str:
    """Make the folder `out` with every file of the result; the SHA-256 of the raw image."""
    update = out / f"{job.name}.update"
    update.mkdir(parents=True)
    uki, raw = update / f"{job.name}.efi", out / f"{job.name}.raw"
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        _unified_kernel(job, uki, Path(scratch), tools)
        boot = _boot_files(job, uki, Path(scratch), tools)
        disk.write(raw, job.version, job.base, boot, tools)
    with ThreadPoolExecutor() as pool:
        payload = pool.submit(_payload, job, update, tools)
        digest = sparse.pack(raw, tools)
        known = {raw: digest, **payload.result()}
    for wanted in sorted(job.formats - {Format.RAW}):
        convert(raw, wanted, digest, tools)
    _papers(job, out, digest)
    (out / manifest.NAME).write_text(manifest.text(job, out, known))
    return digest


def initrd(job: Job) -> bytes:
    """The initrd of the site: every node's files, and what the image says of itself."""
    files: dict[PurePosixPath, File | bytes] = {
        PurePosixPath("appliance-site", node) / path: file
        for node, paths in job.tree.items()
        for path, file in paths.items()
    }
    for each in layers.manifests(job.plan, job.tree).values():
        files[PurePosixPath("appliance-site", each.node, layer.PATH)] = File(each.text)
    files[_IMAGE / "os-release"] = File(os_release(job))
    if job.keys:
        files[_IMAGE / _KEYRING] = job.keys.payload_keyring.read_bytes()
    return cpio.archive(files)


def os_release(job: Job) -> str:
    """The base's os-release(5) with the site as image, its version and its hardware."""
    ours = {
        "IMAGE_ID": job.plan.site,
        "IMAGE_VERSION": job.version,
        "VARIANT_ID": job.hardware,
    }
    lines = job.base.facts().os_release.splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in ours]
    return "\n".join([*kept, *(f'{name}="{value}"' for name, value in ours.items()), ""])


def _unified_kernel(job: Job, uki: Path, scratch: Path, tools: ToolsTree) -> None:
    """Join kernel, initrd, site and arguments to the one file that the loader starts."""
    site, release = scratch / "site.cpio", scratch / "os-release"
    site.write_bytes(initrd(job))
    release.write_text(os_release(job))
    facts = job.base.facts()
    build = ["ukify", "build", f"--stub={job.base.stub}", f"--linux={job.base.kernel}"]
    build += [f"--initrd={job.base.initrd}", f"--initrd={site}", f"--uname={facts.kernel}"]
    arguments = f"{facts.cmdline} {disk.root_arguments(job.version, facts.root_hash)}"
    build += [f"--cmdline={arguments}", f"--os-release=@{release}", f"--output={uki}"]
    run(tools.inside(build))
    _sign(job, uki, uki, tools)
    uki.chmod(0o644)


def _sign(job: Job, program: Path, signed: Path, tools: ToolsTree) -> Path:
    """The program as the firmware is to find it: signed, if there are keys."""
    if job.keys is None:
        return program
    signing.sign_program(program, signed, job.keys, tools)
    return signed


def _boot_files(job: Job, uki: Path, scratch: Path, tools: ToolsTree) -> dict[PurePosixPath, Path]:
    """What lies on the boot partition."""
    settings = scratch / "loader.conf"
    settings.write_text("timeout 0\neditor no\n")
    loader = _sign(job, job.base.loader, scratch / "loader.efi", tools)
    return {
        PurePosixPath("EFI/BOOT/BOOTX64.EFI"): loader,
        PurePosixPath("EFI/systemd/systemd-bootx64.efi"): loader,
        PurePosixPath(f"EFI/Linux/{job.name}+{TRIES}.efi"): uki,
        PurePosixPath("loader/loader.conf"): settings,
    }


def _papers(job: Job, out: Path, digest: str) -> None:
    """Say beside the image what is in it, and under what licences."""
    licences = f"{job.name}.{job.base.licences.name}"
    shutil.copyfile(job.base.licences, out / licences)
    (out / f"{job.name}.{sbom.ENDING}").write_text(sbom.text(job, digest, licences))


def _payload(job: Job, update: Path, tools: ToolsTree) -> dict[Path, str]:
    """Add the partitions to the update's folder, by the names that systemd-sysupdate looks for; the
    SHA-256 of what is there.
    """
    ids = disk.root_ids(job.version, job.base.facts().root_hash)
    for part, identity in zip((job.base.root, job.base.verity), ids, strict=True):
        shutil.copyfile(part, update / f"{job.name}.{part.stem}.{identity}.raw")
    (update / DESCRIPTION).write_text(_description(job, update))
    sums = {path: sha256(path) for path in sorted(update.iterdir())}
    (update / SUMS).write_text("".join(f"{each}  {path.name}\n" for path, each in sums.items()))
    if job.keys:
        signing.sign_sums(update / SUMS, job.keys, tools)
    return sums


def _description(job: Job, update: Path) -> str:
    """What a node has to know before it takes the update (`appliance.node.payload`)."""
    facts = job.base.facts()
    told = {
        "site": job.plan.site,
        "digest": job.plan.digest,
        "version": job.version,
        "hardware": job.hardware,
        "virtual": [
            str(each) for v in addresses.VERSIONS for each in addresses.virtual(job.plan, v)
        ],
        "root_hash": facts.root_hash,
        "root": job.base.root.stat().st_size,
        "verity": job.base.verity.stat().st_size,
        "files": {path.name: path.stat().st_size for path in sorted(update.iterdir())},
    }
    return json.dumps(told, indent=1) + "\n"

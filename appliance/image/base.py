"""The base image: everything but the site, made once by mkosi and kept in the cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from appliance import resources, store
from appliance.errors import ToolError
from appliance.image import licences
from appliance.image.pins import Mirror, Pins
from appliance.image.recipe import Ingredients, Recipe, recipe
from appliance.progress import step
from appliance.run import run
from appliance.tools import ToolsTree

_EFI = Path("usr/lib/systemd/boot/efi")

# Of what a kept base consists: one with other parts is another base.
_FORM = 3


class Hardware(StrEnum):
    """What the image is to run on: it decides the kernel and its drivers."""

    VM = "vm"
    METAL = "metal"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a base: `cmdline` and `kernel` are the kernel's arguments and version."""

    cmdline: str
    kernel: str
    root_hash: str
    os_release: str
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Base:
    """The parts of a base image, in `folder`; there is no site and no version in any of them."""

    folder: Path

    @property
    def root(self) -> Path:
        """The sealed root: a squashfs."""
        return self.folder / "root.raw"

    @property
    def verity(self) -> Path:
        """The hash tree of the root, for dm-verity."""
        return self.folder / "verity.raw"

    @property
    def kernel(self) -> Path:
        """The kernel, as Debian built it."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initrd, without the site."""
        return self.folder / "initrd"

    @property
    def stub(self) -> Path:
        """The EFI program at the head of a unified kernel image."""
        return self.folder / "stub.efi"

    @property
    def loader(self) -> Path:
        """The boot loader, systemd-boot."""
        return self.folder / "loader.efi"

    @property
    def licences(self) -> Path:
        """The licence texts of all packages, an archive."""
        return self.folder / "licences.tar.xz"

    def facts(self) -> Facts:
        """What was noted when the base was built."""
        return Facts(**json.loads((self.folder / "facts.json").read_text()))


def base(
    hardware: Hardware,
    tools: ToolsTree,
    firmware: tuple[str, ...] = (),
    *,
    pins: Pins | None = None,
    fresh: bool = False,
) -> Base:
    """The base image for `hardware`, from the cache or made now (`fresh`: in any case).

    Real machines get the packages of `firmware` too. With `pins` it has these versions of its
    packages. Raises ToolError with mkosi's last words when it fails, and when a version is not to
    be had.
    """
    if pins and pins.hardware != hardware:
        raise ToolError(f"the manifest's packages are for --hardware {pins.hardware}")
    wanted = ingredients(hardware, firmware)
    if pins and not fresh and (usual := _with_just(pins, wanted, hardware, tools)):
        return usual
    with recipe(tools, wanted, pins) as gathered:
        make = partial(_make, gathered=gathered, hardware=hardware, pins=pins)
        return Base(store.folder(_place(hardware, gathered), make, fresh=fresh))


def _with_just(
    pins: Pins, wanted: Ingredients, hardware: Hardware, tools: ToolsTree
) -> Base | None:
    """The base of the cache that knows no pins, if it happens to have these packages."""
    with recipe(tools, wanted) as gathered:
        usual = Base(_place(hardware, gathered))
    there = usual.folder.is_dir() and usual.facts().packages == pins.packages
    return usual if there else None


def _place(hardware: Hardware, gathered: Recipe) -> Path:
    return resources.cache() / f"base-{hardware}-{store.key(gathered.key, _FORM)}"


def ingredients(hardware: Hardware, firmware: tuple[str, ...] = ()) -> Ingredients:
    """What a base image is made from; a virtual machine has no use for firmware."""
    kernel = {Hardware.VM: "30-kernel-vm.conf", Hardware.METAL: "31-kernel-metal.conf"}[hardware]
    return Ingredients(
        drop_ins=("10-debian.conf", "20-appliance", kernel, "40-initrd"),
        overlays=("common", "initrd", "node"),
        router=True,
        firmware=firmware if hardware is Hardware.METAL else (),
    )


def _make(work: Path, gathered: Recipe, hardware: Hardware, pins: Pins | None) -> None:
    """Build in a folder inside `work`, keep the parts, drop the rest."""
    built = work / "mkosi"
    built.mkdir()
    if pins:
        with step("Asking the mirror for the versions of the manifest"):
            Mirror(gathered.apt, built, gathered.tools).check(pins)
    parts = [f"--initrd={built}/initrd.cpio.zst"]
    parts += [f"--extra-tree={gathered.router}:/usr/lib/appliance"]
    manifest = "--manifest-format=json"
    with step("Building the base image: the initrd"):
        gathered.mkosi(built, ["initrd"], manifest)
    with step(f"Building the base image: the root, for {hardware}"):
        gathered.mkosi(built, ["appliance", hardware], manifest, *parts)
    _keep(built, Base(work), gathered.tools)
    if pins:
        pins.check_taken(Base(work).facts().packages)
    shutil.rmtree(built)


def _keep(built: Path, made: Base, tools: ToolsTree) -> None:
    """Give mkosi's artefacts our names, and add what the composing needs."""
    parts = {"root.raw": made.root, "verity.raw": made.verity}
    parts |= {"vmlinuz": made.kernel, "initrd": made.initrd}
    for name, part in parts.items():
        (built / f"appliance.{name}").rename(part)
    (built / "mkosi.log").rename(made.folder / "mkosi.log")
    shutil.copy(tools.path / _EFI / "linuxx64.efi.stub", made.stub)
    shutil.copy(tools.path / _EFI / "systemd-bootx64.efi", made.loader)
    _note(built, made, tools)
    licences.pack(made.root, made.facts().packages, made.licences, tools)


def _note(built: Path, made: Base, tools: ToolsTree) -> None:
    """Write the facts: mkosi's own unified kernel image and its manifests hold them."""
    inspect = ["ukify", "--json=short", "inspect", f"{built}/appliance.efi"]
    sections = json.loads(run(tools.inside(inspect)).stdout)
    cmdline = sections[".cmdline"]["text"]
    facts = {
        "cmdline": cmdline,
        "kernel": sections[".uname"]["text"],
        "root_hash": cmdline.split("roothash=")[1].split()[0],
        "os_release": sections[".osrel"]["text"],
        "packages": _packages(built / "appliance.manifest") | _packages(built / "initrd.manifest"),
    }
    (made.folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def _packages(manifest: Path) -> dict[str, str]:
    """Name and version of each package in one of mkosi's manifests."""
    listed = json.loads(manifest.read_text())["packages"]
    return {package["name"]: package["version"] for package in listed}

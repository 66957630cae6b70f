"""What goes into an image that mkosi makes, gathered in one folder, and mkosi run on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from appliance import apt, resources, store
from appliance.errors import ToolError
from appliance.image.pins import Pins
from appliance.run import run
from appliance.tools import ToolsTree

_APT = Path("sandbox/etc/apt")
_FIRMWARE = "non-free-firmware"  # the part of Debian's archive where it lies


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Names in `mkosi.conf.d` and `overlays`, whether the router's own code goes in, and the
    packages of firmware that a site wants.
    """

    drop_ins: tuple[str, ...]
    overlays: tuple[str, ...]
    router: bool = False
    firmware: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """Ingredients in a folder; `key` names their bytes and the tools that they meet."""

    folder: Path
    tools: ToolsTree
    key: str

    @property
    def apt(self) -> Path:
        """The apt configuration that mkosi is given."""
        return self.folder / _APT

    @property
    def router(self) -> Path:
        """What the router runs of this package: a folder for Python's path."""
        return self.folder / "router"

    def mkosi(self, output: Path, profiles: Sequence[str], *options: str) -> None:
        """Build what `profiles` select into `output`, with mkosi's log beside it."""
        places = ["--output-directory", str(output), "--workspace-directory", str(output)]
        log = output / "mkosi.log"
        run(self.tools.inside(self._argv(profiles, [*places, *options, "build"])), log=log)
        _refuse_unknown(log.read_text(errors="replace"))

    def summary(self, profiles: Sequence[str]) -> str:
        """Mkosi's own reading of the drop-ins, as JSON."""
        done = run(self.tools.inside(self._argv(profiles, ["--json", "summary"])))
        _refuse_unknown(done.stderr)
        return done.stdout

    def _argv(self, profiles: Sequence[str], options: Sequence[str]) -> list[str]:
        packages = resources.cache() / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        fixed = ["--directory", str(self.folder), "--package-cache-directory", str(packages)]
        fixed += ["--sandbox-tree", str(self.folder / "sandbox")]
        return ["mkosi", *fixed, *(f"--profile={profile}" for profile in profiles), *options]


@contextmanager
def recipe(
    tools: ToolsTree, ingredients: Ingredients, pins: Pins | None = None
) -> Iterator[Recipe]:
    """Gather everything anew, so that neither modes nor place of the originals matter."""
    with store.workspace(resources.cache() / "recipe") as folder:
        for kind in ("mkosi.conf.d", "overlays"):
            (folder / kind).mkdir()
        for name in ingredients.drop_ins:
            _gather(resources.data("mkosi.conf.d") / name, folder / "mkosi.conf.d" / name)
        for name in ingredients.overlays:
            _gather(resources.data("overlays") / name, folder / "overlays" / name)
        if ingredients.router:
            _gather(resources.PACKAGE / "node", folder / "router/appliance/node")
            _gather(resources.PACKAGE / "__init__.py", folder / "router/appliance/__init__.py")
        if ingredients.firmware:
            _write(folder / "mkosi.conf.d/32-firmware.conf", _firmware(ingredients.firmware))
        if pins:
            _write(folder / _APT / "preferences.d/appliance", pins.preferences())
        digest = store.folder_digest(folder)
        _write(folder / _APT / "sources.list.d/mkosi.sources", _sources(tools, ingredients))
        yield Recipe(folder, tools, store.key(tools.path.name, digest))


def _refuse_unknown(said: str) -> None:
    """Mkosi only warns about some of what it does not understand."""
    odd = [
        line for line in said.splitlines() if "Unknown" in line or "should be configured" in line
    ]
    if odd:
        raise ToolError("mkosi does not understand all of its drop-ins:\n" + "\n".join(odd))


def _gather(source: Path, target: Path) -> None:
    """Copy a file or folder, its modes made plain: a wheel or a umask must not change the image."""
    if source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
        return
    target.mkdir(parents=True)
    target.chmod(0o755)
    for path in sorted(source.iterdir()):
        if path.name != "__pycache__":
            _gather(path, target / path.name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _firmware(packages: Iterable[str]) -> str:
    """A drop-in that adds them to the root. The initrd needs none: it has the drivers of disks."""
    lines = ["[Match]", "Profiles=appliance", "[Content]", "Packages="]
    return "\n".join([*lines, *(f"  {name}" for name in sorted(packages)), ""])


def _sources(tools: ToolsTree, ingredients: Ingredients) -> str:
    """The mirror of the tools tree; mkosi's own default takes in debug packages too."""
    more = (_FIRMWARE,) if ingredients.firmware else ()
    found = apt.one_line(tools.sources())
    return "\n".join(
        replace(each, components=(*each.components, *more)).as_deb822() for each in found
    )

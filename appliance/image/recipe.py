"""What goes into a base image, gathered in one folder, and mkosi run on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance import apt, resources, store
from appliance.errors import ToolError
from appliance.run import run
from appliance.tools import ToolsTree

# Overlays that the drop-ins name; mkosi wants each of them to exist.
_OVERLAYS = ("common", "initrd", "node")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A folder of mkosi's drop-ins, overlays and the router's own code; `key` names its bytes."""

    folder: Path
    tools: ToolsTree
    key: str

    @property
    def router(self) -> Path:
        """What the router runs of this package: a folder for Python's path."""
        return self.folder / "router"

    def mkosi(self, output: Path, profiles: Sequence[str], *options: str) -> None:
        """Build what `profiles` select into `output`, with mkosi's log beside it."""
        log = output / "mkosi.log"
        places = ["--output-directory", str(output), "--workspace-directory", str(output)]
        self._run([*places, *_select(profiles), *options, "build"], log)

    def summary(self, profiles: Sequence[str]) -> str:
        """Mkosi's own reading of the drop-ins, as JSON."""
        return run(self.tools.inside(self._argv([*_select(profiles), "--json", "summary"]))).stdout

    def _run(self, options: Sequence[str], log: Path) -> None:
        run(self.tools.inside(self._argv(options)), log=log)
        if "Unknown" in (text := log.read_text(errors="replace")):
            raise ToolError(f"mkosi does not know all of its settings:\n{text}")

    def _argv(self, options: Sequence[str]) -> list[str]:
        packages = resources.cache() / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        fixed = ["--directory", str(self.folder), "--package-cache-directory", str(packages)]
        return ["mkosi", *fixed, "--sandbox-tree", str(self.folder / "sandbox"), *options]


@contextmanager
def recipe(tools: ToolsTree) -> Iterator[Recipe]:
    """Gather everything anew, so that neither the modes nor the place of the originals matter."""
    with store.workspace(resources.cache() / "recipe") as folder:
        (folder / "overlays").mkdir()
        _gather(resources.data("mkosi.conf.d"), folder / "mkosi.conf.d")
        for name in _OVERLAYS:
            _gather(resources.data("overlays") / name, folder / "overlays" / name)
        package = folder / "router/appliance"
        _gather(resources.PACKAGE / "node", package / "node")
        shutil.copy(resources.PACKAGE / "__init__.py", package)
        digest = store.folder_digest(folder)
        _write_sources(tools, folder / "sandbox/etc/apt/sources.list.d/mkosi.sources")
        yield Recipe(folder, tools, store.key(tools.path.name, digest))


def _select(profiles: Sequence[str]) -> list[str]:
    return [f"--profile={profile}" for profile in profiles]


def _gather(source: Path, target: Path) -> None:
    """Copy a folder, its modes made plain: a wheel or another umask must not change the image."""
    target.mkdir(parents=True)
    target.chmod(0o755)
    if not source.is_dir():
        return
    for path in sorted(source.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            _gather(path, target / path.name)
        elif path.is_file():
            shutil.copyfile(path, target / path.name)
            (target / path.name).chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _write_sources(tools: ToolsTree, path: Path) -> None:
    """Give mkosi the mirror of the tools tree; its own default takes in debug packages too."""
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(source.as_deb822() for source in apt.one_line(tools.sources())))

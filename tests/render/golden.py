"""Golden directories: `site.yaml` in, `expected/<node>/<path>` out."""

from __future__ import annotations

from pathlib import Path

from appliance.render.site import render
from appliance.render.tree import FileTree
from appliance.site import load

HERE = Path(__file__).parent / "golden"
NAMES = sorted(path.name for path in HERE.iterdir())


def rendered(name: str) -> FileTree:
    return render(load(HERE / name / "site.yaml"))


def flat(tree: FileTree) -> dict[str, str]:
    """Every file's text by `<node>/<path>`."""
    return {
        f"{node}/{path}": file.content
        for node, files in tree.items()
        for path, file in files.items()
    }


def expected(name: str) -> dict[str, str]:
    folder = HERE / name / "expected"
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}

"""The licence texts of an image: what Debian ships with each package, in one archive."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.errors import ToolError
from appliance.run import fed, run
from appliance.tools import ToolsTree

_DOC = Path("usr/share/doc")
# What the packages' files refer to instead of repeating it: Debian Policy 12.5.
_COMMON = Path("usr/share/common-licenses")


def pack(root: Path, packages: Iterable[str], archive: Path, tools: ToolsTree) -> None:
    """Write `archive`, a tar by xz, from the squashfs `root`: for each package its copyright file.

    Raises ToolError with the names of packages that have none.
    """
    folder = archive.with_suffix(".unpacked")
    quiet = ["-quiet", "-no-progress", "-no-xattrs"]
    run(tools.inside(["unsquashfs", *quiet, "-dest", folder, root, _DOC, _COMMON]))
    texts = {f"{name}/copyright": folder / _DOC / name / "copyright" for name in packages}
    if missing := sorted(path.parent.name for path in texts.values() if not path.is_file()):
        raise ToolError(f"no copyright file in the image: {' '.join(missing)}")
    texts |= {f"common-licenses/{path.name}": path for path in (folder / _COMMON).iterdir()}
    with fed(tools.inside(["xz", "--threads=1"]), archive) as pipe:
        for piece in _tar(texts.items()):
            pipe.write(piece)
    shutil.rmtree(folder)


def _tar(texts: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """A tar of these files in the order of their names, all of them root's and of 1970."""
    for name, path in sorted(texts):
        content = path.read_bytes()
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        yield entry.tobuf(tarfile.USTAR_FORMAT)
        yield content + bytes(-len(content) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)

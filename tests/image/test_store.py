"""What is kept is whole: made once, by one process, and never seen half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance import store

# Says when it begins to make, and how often it did; then does what its argument says.
MAKE = """
import os, signal, sys
from pathlib import Path
from appliance import store

def make(work):
    (work / "part").write_text("half")
    print("making", flush=True)
    if sys.stdin.read() == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    (work / "part").write_text("whole")

store.folder(Path(sys.argv[1]), make)
"""


def begin(path: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", MAKE, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)


def made(path: Path) -> list[str]:
    return [each.name for each in path.parent.iterdir() if not each.name.endswith(".lock")]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def make(work: Path) -> None:
        (work / "part").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.folder(tmp_path / "thing", make)
    assert made(tmp_path / "thing") == []


def test_a_failure_to_make_it_anew_leaves_the_old(tmp_path: Path) -> None:
    thing = store.folder(tmp_path / "thing", lambda work: (work / "old").touch())
    with pytest.raises(ZeroDivisionError):
        store.folder(thing, lambda work: 1 / 0 and None, fresh=True)
    assert (thing / "old").exists()


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    thing = tmp_path / "thing"
    killed = begin(thing)
    killed.communicate("die", timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert made(thing) != ["thing"]
    store.folder(thing, lambda work: (work / "part").write_text("whole") and None)
    assert made(thing) == ["thing"]


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    thing = tmp_path / "thing"
    first = begin(thing)
    assert first.stdout
    assert first.stdout.readline() == "making\n"
    second = begin(thing)
    first.communicate("", timeout=60)
    said, _ = second.communicate("", timeout=60)
    assert (first.returncode, second.returncode, said) == (0, 0, "")
    assert (thing / "part").read_text() == "whole"


def test_a_workspace_in_use_is_not_cleared_away(tmp_path: Path) -> None:
    with store.workspace(tmp_path / "out") as one, store.workspace(tmp_path / "out") as other:
        assert one.is_dir()
        assert one != other
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a").write_text("other"),
        lambda root: (root / "a").chmod(0o755),
        lambda root: (root / "a").rename(root / "b"),
        lambda root: (root / "c").mkdir(),
        lambda root: os.symlink("a", root / "link"),
    ],
    ids=["content", "mode", "name", "folder", "link"],
)
def test_the_digest_of_a_folder_sees_every_change(tmp_path: Path, change: object) -> None:
    (tmp_path / "a").write_text("text")
    before = store.folder_digest(tmp_path)
    assert callable(change)
    change(tmp_path)
    assert store.folder_digest(tmp_path) != before


def test_pythons_caches_are_no_change(tmp_path: Path) -> None:
    before = store.folder_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.pyc").touch()
    assert store.folder_digest(tmp_path) == before


def test_what_nobody_asked_for_in_a_week_makes_room(tmp_path: Path) -> None:
    for name in ("image-old", "image-used", "other-old"):
        store.folder(tmp_path / name, lambda work: None)
    long_ago = time.time() - 8 * 24 * 3600
    for name in ("image-old", "image-used", "other-old"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    store.folder(tmp_path / "image-used", lambda work: None)
    store.folder(tmp_path / "image-new", lambda work: None)
    assert sorted(made(tmp_path / "any")) == ["image-new", "image-used", "other-old"]

"""The mirror is the build machine's own, in whatever form it is written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import apt

DEB822 = """\
# The installer wrote this.
Types: deb deb-src
URIs: https://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
 non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://mirror.test/debian-security
Suites: bookworm-security
Components: main
"""

ONE_LINE = """\
deb [arch=amd64 signed-by=/keys/debian-archive-keyring.gpg] https://mirror.test/debian trixie main
deb https://mirror.test/debian-security trixie-security main contrib   # with a comment
"""

OTHERS = """\
deb [signed-by=/usr/share/keyrings/somebody.gpg] https://somebody.test/apt bookworm main
deb https://containers.test/linux/debian bookworm stable
deb https://database.test/apt bookworm-pgdg main
# deb https://off.test/debian bookworm main
deb-src https://source.test/debian bookworm main
"""

EXPECTED = [
    ("https://mirror.test/debian", "trixie"),
    ("https://mirror.test/debian", "trixie-updates"),
    ("https://mirror.test/debian-security", "trixie-security"),
]


def etc(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        (folder / name.replace("__", "/").replace("_", ".")).write_text(text)
    return folder


def taken(folder: Path) -> list[tuple[str, str]]:
    text = apt.sources("trixie", folder)
    assert text is not None
    return [(source.uris[0], source.suites[0]) for source in apt.one_line(text)]


@pytest.mark.parametrize(
    "files",
    [
        {"sources.list.d__debian_sources": DEB822},
        {"sources_list": ONE_LINE},
        {"sources_list": OTHERS, "sources.list.d__debian_sources": DEB822},
        {"sources_list": ONE_LINE, "sources.list.d__zzz_list": OTHERS},
    ],
    ids=["deb822", "one-line", "others-first", "others-last"],
)
def test_debians_own_archives_are_found(tmp_path: Path, files: dict[str, str]) -> None:
    assert taken(etc(tmp_path, **files)) == EXPECTED


@pytest.mark.parametrize(
    "text", ["", OTHERS, DEB822.replace("Types:", "Enabled: no\nTypes:")], ids=str.__len__
)
def test_without_a_mirror_of_debian_there_is_none(tmp_path: Path, text: str) -> None:
    name = "sources.list.d__debian_sources" if "Types" in text else "sources_list"
    assert apt.sources("trixie", etc(tmp_path, **{name: text})) is None


def test_a_machine_without_apt_has_none(tmp_path: Path) -> None:
    assert apt.sources("trixie", tmp_path / "missing") is None


def test_both_forms_say_the_same() -> None:
    for source in apt.one_line(ONE_LINE):
        (again,) = apt.deb822(source.as_deb822())
        assert (again.uris, again.suites) == (source.uris, source.suites)
        assert again.components == source.components
        assert "debian-archive-keyring" in again.signed_by

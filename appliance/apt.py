"""Where this machine gets Debian from, so that the image comes from the same mirror."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_CODENAMES = "bullseye|bookworm|trixie|forky|sid|oldoldstable|oldstable|stable|testing|unstable"
_SUITE = re.compile(rf"(?:{_CODENAMES})(-updates|-security)?/?")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True)
class Source:
    """One archive: where it is, what is taken from it, and the file of the keys that sign it."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def as_deb822(self) -> str:
        """A paragraph of a *.sources file."""
        fields = {"Types": "deb", "URIs": " ".join(self.uris), "Suites": " ".join(self.suites)}
        fields |= {"Components": " ".join(self.components), "Signed-By": self.signed_by or _KEYRING}
        return "".join(f"{name}: {value}\n" for name, value in fields.items())

    def kind(self) -> str | None:
        """`main` or `security` for Debian's own archive; None for anybody else's.

        Others use Debian's suite names too, but sign with their own keys, named by `signed_by`.
        """
        if "main" not in self.components:
            return None
        if self.signed_by and "debian-archive" not in self.signed_by:
            return None
        found = [match for suite in self.suites if (match := _SUITE.fullmatch(suite))]
        if not found or len(found) < len(self.suites):
            return None
        return "security" if any(match[1] == "-security" for match in found) else "main"


def sources(suite: str, etc: Path = Path("/etc/apt")) -> str | None:
    """Apt sources for Debian `suite` by this machine's mirrors, in one-line form.

    None: this machine names no mirror of Debian.
    """
    known = tuple(read(etc))
    main = _first(known, "main")
    if not main:
        return None
    lines = [_line(main, suite), _line(main, f"{suite}-updates")]
    if security := _first(known, "security"):
        lines.append(_line(security, f"{suite}-security"))
    return "".join(lines)


def read(etc: Path) -> Iterator[Source]:
    """Every enabled binary archive of an apt configuration, in apt's own order of files."""
    if (etc / "sources.list").is_file():
        yield from one_line((etc / "sources.list").read_text())
    for path in sorted((etc / "sources.list.d").glob("*")):
        if path.suffix == ".list":
            yield from one_line(path.read_text())
        elif path.suffix == ".sources":
            yield from deb822(path.read_text())


def one_line(text: str) -> Iterator[Source]:
    """Read the form of sources.list: `deb [option=value …] URI suite component …`."""
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[([^]]*)]\s*)?([^#]+)(?:#.*)?", line)
        if not match or len(words := match[2].split()) < 3:
            continue
        options = dict(option.split("=", 1) for option in (match[1] or "").split() if "=" in option)
        yield Source((words[0],), (words[1],), tuple(words[2:]), options.get("signed-by", ""))


def deb822(text: str) -> Iterator[Source]:
    """Read the form of *.sources: paragraphs of fields; a line that begins with a blank goes on."""
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", bare):
        joined = re.sub(r"\n[ \t]+", " ", paragraph)
        pairs = (line.split(":", 1) for line in joined.splitlines() if ":" in line)
        fields = {name.strip().lower(): value.strip() for name, value in pairs}
        if "deb" not in fields.get("types", "").split() or _is_off(fields.get("enabled", "yes")):
            continue
        uris, suites, components = (
            tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components")
        )
        yield Source(uris, suites, components, fields.get("signed-by", ""))


def _is_off(value: str) -> bool:
    """Apt's words for no."""
    return value.lower() in {"no", "false", "without", "off", "disable"}


def _first(known: Iterable[Source], kind: str) -> str | None:
    """The first URI of that kind."""
    return next((source.uris[0] for source in known if source.kind() == kind), None)


def _line(uri: str, suite: str) -> str:
    return f"deb [signed-by={_KEYRING}] {uri} {suite} main\n"

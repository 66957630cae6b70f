"""The packages of an earlier image, taken again in the same versions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from appliance.errors import ToolError
from appliance.run import run
from appliance.tools import ToolsTree

# Above 1000 apt takes a version even if it is older than another: apt_preferences(5).
_ABOVE_ALL = 1001

_HINT = (
    "Debian's mirrors keep the latest only; its snapshot archive has all of them, "
    "if it is this machine's mirror in /etc/apt"
)


class _Manifest(BaseModel):
    """What of a manifest counts here."""

    hardware: str
    packages: dict[str, str]


@dataclass(frozen=True, slots=True)
class Pins:
    """The versions to take, by package, and the hardware that they were for."""

    hardware: str
    packages: Mapping[str, str]

    def preferences(self) -> str:
        """The same in the language of apt_preferences(5)."""
        return "\n".join(
            f"Package: {name}\nPin: version {version}\nPin-Priority: {_ABOVE_ALL}\n"
            for name, version in sorted(self.packages.items())
        )

    def check_taken(self, packages: Mapping[str, str]) -> None:
        """Raise ToolError unless each of the packages of an image is pinned, and as it is."""
        other = [
            f"{name} {version}, not {self.packages.get(name, 'in the manifest')}"
            for name, version in sorted(packages.items())
            if self.packages.get(name) != version
        ]
        if other:
            raise ToolError(f"other packages than in the manifest:\n{_listed(other)}")


def read(manifest: Path) -> Pins:
    """The pins in the manifest.json of an earlier build; ToolError when it is none."""
    try:
        found = _Manifest.model_validate_json(manifest.read_bytes())
    except OSError as error:
        raise ToolError(f"{manifest}: {error.strerror}") from error
    except ValidationError as error:
        hint = "the manifest.json that `appliance build` writes beside an image"
        raise ToolError(f"{manifest} is no manifest of an image", hint) from error
    return Pins(found.hardware, found.packages)


@dataclass(frozen=True, slots=True)
class Mirror:
    """The archives in `etc`, an apt configuration, read into the empty folder `work`."""

    etc: Path
    work: Path
    tools: ToolsTree

    def check(self, pins: Pins) -> None:
        """Raise ToolError with each version that is not there any more."""
        there = self.versions(pins.packages)
        gone = [
            f"{name} {version} (it has {', '.join(sorted(there[name])) or 'none'})"
            for name, version in sorted(pins.packages.items())
            if version not in there[name]
        ]
        if gone:
            raise ToolError(f"the mirror no longer has:\n{_listed(gone)}", _HINT)

    def versions(self, names: Iterable[str]) -> Mapping[str, set[str]]:
        """Every version of these packages that is to be had."""
        self.apt("apt-get", "update")
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name, version in re.findall(
            r"^ *(\S+) \| *(\S+) \|", self.apt("apt-cache", "madison", *names), re.MULTILINE
        ):
            found[name].add(version)
        return found

    def apt(self, *argv: str) -> str:
        """What one of apt's programs says, as mkosi would run it: nothing of the host's counts."""
        (self.work / "state/lists/partial").mkdir(parents=True, exist_ok=True)
        (self.work / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        config = self.work / "apt.conf"
        settings = {
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Check-Valid-Until": "false",
            "Dir::Cache": f"{self.work}/cache",
            "Dir::Etc": str(self.etc),
            "Dir::State": f"{self.work}/state",
            "Dir::State::Status": "/dev/null",
        }
        config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
        return run(self.tools.inside(argv), env={"APT_CONFIG": str(config)}).stdout


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)

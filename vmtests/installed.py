"""The package as a user has it: the wheel, alone, in a virtual environment of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from pytest_virtualenv import VirtualEnv

CLONE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Installed:
    """The command `appliance` of a fresh virtual environment, run in a folder outside the clone."""

    environment: VirtualEnv
    home: Path

    @property
    def command(self) -> Path:
        """The installed program."""
        return Path(self.environment.python).parent / "appliance"

    def call(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `appliance` with these arguments, however it ends."""
        return subprocess.run(
            [str(self.command), *map(str, arguments)],
            cwd=self.home,
            env=self.environment.env,
            text=True,
            capture_output=True,
            check=False,
        )

    def run(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The same; AssertionError unless it ends with `code`."""
        done = self.call(*arguments)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr[-4000:]}"
        return done


def install(folder: Path) -> Installed:
    """Build the wheel from this clone and install it, and nothing of the clone, below `folder`."""
    home, dist = folder / "home", folder / "dist"
    home.mkdir()
    environment = VirtualEnv(workspace=str(home))
    subprocess.run(
        ["python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(dist), str(CLONE)],
        env=environment.env,
        check=True,
    )
    (wheel,) = dist.glob("*.whl")
    environment.run([str(environment.python), "-m", "pip", "install", "-q", str(wheel)])
    return Installed(environment, home)

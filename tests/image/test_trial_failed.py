"""What becomes of a boot that is not good: the script that systemd runs, with faked programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance import resources

SCRIPT = resources.data("overlays") / "common/usr/lib/appliance/trial-failed"
BLESS = "/usr/lib/systemd/systemd-bless-boot"
TRIED, GOOD = "site_2+2-1.efi", "site_1.efi"
GONE_BACK = ["bless bad", "systemctl reboot"]


def after(tmp_path: Path, state: str, verdict: int, *kernels: str, marks: bool = True) -> list[str]:
    """What the script has done about it, but for its questions."""
    linux, log = tmp_path / "esp/EFI/Linux", tmp_path / "log"
    linux.mkdir(parents=True)
    for name in kernels:
        (linux / name).touch()
    says = {
        "bless": f'[ "$1" = status ] && {{ echo {state}; exit; }}\necho bless $1 >>{log}\n'
        f"exit {int(not marks)}",
        "systemctl": f'[ "$1" = show ] && {{ echo {verdict}; exit; }}\necho systemctl $1 >>{log}',
        "bootctl": f"echo {tmp_path}/esp",
    }
    for name, text in says.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = SCRIPT.read_text().replace(BLESS, str(tmp_path / "bless"))
    assert BLESS not in script
    log.touch()
    path = f"{tmp_path}:/usr/bin:/bin"
    subprocess.run(["sh", "-c", script], env={"PATH": path}, check=False, capture_output=True)
    return log.read_text().splitlines()


@pytest.mark.parametrize("state", ["indeterminate", "dirty"])
@pytest.mark.parametrize("verdict", [0, 1, 203])
def test_a_trial_goes_back_to_what_was_good(tmp_path: Path, state: str, verdict: int) -> None:
    """Whether the decision was against it, or none was made."""
    assert after(tmp_path, state, verdict, TRIED, GOOD) == GONE_BACK


@pytest.mark.parametrize("state", ["clean", "good", "bad", "unknown"])
def test_what_is_no_trial_never_reboots(tmp_path: Path, state: str) -> None:
    assert after(tmp_path, state, 1, TRIED, GOOD) == []


@pytest.mark.parametrize("others", [(), ("site_1+0-3.efi",), ("site_1+0.efi",)])
@pytest.mark.parametrize("state", ["indeterminate", "dirty"])
def test_without_a_good_image_beside_it_nothing_reboots(
    tmp_path: Path, state: str, others: tuple[str, ...]
) -> None:
    assert after(tmp_path, state, 1, TRIED, *others) == []


def test_the_last_router_stays(tmp_path: Path) -> None:
    assert after(tmp_path, "indeterminate", 75, TRIED, GOOD) == []


def test_without_its_mark_it_does_not_reboot(tmp_path: Path) -> None:
    """The loader would take it again, and again."""
    assert after(tmp_path, "indeterminate", 1, TRIED, GOOD, marks=False) == ["bless bad"]

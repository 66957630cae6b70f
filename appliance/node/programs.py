"""What other programs of the router say."""

from __future__ import annotations

import subprocess


def said(*argv: str) -> str:
    """What a program says, without the space around it; nothing when it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

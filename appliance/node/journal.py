"""Logging to the journal of systemd, by way of standard error (sd-daemon(3))."""

from __future__ import annotations

import logging


class _Journal(logging.Formatter):
    """The journal takes the level from a prefix and the time from its own clock."""

    def format(self, record: logging.LogRecord) -> str:
        level = {logging.WARNING: 4, logging.ERROR: 3}.get(record.levelno, 6)
        return f"<{level}>{record.getMessage()}"


def log_to_journal() -> None:
    """Everything from level INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Journal())
    logging.basicConfig(handlers=[handler], level=logging.INFO)

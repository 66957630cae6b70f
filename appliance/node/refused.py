"""The answer to an update that is not to be.

By itself, as the state agent and the health check know it, too: a program that needs neither an
HTTP client nor archives is there the sooner after a boot.
"""

from __future__ import annotations


class RefusedError(Exception):
    """The update is not for this node, or not whole; nothing was changed."""

"""Load the ruleset on standard input by the libnftables of this machine.

Run in a network namespace of its own, where loading touches nobody: that says more than a dry run,
which the binding does not offer. On a refusal the exit code is REFUSED, and standard error has the
library's words.
"""

from __future__ import annotations

import sys

import nftables

REFUSED = 3


def main() -> int:
    """Once into the empty kernel, and once over itself, as a reload does."""
    ruleset = sys.stdin.read()
    library = nftables.Nftables()
    for _ in range(2):
        code, _, error = library.cmd(ruleset)
        if code:
            sys.stderr.write(error)
            return REFUSED
    return 0

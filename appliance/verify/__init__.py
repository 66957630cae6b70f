"""Checks by the programs that will read the files, each in namespaces that end with it.

nftables reads the ruleset twice: by the libnftables of this machine, and by Debian 13's nft, which
is the router's. keepalived, conntrackd, sshd and rsyslogd are Debian 13's. Nobody has written a
checker for networkd's files, sysctl.d and modules-load.d: these are first read by the booted image.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.errors import ToolError
from appliance.node import proof
from appliance.render.site import RULESET
from appliance.render.tree import FileTree, NodeFiles
from appliance.run import pasteable, run
from appliance.tools import ToolsTree
from appliance.verify import binding

_ASK_LIBRARY = "import sys; from appliance.verify import binding; sys.exit(binding.main())"
_LIMIT_S = 60.0


def verify(tree: FileTree, tools: ToolsTree) -> None:
    """Raise ToolError with all that was refused, by node, file and program."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        # The tools tree hides this machine's /usr, where this package may lie.
        script = shutil.copy(proof.__file__, folder)
        library = [pool.submit(_library, *each) for each in tree.items()]
        programs = [pool.submit(_programs, *each, tools, script) for each in tree.items()]
    refused = [words for each in (*library, *programs) for words in each.result()]
    if refused:
        hint = "the site passed our own checks, so this is a gap in them: please report it"
        raise ToolError("\n".join(refused), hint)


def _library(node: str, files: NodeFiles) -> list[str]:
    """The ruleset by libnftables, through its Python binding."""
    check = [*_own_network(), sys.executable, "-c", _ASK_LIBRARY]
    done = run(check, stdin=files[RULESET].content, timeout=_LIMIT_S, check=False)
    if done.returncode == binding.REFUSED:
        return [_words(node, str(RULESET), "libnftables", done.stderr)]
    if done.returncode:
        raise ToolError(f"libnftables cannot be asked: {pasteable(check)}\n{done.stderr}")
    return []


def _own_network() -> list[str]:
    """A network namespace; who is not root gets one in a user namespace."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]


def _true_root() -> bool:
    """Root of the machine, not of a container that maps another user to it."""
    everybody = ["0", "0", str(2**32 - 1)]  # first user inside, the same outside, how many
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == everybody


def _programs(node: str, files: NodeFiles, tools: ToolsTree, script: str) -> list[str]:
    """All files by the programs of the tools tree."""
    check = ["unshare", "--net", "--mount", "python3", script]
    job = proof.job({str(path): each.content for path, each in files.items()}, root=_true_root())
    done = run(tools.inside(check), stdin=json.dumps(job), timeout=_LIMIT_S)
    return [_words(node, *refusal) for refusal in json.loads(done.stdout)]


def _words(node: str, path: str, program: str, said: str) -> str:
    return f"{node}: {program} refuses {path}:\n{said.strip()}"

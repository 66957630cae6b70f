"""Two routers made of files, whose programs are scripts, behind a command that stands for ssh.

Their `appliance-apply` is the real one; systemd is a script that notes what it is told, and keeps
the one timer there is.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import cli
from appliance.node import layer, probation, swap, vault
from appliance.node.probation import Trial
from appliance.node.vault import Chosen
from appliance.render import layers
from appliance.render.site import render
from appliance.site import load
from tests.operate.nodes import peer, state
from tests.operate.ssh import ADDRESS, EXAMPLES

CLONE = Path(__file__).parents[2]

# Each node's folder has `root` and `bin`; the log is what its systemd was told. A file named like
# a command in `fails` has it fail once; `slow` is how long a reload of the rules takes; a node
# whose rules have the words in `locked` lets nobody in.
SSH = f"""#!/bin/sh
net=$(dirname "$0")
while [ "$1" != "--" ]; do
  case "$1" in
    root@*) address=${{1#root@}};;
    ControlPath=none) echo "$*" >>"$net/afresh";;
  esac
  shift
done
shift
export NODE="$net/$address" PATH="$net/$address/bin:$PATH" PYTHONPATH={CLONE}
[ -d "$NODE" ] || {{
  echo "ssh: connect to host $address port 22: No route to host" >&2; exit 255; }}
locked=$(cat "$NODE/locked" 2>/dev/null) && grep -q "$locked" "$NODE/root/etc/nftables.conf" && {{
  echo "root@$address: Permission denied (publickey)." >&2; exit 255; }}
exec sh -c "$1"
"""
PROGRAMS = {
    "appliance-apply": f"""#!/bin/sh
exec {sys.executable} -m appliance.node.apply --root "$NODE/root" "$@"
""",
    "systemctl": """#!/bin/sh
case "$*" in
  is-active*) shift; for unit; do echo active; done; exit;;
  list-units*) exit;;
  "stop appliance-apply-revert.timer") kill $(cat "$NODE/timer" 2>/dev/null) 2>/dev/null; exit 0;;
esac
echo "systemctl $*" >>"$NODE/log"
! rm "$NODE/fails/$*" 2>/dev/null || { echo "Job failed." >&2; exit 1; }
case "$*" in
  "reload nftables") sleep "$(cat "$NODE/slow" 2>/dev/null || echo 0)"
    cp "$NODE/root/etc/nftables.conf" "$NODE/loaded";;
esac
""",
    # The timer: appliance-apply and its words follow the options.
    "systemd-run": """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  case "$1" in --on-active=*) after=${1#--on-active=};; esac
  echo "$1" >>"$NODE/timer-options"
  shift
done
shift
setsid sh -c 'sleep "$0"; exec appliance-apply "$@"' "${after%s}" "$@" \\
  >"$NODE/timer.out" 2>&1 </dev/null &
echo $! >"$NODE/timer"
""",
    "nft": """#!/bin/sh
echo "table inet appliance { chain known }"
cat "$NODE/loaded"
""",
    # The programs that read the files: what they say lies in a file.
    "unshare": """#!/bin/sh
[ "$1" = --net ] || exec /usr/bin/unshare "$@"
[ "$2" != sh ] || { echo "table inet appliance { chain known }"; exec cat "$5"; }
cat >"$NODE/job"
exec "$(dirname "$0")/proof"
""",
    "proof": """#!/bin/sh
cat "$NODE/refused" 2>/dev/null || echo '[]'
""",
    "networkctl": '#!/bin/sh\necho "networkctl $*" >>"$NODE/log"\n',
    "ip": "#!/bin/sh\necho '[]'\n",
    "keepalived": "#!/bin/sh\n",
    "conntrackd": "#!/bin/sh\n",
}


@dataclass(frozen=True)
class Router:
    """One of them, in its folder."""

    name: str
    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def fails(self, command: str) -> None:
        (self.folder / "fails").mkdir(exist_ok=True)
        (self.folder / "fails" / command).touch()

    def digest(self) -> str:
        return layer.read(self.root).digest

    def chosen(self) -> Chosen | None:
        return vault.chosen(self.root)

    def trial(self) -> Trial:
        found = probation.read(self.root)
        assert found
        return found

    def boot(self) -> None:
        """/etc and /run are as the image has them; what is on /var stays."""
        (self.folder / "image").mkdir(exist_ok=True)
        files = json.loads((self.folder / "image.json").read_text())
        swap.write(self.root, {path: swap.Was(text) for path, text in files.items()})
        for path in (self.root / "run/appliance").rglob("*"):
            if path.is_file() and path.name != "state.json":
                path.unlink()


@dataclass(frozen=True)
class Pair:
    """The pair of a site file, which the tests change."""

    net: Path
    site: Path
    nodes: dict[str, Router]

    def edit(self, old: str, new: str) -> str:
        """Change the site file; the digest of what it is now."""
        text = self.site.read_text()
        assert old in text
        self.site.write_text(text.replace(old, new, 1))
        return load(self.site).digest

    def call(self, *options: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("APPLIANCE_SSH", str(self.net / "ssh"))
            patch.setattr("sys.argv", ["appliance", "apply", str(self.site), *options])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        return int(ended.value.code or 0)


def pair(folder: Path, example: str = "testcase") -> Pair:
    """The first node is active, the other its standby; both as an image made them."""
    folder.mkdir()
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    site = folder / f"{example}.yaml"
    site.write_text((EXAMPLES / site.name).read_text())
    plan = load(site)
    tree = render(plan)
    nodes = {}
    for name, role in zip(tree, ("MASTER", "BACKUP"), strict=True):
        router = Router(name, folder / ADDRESS[name])
        (router.folder / "root").mkdir(parents=True)
        (router.folder / "bin").mkdir()
        for program, text in PROGRAMS.items():
            (router.folder / "bin" / program).write_text(text)
            (router.folder / "bin" / program).chmod(0o755)
        files = layers.contents(tree[name])
        files[str(layer.PATH)] = layers.manifests(plan, tree)[name].text
        (router.folder / "image.json").write_text(json.dumps(files))
        router.boot()
        (router.folder / "loaded").write_text(files["etc/nftables.conf"])
        said = agent(role)
        (router.root / "run/appliance").mkdir(parents=True, exist_ok=True)
        (router.root / "run/appliance/state.json").write_text(json.dumps(said))
        nodes[name] = router
    return Pair(folder, site, nodes)


def agent(role: str) -> dict[str, object]:
    """What the agent of a well node says, for as long as the test takes."""
    later = time.monotonic() + 3600
    other = "BACKUP" if role == "MASTER" else "MASTER"
    return state(role=role, peer=peer(later, role=other), written={"monotonic": later, "wall": 0.0})

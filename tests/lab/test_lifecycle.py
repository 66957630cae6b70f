"""A lab from its beginning to its end, with QEMU faked: what is started is ended, whatever
fails.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.errors import ToolError
from appliance.lab import client, credentials, kvm, qemu, ssh
from appliance.lab.errors import HarnessError
from appliance.lab.node import Condition
from appliance.lab.pair import Lab
from appliance.lab.pcap import HEADER
from appliance.lab.service import Service, folder, serving
from appliance.run import Argument, run
from appliance.site import load

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"


class Fake:
    """A tools tree whose QEMU is `fake_qemu`, and whose disks are empty files."""

    def inside(self, argv: Sequence[Argument]) -> list[str]:
        words = [str(word) for word in argv]
        if qemu.PROGRAM in words:
            place = words.index(qemu.PROGRAM)
            return [*words[:place], sys.executable, str(HERE / "fake_qemu.py"), *words[place + 1 :]]
        return ["cp", "/dev/null", words[-2] if words[0] == "qemu-img" else words[-1]]


@dataclass(frozen=True)
class Image:
    kernel: Path = Path("/kernel")
    initrd: Path = Path("/initrd")
    root: Path = Path("/root.squashfs")


@pytest.fixture(autouse=True)
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "no-kvm")


def make(tmp_path: Path, change: Callable[[str], str] = str) -> Lab:
    site = tmp_path / "testcase.yaml"
    site.write_text(change((EXAMPLES / "testcase.yaml").read_text()))
    image = tmp_path / "image.raw"
    image.write_bytes(b"image")
    return Lab(load(site), image=image, peers=Image(), workdir=tmp_path / "run", inside=Fake())


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with make(tmp_path) as lab:
        for node in lab.nodes.values():
            node.wait_control(30)
        yield lab


@pytest.fixture
def served(lab: Lab) -> Iterator[Service]:
    service = Service(lab, threading.Event())
    with serving(service):
        yield service
    service.gone.set()


def children() -> set[str]:
    """The processes below this one, by their command."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(stat[1]) == os.getpid() and stat[0] != "Z":
                found.add(line)
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_lab_leaves_no_process_and_no_descriptor(tmp_path: Path) -> None:
    processes, open_before = children(), descriptors()
    with make(tmp_path) as lab:
        assert len(children()) == len(processes) + 4  # two nodes, the peers, the switch
        assert lab.machines.keys() == {"fw1", "fw2", "peers"}
    assert children() == processes
    assert descriptors() == open_before


def test_nothing_is_left_when_a_machine_does_not_start(tmp_path: Path) -> None:
    processes, open_before = children(), descriptors()
    lab = make(tmp_path, lambda text: text.replace("fw2", "broken"))
    with pytest.raises(HarnessError, match="broken: QEMU did not start") as failed, lab:
        pass
    assert "this machine does not start" in str(failed.value)  # QEMU's own words
    assert children() == processes
    assert descriptors() == open_before


def test_power_and_its_absence(lab: Lab) -> None:
    node = lab.nodes["fw1"]
    assert lab.conditions() == {"fw1": Condition.STANDBY, "fw2": Condition.STANDBY}
    node.freeze()
    assert node.condition() is Condition.FROZEN
    node.thaw()
    node.kill()
    assert lab.conditions() == {"fw1": Condition.OFF, "fw2": Condition.STANDBY}
    with pytest.raises(HarnessError, match="off"):
        node.succeed("true")
    with pytest.raises(HarnessError, match="off already"):
        node.kill()
    node.start()
    with pytest.raises(HarnessError, match="runs already"):
        node.start()
    node.wait_control(30)
    assert node.succeed("echo again") == "again\n"


def test_a_disk_is_kept_over_a_power_loss_unless_a_fresh_one_is_asked_for(lab: Lab) -> None:
    node = lab.nodes["fw1"]
    assert isinstance(node.config.boot, qemu.FirmwareBoot)
    disk = node.config.boot.disk
    disk.unlink()
    disk.write_text("state")
    node.kill()
    node.start()
    assert disk.read_text() == "state"
    node.kill()
    node.start(fresh_disk=True)
    assert disk.read_text() == ""


def test_status_names_nodes_hosts_and_faults(served: Service) -> None:
    client.ask(None, "cut", machine="fw1", network="inside", silent=False)
    client.ask(None, "cut", machine="fw2", network="sync", silent=True)
    status = client.ask(None, "status")
    assert status["site"] == "testcase"
    assert status["nodes"] == {"fw1": "standby", "fw2": "standby"}
    assert status["hosts"]["inside"] == {"network": "inside", "address": "192.168.0.3"}
    assert status["links"]["fw1"]["inside"] == "cut"
    assert status["links"]["fw2"]["sync"] == "silent"
    client.ask(None, "mend", machine=None, network=None)
    assert not any(client.ask(None, "status")["links"]["fw1"].values())


DMZ = """\
  dmz:
    vlan: {on: inside, id: 30}
    addresses: {fw1: 192.168.5.1/24, fw2: 192.168.5.2/24}
    virtual: 192.168.5.100/24
  sync:
"""


def test_a_vlan_shares_the_cable_of_its_card(tmp_path: Path) -> None:
    with make(tmp_path, lambda text: text.replace("  sync:\n", DMZ)) as lab:
        fw1 = lab.nodes["fw1"]
        assert [nic.network for nic in fw1.config.nics] == ["inside", "outside", "sync"]
        assert [nic.network for nic in lab.peers.config.nics] == ["inside", "outside"]
        assert {host.host.network for host in lab.hosts.values()} == {"inside", "outside", "dmz"}
        assert lab.link("fw1", "dmz") is lab.link("fw1", "inside")
        lab.link("fw1", "dmz").cut()
        links = Service(lab, threading.Event()).status()["links"]["fw1"]
        assert links == {"inside": "cut", "outside": "", "dmz": "cut", "sync": ""}
        assert lab.cables.marks().keys() == {"inside", "outside", "dmz", "sync"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"verb": "kill", "machine": "fw3"}, "no node fw3\n    hint: one of: fw1, fw2"),
        ({"verb": "cut", "machine": "fw1", "network": "x", "silent": False}, "no cable to x"),
        ({"verb": "capture", "network": "x"}, "no network x"),
        ({"verb": "start", "machine": "fw1", "fresh_disk": False}, "runs already"),
    ],
    ids=lambda value: value["verb"] if isinstance(value, dict) else "",
)
def test_a_wrong_request_is_answered_in_words(
    served: Service, request_: dict[str, object], words: str
) -> None:
    with pytest.raises(ToolError, match=words):
        client.ask(None, **request_)


def test_a_command_through_the_service_keeps_streams_and_exit_code(
    served: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        code = client.shell(None, "fw1", ["sh", "-c", "echo out; echo err >&2; exit 5"])
    assert code == 5
    assert capfd.readouterr() == ("out\n", "err\n")


def test_a_capture_follows_until_the_lab_ends(served: Service, tmp_path: Path) -> None:
    path = tmp_path / "copy.pcap"
    with path.open("wb") as out:
        arguments = {"site": None, "network": "inside", "out": out, "whole": True}
        thread = threading.Thread(target=client.capture, kwargs=arguments)
        thread.start()
        served.gone.set()
        thread.join(20)
        assert not thread.is_alive()
    assert path.read_bytes().startswith(HEADER)


def test_a_second_lab_of_the_same_site_is_refused(served: Service) -> None:
    with (
        pytest.raises(ToolError, match="up already"),
        serving(Service(served.lab, threading.Event())),
    ):
        pass


def test_a_socket_of_a_lab_that_was_killed_is_no_hindrance(lab: Lab) -> None:
    (folder() / "testcase.sock").touch()
    with serving(Service(lab, threading.Event())):
        assert client.ask("testcase", "status")["site"] == "testcase"
    assert not (folder() / "testcase.sock").exists()


def test_down_returns_when_the_lab_is_gone(lab: Lab) -> None:
    service = Service(lab, threading.Event())
    asked = threading.Thread(target=client.down, args=[None])
    with serving(service):
        asked.start()
        assert service.ending.wait(20)
    assert asked.is_alive()
    service.gone.set()
    asked.join(20)
    assert not asked.is_alive()


def test_without_a_lab_the_commands_say_so() -> None:
    with pytest.raises(ToolError, match="no lab is up"):
        client.ask(None, "status")


def test_ssh_finds_its_way_to_the_nodes_by_the_hosts_beside_them(
    served: Service, tmp_path: Path
) -> None:
    served.key = ssh.make_key(tmp_path)
    written = tmp_path / "ssh_config"
    written.write_text(ssh.config(client.ask(None, "status"), "/bin/appliance"))
    for address, host in {"192.168.0.2": "inside", "192.168.1.1": "outside"}.items():
        done = run(["ssh", "-G", "-F", written, f"root@{address}"]).stdout.splitlines()
        way = f"/bin/appliance lab shell --site testcase {host} -- busybox nc %h %p"
        assert f"proxycommand {way}" in done
        assert f"identityfile {served.key}" in done
    elsewhere = run(["ssh", "-G", "-F", written, "root@192.168.3.1"]).stdout
    assert "proxycommand" not in elsewhere, "nobody is on the sync network"


def test_ssh_gives_up_in_time_also_below_nohup(served: Service) -> None:
    """It ends what it goes by with a hangup, and waits for its end."""
    way = f"{sys.executable} -m appliance lab shell fw1 -- sleep 60"
    options = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "-o", f"ProxyCommand={way}")
    done = run(["nohup", "ssh", *options, "root@fw2", "true"], timeout=30, check=False)
    assert done.returncode == 255
    assert "timed out" in done.stderr


def test_a_key_of_the_lab_may_log_in_besides_those_of_the_site() -> None:
    rule = credentials.node("fw1", "ssh-ed25519 AAAA lab")["tmpfiles.extra"]
    assert rule == r"w+ /etc/ssh/authorized_keys/root - - - - ssh-ed25519 AAAA lab\n" + "\n"
    assert credentials.node("fw1") == {"appliance.node": "fw1"}
